"""The audit that the settings name: beside the reports, or in the database of the request log."""

from __future__ import annotations

from collections.abc import Callable

from crossfade.loop.audit import Audit, FileAudit
from crossfade.postgres.address import DatabaseUrl
from crossfade.requestlog import utc_now
from crossfade.settings import Settings


def open_audit(settings: Settings, clock: Callable[[], str] = utc_now) -> Audit:
    """Return the audit of an installation; nothing is opened before it is used."""
    where = settings.request_log
    if isinstance(where, DatabaseUrl):
        from crossfade.loop.auditdatabase import DatabaseAudit  # here: psycopg is for those who have a database

        return DatabaseAudit(where, clock)
    return FileAudit.under(settings.report_dir, clock)
