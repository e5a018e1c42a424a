"""Rows as PostgreSQL's COPY takes them, and as they wait on disk: lines of CSV, each with its writer and number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crossfade.csvline import Cell, csv_line
from crossfade.requestlog import COLUMNS, LABEL_COLUMNS

_UNSTORABLE, _SUBSTITUTE = "\0", "\ufffd"
"""PostgreSQL stores every character but this one."""

_NUMBERS = {"ts_utc", "ab_split_b", "probability", "latency_ms", "status"}


@dataclass(frozen=True)
class Table:
    """One of the two tables that a request log appends to."""

    kind: str
    """`rows` or `labels`: how files are named that wait for it."""
    columns: tuple[str, ...]
    """Of the log; `writer` and `seq` stand before them."""

    @property
    def name(self) -> str:
        """Its name in the database."""
        return f"crossfade_{self.kind}"

    @property
    def stored(self) -> str:
        """The columns of a line, for SQL."""
        return ", ".join(("writer", "seq", *self.columns))

    def copy_into(self, table: str) -> str:
        """Return the COPY that takes lines; nothing between two commas is an empty text, or no number."""
        texts = ", ".join(name for name in self.columns if name not in _NUMBERS)
        return f"copy {table} ({self.stored}) from stdin with (format csv, force_not_null ({texts}))"


ROWS = Table("rows", COLUMNS)
LABELS = Table("labels", LABEL_COLUMNS)
TABLES = {table.kind: table for table in (ROWS, LABELS)}


def csv_lines(rows: Sequence[Sequence[Cell]]) -> str:
    """Write rows as lines, without writer and number yet."""
    return "".join([csv_line(row) for row in rows])


def numbered(lines: str, writer: str, first: int) -> bytes:
    r"""Put the writer and a rising number in front of each line.

    Examples
    --------
    >>> numbered("a,1\nb,2\n", "w", 7)
    b'w,7,a,1\nw,8,b,2\n'
    """
    if _UNSTORABLE in lines:
        lines = lines.replace(_UNSTORABLE, _SUBSTITUTE)
    found = lines.split("\n")[:-1]  # not splitlines: a text may hold what Unicode takes for the end of a line
    return "".join([f"{writer},{number},{line}\n" for number, line in enumerate(found, first)]).encode(errors="replace")
