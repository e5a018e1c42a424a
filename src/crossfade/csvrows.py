"""Rows out of the bytes of an append-only CSV file, torn lines set aside."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from crossfade.csvline import whole_rows

_ZONE = "+00:00"
"""Of every row's time."""
_TIME_CHARACTERS = len("2026-01-02T03:04:05.000006+00:00")


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
    cut_short = bool(data) and not data.endswith(b"\n")
    data = data[: data.rfind(b"\n") + 1]
    with suppress(pa.ArrowInvalid):
        table = _parse(data, columns, list(dict.fromkeys([columns[0], *wanted])))
        if _are_lines(table[columns[0]], data):
            return table.select(wanted), int(cut_short)
    rows, set_aside = whole_rows(data.split(b"\n"), len(columns))
    return _parse(b"".join(row + b"\n" for row in rows), columns, wanted), set_aside + cut_short


def nothing(wanted: Sequence[str]) -> pa.Table:
    """Return no rows."""
    return pa.table({name: pa.array([], pa.string()) for name in wanted})


def _are_lines(times: pa.ChunkedArray, data: bytes) -> bool:
    """Whether rows with these times are the lines: none spans two, and none holds the times of two.

    numpy lets other threads go on meanwhile; `bytes.count` would not.
    """
    found = np.frombuffer(data, np.uint8)
    if np.count_nonzero(found == ord("\n")) != len(times):
        return False
    zones = np.count_nonzero(found == ord("+"))
    if zones > len(times):  # an exponent, or a text
        at = np.flatnonzero(found == ord("+"))
        at = at[at + len(_ZONE) < len(found)]
        zones = np.count_nonzero((found[at + 3] == ord(":")) & (found[at + len(_ZONE)] == ord(",")))
    whole = pc.and_(pc.equal(pc.binary_length(times), _TIME_CHARACTERS), pc.ends_with(times, _ZONE))
    return bool(zones == len(times) and pc.all(whole, min_count=0).as_py())


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
