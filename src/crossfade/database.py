"""The database of the feature store: connected at first use, its tables made at the first write."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateTable

from crossfade.errors import StoreUnavailable, without_login

_BUSY_SECONDS = 30
"""How long a writer of SQLite waits for the others."""

_CREATION_LOCK = 0x43524F53
"""Any number that means the same to every process: PostgreSQL's `create table if not exists` is no lock by itself."""


class Database:
    """A SQLite file or a PostgreSQL database, with some tables. Any number of threads and processes may use it.

    Parameters
    ----------
    url : str
        SQLAlchemy URL.
    tables : MetaData
        The tables it is to have.
    """

    def __init__(self, url: str, tables: sa.MetaData) -> None:
        self._url = url
        self._tables = tables
        self._engine: Engine | None = None
        self._made = False
        self._making = threading.Lock()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction on tables that exist.

        Raises
        ------
        StoreUnavailable
            The database cannot be written; nothing of the transaction is.
        """
        with self._told("written", "then send the rows again with the same batch_id"):
            engine = self._connect()
            with self._making:
                if not self._made:
                    self._make_tables(engine)
                    self._made = True
            with engine.begin() as connection:
                yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection | None]:
        """Open a connection; None while nothing was ever written.

        Raises
        ------
        StoreUnavailable
            The database cannot be read.
        """
        with self._told("read", "then try again"):
            engine = self._connect()
            file = engine.url.database if engine.dialect.name == "sqlite" else None
            if file is not None and not Path(file).exists():
                yield None
                return
            with engine.connect() as connection:
                inspector = sa.inspect(connection)
                yield connection if all(map(inspector.has_table, self._tables.tables)) else None

    def insert(self, table: sa.Table) -> Any:
        """Start an `insert` that can say `on conflict`, which each database spells in its own way."""
        return (postgresql if self._connect().dialect.name == "postgresql" else sqlite).insert(table)

    def _connect(self) -> Engine:
        if self._engine is None:
            url = sa.make_url(self._url)
            if url.get_backend_name() == "sqlite":
                # A writer says so when it begins: one that finds out later cannot wait for the others.
                options = {"timeout": _BUSY_SECONDS, "isolation_level": "IMMEDIATE"}
                self._engine = sa.create_engine(url, connect_args=options)
            elif url.get_backend_name() == "postgresql":
                self._engine = sa.create_engine(url, connect_args={"connect_timeout": 10}, pool_pre_ping=True)
            else:
                raise sa.exc.ArgumentError(
                    f"{url.get_backend_name()} is not known; allowed: sqlite:///<file> and "
                    "postgresql+psycopg2://<host>/<database>"
                )
        return self._engine

    def _make_tables(self, engine: Engine) -> None:
        """Make the tables unless they are there; processes that do so at the same time do not disturb each other."""
        if engine.dialect.name == "sqlite":
            folder = Path(str(engine.url.database)).parent
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder), engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")  # readers and the writer need not wait
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CREATION_LOCK)))
            for table in self._tables.sorted_tables:
                connection.execute(CreateTable(table, if_not_exists=True))

    @contextmanager
    def _told(self, done: str, then: str) -> Iterator[None]:
        """Turn whatever the database raises into one error of ours, without the login that the URL may hold."""
        try:
            yield
        except (SQLAlchemyError, OSError, ImportError) as error:
            detail = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            where = without_login(self._url) if "://" in self._url else "(no SQLAlchemy URL)"
            raise StoreUnavailable(
                f"the feature store {where} cannot be {done}: {without_login(detail)[:200]}; "
                f"mend the database or correct FEATURE_STORE, {then}"
            ) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes waiting: SQLite lets nobody wait where two change the journal of a new file."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
