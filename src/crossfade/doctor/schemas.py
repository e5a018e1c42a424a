"""Which version wrote what lies here: the log by its columns, the databases by their Alembic revision."""

from __future__ import annotations

import importlib.util
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from crossfade.csvslices import check_columns
from crossfade.doctor.finding import Finding, NotLooked, Site
from crossfade.errors import LogUnavailable, SchemaTooNew, without_login
from crossfade.logparts import parts_of
from crossfade.postgres.address import DatabaseUrl
from crossfade.requestlog import COLUMNS, LABEL_COLUMNS
from crossfade.settings import Settings

_REVISION = re.compile(r"""^(down_)?revision(?:: [^=]+)? = (.+)$""", re.MULTILINE)

_BUSY_SECONDS = 5.0


def look_at_log(site: Site) -> Iterator[Finding]:
    """Look at the columns of the log's files and parts, and whether they can be opened at all."""
    settings = site.settings
    if isinstance(settings.request_log, DatabaseUrl):
        yield from _look_at_tables(settings.request_log)
        return
    files = [
        (path, log, columns)
        for log, columns in zip(settings.log_files, (COLUMNS, LABEL_COLUMNS), strict=True)
        for path in (*parts_of(log), log)
        if path.exists()
    ]
    if not files:
        raise NotLooked(f"{settings.request_log} is not there yet")
    for path, log, columns in files:
        try:
            check_columns(path, log, columns)
        except LogUnavailable as error:
            said, _, what_to_do = str(error).rstrip(".").rpartition(". ")
            yield Finding(f"the log's file {path}", said.removeprefix(f"{path} "), what_to_do)


def _look_at_tables(url: DatabaseUrl) -> Iterator[Finding]:
    """Look whether the database of the log answers, and at the revision of its tables, without upgrading them."""
    import psycopg  # here: for those who have a database

    from crossfade.postgres.link import connect
    from crossfade.postgres.schema import refuse_newer, revision_of

    try:
        with connect(url, _BUSY_SECONDS) as link:
            refuse_newer(revision_of(link), url)
    except SchemaTooNew as error:
        found, what_to_do = str(error).split(": ", 1)
        yield Finding(f"the tables in {url}", found, what_to_do)
    except psycopg.Error as error:
        yield Finding(
            f"the database {url}",
            without_login(str(error)).strip(),
            "start it, or correct REQUEST_LOG; rows wait on disk",
        )


def look_at_databases(site: Site) -> Iterator[Finding]:
    """Look at the revision of MLflow's and Airflow's databases on this machine, and at their files."""
    databases = [one for one in _databases(site.settings) if one.path.is_file()]
    if not databases:
        raise NotLooked("no SQLite database of MLflow or Airflow is here")
    for one in databases:
        yield from _look_at(one)


@dataclass(frozen=True)
class Database:
    """A SQLite file that a package looks after."""

    path: Path
    package: str
    versions: str
    """Folder of the package's migrations."""
    upgrade: str
    """What brings an older one up to date."""


def _databases(settings: Settings) -> Sequence[Database]:
    mlflow = settings.var / "mlflow" / "mlflow.db"
    if settings.mlflow_tracking_uri.startswith("sqlite:///"):
        mlflow = settings.below_home(settings.mlflow_tracking_uri.removeprefix("sqlite:///"))
    return (
        Database(mlflow, "mlflow", "store/db_migrations/versions", f"mlflow db upgrade sqlite:///{mlflow}"),
        Database(
            settings.var / "airflow" / "airflow.db",
            "airflow",
            "migrations/versions",
            "`crossfade up` does it (airflow db migrate)",
        ),
    )


def _look_at(one: Database) -> Iterator[Finding]:
    try:
        found = _revision_in(one.path)
    except sqlite3.Error as error:
        yield Finding(str(one.path), f"it cannot be read: {error}", "restore it from a backup (docs/backup.md)")
        return
    known, newest = _revisions_of(one)
    if found is None or not known or found == newest:
        return
    if found in known:
        yield Finding(str(one.path), f"an older {one.package} made it (revision {found})", one.upgrade, level="note")
    else:
        yield Finding(
            str(one.path),
            f"a newer {one.package} than the one installed made it: revision {found} is not known here",
            "update this installation (make sync), or restore a backup of before",
        )


def _revision_in(path: Path) -> str | None:
    """Read what Alembic noted; None where it has not. Raises sqlite3.Error."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=_BUSY_SECONDS)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE name = 'alembic_version'").fetchall()
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone() if tables else None
    return str(row[0]) if row else None


def _revisions_of(one: Database) -> tuple[set[str], str | None]:
    """Read the revisions that a package knows out of its migrations, and the one that no other follows.

    It is not imported: Airflow would set itself up.
    """
    spec = importlib.util.find_spec(one.package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    mine, followed = set[str](), set[str]()
    for script in (Path(places[0]) / one.versions).glob("*.py") if places else ():
        for is_down, value in _REVISION.findall(script.read_text()):
            (followed if is_down else mine).update(re.findall(r"""["']([\w.-]+)["']""", value))
    newest = mine - followed
    return mine, newest.pop() if len(newest) == 1 else None
