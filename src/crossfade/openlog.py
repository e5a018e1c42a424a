"""The request log that the settings name, two files or a PostgreSQL database, its end, and who looks after the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossfade.errors import SettingsError
from crossfade.newestrows import Newest, NewestInFiles
from crossfade.postgres.address import DatabaseUrl
from crossfade.requestlog import CsvRequestLog, RequestLog
from crossfade.settings import Settings

if TYPE_CHECKING:
    from crossfade.logrotation import LogKeeper
    from crossfade.postgres.retention import DatabaseKeeper


def open_log(settings: Settings) -> RequestLog:
    """Return the request log of an installation; nothing is opened before it is used.

    Raises
    ------
    SettingsError
        It is in a database, and what speaks to one is not installed.
    """
    where = settings.request_log
    if isinstance(where, DatabaseUrl):
        try:
            from crossfade.postgres.log import PostgresRequestLog  # here: psycopg is for those who have a database
        except ImportError as error:
            raise SettingsError(f"REQUEST_LOG is a database, but {error}: pip install 'crossfade[postgres]'") from error
        return PostgresRequestLog(where, settings.log_spool, settings.log_fsync, settings.log_timeout_seconds)
    return CsvRequestLog(where, settings.labels_log, settings.log_fsync, settings.log_timeout_seconds)


def open_newest(settings: Settings) -> Newest:
    """Return the end of the request log; nothing is opened before it is used."""
    where = settings.request_log
    if isinstance(where, DatabaseUrl):
        from crossfade.postgres.newest import NewestInDatabase

        return NewestInDatabase(where)
    return NewestInFiles(where, settings.labels_log)


def keeper_of(log: RequestLog, settings: Settings) -> LogKeeper | DatabaseKeeper | None:
    """Return who moves and deletes the older rows of a log; None: nobody."""
    if isinstance(log, CsvRequestLog):
        from crossfade.logrotation import LogKeeper

        return LogKeeper(log, settings.log_retention_days) if settings.log_rotate == "daily" else None
    from crossfade.postgres.log import PostgresRequestLog
    from crossfade.postgres.retention import DatabaseKeeper

    return DatabaseKeeper(log, settings.log_retention_days) if isinstance(log, PostgresRequestLog) else None
