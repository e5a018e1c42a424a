"""What stands in an append-only CSV file, slice by slice, torn lines set aside.

No reader holds all of it: byte ranges of the file, and row groups of the Parquet parts that older rows may have been
moved to (`requests.csv` has its parts beside it: `requests.2026-11-20.parquet`).
"""

from __future__ import annotations

import glob
import os
import re
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


def slices_of(path: Path, columns: tuple[str, ...]) -> list[CsvSlice | ParquetSlice]:
    """Return what can be read one by one, and anywhere, oldest rows first; nothing where there is no file.

    Parameters
    ----------
    path : Path
        The file.
    columns : tuple of str
        Its columns.

    Raises
    ------
    LogUnavailable
        The file or a part cannot be read, or holds other columns.
    """
    return [*_parts(path), *_lines(path, columns)]


def _parts(log: Path) -> list[ParquetSlice]:
    found = []
    for path in sorted(log.parent.glob(f"{glob.escape(log.stem)}.*.parquet")):
        try:
            groups = parquet.read_metadata(path).num_row_groups
        except (OSError, pa.ArrowException) as error:
            raise LogUnavailable(f"{path} cannot be read: {error}. Move the file away.") from error
        found += [ParquetSlice(path, group) for group in range(groups)]
    return found


def _lines(path: Path, columns: tuple[str, ...]) -> list[CsvSlice]:
    header = ",".join(columns).encode()
    try:
        with path.open("rb") as file:
            first, size = file.readline(), os.fstat(file.fileno()).st_size
            if size and first.rstrip(b"\r\n") != header:
                raise LogUnavailable(f"{path} does not start with the columns {header.decode()}. Move the file away.")
            edges = [len(first)]
            while edges[-1] < size:
                file.seek(min(edges[-1] + _SLICE_BYTES, size))
                file.readline()
                edges.append(min(file.tell(), size))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LogUnavailable(f"{path} cannot be read: {error.strerror}. Fix its rights.") from error
    return [CsvSlice(path, columns, *pair) for pair in pairwise(edges)]


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
