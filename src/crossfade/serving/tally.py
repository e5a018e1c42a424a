"""Numbers of a worker that its siblings can read, and that outlive it: one memory-mapped file per worker.

A worker that is killed loses nothing: the kernel keeps what it wrote, and the worker that takes its place takes its
file over and counts on. So there are as many files as workers, however often they die. Each file is locked by its
owner for as long as that lives, which is how readers tell the living from the dead.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import logging
import mmap
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

_log = logging.getLogger(__name__)

_SLOTS = 8192
"""Numbers per file; a version of the model takes a handful."""

_BYTES = 8 * _SLOTS

_YOUNG_SECONDS = 60
"""A folder of this age may be one that a router is about to use."""

Series = tuple[str, ...]
"""A metric's name, then the values of its labels."""


class Tally:
    """Numbers by series, in a file of this worker's own.

    Parameters
    ----------
    folder : Path
        Where this worker and its siblings have their files. If it cannot be used, the numbers stay in this process.
    """

    def __init__(self, folder: Path) -> None:
        self.lock = threading.Lock()
        """To be held while a number is changed."""
        self._folder = folder
        self._slots: dict[Series, int] = {}
        self._names: Path | None = None
        try:
            memory = self._claim()
        except OSError as error:
            _log.warning("%s cannot be used (%s): /metrics shows one worker at a time", folder, error)
            memory = mmap.mmap(-1, _BYTES)
        self.numbers = memoryview(memory).cast("d")
        """By slot; a store of eight aligned bytes, so a reader never sees half of one."""

    def slot(self, *series: str) -> int:
        """Return where a series' number stands, and give it a place if it has none yet."""
        with self.lock:
            if series not in self._slots:
                self._slots[series] = self._add(series)
            return self._slots[series]

    def put(self, number: float, *series: str) -> None:
        """Set the number of a series."""
        self.numbers[self.slot(*series)] = number

    def add(self, amount: float, *series: str) -> None:
        """Add to the number of a series."""
        slot = self.slot(*series)
        with self.lock:
            self.numbers[slot] += amount

    def known(self) -> list[Series]:
        """Return every series of this worker."""
        with self.lock:
            return list(self._slots)

    def read(self) -> Iterator[tuple[bool, dict[Series, float]]]:
        """Yield the numbers of each worker that there is or was, and whether it lives."""
        if self._names is None:
            yield True, {series: self.numbers[slot] for series, slot in list(self._slots.items())}
            return
        for path in sorted(self._folder.glob("*.numbers")):
            with contextlib.suppress(OSError), path.open("rb") as file:
                numbers = array.array("d", file.read(_BYTES))
                named = _read_names(path.with_suffix(".names"))
                yield _is_locked(file.fileno()), {series: numbers[slot] for series, slot in named.items()}

    def _claim(self) -> mmap.mmap:
        """Take over the first file whose owner is dead, or make one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for number in count():
            path = self._folder / f"{number}.numbers"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                size = os.fstat(descriptor).st_size  # all of it is written: a full disk shows here, not as a SIGBUS
                os.pwrite(descriptor, bytes(max(0, _BYTES - size)), size)
                names = path.with_suffix(".names")
                names.touch()
                self._slots, self._names = _read_names(names), names
                return mmap.mmap(descriptor, _BYTES)  # it duplicates the descriptor, so the lock lives as long as it
            except BlockingIOError:
                continue
            finally:
                os.close(descriptor)
        raise AssertionError

    def _add(self, series: Series) -> int:
        slot = len(self._slots)
        if slot >= _SLOTS - 1:
            _log.warning("more than %s numbers: %s is not counted", _SLOTS, series)
            return _SLOTS - 1
        if self._names is not None:
            try:
                with self._names.open("ab") as file:
                    file.write(b"\n" + json.dumps([slot, *series]).encode())
            except OSError as error:  # a number that cannot be told of is no reason to refuse a request
                _log.warning("%s cannot be written (%s): /metrics lacks %s", self._names, error, series)
        return slot


def folder_of_this_router(parent: Path) -> Path:
    """Name a folder that all workers of one running router share, and no other router does.

    The process that started the workers tells routers apart, its start time tells apart those of a container, whose
    first process has the same number every time, and the host's name those of containers that share a volume.
    """
    try:
        stat = Path(f"/proc/{os.getppid()}/stat").read_text()
        started = stat.rpartition(")")[2].split()[19]
    except OSError:  # not Linux
        started = "0"
    return parent / f"{socket.gethostname()}-{os.getppid()}-{started}"


def sweep(parent: Path, but: Path) -> None:
    """Remove the folders of routers of which no worker lives."""
    for folder in parent.glob("*-*-*"):
        with contextlib.suppress(OSError):
            is_young = time.time() - folder.stat().st_mtime < _YOUNG_SECONDS
            if folder != but and not is_young and not any(map(_has_owner, folder.glob("*.numbers"))):
                shutil.rmtree(folder)


def _has_owner(path: Path) -> bool:
    with path.open("rb") as file:
        return _is_locked(file.fileno())


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(
            descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB
        )  # shared: two that look at once do not mislead each other
    except BlockingIOError:
        return True
    return False


def _read_names(path: Path) -> dict[Series, int]:
    """Read which series stands where; a line torn by a crash names none."""
    slots: dict[Series, int] = {}
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            slot, *series = json.loads(line)
            slots[tuple(series)] = slot
    return slots
