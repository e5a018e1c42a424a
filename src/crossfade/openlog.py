"""The request log that the settings name: two files, or a PostgreSQL database."""

from __future__ import annotations

from crossfade.postgres.address import DatabaseUrl
from crossfade.requestlog import CsvRequestLog, RequestLog
from crossfade.settings import Settings


def open_log(settings: Settings) -> RequestLog:
    """Return the request log of an installation; nothing is opened before it is used."""
    where = settings.request_log
    if isinstance(where, DatabaseUrl):
        from crossfade.postgres.log import PostgresRequestLog  # here: psycopg is for those who have a database

        return PostgresRequestLog(where, settings.log_spool, settings.log_fsync, settings.log_timeout_seconds)
    return CsvRequestLog(where, settings.labels_log, settings.log_fsync, settings.log_timeout_seconds)
