"""The audit in PostgreSQL, where the request log is: an event is stored whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

import psycopg

from crossfade.errors import LogUnavailable
from crossfade.loop.audit import Audit, Event, Trail, parsed
from crossfade.postgres.address import DatabaseUrl
from crossfade.postgres.link import Link, opened
from crossfade.requestlog import utc_now

_TURN = 0x43464D56
"""Any number that means the same to every process that moves aliases."""


class DatabaseAudit(Audit):
    """The events of a database.

    Parameters
    ----------
    url : DatabaseUrl
        The database; its tables are made when it is first used.
    clock : callable
        Says what time it is, as the request log does.
    """

    def __init__(self, url: DatabaseUrl, clock: Callable[[], str] = utc_now) -> None:
        super().__init__(clock)
        self._url = url
        self._turn: Link | None = None

    @property
    def place(self) -> str:
        """The table."""
        return f"crossfade_audit at {self._url}"

    def append(self, event: Event) -> None:
        """Add a row, committed when this returns.

        In one's turn by the very connection that holds the lock: where that was lost somebody else may move by now.
        """
        try:
            if self._turn is not None:
                self._add(self._turn, event)
                return
            with opened(self._url) as link:
                self._add(link, event)
        except (psycopg.Error, LogUnavailable) as error:
            said = str(error).strip().splitlines()[0]
            raise LogUnavailable(f"{self.place} cannot be written: {said}. Nothing is moved without it.") from error

    def read(self) -> Trail:
        """Return all events; none is ever torn."""
        with opened(self._url) as link:
            rows = link.execute("select event::text from crossfade_audit order by id").fetchall()
        events = [parsed(text.encode()) for (text,) in rows]
        whole = tuple(event for event in events if event is not None)
        return Trail(whole, len(events) - len(whole))

    def mark(self) -> Hashable:
        """Return how many there are."""
        with opened(self._url) as link:
            row = link.execute("select count(*) from crossfade_audit").fetchone()
        return row[0] or None if row else None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold a lock of the database, as long as the connection lasts."""
        with opened(self._url) as link:
            link.execute("select pg_advisory_lock(%s)", [_TURN])
            self._turn = link
            try:
                yield
            finally:
                self._turn = None

    def _add(self, link: Link, event: Event) -> None:
        link.execute("insert into crossfade_audit (ts_utc, event) values (%s, %s)", self._stamped(event))
