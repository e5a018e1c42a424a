"""Give a database the newest tables, by Alembic: all of it or nothing, and by one process at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory

from crossfade.postgres import migrations
from crossfade.postgres.address import DatabaseUrl
from crossfade.postgres.schema import VERSION_TABLE, refuse_newer

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

_LOCK = 0x43465041
"""Any number that means the same to every process that upgrades."""


def scripts() -> ScriptDirectory:
    """Return the revisions."""
    folder = str(Path(migrations.__file__).parent)
    return ScriptDirectory(folder, version_locations=[folder])


def upgrade(url: DatabaseUrl) -> None:
    """Apply the revisions that a database lacks, in one transaction: a killed process leaves it as it was.

    Raises
    ------
    SchemaTooNew
        Another process, newer than this one, was first.
    psycopg.Error
        The database does not answer, or refuses.
    """
    engine = sa.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(url.dsn, connect_timeout=10), poolclass=sa.NullPool
    )
    try:
        with engine.begin() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            _run(connection, url)
    except sa.exc.DBAPIError as error:
        raise error.orig or error from None


def _run(connection: sa.Connection, url: DatabaseUrl) -> None:
    directory = scripts()

    def missing(found: Any, _context: MigrationContext) -> Any:
        current = found[0] if found else None
        refuse_newer(current, url)  # whoever held the lock may have been newer
        return directory._upgrade_revs("head", current)  # type: ignore[arg-type]  # None is right for an empty database

    with EnvironmentContext(Config(), directory, fn=missing) as environment:
        environment.configure(connection=connection, version_table=VERSION_TABLE)
        environment.run_migrations()
