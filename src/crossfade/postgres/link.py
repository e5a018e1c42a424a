"""One connection to the database, its schema brought up to date, and what can go wrong with it as one line."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from crossfade.errors import LogUnavailable, without_login
from crossfade.postgres.address import DatabaseUrl
from crossfade.postgres.schema import bring_up_to_date

Link = psycopg.Connection[Any]

_OPTIONS: dict[str, Any] = {
    "application_name": "crossfade",
    "client_encoding": "UTF8",
    "prepare_threshold": None,  # a pooler in between may give each transaction another server process
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


class Wire:
    """A second hold on a connection's socket, by which another thread may cut it: one that hangs cannot be asked."""

    def __init__(self, link: Link) -> None:
        self._socket = socket.socket(fileno=os.dup(link.fileno()))

    def cut(self) -> None:
        """End the connection, whatever it is waiting for."""
        with contextlib.suppress(OSError):  # it has ended already
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of it."""
        self._socket.close()


@contextmanager
def hurried(link: Link, seconds: float) -> Iterator[None]:
    """Cut a connection on which something takes longer than that. What was done is then in doubt."""
    wire = Wire(link)
    timer = threading.Timer(seconds, wire.cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # it must not cut what has taken the place of a closed socket
        wire.close()


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
    except psycopg.Error as error:
        raise LogUnavailable(f"{told(url, error)}; start or mend the database, or correct REQUEST_LOG") from error


def told(url: DatabaseUrl, error: Exception) -> str:
    """Say in one line what a database said, without the login that it may repeat."""
    said = str(error).strip() or type(error).__name__
    return f"the request log at {url} failed: {without_login(said.splitlines()[-1])[:300]}"
