"""Lines that wait on this machine's disk while the database is away.

Each process has a folder of its own, named by its writer, which it holds by a lock that ends with it: then the next
process that finds the folder takes it over. Lines lie in numbered segments; one is removed when all of it is stored.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from crossfade.appendfile import Turn
from crossfade.appendonly import Fsync
from crossfade.logparts import sync_folder
from crossfade.postgres.lines import TABLES, Table
from crossfade.requestlog import utc_now

_SEGMENT_BYTES = 2**24
_CHUNK_BYTES = 2**20
_LOCK = "lock"
_REFUSED = "refused.jsonl"


class Spool:
    """What one process could not store yet.

    Parameters
    ----------
    folder : Path
        The spool of this machine.
    writer : str
        The process's own name in it, a UUID.
    fsync : {"never", "interval", "always"}
        With `never` a power cut may take what the kernel has not written by itself; else nothing.
    seconds : float
        How long to wait for a disk that does not answer.
    """

    def __init__(self, folder: Path, writer: str, fsync: Fsync, seconds: float) -> None:
        self.home = folder / writer
        self._fsync = fsync != "never"
        self._turn = Turn(seconds)
        self._lock: int | None = None
        self._segments = 0
        self._open: dict[str, tuple[Path, int]] = {}
        self._sealed: list[Path] = []

    @property
    def holds_lines(self) -> bool:
        """Whether anything waits."""
        return bool(self._open or self._sealed)

    def append(self, table: Table, data: bytes) -> None:
        """Keep lines together.

        Raises
        ------
        OSError
            They cannot be kept, and none is.
        """
        with self._turn:
            if table.kind in self._open and not _is_at(*self._open[table.kind]):
                self._seal(table.kind)  # somebody has removed it
            path, number = self._open.get(table.kind) or self._begin(table)
            end = os.lseek(number, 0, os.SEEK_END)
            try:
                if os.write(number, data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
                if self._fsync:
                    os.fdatasync(number)
            except OSError:
                os.ftruncate(number, end)
                raise
            if end + len(data) > _SEGMENT_BYTES:
                self._seal(table.kind)

    def sealed(self) -> list[Path]:
        """Return the segments so far, which nothing is appended to any more, oldest first. Raises TimeoutError."""
        with self._turn:
            for kind in list(self._open):
                self._seal(kind)
            self._sealed = [segment for segment in self._sealed if segment.exists()]
            return list(self._sealed)

    def remove(self, segment: Path) -> None:
        """Forget a segment that is stored."""
        segment.unlink(missing_ok=True)
        self._sealed.remove(segment)

    def close(self) -> None:
        """Let go of what waits, for the next process to take over."""
        with self._turn:
            for kind in list(self._open):
                self._seal(kind)
            if self._lock is not None:
                if not self._sealed:
                    _remove(self.home)
                os.close(self._lock)
                self._lock = None

    def _begin(self, table: Table) -> tuple[Path, int]:
        if self._lock is not None and not _is_at(self.home / _LOCK, self._lock):  # somebody removed the folder
            os.close(self._lock)
            self._lock = None
        if self._lock is None:
            self._lock = _lock_anew(self.home)
        self._segments += 1
        path = self.home / f"{self._segments:06d}.{table.kind}"
        number = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        self._open[table.kind] = path, number
        if self._fsync:
            sync_folder(self.home)
        return path, number

    def _seal(self, kind: str) -> None:
        path, number = self._open.pop(kind)
        os.close(number)
        self._sealed.append(path)


@contextlib.contextmanager
def taken_over(folder: Path) -> Iterator[list[Path]]:
    """Hold the spools of processes that ended, and yield their segments, oldest first.

    A spool whose segments are all removed meanwhile is removed as well.
    """
    held: dict[Path, int] = {}
    try:
        for home in _homes(folder):
            lock = _lock_of_the_dead(home)
            if lock is not None:
                held[home] = lock
        yield [segment for home in held for segment in segments_of(home)]
    finally:
        for home, lock in held.items():
            if not segments_of(home):
                _remove(home)
            os.close(lock)


def segments_of(home: Path) -> list[Path]:
    """Return the segments of one process, oldest first."""
    return sorted(path for path in home.glob("*.*") if path.suffix[1:] in TABLES)


def chunks_of(segment: Path) -> Iterator[list[bytes]]:
    """Read whole lines, about a megabyte at a time; the one that a killed process left torn was never answered."""
    with segment.open("rb") as file:
        while lines := file.readlines(_CHUNK_BYTES):
            if not lines[-1].endswith(b"\n"):
                lines.pop()
            if lines:
                yield lines


def waiting_bytes(folder: Path) -> int:
    """Return how much waits on this machine, of all processes."""
    found = 0
    for home in _homes(folder):
        for segment in segments_of(home):
            with contextlib.suppress(FileNotFoundError):  # stored meanwhile
                found += segment.stat().st_size
    return found


def set_aside(folder: Path, table: Table, line: bytes, said: str) -> Path:
    """Keep a line that the database refuses, for a person to look at; return the file. Raises OSError."""
    event = {"ts_utc": utc_now(), "table": table.name, "refused": said, "line": line.decode(errors="replace").rstrip()}
    path = folder / _REFUSED
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        file.write(json.dumps(event).encode() + b"\n")
    return path


def _homes(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if _is_uuid(path.name))
    except OSError:  # it was never made, or nobody can get at it: who tries to keep a line there is told
        return []


def _is_uuid(name: str) -> bool:
    with contextlib.suppress(ValueError):
        return str(UUID(name)) == name
    return False


def _lock_anew(home: Path) -> int:
    """Make a folder and hold it. Another process may take it for a dead one's, and remove it, until it is held."""
    while True:
        home.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            number = os.open(home / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(number, fcntl.LOCK_EX)
            if _is_at(home / _LOCK, number):
                return number
            os.close(number)


def _lock_of_the_dead(home: Path) -> int | None:
    """Hold the folder of a process that ended; None: it lives, or another one was first."""
    try:
        number = os.open(home / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(number)
        return None
    if _is_at(home / _LOCK, number):
        return number
    os.close(number)
    return None


def _is_at(path: Path, number: int) -> bool:
    """Whether the file at a path is the one that is open."""
    try:
        found, mine = path.stat(), os.fstat(number)
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)


def _remove(home: Path) -> None:
    with contextlib.suppress(OSError):  # it is empty but for the lock, or stays
        (home / _LOCK).unlink(missing_ok=True)
        home.rmdir()
