"""Pack parts of the log that nobody appends to any more: CSV into Parquet, a fifth of its size or less.

python -m crossfade.logpacking requests.csv labels.csv

A process of its own, so that no router grows by what Arrow takes. It may be killed at any point: what it has not
finished, the next one does.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from crossfade.csvslices import HEAD, SET_ASIDE, STARTS, CsvSlice, lines_of
from crossfade.errors import CrossfadeError
from crossfade.logparts import day_parts_of, is_at_rest, only_one, sync_folder
from crossfade.requestlog import COLUMNS, LABEL_COLUMNS

_CODED = (
    "user_id", "experiment_id", "variant", "alias", "model", "model_version", "ab_split_b", "label", "prediction",
    "status",
)  # fmt: skip
"""Columns whose texts occur again and again; the others are as good as unique."""


def pack_all(log: Path, columns: tuple[str, ...]) -> list[Path]:
    """Pack what can be packed, if no other process is at it, and return the parts made.

    Raises
    ------
    LogUnavailable
        A part cannot be read, or holds other columns.
    OSError
        The folder cannot be written.
    """
    with only_one(log) as mine:
        waiting = [part for parts in day_parts_of(log, ".csv").values() for part in parts] if mine else []
        return [pack(part, log, columns) for part in waiting if is_at_rest(part)]


def pack(part: Path, log: Path, columns: tuple[str, ...]) -> Path:
    """Put a Parquet part in the place of a CSV one; at any moment one of the two is whole, also after a power cut."""
    target = part.with_suffix(".parquet")
    draft = target.with_name(f".{target.name}")  # of the same name each time: no kill leaves more than one
    try:
        _write(draft, lines_of(part, log, columns), columns)
        times = part.stat()
        os.utime(draft, ns=(times.st_atime_ns, times.st_mtime_ns))  # when its last row came: retention goes by it
        draft.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)
    part.unlink()
    return target


def _write(draft: Path, slices: list[CsvSlice], columns: tuple[str, ...]) -> None:
    """Write a row group per slice, all of it text: what is read is what the CSV file said, to the last digit."""
    starts, set_aside = list[int](), list[int]()
    schema = pa.schema([(name, pa.string()) for name in columns])
    coded = [name for name in columns if name in _CODED]
    with (
        draft.open("wb") as file,
        parquet.ParquetWriter(file, schema, compression="zstd", use_dictionary=coded) as writer,
    ):
        for part in slices:
            table, torn = part.read(columns)
            writer.write_table(table, row_group_size=max(1, table.num_rows))
            starts.append(part.start)
            set_aside.append(torn)
        head = slices[0].head.hex() if slices else ""
        writer.add_key_value_metadata({HEAD: head, STARTS: json.dumps(starts), SET_ASIDE: json.dumps(set_aside)})
    descriptor = os.open(draft, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def main(arguments: list[str]) -> None:
    """Pack the parts of the rows and of the late labels."""
    os.nice(10)  # requests come first
    rows, labels = map(Path, arguments)
    try:
        pack_all(rows, COLUMNS)
        pack_all(labels, LABEL_COLUMNS)
    except (CrossfadeError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
