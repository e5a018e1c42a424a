"""A CSV file that only grows: many writers, whole lines. What stands in it is read by csvslices.py."""

from __future__ import annotations

import csv
import io
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crossfade.errors import LogUnavailable

if TYPE_CHECKING:
    from crossfade.csvslices import CsvSlice, ParquetSlice

_IN_FLIGHT_SECONDS = 0.01
"""A write that another process has begun is over by then, many times over."""


class AppendOnlyCsv:
    """One CSV file with a header; every append is a single write on an O_APPEND descriptor.

    No value may hold a line break, so a line is a row and a row torn by a crash spoils itself only. Any number of
    processes and threads may append.

    Parameters
    ----------
    path : Path
        The file; made with its header at the first append.
    columns : tuple of str
        Names of the columns.
    """

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self._path = path
        self._columns = columns
        self._header = ",".join(columns).encode()
        self._descriptor: int | None = None
        self._lock = threading.Lock()

    def append(self, rows: Sequence[Sequence[object]]) -> None:
        """Add rows together, each with a value per column; None is empty.

        Raises
        ------
        LogUnavailable
            The file cannot be written, or not all of it: the rows must be taken as lost.
        """
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        data = text.getvalue().encode()
        try:
            with self._lock:  # another thread may be about to replace the descriptor
                descriptor = self._open()
                data = (b"\n" if self._ends_torn(descriptor) else b"") + data
                written = os.write(descriptor, data)
        except OSError as error:
            raise LogUnavailable(
                f"{self._path} cannot be written: {error.strerror}. Free space or fix its rights."
            ) from error
        if written != len(data):
            raise LogUnavailable(f"{self._path} took {written} of {len(data)} bytes: the disk is full. Free space.")

    def slices(self) -> list[CsvSlice | ParquetSlice]:
        """Return what can be read one by one, oldest rows first. Raises LogUnavailable."""
        from crossfade.csvslices import slices_of  # a router only writes: it does without Arrow

        return slices_of(self._path, self._columns)

    def _open(self) -> int:
        """Return a descriptor of the file that stands at the path now (it may have been moved away meanwhile)."""
        if self._descriptor is not None and self._is_current(self._descriptor):
            return self._descriptor
        self._create()
        stale, self._descriptor = self._descriptor, os.open(self._path, os.O_RDWR | os.O_APPEND)
        if stale is not None:
            os.close(stale)
        return self._descriptor

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(self._path.stat(), os.fstat(descriptor))
        except FileNotFoundError:
            return False

    def _create(self) -> None:
        """Make the file with its header in one step, so that no process ever sees one without."""
        if self._path.exists():
            if self._path.stat().st_size == 0:  # emptied by hand
                with self._path.open("ab") as file:
                    file.write(self._header + b"\n")
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}.{threading.get_ident()}")
        draft.write_bytes(self._header + b"\n")
        try:
            os.link(draft, self._path)
        except FileExistsError:
            pass  # another process was first, with the same header
        finally:
            draft.unlink()

    @staticmethod
    def _ends_torn(descriptor: int) -> bool:
        """Whether some process died in the middle of the last line (and is not writing it just now)."""
        size = os.fstat(descriptor).st_size
        while size > 0 and os.pread(descriptor, 1, size - 1) != b"\n":
            time.sleep(_IN_FLIGHT_SECONDS)
            before, size = size, os.fstat(descriptor).st_size
            if size == before:
                return True
        return False
