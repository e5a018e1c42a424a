"""Delete rows whose days of retention are over, by one router at a time, a little at once."""

from __future__ import annotations

import logging
import os
import threading

from crossfade.errors import CrossfadeError
from crossfade.postgres.lines import TABLES, Table
from crossfade.postgres.link import Link, opened
from crossfade.postgres.log import PostgresRequestLog

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 300.0
_BATCH_ROWS = 10_000
_LOCK = 0x43465244
"""Any number that means the same to every router."""


class DatabaseKeeper:
    """Looks after the tables of a log from a background thread.

    Parameters
    ----------
    log : PostgresRequestLog
        The log.
    retention_days : int
        For how many days rows and late labels are kept; 0: for ever.
    """

    def __init__(self, log: PostgresRequestLog, retention_days: int) -> None:
        self._log = log
        self._retention_days = retention_days
        self._stopped = threading.Event()

    def start(self) -> None:
        """Look every few minutes until `stop`."""
        threading.Thread(target=self._run, name="crossfade-log-keeper", daemon=True).start()

    def stop(self) -> None:
        """End the background thread."""
        self._stopped.set()

    def look(self) -> int:
        """Delete what is due, return how many rows that were, and tell the log what is wrong."""
        deleted, problem = 0, None
        try:
            with opened(self._log.url) as link:
                deleted = self._clear(link)
        except CrossfadeError as error:
            problem = f"the log's older rows cannot be deleted: {error}"
        if problem and problem != self._log.upkeep_problem:
            _log.warning("%s", problem)
        self._log.upkeep_problem = problem
        return deleted

    def _run(self) -> None:
        pause = 1 + os.getpid() % 60.0  # workers start together: they need not look together
        while self._retention_days and not self._stopped.wait(pause):
            self.look()
            pause = _LOOK_SECONDS

    def _clear(self, link: Link) -> int:
        if link.execute("select pg_try_advisory_lock(%s)", [_LOCK]).fetchone() != (True,):
            return 0  # another router is at it
        deleted = 0
        for table in TABLES.values():
            while not self._stopped.is_set() and (found := _delete_oldest(link, table, self._retention_days)):
                deleted += found
        if deleted:
            _log.info("%s rows are deleted: LOG_RETENTION_DAYS=%s", deleted, self._retention_days)
        return deleted


def _delete_oldest(link: Link, table: Table, days: int) -> int:
    """Delete what is too old among the rows that were stored first: they need no index on their time."""
    oldest = f"select id, ts_utc from {table.name} order by id limit %s"  # noqa: S608 - constants
    too_old = f"select id from ({oldest}) as oldest where ts_utc < now() - make_interval(days => %s)"  # noqa: S608
    statement = f"delete from {table.name} where id in ({too_old})"  # noqa: S608
    return link.execute(statement, [_BATCH_ROWS, days]).rowcount
