"""What routers share by the database: the split, and that an alias moved."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crossfade.errors import LogUnavailable
from crossfade.loop.router import HttpRouter
from crossfade.postgres import shared as shared_module
from crossfade.postgres.address import DatabaseUrl
from crossfade.postgres.shared import SharedState, State
from crossfade.serving.replicas import SharedSplitConfig
from crossfade.settings import load_settings

NOBODY = DatabaseUrl("postgresql://me:se-cr-et@127.0.0.1:9/log")


class Follower:
    """Follows in a thread, and remembers what it saw."""

    def __init__(self, url: DatabaseUrl) -> None:
        self.seen: list[State] = []
        self._news = threading.Condition()
        self.shared = SharedState(url, 5.0)
        self._thread = threading.Thread(target=self.shared.follow, args=(lambda: None, self._after))
        self._thread.start()

    def _after(self, state: State, _: object) -> None:
        with self._news:
            self.seen.append(state)
            self._news.notify_all()

    def wait_for(self, state: State) -> None:
        with self._news:
            assert self._news.wait_for(lambda: self.seen and self.seen[-1] == state, 60), self.seen

    def stop(self) -> None:
        self.shared.stop()
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture
def follow() -> Iterator[Callable[[DatabaseUrl], Follower]]:
    """Follow what is shared; the threads end with the test."""
    made: list[Follower] = []

    def make(url: DatabaseUrl) -> Follower:
        made.append(Follower(url))
        return made[-1]

    yield make
    for follower in made:
        follower.stop()


def test_changes_are_told_at_once(
    database: DatabaseUrl, follow: Callable[..., Follower], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A follower is notified of what others change: it need not come round to looking."""
    monkeypatch.setattr(shared_module, "_LOOK_SECONDS", 3600.0)
    follower, other = follow(database), SharedState(database, 5.0)
    follower.wait_for(State())
    other.set_split_b(0.25)
    follower.wait_for(State(0.25))
    other.announce()
    follower.wait_for(State(0.25, reloads=1))


def test_a_follower_looks_by_itself(database: DatabaseUrl, follow: Callable[..., Follower]) -> None:
    """What nobody notified of is seen at the next look, half a second later."""
    follower = follow(database)
    follower.wait_for(State())
    with shared_module.opened(database) as link:
        link.execute("insert into crossfade_config (ab_split_b, reloads) values (0.75, 7)")
    follower.wait_for(State(0.75, 7))


def test_an_offer_changes_nothing_that_was_set(database: DatabaseUrl, follow: Callable[..., Follower]) -> None:
    """A machine's last known split is taken over by a new database, and by no other."""
    shared = SharedState(database, 5.0)
    shared.offer_split_b(0.25)
    shared.offer_split_b(0.75)
    follow(database).wait_for(State(0.25))


class TestConfig:
    """The file of one machine beside the database of all."""

    @pytest.fixture
    def config(self, database: DatabaseUrl, tmp_path: Path) -> SharedSplitConfig:
        """Nothing was set yet."""
        return SharedSplitConfig(tmp_path / "router_config.json", 0.5, SharedState(database, 5.0))

    def test_a_split_is_kept_in_both(
        self, config: SharedSplitConfig, database: DatabaseUrl, tmp_path: Path, follow: Callable[..., Follower]
    ) -> None:
        """What is set is in force here at once, in the file for a start without the database, and told to others."""
        config.split_b = 0.25
        assert config.split_b == 0.25
        assert json.loads((tmp_path / "router_config.json").read_text()) == {"ab_split_b": 0.25}
        follow(database).wait_for(State(0.25))

    def test_a_split_of_others_is_taken_over(self, config: SharedSplitConfig) -> None:
        """What was set elsewhere is in force here, unless something was set here since the look began."""
        config.take_over(0.25, config.stamp)
        assert config.split_b == 0.25
        before = config.stamp
        config.split_b = 0.75
        config.take_over(0.25, before)
        assert config.split_b == 0.75

    def test_a_new_database_takes_the_machines_split(
        self, config: SharedSplitConfig, database: DatabaseUrl, follow: Callable[..., Follower], tmp_path: Path
    ) -> None:
        """A split that this machine had before the database was new goes there; a mere default does not."""
        config.take_over(None, config.stamp)
        follower = follow(database)
        follower.wait_for(State())
        (tmp_path / "router_config.json").write_text('{"ab_split_b": 0.125}')
        config.take_over(None, config.stamp)
        follower.wait_for(State(0.125))

    def test_without_database_nothing_changes(self, tmp_path: Path) -> None:
        """A split that cannot be put in force everywhere is put in force nowhere."""
        config = SharedSplitConfig(tmp_path / "router_config.json", 0.5, SharedState(NOBODY, 5.0))
        with pytest.raises(LogUnavailable) as failed:
            config.split_b = 0.25
        assert config.split_b == 0.5
        assert "se-cr-et" not in str(failed.value)


def test_the_loop_tells_routers_by_the_database(
    database: DatabaseUrl, follow: Callable[..., Follower], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the router of ROUTER_URL is gone, the others learn from the database that an alias moved."""
    given: dict[str, Any] = {"crossfade_home": tmp_path, "router_url": "http://127.0.0.1:9"}
    follower = follow(database)
    follower.wait_for(State())
    HttpRouter(load_settings(request_log=database.dsn, **given)).reload()
    follower.wait_for(State(None, reloads=1))
