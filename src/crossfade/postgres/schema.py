"""Which revision of the tables this Crossfade knows, and what a database has. Alembic is loaded only to upgrade."""

from __future__ import annotations

from typing import Any

import psycopg

from crossfade.errors import SchemaTooNew
from crossfade.postgres.address import DatabaseUrl

REVISIONS = ("0001",)
"""Oldest first; the last one is what this Crossfade reads and writes."""

VERSION_TABLE = "crossfade_schema"
"""Alembic's own table, under a name of ours: MLflow and Airflow may keep theirs in the same database."""


def bring_up_to_date(connection: psycopg.Connection[Any], url: DatabaseUrl) -> None:
    """Make sure that a database has the tables as this Crossfade knows them.

    Raises
    ------
    SchemaTooNew
        A newer Crossfade has upgraded it.
    psycopg.Error
        The database does not answer, or refuses.
    """
    found = revision_of(connection)
    if found == REVISIONS[-1]:
        return
    refuse_newer(found, url)
    from crossfade.postgres.upgrade import upgrade

    upgrade(url)


def revision_of(connection: psycopg.Connection[Any]) -> str | None:
    """Return the revision that a database has; None: nothing was ever made in it."""
    if connection.execute("select to_regclass(%s)", [VERSION_TABLE]).fetchone() == (None,):
        return None
    row = connection.execute(f"select version_num from {VERSION_TABLE}").fetchone()  # noqa: S608 - a constant
    return str(row[0]) if row else None


def refuse_newer(found: str | None, url: DatabaseUrl) -> None:
    """Raise SchemaTooNew where a revision is none that this Crossfade knows."""
    if found is not None and found not in REVISIONS:
        raise SchemaTooNew(
            f"the request log at {url} has schema {found}, this Crossfade knows {REVISIONS[-1]} and older: "
            "update Crossfade here, or point REQUEST_LOG to a database of its own"
        )
