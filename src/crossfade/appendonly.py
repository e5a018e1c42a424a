"""A CSV file that only grows: many writers, whole lines, and a reader that sets torn ones aside."""

from __future__ import annotations

import csv
import io
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyarrow import csv as pa_csv

from crossfade.errors import LogUnavailable

_SMALLEST_BLOCK = 2**20
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
        cell = rb'(?:[^",\r\n]*+|"(?:[^"]++|"")*+")'
        self._whole_line = re.compile(cell + rb"(?:," + cell + rb"){%d}" % (len(columns) - 1))
        self._descriptor: int | None = None
        self._lock = threading.Lock()

    def append(self, rows: Sequence[Mapping[str, str]]) -> None:
        """Add rows together.

        Raises
        ------
        LogUnavailable
            The file cannot be written, or not all of it: the rows must be taken as lost.
        """
        text = io.StringIO()
        csv.DictWriter(text, self._columns, lineterminator="\n").writerows(rows)
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

    def read(self) -> tuple[pd.DataFrame, int]:
        """Read every whole row.

        Returns
        -------
        tuple of DataFrame and int
            All columns as text, and how many lines were set aside. A missing file is empty.

        Raises
        ------
        LogUnavailable
            The file cannot be read, or holds other columns.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            data = b""
        except OSError as error:
            raise LogUnavailable(f"{self._path} cannot be read: {error.strerror}. Fix its rights.") from error
        if not data:
            return pd.DataFrame(columns=list(self._columns), dtype=object), 0
        first, *lines = data.split(b"\n")
        if first != self._header:
            raise LogUnavailable(
                f"{self._path} does not start with the columns {self._header.decode()}. Move the file away."
            )
        cut_short = lines.pop() if lines else b""  # what follows the last line break
        rows = [line for line in lines if line]
        whole = [line for line in rows if self._is_whole(line)]
        return self._parse(whole), len(rows) - len(whole) + bool(cut_short)

    def _is_whole(self, line: bytes) -> bool:
        if not self._whole_line.fullmatch(line):
            return False
        try:
            line.decode()
        except UnicodeDecodeError:
            return False
        return True

    def _parse(self, lines: list[bytes]) -> pd.DataFrame:
        longest = max(map(len, lines), default=0)
        table: pa.Table = pa_csv.read_csv(
            pa.BufferReader(b"\n".join([self._header, *lines]) + b"\n"),
            read_options=pa_csv.ReadOptions(block_size=max(_SMALLEST_BLOCK, 2 * longest)),
            convert_options=pa_csv.ConvertOptions(
                column_types={name: pa.string() for name in self._columns}, strings_can_be_null=False
            ),
        )
        frame: pd.DataFrame = table.to_pandas()
        return frame

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
