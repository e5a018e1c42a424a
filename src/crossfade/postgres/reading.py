"""The request log in PostgreSQL, read: ranges of ids, copied straight into Arrow by whoever has them to read.

Rows are committed in another order than that of their ids. A slice therefore knows which transactions were under way
when it was cut, and leaves their rows out: it gives the same rows however often it is read. Who follows the log is told
by a slice's `mark` when such rows have come.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from crossfade.logchoice import EVERY, Choice
from crossfade.postgres.address import DatabaseUrl
from crossfade.postgres.lines import LABELS, ROWS, Table
from crossfade.postgres.link import Link, opened

if TYPE_CHECKING:
    import psycopg
    import pyarrow as pa

_MOST_ROWS = 2**14
"""Of a slice: on four features as much as a slice of a file, so that as little is read too much."""

_SLICE_BYTES = 2**24
"""Of the features of a slice."""

_IN_FLIGHT = 2**20
"""When a log begins to be followed, whatever is under way has one of so many newest ids."""

_AS_TEXT = {
    "ts_utc": """to_char({} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')""",
    "status": "{}::text",
}

_JOIN = """left join lateral (select l.label from crossfade_labels l where l.request_id = r.request_id
order by l.id desc limit 1) late on true"""


@contextmanager
def reading(url: DatabaseUrl) -> Iterator[Link]:
    """Connect, to read. Raises LogUnavailable, as whatever fails in the block."""
    with opened(url) as link:
        link.execute("set extra_float_digits = 1")  # as many digits as it takes to tell a number from all others
        yield link


@dataclass(frozen=True)
class TableSlice:
    """Some rows of a table, that any process which reaches the database can read."""

    url: DatabaseUrl
    table: str
    first: int
    last: int
    """Ids."""
    looked: int
    """How often the log had been looked at when other rows than before were seen among them."""
    hidden: tuple[int, ...] = field(default=(), repr=False)
    """Transactions that were under way when the slice was cut."""
    choice: Choice = EVERY
    joined: bool = False
    """With late labels in place."""
    labeled: bool = False
    """Only rows that were answered and whose label is known; for slices with late labels."""

    @property
    def beginning(self) -> Hashable:
        """The first id."""
        return self.table, self.first

    @property
    def mark(self) -> Hashable:
        """The first id, and when rows were seen to come."""
        return self.table, self.first, self.looked

    def read(self, wanted: Sequence[str]) -> tuple[pa.Table, int]:
        """Read some columns, as text, in the order of the ids.

        Returns
        -------
        tuple of Table and int
            The rows, and 0: nothing is torn here.

        Raises
        ------
        LogUnavailable
            The database does not answer, or refuses.
        """
        query, values = self._query(wanted)
        with reading(self.url) as link, link.cursor() as cursor, cursor.copy(query, values) as copy:
            data = b"".join(copy)
        return _parsed(data, wanted), 0

    def _query(self, wanted: Sequence[str]) -> tuple[str, list[Any]]:
        shown = ", ".join(self._text_of(name) for name in wanted)
        tests, values = ["r.id between %s and %s"], [self.first, self.last, *(value for _, value in self.choice.equal)]
        tests += [f"{self._text_of(name)} = %s" for name, _ in self.choice.equal]
        for test, these in (
            ("r.model_version <> all(%s)", list(self.choice.strangers)),
            ("r.xid <> all(%s::text[]::xid8[])", [str(xid) for xid in self.hidden]),
        ):
            if these:
                tests.append(test)
                values.append(these)
        if self.labeled:
            tests.append(f"r.status = 200 and {self._text_of('label')} <> ''")
        join = _JOIN if self.joined else ""
        chosen = f"select {shown} from {self.table} r {join} where {' and '.join(tests)} order by r.id"  # noqa: S608 - names of ours
        return f"copy ({chosen}) to stdout (format csv)", values

    def _text_of(self, name: str) -> str:
        if name == "label" and self.joined:
            return "coalesce(late.label, r.label)"
        return as_text(name, f"r.{name}")


def as_text(name: str, place: str) -> str:
    """Return an expression for a column as the files have it; numbers are written with the digits that they need."""
    return _AS_TEXT.get(name, "{}").format(place)


@dataclass(frozen=True)
class _Look:
    """What a table showed at one moment."""

    first: int
    last: int
    """Ids; the last one is below the first where there is no row."""
    xmax: int
    """Transactions from this number on had not begun to write."""
    under_way: tuple[int, ...]
    """Of those below, which had not ended."""
    snapshot: str
    """All of that, as PostgreSQL writes it."""

    @classmethod
    def of(cls, first: int | None, last: int | None, snapshot: str) -> _Look:
        _, xmax, under_way = snapshot.split(":")
        there = (first, last) if first is not None and last is not None else (1, 0)
        return cls(*there, int(xmax), tuple(int(xid) for xid in under_way.split(",") if xid), snapshot)

    @property
    def xmin(self) -> int:
        """Transactions below this number have ended."""
        return min(self.under_way, default=self.xmax)

    @property
    def rows(self) -> int:
        """How many there are at most."""
        return self.last - self.first + 1


