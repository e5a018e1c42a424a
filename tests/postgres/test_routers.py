"""Two routers as two machines run them, one under gunicorn and one under granian, with one PostgreSQL log."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from crossfade.postgres.address import DatabaseUrl
from crossfade.postgres.private import PrivateServer
from crossfade.registry import Registry
from crossfade.settings import Settings
from crossfade.version import Version

ROW = [5.1, 3.5, 1.4, 0.2]


class Machine:
    """A router with a home of its own, and clients that remember what it answered."""

    def __init__(self, home: Path, settings: Settings, environment: dict[str, str]) -> None:
        self.home = home
        self.settings = settings
        self.answered: list[str] = []
        self.refused: Counter[int] = Counter()
        self._environment = environment
        self._numbers = count()

    def start(self) -> None:
        serve = [sys.executable, "-c", "from crossfade.cli import main; main()", "serve"]
        log = (self.home / "router.log").open("ab")
        self._process = psutil.Popen(serve, env=self._environment, cwd=self.home, stdout=log, stderr=log)
        self.until(self.is_ready, "it is ready")

    def kill(self) -> None:
        for process in [self._process, *self._process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except psutil.TimeoutExpired:
            self.kill()

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.settings.router_port, timeout=60)
        with contextlib.closing(connection):
            sent = None if body is None else json.dumps(body)
            connection.request(method, path, sent, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            told = reply.read()
            return reply.status, json.loads(told) if told.startswith(b"{") else told.decode()

    def is_ready(self) -> bool:
        try:
            return all(worker["prod"] for worker in self.call("GET", "/health")[1]["workers"])
        except (OSError, http.client.HTTPException):
            return False

    def split(self) -> float:
        return float(self.call("GET", "/config")[1]["ab_split_b"])

    def versions(self) -> set[str]:
        return {worker["prod"] for worker in self.call("GET", "/health")[1]["workers"]}

    def waiting(self) -> float:
        (line,) = [x for x in self.call("GET", "/metrics")[1].splitlines() if x.startswith("crossfade_log_waiting")]
        return float(line.rpartition(" ")[2])

    def ask(self, requests: int) -> None:
        """Send some requests from four clients, and remember which were answered."""

        def client() -> None:
            for _ in range(requests // 4):
                name = f"{self.home.name}-{next(self._numbers)}"
                status, _ = self.call("POST", "/predict", {"request_id": name, "user_id": name, "features": ROW})
                if status == 200:
                    self.answered.append(name)
                else:
                    self.refused[status] += 1

        clients = [threading.Thread(target=client) for _ in range(4)]
        for one in clients:
            one.start()
        for one in clients:
            one.join()

    def until(self, holds: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + 90
        while not holds():
            assert time.monotonic() < deadline, f"never: {what}\n{(self.home / 'router.log').read_text()[-3000:]}"
            time.sleep(0.05)


@pytest.fixture(scope="module")
def database(mortal: PrivateServer) -> DatabaseUrl:
    """The one that both routers log to."""
    return mortal.create("routers")


@pytest.fixture(scope="module")
def versions(register_served: Callable[..., Version]) -> tuple[Version, Version]:
    """Version 1 is prod; a version 2 is there."""
    return register_served("Replicated", "prod"), register_served("Replicated", strength=0.1)


@pytest.fixture(scope="module")
def machines(
    tmp_path_factory: pytest.TempPathFactory,
    isolate: Any,
    mlflow_server: Settings,
    database: DatabaseUrl,
    versions: tuple[Version, Version],
) -> Iterator[tuple[Machine, Machine]]:
    """Two routers that look at the registry when they are told to, and hardly ever by themselves."""
    given = {
        "REQUEST_LOG": database.dsn,
        "REG_MODEL_NAME": "Replicated",
        "MLFLOW_TRACKING_URI": mlflow_server.mlflow_tracking_uri,
        "ROUTER_POLL_SECONDS": "3600",
        "LOG_TIMEOUT_SECONDS": "2",
    }
    made = []
    for server, workers in (("gunicorn", "2"), ("granian", "1")):
        home = tmp_path_factory.mktemp(server)
        own = {**given, "ROUTER_SERVER": server, "ROUTER_WORKERS": workers}
        made.append(Machine(home, *isolate(home, **own)))
    try:
        for machine in made:
            machine.start()
        yield made[0], made[1]
    finally:
        for machine in made:
            machine.stop()


def exactly_once(database: DatabaseUrl, *machines: Machine) -> None:
    """Each answered row is stored once, and no other twice."""
    with psycopg.connect(database.dsn) as connection:
        found = connection.execute("select request_id from crossfade_rows").fetchall()
    stored = Counter(one for (one,) in found)
    assert [one for machine in machines for one in machine.answered if stored[one] != 1] == []
    assert max(stored.values()) == 1


def test_answered_is_committed(machines: tuple[Machine, Machine], database: DatabaseUrl) -> None:
    """What either router has answered is in the database."""
    for machine in machines:
        machine.ask(40)
        assert machine.refused == {}
    exactly_once(database, *machines)


def test_a_split_reaches_every_router(machines: tuple[Machine, Machine]) -> None:
    """A split that is set at one router is in force there when it answers, and at the other one soon after."""
    for here, there, share in ((*machines, 0.25), (*reversed(machines), 0.75)):
        assert here.call("POST", "/config", {"ab_split_b": share}) == (200, {"ab_split_b": share})
        assert here.split() == share
        there.until(lambda there=there, share=share: there.split() == share, "the split is followed")


def test_a_moved_alias_reaches_every_router(
    machines: tuple[Machine, Machine], versions: tuple[Version, Version], mlflow_server: Settings
) -> None:
    """When one router is told that an alias moved, all of them serve the new version."""
    registry = Registry(mlflow_server.mlflow_tracking_uri, "Replicated")
    first, second = (version.number for version in versions)
    registry.move("prod", second, expected=first)
    assert machines[0].call("POST", "/reload")[0] == 200
    for machine in machines:
        machine.until(lambda machine=machine: machine.versions() == {second}, "the new version is served")


def test_no_password_is_shown(machines: tuple[Machine, Machine]) -> None:
    """Neither the routers' logs nor their answers hold the database's password."""
    for machine in machines:
        assert "se-cr-et" not in json.dumps(machine.call("GET", "/health")[1])
        assert "se-cr-et" not in (machine.home / "router.log").read_text()


def test_an_outage(machines: tuple[Machine, Machine], database: DatabaseUrl, mortal: PrivateServer) -> None:
    """While the database is away requests are answered, also by a router that was killed and started meanwhile.

    The split cannot be changed, the last one is in force, and the problem is said. Afterwards every answered row is
    in the database exactly once, and nothing waits.
    """
    one, other = machines
    one.call("POST", "/config", {"ab_split_b": 0.125})
    other.until(lambda: other.split() == 0.125, "the split is followed")
    mortal.kill()
    for machine in machines:
        machine.ask(40)
        assert machine.waiting() > 0
    assert any("request log" in problem for problem in one.call("GET", "/health")[1]["problems"])
    assert one.call("POST", "/config", {"ab_split_b": 0.5})[0] == 503
    one.kill()
    one.start()
    assert one.split() == 0.125
    one.ask(40)
    mortal.start()
    for machine in machines:
        machine.until(lambda machine=machine: machine.waiting() == 0, "what waits is stored")
        machine.ask(20)
        assert machine.refused == {}
    exactly_once(database, *machines)
    one.until(lambda: one.call("GET", "/health")[1]["problems"] == [], "all is well again")
    assert one.call("POST", "/config", {"ab_split_b": 0.5})[0] == 200


def test_a_newer_schema_stops_a_router(
    tmp_path: Path, isolate: Any, mortal: PrivateServer, database: DatabaseUrl
) -> None:
    """A router whose database was upgraded by a newer Crossfade does not start, and says in one line what to do."""
    newer = mortal.create("newer")
    with psycopg.connect(newer.dsn) as connection:
        connection.execute("create table crossfade_schema as select '0099' as version_num")
    _, environment = isolate(tmp_path, REQUEST_LOG=newer.dsn)
    done = subprocess.run(
        [sys.executable, "-c", "from app import create_app; create_app()"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "has schema 0099" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
