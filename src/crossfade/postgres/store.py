"""Put lines into the database: fast the first time, exactly once when they may be there already, each that it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import psycopg

from crossfade.postgres.lines import Table
from crossfade.postgres.link import Link

Refuse = Callable[[Table, bytes, str], None]
"""Sets a line aside that the database refuses, with what it said."""

_ITS_OWN_FAULT = ("22", "23", "54")
"""SQLSTATE classes that tell of the data: bad values, broken constraints, limits. Others would refuse any row."""


def store_new(link: Link, table: Table, data: Sequence[bytes], refuse: Refuse) -> None:
    """Store what was never sent before, in one transaction; set aside what is refused.

    Raises
    ------
    psycopg.Error
        The database is away or refuses any row; nothing may be stored of this, or all.
    OSError
        What is refused cannot be set aside.
    """
    try:
        _copy(link, table, table.name, b"".join(data))
    except psycopg.Error as error:
        if not _is_of_the_data(link, error):
            raise
        store_again(link, table, b"".join(data).splitlines(keepends=True), refuse)


def store_again(link: Link, table: Table, lines: Sequence[bytes], refuse: Refuse) -> None:
    """Store lines of which some may have been stored before; set aside what is refused. Raises as `store_new`."""
    try:
        with link.transaction():
            _insert_missing(link, table, b"".join(lines))
    except psycopg.Error as error:
        if not _is_of_the_data(link, error):
            raise
        if len(lines) == 1:
            refuse(table, lines[0], str(error).strip().splitlines()[0])
            return
        middle = len(lines) // 2
        store_again(link, table, lines[:middle], refuse)
        store_again(link, table, lines[middle:], refuse)


def _insert_missing(link: Link, table: Table, data: bytes) -> None:
    waiting = f"crossfade_waiting_{table.kind}"
    columns = f"select {table.stored} from"  # every part of these statements is a constant
    link.execute(f"create temp table {waiting} on commit drop as {columns} {table.name} with no data")
    _copy(link, table, waiting, data)
    lines = f"{columns} {waiting} order by seq"
    link.execute(f"insert into {table.name} ({table.stored}) {lines} on conflict (writer, seq) do nothing")


def _copy(link: Link, table: Table, into: str, data: bytes) -> None:
    with link.cursor() as cursor, cursor.copy(table.copy_into(into)) as copy:
        copy.write(data)


def _is_of_the_data(link: Link, error: psycopg.Error) -> bool:
    return not link.broken and not link.closed and (error.sqlstate or "").startswith(_ITS_OWN_FAULT)
