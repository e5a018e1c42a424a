"""A CSV file that only grows: many writers, whole lines, and a reader that sets torn ones aside.

It is read in slices, so that no reader holds all of it: byte ranges of the file, and row groups of the Parquet parts
that older rows may have been moved to (`requests.csv` has its parts beside it: `requests.2026-11-20.parquet`).
"""

from __future__ import annotations

import csv
import glob
import io
import os
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pa_csv
from pyarrow import parquet

from crossfade.errors import LogUnavailable

_SLICE_BYTES = 2**22
"""Of a file, for one slice: some 18,000 answers on four features."""

_IN_FLIGHT_SECONDS = 0.01
"""A write that another process has begun is over by then, many times over."""


@dataclass(frozen=True)
class CsvSlice:
    """Some lines of a CSV file: whole ones, but for what follows the file's last line break."""

    path: Path
    columns: tuple[str, ...]
    """Of the file."""
    start: int
    stop: int
    """Bytes `start` to before `stop`."""

    def read(self, wanted: Sequence[str]) -> tuple[pa.Table, int]:
        """Read some columns, as text, of every whole row.

        Returns
        -------
        tuple of Table and int
            The rows, and how many lines were set aside.

        Raises
        ------
        LogUnavailable
            The file cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                data = file.read(self.stop - self.start)
        except OSError as error:
            raise LogUnavailable(f"{self.path} cannot be read: {error.strerror}. Fix its rights.") from error
        lines = np.count_nonzero(np.frombuffer(data, np.uint8) == ord("\n"))  # bytes.count would hold other threads up
        cut_short = not data.endswith(b"\n")
        data = data[: data.rfind(b"\n") + 1]
        try:
            table = self._parse(data, wanted)
        except pa.ArrowInvalid:
            table = None
        if table is not None and table.num_rows == lines:  # else a line holds no row, or a row spans lines
            return table, int(cut_short)
        rows = [line for whole in data.split(b"\n") if (line := whole.removesuffix(b"\r"))]
        whole = [line for line in rows if _is_whole(line, len(self.columns))]
        table = self._parse(b"".join(line + b"\n" for line in whole), wanted)
        return table, len(rows) - len(whole) + cut_short

    def _parse(self, data: bytes, wanted: Sequence[str]) -> pa.Table:
        if not data:
            return pa.table({name: pa.array([], pa.string()) for name in wanted})
        return pa_csv.read_csv(
            pa.BufferReader(data),
            read_options=pa_csv.ReadOptions(
                column_names=list(self.columns), block_size=len(data) + 1, use_threads=False
            ),
            convert_options=pa_csv.ConvertOptions(
                include_columns=list(wanted), column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=False
            ),
        )


@dataclass(frozen=True)
class ParquetSlice:
    """One row group of a Parquet part; whatever the types of its columns, they are read as text."""

    path: Path
    row_group: int

    def read(self, wanted: Sequence[str]) -> tuple[pa.Table, int]:
        """Read some columns; nothing is ever set aside. Raises LogUnavailable."""
        try:
            with parquet.ParquetFile(self.path) as file:
                table = file.read_row_group(self.row_group, columns=list(wanted))
            return pa.table({name: pc.fill_null(table[name].cast(pa.string()), "") for name in wanted}), 0
        except (OSError, pa.ArrowException, KeyError) as error:
            raise LogUnavailable(f"{self.path} cannot be read: {error}. Move the file away.") from error


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
        """Return what can be read one by one, and anywhere, oldest rows first; nothing where there is no file.

        Raises
        ------
        LogUnavailable
            The file or a part cannot be read, or holds other columns.
        """
        return [*self._parts(), *self._lines()]

    def _parts(self) -> list[ParquetSlice]:
        found = []
        for path in sorted(self._path.parent.glob(f"{glob.escape(self._path.stem)}.*.parquet")):
            try:
                groups = parquet.read_metadata(path).num_row_groups
            except (OSError, pa.ArrowException) as error:
                raise LogUnavailable(f"{path} cannot be read: {error}. Move the file away.") from error
            found += [ParquetSlice(path, group) for group in range(groups)]
        return found

    def _lines(self) -> list[CsvSlice]:
        try:
            with self._path.open("rb") as file:
                first, size = file.readline(), os.fstat(file.fileno()).st_size
                if size and first.rstrip(b"\r\n") != self._header:
                    raise LogUnavailable(
                        f"{self._path} does not start with the columns {self._header.decode()}. Move the file away."
                    )
                edges = [len(first)]
                while edges[-1] < size:
                    file.seek(min(edges[-1] + _SLICE_BYTES, size))
                    file.readline()
                    edges.append(min(file.tell(), size))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise LogUnavailable(f"{self._path} cannot be read: {error.strerror}. Fix its rights.") from error
        return [CsvSlice(self._path, self._columns, *pair) for pair in pairwise(edges)]

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


def _is_whole(line: bytes, columns: int) -> bool:
    if not _whole_line(columns).fullmatch(line):
        return False
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


@cache
def _whole_line(columns: int) -> re.Pattern[bytes]:
    cell = rb'(?:[^",\r\n]*+|"(?:[^"]++|"")*+")'
    return re.compile(cell + rb"(?:," + cell + rb"){%d}" % (columns - 1))
