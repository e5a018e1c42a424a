"""Rows out of the bytes of an append-only CSV file, torn lines set aside."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import pyarrow as pa
from pyarrow import csv

from crossfade.csvline import whole_rows

_ZONE = b"+00:00,"
_ZONE_AT = len("2026-01-02T03:04:05.000006")
"""Where a row's time has its zone."""


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
    lines = _lines_by_their_times(data)
    if lines is not None:
        with suppress(pa.ArrowInvalid):
            table = _parse(data, columns, wanted)
            if table.num_rows == lines:  # else a line holds no row, or a row spans lines
                return table, int(cut_short)
    rows, set_aside = whole_rows(data.split(b"\n"), len(columns))
    return _parse(b"".join(row + b"\n" for row in rows), columns, wanted), set_aside + cut_short


def nothing(wanted: Sequence[str]) -> pa.Table:
    """Return no rows."""
    return pa.table({name: pa.array([], pa.string()) for name in wanted})


def _lines_by_their_times(data: bytes) -> int | None:
    """Count lines; None where one does not begin with its time, or holds another: it may continue a torn one.

    numpy lets other threads go on meanwhile; `bytes.count` would not.
    """
    found = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(found == ord("\n"))
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    zones = np.flatnonzero(found == ord("+"))
    zones = zones[zones + len(_ZONE) <= len(found)]
    for place in (6, 5, 3):  # the comma first: few other signs have one there
        zones = zones[found[zones + place] == _ZONE[place]]
    return len(ends) if np.array_equal(zones, starts + _ZONE_AT) else None


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
