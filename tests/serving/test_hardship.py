"""A router under load whose processes are killed, and whose aliases move all the time, on both servers.

CROSSFADE_HARDSHIP=10 makes every test ten times as long as it is by default, --log-cli-level=INFO shows how it went.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.load import Load

from crossfade.logreader import read_log
from crossfade.registry import Registry
from crossfade.requestlog import CsvRequestLog
from crossfade.settings import Settings
from crossfade.version import Version

_log = logging.getLogger(__name__)

TIMES = int(os.environ.get("CROSSFADE_HARDSHIP", "1"))

LAG_SECONDS = 2.0 if TIMES > 1 else 10.0
"""What an alias move may take to reach every worker; beside other tests, MLflow itself takes its time."""


@dataclass(frozen=True)
class Router:
    """A router as `crossfade serve` runs it, with two workers."""

    settings: Settings
    process: subprocess.Popen[bytes]
    registry: Registry
    versions: tuple[Version, Version]

    @property
    def master(self) -> psutil.Process:
        (found,) = psutil.Process(self.process.pid).children()
        return found

    @property
    def workers(self) -> list[psutil.Process]:
        return [psutil.Process(worker["worker"]) for worker in self.call("GET", "/health")[1]["workers"]]

    def call(self, method: str, path: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.settings.router_port, timeout=30)
        connection.request(method, path)
        reply = connection.getresponse()
        told = json.loads(reply.read())
        connection.close()
        return reply.status, told

    def is_ready(self) -> bool:
        try:
            return [worker["prod"] for worker in self.call("GET", "/health")[1]["workers"]] == ["1", "1"]
        except (OSError, http.client.HTTPException):
            return False


@pytest.fixture(params=["gunicorn", "granian"])
def router(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    isolate: Any,
    serve_router: Any,
    mlflow_server: Settings,
    register_served: Callable[..., Version],
) -> Iterator[Router]:
    """Serve version 1 as prod; a version 2 is there."""
    name = f"Hard-{request.node.name.replace('[', '-').rstrip(']')}"
    versions = register_served(name, "prod"), register_served(name, strength=0.1)
    uri = mlflow_server.mlflow_tracking_uri
    given = {"ROUTER_SERVER": request.param, "MLFLOW_TRACKING_URI": uri, "REG_MODEL_NAME": name}
    settings, environment = isolate(tmp_path, **given)
    with serve_router(settings, environment) as process:
        yield Router(settings, process, Registry(uri, name), versions)


def _until(holds: Callable[[], bool], home: Path) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline, (home / "router.log").read_text()
        time.sleep(0.1)


def test_no_answered_request_is_lost_when_processes_are_killed(router: Router) -> None:
    """Whoever got an answer is in the log exactly once, whichever process died, and service is back by itself."""
    with Load(router.settings.router_port) as load:
        load.next_answer(after=time.monotonic())
        for victim in ("a worker", "the master") * TIMES:
            (router.workers[0] if victim == "a worker" else router.master).kill()
            time.sleep(0.2)  # what is left may answer on for a moment
            _until(router.is_ready, router.settings.crossfade_home)
            load.next_answer(after=time.monotonic())
    contents = read_log(CsvRequestLog(router.settings.request_log, router.settings.labels_log))
    logged = Counter(contents.rows["request_id"])
    _log.info("%d answers; the longest silence was %.2f s", len(load.answers), load.longest_silence())
    assert {name: logged[name] for name in load.answers if logged[name] != 1} == {}
    assert contents.set_aside <= 2 * TIMES
    assert set(load.refused) <= {503}  # of a router that has no model yet


def test_no_request_notices_a_moving_alias(router: Router) -> None:
    """Every answer is 200 and of a version that was prod within the last two seconds; memory stays as it was."""
    first, second = (version.number for version in router.versions)
    prod_since: list[tuple[float, str]] = [(0.0, first)]
    memory: list[int] = []
    with Load(router.settings.router_port) as load:
        for move in range(20 * TIMES):
            old, new = prod_since[-1][1], second if prod_since[-1][1] == first else first
            router.registry.move("prod", new, expected=old)
            prod_since.append((time.monotonic(), new))
            assert router.call("POST", "/reload")[0] == 200
            if move % 10 == 9:
                memory.append(sum(worker.memory_info().rss for worker in router.workers))
        time.sleep(LAG_SECONDS + 0.5)
        load.next_answer(after=time.monotonic())
    assert load.refused == {}
    assert {version for _, _, version in load.answers.values()} == {first, second}
    lag = max(_seconds_since_prod(prod_since, answer) for answer in load.answers.values())
    shown = [size >> 20 for size in memory]
    _log.info("%d answers; a version answered %.2f s after it was prod; memory (MB): %s", len(load.answers), lag, shown)
    assert lag <= LAG_SECONDS
    assert memory[-1] < memory[0] + 10 * 2**20


def _seconds_since_prod(prod_since: list[tuple[float, str]], answer: tuple[float, float, str]) -> float:
    """How long before a request was sent the version that answered it had been prod for the last time."""
    sent, answered, version = answer
    ends = [since for since, _ in prod_since[1:]] + [float("inf")]
    was_prod = [
        until
        for (since, number), until in zip(prod_since, ends, strict=True)
        if number == version and since <= answered
    ]
    return max(0.0, sent - max(was_prod))
