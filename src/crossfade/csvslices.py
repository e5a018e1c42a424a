"""What stands in an append-only CSV file and in the parts of it that lie beside it, slice by slice.

No reader holds all of it: byte ranges of the files, torn lines set aside, and row groups of the Parquet parts
(logparts.py). A slice finds its rows wherever they are by the time it is read: the file may have become a part, and
the part Parquet.
"""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from crossfade.csvrows import nothing, rows_in
from crossfade.errors import LogUnavailable
from crossfade.logparts import lock_of, parts_of

_SLICE_BYTES = 2**22
"""Of a file, for one slice: some 18,000 answers on four features."""

_HEAD_BYTES = 160
"""Of the rows: time and id of the first one tell a file from any other."""

_TRIES = 100
"""Looks at the folder until nothing moved meanwhile; what moves does so once a day."""

HEAD, STARTS, SET_ASIDE = b"crossfade.head", b"crossfade.starts", b"crossfade.set_aside"
"""What a packed part says of the file that it was: its first bytes (hex); and per row group where in the file that
began, and how many lines of it were no rows."""


@dataclass(frozen=True)
class CsvSlice:
    """Some lines of a CSV file: whole ones, but for what follows the file's last line break."""

    path: Path
    """Of the file when it was looked at."""
    log: Path
    """Of the log that the file belongs to."""
    columns: tuple[str, ...]
    """Of the file."""
    head: bytes = field(repr=False)
    """What the file begins with."""
    start: int
    stop: int
    """Bytes `start` to before `stop`."""

    @property
    def beginning(self) -> Hashable:
        """Which bytes it starts with, wherever their file is moved to."""
        return self.head, self.start

    @property
    def mark(self) -> Hashable:
        """Which bytes it holds."""
        return self.head, self.start, self.stop

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
        for _ in range(2):  # it may be packed between the looks for the one and the other
            data = self._data()
            if data is not None:
                return rows_in(data, self.columns, wanted)
            packed = self._packed()
            if packed is not None:
                return _together([part.read(wanted) for part in packed], wanted)
        if _is_here(self.log):
            return nothing(wanted), 0  # its days of retention are over
        raise LogUnavailable(
            f"{self.path} cannot be read: No such file or directory. Share its folder with this machine."
        )

    def _data(self) -> bytes | None:
        """Return the bytes, from wherever the file has gone; None: it is not there any more as a CSV file."""
        for path in dict.fromkeys((self.path, self.log, *parts_of(self.log))):
            try:
                if path.suffix != ".parquet" and (data := self._data_in(path)) is not None:
                    return data
            except FileNotFoundError:
                continue
            except OSError as error:
                raise LogUnavailable(f"{path} cannot be read: {error.strerror}. Fix its rights.") from error
        return None

    def _data_in(self, path: Path) -> bytes | None:
        with path.open("rb") as file:
            if file.read(len(self.head)) != self.head:
                return None
            file.seek(self.start)
            return file.read(self.stop - self.start)

    def _packed(self) -> list[ParquetSlice] | None:
        """Return the row groups that begin where this slice does, or in it; None: no part has been made of the file."""
        for path in parts_of(self.log):
            try:
                metadata = (path.suffix == ".parquet" and parquet.read_metadata(path).metadata) or {}
            except (OSError, pa.ArrowException):
                continue
            if HEAD in metadata and bytes.fromhex(metadata[HEAD].decode()).startswith(self.head):
                starts = json.loads(metadata[STARTS])
                groups = _groups(path, self.log, len(starts), metadata)
                return [part for part, start in zip(groups, starts, strict=True) if self.start <= start < self.stop]
        return None


@dataclass(frozen=True)
class ParquetSlice:
    """One row group of a Parquet part; whatever the types of its columns, they are read as text."""

    path: Path
    log: Path
    """Of the log that the part belongs to."""
    row_group: int
    set_aside: int = 0
    """Lines that were no rows when the part was packed."""

    @property
    def beginning(self) -> Hashable:
        """Itself: it does not grow."""
        return self

    @property
    def mark(self) -> Hashable:
        """Itself."""
        return self

    def read(self, wanted: Sequence[str]) -> tuple[pa.Table, int]:
        """Read some columns, and say what was set aside when they were packed. Raises LogUnavailable."""
        try:
            with parquet.ParquetFile(self.path) as file:
                table = file.read_row_group(self.row_group, columns=list(wanted))
            texts = pa.table({name: pc.fill_null(table[name].cast(pa.string()), "") for name in wanted})
        except (OSError, pa.ArrowException, KeyError) as error:
            if isinstance(error, FileNotFoundError) and _is_here(self.log):
                return nothing(wanted), 0  # its days of retention are over
            raise LogUnavailable(f"{self.path} cannot be read: {error}. Move the file away.") from error
        return texts, self.set_aside


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
    for _ in range(_TRIES):
        parts = parts_of(path)
        try:
            found = [one for part in parts for one in _slices_in(part, path, columns)]
        except FileNotFoundError:
            continue
        with suppress(FileNotFoundError):
            found += lines_of(path, path, columns)
        if parts_of(path) == parts:  # else rows may have moved from where we had not looked to where we had
            return found
    raise LogUnavailable(f"{path}: its parts come and go. Look what else works in that folder.")


def _slices_in(part: Path, log: Path, columns: tuple[str, ...]) -> Sequence[CsvSlice | ParquetSlice]:
    if part.suffix == ".csv":
        return lines_of(part, log, columns)
    try:
        found = parquet.read_metadata(part)
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise LogUnavailable(f"{part} cannot be read: {error}. Move the file away.") from error
    return _groups(part, log, found.num_row_groups, found.metadata or {})


def _groups(part: Path, log: Path, groups: int, metadata: Mapping[bytes, bytes]) -> list[ParquetSlice]:
    set_aside = json.loads(metadata.get(SET_ASIDE, b"null")) or [0] * groups
    return [ParquetSlice(part, log, group, torn) for group, torn in enumerate(set_aside)]


def lines_of(path: Path, log: Path, columns: tuple[str, ...]) -> list[CsvSlice]:
    """Cut a CSV file of a log into slices.

    Raises
    ------
    FileNotFoundError
        It is not there.
    LogUnavailable
        It cannot be read, or holds other columns.
    """
    header = ",".join(columns).encode()
    try:
        with path.open("rb") as file:
            first, size = file.readline(), os.fstat(file.fileno()).st_size
            if size and first.rstrip(b"\r\n") != header:
                raise LogUnavailable(f"{path} does not start with the columns {header.decode()}. Move the file away.")
            head = first + file.read(_HEAD_BYTES)
            edges = [len(first)]
            while edges[-1] < size:
                file.seek(min(edges[-1] + _SLICE_BYTES, size))
                file.readline()
                edges.append(min(file.tell(), size))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise LogUnavailable(f"{path} cannot be read: {error.strerror}. Fix its rights.") from error
    return [CsvSlice(path, log, columns, head, *pair) for pair in pairwise(edges)]


def _together(read: Sequence[tuple[pa.Table, int]], wanted: Sequence[str]) -> tuple[pa.Table, int]:
    return pa.concat_tables([nothing(wanted), *(table for table, _ in read)]), sum(torn for _, torn in read)


def _is_here(log: Path) -> bool:
    """Tell whether this machine sees the log at all: what is missing then is gone, not out of sight."""
    return log.exists() or lock_of(log).exists()