class _Table:
    """A table as a row of slices, and which of them have other rows than when they were looked at before.

    A row is seen to come by its transaction, which had not ended at the look before. Only ids are searched whose
    transactions may still be under way. An id may be given out a moment before its transaction has a number, hence it
    is settled once all transactions have ended that had one at the look after it was seen.

    Parameters
    ----------
    url : DatabaseUrl
        The database.
    table : Table
        `ROWS` or `LABELS`.
    """

    def __init__(self, url: DatabaseUrl, table: Table) -> None:
        self._url = url
        self._table = table.name
        self._lock = threading.Lock()
        self._slice_rows = _MOST_ROWS
        self._looks = 0
        self._last: _Look | None = None
        self._settled = 0
        self._unsettled: list[tuple[int, int]] = []
        self._changed: dict[int, int] = {}

    def slices(self, link: Link, choice: Choice = EVERY) -> list[TableSlice]:
        """Cut the rows that are there now into slices, oldest first, but for those that hold none of the chosen."""
        with self._lock:
            look = self._look(link)
            first, last = _span(link, choice, look)
            if last < first:
                return []
            size = self._slice_rows
            return [
                TableSlice(
                    self._url,
                    self._table,
                    block * size,
                    min(block * size + size - 1, look.last),
                    self._changed.get(block, 0),
                    look.under_way,
                    choice,
                )
                for block in range(first // size, last // size + 1)
            ]

    def _look(self, link: Link) -> _Look:
        """Look what is there, and note which slices have other rows than at the last look."""
        before = self._last
        if before is None:
            came, values = "array[]::bigint[]", []
        else:
            unseen = "id > %s and not pg_visible_in_snapshot(xid, %s::pg_snapshot)"
            came = f"array(select distinct id / %s from {self._table} where {unseen})"  # noqa: S608 - a constant
            values = [self._slice_rows, self._settled, before.snapshot]
        query = f"select min(id), max(id), pg_current_snapshot()::text, {came} from {self._table}"  # noqa: S608 - a constant
        first, last, snapshot, changed = _row(link.execute(query, values))
        look = self._last = _Look.of(first, last, snapshot)
        self._looks += 1
        self._changed |= dict.fromkeys(changed, self._looks)
        if before is None:
            self._settled = look.last - _IN_FLIGHT
        else:
            self._unsettled.append((look.xmax, before.last))
        if before is None or before.rows == 0:
            self._slice_rows, self._changed = self._fitting(link), {}
        while self._unsettled and self._unsettled[0][0] <= look.xmin:
            self._settled = max(self._settled, self._unsettled.pop(0)[1])
        return look

    def _fitting(self, link: Link) -> int:
        """Return for how many of the newest rows' size a slice has room: a power of two."""
        if self._table != ROWS.name:
            return _MOST_ROWS
        newest = f"select features_json from {ROWS.name} order by id desc limit 100"  # noqa: S608 - a constant
        found = link.execute(f"select avg(octet_length(features_json)) from ({newest}) newest")  # noqa: S608 - a constant
        room = _SLICE_BYTES // max(1, int(_row(found)[0] or 1))
        return min(_MOST_ROWS, 1 << max(0, room.bit_length() - 1))


def _span(link: Link, choice: Choice, look: _Look) -> tuple[int, int]:
    """Return the first and the last id of the chosen rows, by the index of experiments; without any (1, 0)."""
    experiment = dict(choice.equal).get("experiment_id")
    if not experiment:
        return look.first, look.last
    query = f"select min(id), max(id) from {ROWS.name} where experiment_id = %s"  # noqa: S608 - a constant
    first, last = _row(link.execute(query, [experiment]))
    return (1, 0) if first is None else (first, min(last, look.last))


def _row(cursor: psycopg.Cursor[Any]) -> tuple[Any, ...]:
    row = cursor.fetchone()
    assert row is not None, "an aggregate is a row, also of nothing"
    return tuple(row)


class PostgresReader:
    """The rows and the late labels of a request log.

    Parameters
    ----------
    url : DatabaseUrl
        The database.
    """

    def __init__(self, url: DatabaseUrl) -> None:
        self._url = url
        self._rows = _Table(url, ROWS)
        self._labels = _Table(url, LABELS)

    def slices(self, choice: Choice = EVERY) -> list[TableSlice]:
        """Return the chosen rows, oldest first. Raises LogUnavailable."""
        with reading(self._url) as link:
            return self._rows.slices(link, choice)

    def label_slices(self) -> list[TableSlice]:
        """Return the late labels, oldest first. Raises LogUnavailable."""
        with reading(self._url) as link:
            return self._labels.slices(link)

    def joined_slices(self, choice: Choice, labeled: bool) -> list[TableSlice] | None:
        """Return the chosen rows with their late labels, where there are fewer such rows than late labels.

        To look a label up takes as long as to read one: else the reader reads all of them. Raises LogUnavailable.
        """
        with reading(self._url) as link:
            rows, labels = self._rows.slices(link, choice), self._labels.slices(link)
        if _most_rows(labels) <= _most_rows(rows):
            return None
        return [replace(part, joined=True, labeled=labeled) for part in rows]


def _most_rows(parts: Sequence[TableSlice]) -> int:
    return sum(part.last - part.first + 1 for part in parts)


def _parsed(data: bytes, wanted: Sequence[str]) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv

    from crossfade.csvrows import nothing

    if not data:
        return nothing(wanted)
    return csv.read_csv(
        pa.BufferReader(data),
        read_options=csv.ReadOptions(column_names=list(wanted), block_size=len(data) + 1, use_threads=False),
        parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        convert_options=csv.ConvertOptions(column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=False),
    )
