"""The tables: made once, upgraded once, undone when killed, and a newer schema is refused."""

from __future__ import annotations

import os
import subprocess
import sys

import psycopg
import pytest

from crossfade.errors import SchemaTooNew
from crossfade.postgres.address import DatabaseUrl
from crossfade.postgres.schema import REVISIONS, VERSION_TABLE, bring_up_to_date, revision_of
from crossfade.postgres.upgrade import _LOCK, scripts

_OPEN = """
import sys, psycopg
from crossfade.postgres.address import DatabaseUrl
from crossfade.postgres.schema import bring_up_to_date
url = DatabaseUrl(sys.argv[1])
with psycopg.connect(url.dsn, autocommit=True, application_name="opens") as connection:
    bring_up_to_date(connection, url)
print("alembic" in sys.modules)
"""


def opened(url: DatabaseUrl) -> subprocess.Popen[str]:
    """Open a database in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", _OPEN, url.dsn],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )


def connected(url: DatabaseUrl) -> psycopg.Connection:
    return psycopg.connect(url.dsn, autocommit=True)


def test_the_constant_is_alembics_head() -> None:
    """What the router compares without Alembic is what Alembic would upgrade to."""
    known = scripts()
    assert tuple(reversed([script.revision for script in known.walk_revisions()])) == REVISIONS


def test_a_fresh_database_gets_the_tables(database: DatabaseUrl) -> None:
    """Opening an empty database makes every table; opening it again does nothing, and does without Alembic."""
    with connected(database) as connection:
        assert revision_of(connection) is None
        bring_up_to_date(connection, database)
        assert revision_of(connection) == REVISIONS[-1]
        for table in ("rows", "labels", "audit", "config"):
            assert connection.execute(f"select count(*) from crossfade_{table}").fetchone() == (0,)
    out, err = opened(database).communicate(timeout=60)
    assert out == "False\n", err


def test_several_begin_together(database: DatabaseUrl) -> None:
    """Processes that open an empty database together all succeed: one makes the tables, the others wait for it."""
    with connected(database) as holder:
        holder.execute("select pg_advisory_lock(%s)", [_LOCK])
        processes = [opened(database) for _ in range(3)]
        waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
        while holder.execute(waiting).fetchone() != (3,):
            assert all(process.poll() is None for process in processes)
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    with connected(database) as connection:
        assert connection.execute(f"select version_num from {VERSION_TABLE}").fetchall() == [(REVISIONS[-1],)]


def test_a_killed_upgrade_is_undone(database: DatabaseUrl) -> None:
    """A process that is killed in the middle of an upgrade leaves nothing half done; the next one upgrades."""
    with connected(database) as other, connected(database) as observer:
        other.autocommit = False
        other.execute("create table crossfade_config (blocks int)")  # the last table: until this commits, they wait
        process = opened(database)
        blocked = "select pid from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        while not (found := observer.execute(blocked).fetchall()):
            assert process.poll() is None, process.communicate()
        process.kill()
        process.communicate()
        observer.execute("select pg_terminate_backend(%s, 60000)", found[0])
        other.rollback()
        assert revision_of(observer) is None
        assert observer.execute("select to_regclass('crossfade_rows')").fetchone() == (None,)
        bring_up_to_date(observer, database)
        assert revision_of(observer) == REVISIONS[-1]


def test_a_newer_schema_is_refused(database: DatabaseUrl) -> None:
    """A database that a newer Crossfade upgraded is refused in one line that says what to update, without its login."""
    with connected(database) as connection:
        bring_up_to_date(connection, database)
        connection.execute(f"update {VERSION_TABLE} set version_num = '0099'")
        with pytest.raises(SchemaTooNew) as refused:
            bring_up_to_date(connection, database)
    said = str(refused.value)
    assert "0099" in said
    assert "update Crossfade" in said
    assert "\n" not in said
    assert "se-cr-et" not in said
