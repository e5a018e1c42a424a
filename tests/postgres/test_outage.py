"""The database goes away, or hangs, or the routers die meanwhile: each answered row is in the log exactly once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from crossfade.postgres.private import PrivateServer

_numbers = count(1)


@pytest.fixture
def appenders(mortal: PrivateServer, appenders_of: Callable[..., Any]) -> Any:
    """Processes that append to an empty database of a server that may be killed."""
    return appenders_of(mortal.create(f"outage_{next(_numbers)}"))


def exactly_once(appenders: Any) -> None:
    """Every answered row is stored once, and so is every label; of what was not answered, nothing is stored twice."""
    answered, stored = appenders.answered(), Counter(appenders.stored())
    missing = [one for one in answered if one not in stored]
    assert not missing, f"{len(missing)} of {len(answered)} answered rows are lost: {missing[:5]}"
    assert max(stored.values()) == 1
    labels = Counter(appenders.stored("labels"))
    assert {one for one in answered if int(one.rpartition("-")[2]) % 4 == 0} <= labels.keys()
    assert max(labels.values()) == 1


def test_a_killed_database_loses_nothing(mortal: PrivateServer, appenders: Any) -> None:
    """While the database is killed and started again, twice, processes go on answering; nothing is lost or doubled."""
    appenders.start(processes=3)
    appenders.go_on(50)
    for _ in range(2):
        mortal.kill()
        appenders.go_on(100)
        assert appenders.waiting()
        mortal.start()
        appenders.go_on(50)
    appenders.finish()
    assert appenders.waiting() == 0
    exactly_once(appenders)


def test_a_killed_router_leaves_its_rows_to_the_next(mortal: PrivateServer, appenders: Any) -> None:
    """Routers that are killed while their rows wait on disk lose none: the one that starts next stores them."""
    appenders.start(processes=2)
    appenders.go_on(50)
    mortal.kill()
    appenders.go_on(100)
    appenders.kill()
    assert appenders.waiting()
    mortal.start()
    appenders.start()
    appenders.finish()
    assert appenders.waiting() == 0
    exactly_once(appenders)


def test_a_database_that_hangs_holds_nobody(mortal: PrivateServer, appenders: Any) -> None:
    """A database that does not answer is waited for LOG_TIMEOUT_SECONDS; then rows wait on disk until it does."""
    appenders.start(processes=2, seconds=0.5)
    appenders.go_on(50)
    mortal.suspend()
    try:
        appenders.go_on(100)
        assert appenders.waiting()
    finally:
        mortal.resume()
    appenders.go_on(50)
    appenders.finish()
    assert appenders.waiting() == 0
    exactly_once(appenders)
