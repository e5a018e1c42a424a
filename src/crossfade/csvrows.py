"""Rows out of the bytes of an append-only CSV file, torn lines set aside."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import numpy as np
import pyarrow as pa
from pyarrow import csv


def rows_in(data: bytes, columns: tuple[str, ...], wanted: Sequence[str]) -> tuple[pa.Table, int]:
    r"""Read some columns, as text, of every whole row.

    Parameters
    ----------
    data : bytes
        Whole lines, but for what follows the last line break.
    columns : tuple of str
        Of the file.
    wanted : sequence of str
        Of those, in the order to return.

    Returns
    -------
    tuple of Table and int
        The rows, and how many lines were set aside.

    Examples
    --------
    >>> table, set_aside = rows_in(b'1,"a,b"\n2,to', ("n", "text"), ["text"])
    >>> table["text"].to_pylist(), set_aside
    (['a,b'], 1)
    """
    lines = np.count_nonzero(np.frombuffer(data, np.uint8) == ord("\n"))  # bytes.count would hold other threads up
    cut_short = bool(data) and not data.endswith(b"\n")
    data = data[: data.rfind(b"\n") + 1]
    try:
        table = _parse(data, columns, wanted)
    except pa.ArrowInvalid:
        table = None
    if table is not None and table.num_rows == lines:  # else a line holds no row, or a row spans lines
        return table, int(cut_short)
    rows = [line for whole in data.split(b"\n") if (line := whole.removesuffix(b"\r"))]
    whole = [line for line in rows if _is_whole(line, len(columns))]
    table = _parse(b"".join(line + b"\n" for line in whole), columns, wanted)
    return table, len(rows) - len(whole) + cut_short


def nothing(wanted: Sequence[str]) -> pa.Table:
    """Return no rows."""
    return pa.table({name: pa.array([], pa.string()) for name in wanted})


def _parse(data: bytes, columns: tuple[str, ...], wanted: Sequence[str]) -> pa.Table:
    if not data:
        return nothing(wanted)
    return csv.read_csv(
        pa.BufferReader(data),
        read_options=csv.ReadOptions(column_names=list(columns), block_size=len(data) + 1, use_threads=False),
        convert_options=csv.ConvertOptions(
            include_columns=list(wanted), column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=False
        ),
    )


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
