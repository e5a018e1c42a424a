"""One line of the log's files: written, and found again behind a torn one.

A process that dies in the middle of a write leaves a line without an end, and what the next one writes goes there. But
a row begins with the time it was written, so where that stands is no secret: nobody has to look before every write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

Cell = str | float | None

_STAMP = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00,"
"""What every row begins with."""

_STARTS = re.compile(_STAMP)

_CELL = rb'(?:[^",\r\n]*+|"(?:[^"]++|"")*+")'


def csv_line(row: Iterable[Cell]) -> str:
    """Write a row as `csv.writer` does, in less than half the time."""
    cells = [
        # Most cells are plain texts: they are told apart without a call.
        (cell if '"' not in cell and "," not in cell else csv_cell(cell))
        if isinstance(cell, str)
        else ("" if cell is None else str(cell))
        for cell in row
    ]
    return ",".join(cells) + "\n"


def csv_cell(text: str) -> str:
    """Write a text of one line as a cell."""
    return text if '"' not in text and "," not in text else '"' + text.replace('"', '""') + '"'


def whole_rows(lines: Iterable[bytes], columns: int) -> tuple[list[bytes], int]:
    """Return the rows among lines; of a line that is none, the row at its end that was written behind a torn one.

    Parameters
    ----------
    lines : iterable of bytes
        Without their line breaks; empty ones are passed over.
    columns : int
        Cells of a row.

    Returns
    -------
    tuple of list of bytes and int
        The rows, and how many lines were set aside, whole or their beginning.

    Examples
    --------
    >>> whole_rows([b'2026-01-02T03:04:05.000006+00:00,r1,"tor2026-01-02T03:04:05.000007+00:00,r2,whole'], 3)
    ([b'2026-01-02T03:04:05.000007+00:00,r2,whole'], 1)
    """
    given = [line for ended in lines if (line := ended.removesuffix(b"\r"))]
    rows = [_row_in(line, columns) for line in given]
    set_aside = sum(row != line for row, line in zip(rows, given, strict=True))
    return [row for row in rows if row is not None], set_aside


def _row_in(line: bytes, columns: int) -> bytes | None:
    if _is_whole(line, columns):
        return line
    behind = (line[found.start() :] for found in _STARTS.finditer(line, 1))
    return next((row for row in behind if _is_whole(row, columns)), None)


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
    not_glued = rb'(?![^",]{1,32}' + _STAMP + rb")"  # a time, torn, and a row behind it: together as many cells
    return re.compile(not_glued + _CELL + rb"(?:," + _CELL + rb"){%d}" % (columns - 1))
