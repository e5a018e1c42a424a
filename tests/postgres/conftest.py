"""One real PostgreSQL for all of these tests, and a database of its own for each."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from crossfade.postgres.address import DatabaseUrl
from crossfade.postgres.private import PrivateServer, programs

_numbers = count(1)


@pytest.fixture(scope="session")
def server() -> Iterator[PrivateServer]:
    """A server that no test kills or stops: it is shared."""
    if programs() is None:
        pytest.skip("needs the package postgresql (apt-get install -y postgresql)")
    with PrivateServer() as running:
        yield running


@pytest.fixture
def database(server: PrivateServer) -> Iterator[DatabaseUrl]:
    """An empty database for one test."""
    name = f"test_{next(_numbers)}"
    yield server.create(name)
    server.drop(name)


@pytest.fixture(scope="module")
def module_database(server: PrivateServer) -> Iterator[DatabaseUrl]:
    """An empty database for the tests of a module."""
    name = f"module_{next(_numbers)}"
    yield server.create(name)
    server.drop(name)
