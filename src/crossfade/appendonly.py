"""A CSV file that only grows: many writers, whole lines. What stands in it is read by csvslices.py."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from crossfade.appendfile import AppendFile, Turn
from crossfade.csvline import Cell, csv_line
from crossfade.errors import LogUnavailable
from crossfade.logparts import sync_folder
from crossfade.logversion import refuse_other

if TYPE_CHECKING:
    from crossfade.csvslices import CsvSlice, ParquetSlice

_log = logging.getLogger(__name__)

Fsync = Literal["never", "interval", "always"]

_SYNC_SECONDS = 1.0

_LOOK_SECONDS = 0.01
"""Between two looks whether the file was moved away, and how it ends; what is appended meanwhile goes where it went."""

_WHAT_TO_DO = {
    errno.ENOSPC: "Free space.",
    errno.EDQUOT: "Free space, or raise the quota.",
    errno.EROFS: "Mount it writable.",
    errno.ETIMEDOUT: "Look at the disk; it goes on by itself when the disk does.",
    errno.EIO: "Replace the disk.",
}


class AppendOnlyCsv:
    """One CSV file with a header; every append is a single write on an O_APPEND descriptor.

    No value may hold a line break, so a line is a row, and csvline.py finds one behind another that a crash has torn:
    that spoils itself only. Any number of processes and threads may append.

    Parameters
    ----------
    path : Path
        The file; made with its header at the first append.
    columns : tuple of str
        Names of the columns.
    fsync : {"never", "interval", "always"}
        What a power cut may take: what the kernel has not written by itself, a second, or nothing.
    timeout_seconds : float
        How long to wait for a disk that does not answer.
    """

    def __init__(
        self, path: Path, columns: tuple[str, ...], fsync: Fsync = "never", timeout_seconds: float = 5.0
    ) -> None:
        self.path = path
        self._name = str(path)
        self._columns = columns
        self._header = ",".join(columns).encode()
        self.fsync = fsync
        self._timeout_seconds = timeout_seconds
        self._file: AppendFile | None = None
        self._turn = Turn(timeout_seconds)
        self._look_due = 0.0
        self._problem: str | None = None
        self._sync_problem: str | None = None

    @property
    def problem(self) -> str | None:
        """Why the last append or the last sync failed; None: it did not."""
        if self._turn.overdue:
            return f"{self.path}: the disk has not answered for {self._timeout_seconds:g} s"
        return self._problem or self._sync_problem

    def append(self, rows: Sequence[Sequence[Cell]]) -> None:
        """Add rows together, each with a value per column; None is empty.

        Raises
        ------
        LogUnavailable
            The file cannot be written, or not all of it: the rows must be taken as lost.
        """
        self.append_lines("".join([csv_line(row) for row in rows]))

    def append_lines(self, lines: str) -> None:
        """Add lines that are CSV already, as `append` does."""
        data = lines.encode()
        if not data:
            return
        try:
            with self._turn:  # another thread may be about to replace the descriptor
                file = self._write(data)
                appends = file.appends
            if self.fsync == "always":
                file.sync(appends)
            elif self.fsync == "interval":
                self._plan_sync(file)
        except OSError as error:
            self._look_due = 0.0  # it may have been torn
            self._problem = f"{self.path} cannot be written: {_told(error)}"
            raise LogUnavailable(self._problem) from error
        except LogUnavailable as error:
            self._problem = str(error)
            raise
        self._problem = None

    def slices(self) -> list[CsvSlice | ParquetSlice]:
        """Return what can be read one by one, oldest rows first. Raises LogUnavailable."""
        from crossfade.csvslices import slices_of  # a router only writes: it does without Arrow

        return slices_of(self.path, self._columns)

    def let_go(self) -> None:
        """Close the file if it was moved away, so that it can be packed. Raises TimeoutError."""
        with self._turn:
            if self._file is not None and not self._is_there(self._file):
                self._file = None

    def _write(self, data: bytes) -> AppendFile:
        file, now = self._file, time.monotonic()
        if file is None or now >= self._look_due:
            while file is None or file.packed or not self._is_there(file):  # at first, and when it was moved away
                file = self._open()
            self._file, self._look_due = file, now + _LOOK_SECONDS
            if file.ends_torn():
                data = b"\n" + data  # for people's eyes: a row behind a torn line is found anyway
        file.append(data)
        return file

    def _is_there(self, file: AppendFile) -> bool:
        """Whether the file at the path is this one."""
        try:
            found = os.stat(self._name)  # noqa: PTH116 - Path.stat takes a fifth longer
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == file.identity

    def _open(self) -> AppendFile:
        while True:
            self._create()
            try:
                file = AppendFile(self.path, self._timeout_seconds)
            except FileNotFoundError:
                continue  # moved away between the two
            if self.fsync != "never":
                sync_folder(self.path.parent)  # its name has to be found again, too
            refuse_other(self.path, file.first_line(), self._columns)
            return file

    def _create(self) -> None:
        """Make the file with its header in one step, so that no process ever sees one without."""
        if self.path.exists():
            if self.path.stat().st_size == 0:  # emptied by hand
                with self.path.open("ab") as file:
                    file.write(self._header + b"\n")
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            draft.write_bytes(self._header + b"\n")
            os.link(draft, self.path)
        except FileExistsError:
            pass  # another process was first, with the same header
        finally:
            draft.unlink(missing_ok=True)

    def _plan_sync(self, file: AppendFile) -> None:
        """Sync in a second, with all that is written until then."""
        if not file.sync_planned:
            file.sync_planned = True
            timer = threading.Timer(_SYNC_SECONDS, self._sync, [file])
            timer.daemon = True
            timer.start()

    def _sync(self, file: AppendFile) -> None:
        file.sync_planned = False
        try:
            file.sync(file.appends)
            self._sync_problem = None
        except OSError as error:
            self._sync_problem = f"{self.path} cannot be put on disk: {_told(error)}"
            _log.warning("%s", self._sync_problem)


def _told(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{reason}. {_WHAT_TO_DO.get(error.errno or 0, 'Free space or fix its rights.')}"
