"""One connection to the database, its schema brought up to date, and what can go wrong with it as one line."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa

from crossfade.errors import LogUnavailable, without_login
from crossfade.postgres.address import DatabaseUrl
from crossfade.postgres.schema import bring_up_to_date

Link = psycopg.Connection[Any]

_OPTIONS: dict[str, Any] = {
    "application_name": "crossfade",
    "client_encoding": "UTF8",
    # A machine that vanished is noticed within the half minute, by a reader, too.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}

_LEAST_SECONDS = 2
"""psycopg waits no shorter for a connection."""


def connect(url: DatabaseUrl, seconds: float = 10.0) -> Link:
    """Connect, each statement a transaction of its own. Raises psycopg.OperationalError within so many seconds."""
    wait = max(_LEAST_SECONDS, math.ceil(seconds))
    options = _OPTIONS | {"tcp_user_timeout": wait * 1000, "connect_timeout": wait}
    return psycopg.connect(url.dsn, autocommit=True, **options)


@contextmanager
def opened(url: DatabaseUrl, seconds: float = 10.0) -> Iterator[Link]:
    """Connect to a database that has the newest tables.

    Raises
    ------
    LogUnavailable
        It does not answer, or refuses.
    SchemaTooNew
        A newer Crossfade has upgraded it.
    """
    try:
        with connect(url, seconds) as link:
            bring_up_to_date(link, url)
            yield link
    except (psycopg.Error, sa.exc.SQLAlchemyError) as error:
        raise LogUnavailable(f"{told(url, error)}; start or mend the database, or correct REQUEST_LOG") from error


def told(url: DatabaseUrl, error: Exception) -> str:
    """Say in one line what a database said, without the login that it may repeat."""
    said = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
    return f"the request log at {url} failed: {without_login(said.splitlines()[-1])[:300]}"
