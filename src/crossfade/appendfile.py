"""A descriptor that appends, and what of it is on disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from pathlib import Path
from types import TracebackType

_MOST_HEADER_BYTES = 4096

_IN_FLIGHT_SECONDS = 0.01
"""A write that another process has begun is over by then, many times over."""

_LOOKS = 100
"""Until then, at a line that is not complete: most are a moment later, and everybody here waits meanwhile."""


class Turn:
    """A lock that nobody waits for longer than a disk may take: a thread inside a system call cannot be called back.

    Parameters
    ----------
    seconds : float
        How long one turn may last before those who wait, and all who come, are told so at once.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._since: float | None = None

    def __enter__(self) -> None:
        """Wait for the turn. Raises TimeoutError."""
        if not self._lock.acquire(blocking=False):
            since = self._since
            waited = 0.0 if since is None else time.monotonic() - since
            if not self._lock.acquire(timeout=max(0.0, self._seconds - waited)):
                raise TimeoutError(errno.ETIMEDOUT, f"the disk has not answered for {self._seconds:g} s")
        self._since = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the next one in."""
        self._since = None  # before the release: who comes next must not be measured by this turn
        self._lock.release()

    @property
    def overdue(self) -> bool:
        """Whether somebody has been in for too long."""
        since = self._since
        return since is not None and time.monotonic() - since > self._seconds


class AppendFile:
    """An open file; closed when nobody refers to it any more, so that no thread writes into another file's descriptor.

    As long as it is open, and whoever dies, the kernel shows by a shared lock that rows may still come (`logpacking`
    waits for the last one).

    Parameters
    ----------
    path : Path
        The file, which exists.
    seconds : float
        How long the disk may take to confirm.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self._number = os.open(path, os.O_RDWR | os.O_APPEND)
        found = os.fstat(self._number)
        self.identity = (found.st_dev, found.st_ino)
        self.packed = self._is_locked_for_good()
        """Whether it was moved away and is being packed: no row may go there any more."""
        self.appends = 0
        """How many appends are done."""
        self.sync_planned = False
        self._turn = Turn(seconds)
        self._synced = self._failed = 0

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):  # it was never opened
            os.close(self._number)

    def first_line(self) -> bytes:
        """Read the header, wherever the file has been moved to. Raises OSError."""
        return os.pread(self._number, _MOST_HEADER_BYTES, 0).partition(b"\n")[0]

    def append(self, data: bytes) -> None:
        """Add whole lines in one write.

        Raises
        ------
        OSError
            Not all of it was written.
        """
        written = os.write(self._number, data)
        if written != len(data):
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} (it took {written} of {len(data)} bytes)")
        self.appends += 1

    def ends_torn(self) -> bool:
        """Whether some process died in the middle of the last line (and is not writing it just now). Raises OSError."""
        looks, seen = 0, -1
        while looks < _LOOKS:
            size = os.lseek(self._number, 0, os.SEEK_END)
            if size == 0 or os.pread(self._number, 1, size - 1) == b"\n":
                return False
            looks, seen = looks + 1 if size == seen else 0, size
            time.sleep(_IN_FLIGHT_SECONDS / _LOOKS)
        return True

    def sync(self, appends: int) -> None:
        """Wait until so many appends are on disk; all that wait meanwhile share the next look at the disk.

        Raises
        ------
        OSError
            The disk does not answer, or could not keep them: they may be lost although they can be read.
        """
        with self._turn:
            if appends <= self._failed:  # the kernel reports a failure once, and forgets what it could not write
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            if appends <= self._synced:
                return
            done = self.appends
            try:
                os.fdatasync(self._number)
            except OSError:
                self._failed = done
                raise
            self._synced = done

    def _is_locked_for_good(self) -> bool:
        try:
            fcntl.flock(self._number, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks: nothing is packed there either
            pass
        return False
