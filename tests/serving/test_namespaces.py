"""Three routers, each on a network of its own, and MLflow out of reach of one of them: unreachable, then silent."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from tests.load import Load

from crossfade.registry import Registry
from crossfade.settings import Settings
from crossfade.version import Version

PORT = 8080
NET = "10.213"
"""Addresses of these networks alone; nothing outside this machine is reached by them."""


def _can_make_namespaces() -> bool:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    made = subprocess.run(["ip", "netns", "add", "cf-probe"], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", "cf-probe"], capture_output=True, check=False)
    return made.returncode == 0


pytestmark = pytest.mark.skipif(not _can_make_namespaces(), reason="network namespaces need root and iproute2")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@dataclass
class Place:
    """A network namespace with one router; this machine is `.1` for clients and `.2` for MLflow, the router `.3`."""

    number: int
    home: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return f"cf{os.getpid()}-{self.number}"

    @property
    def _link(self) -> str:
        return f"cf{os.getpid() % 100000}h{self.number}"

    def address(self, host: int) -> str:
        return f"{NET}.{self.number}.{host}"

    def make(self) -> None:
        _ip("netns", "add", self.name)
        _ip("link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        for host in (1, 2):
            _ip("addr", "add", f"{self.address(host)}/29", "dev", self._link)
        _ip("link", "set", self._link, "up")
        self.inside("addr", "add", f"{self.address(3)}/29", "dev", "eth0")
        self.inside("link", "set", "eth0", "up")
        self.inside("link", "set", "lo", "up")

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)

    def inside(self, *words: str) -> None:
        _ip("-n", self.name, *words)

    def serve(self) -> None:
        crossfade = str(Path(sys.executable).with_name("crossfade"))
        command = ["ip", "netns", "exec", self.name, crossfade, "serve"]
        with (self.home / "router.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=self.environment, cwd=self.home, stdout=log, stderr=log)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(120)

    def get(self, path: str) -> dict[str, Any]:
        return dict(requests.get(f"http://{self.address(3)}:{PORT}{path}", timeout=30).json())

    def serves(self, number: str) -> bool:
        try:
            return bool(self.get("/health")["prod"] == number)
        except requests.RequestException:
            return False

    def complains_of_mlflow(self) -> bool:
        return any("MLflow at" in problem for problem in self.get("/health")["problems"])

    def log(self) -> str:
        return (self.home / "router.log").read_text()


@dataclass(frozen=True)
class Scattered:
    """Three routers that serve one registered model."""

    places: list[Place]
    registry: Registry

    def until(self, holds: Callable[[], bool], seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, "\n".join(place.log()[-3000:] for place in self.places)
            time.sleep(0.1)


@pytest.fixture(scope="module")
def reachable_mlflow(
    tmp_path_factory: pytest.TempPathFactory,
    isolate: Any,
    serve_mlflow: Callable[[Settings], AbstractContextManager[None]],
) -> Iterator[Settings]:
    """An MLflow server that listens on every address of this machine."""
    settings, _ = isolate(tmp_path_factory.mktemp("mlflow"), BIND_HOST="0.0.0.0")
    with serve_mlflow(settings):
        yield settings


@pytest.fixture(scope="module")
def scattered(
    tmp_path_factory: pytest.TempPathFactory,
    isolate: Any,
    reachable_mlflow: Settings,
    register_on: Callable[..., Version],
) -> Iterator[Scattered]:
    """Serve version 1 in three namespaces; a version 2 is there."""
    uri, model = reachable_mlflow.mlflow_tracking_uri, "Scattered"
    register_on(uri, model, "prod")
    register_on(uri, model, strength=0.1)
    places = []
    for number in (1, 2, 3):
        home = tmp_path_factory.mktemp(f"router-{number}")
        place = Place(number, home, {})
        _, place.environment = isolate(
            home,
            BIND_HOST=place.address(3),
            ROUTER_PORT=str(PORT),
            REG_MODEL_NAME=model,
            MLFLOW_TRACKING_URI=f"http://{place.address(2)}:{reachable_mlflow.mlflow_port}",
            ROUTER_POLL_SECONDS="1",
            ROUTER_WORKERS="1",
        )
        places.append(place)
    running = Scattered(places, Registry(uri, model))
    try:
        for place in places:
            place.make()
            place.serve()
        running.until(lambda: all(place.serves("1") for place in places))
        yield running
    finally:
        for place in places:
            place.stop()
            place.remove()


@pytest.mark.parametrize("cut", ["unreachable", "silent"])
def test_a_router_without_mlflow_serves_on_and_says_so(scattered: Scattered, cut: str) -> None:
    """No answer but 200; /health names MLflow; a restart serves the copies; when it is back, so is the router."""
    first, second, lonely = scattered.places
    mlflow = lonely.address(2)
    mend = ("route", "del", "unreachable", f"{mlflow}/32")
    break_ = ("route", "add", "unreachable", f"{mlflow}/32")
    if cut == "silent":
        mend = ("neigh", "del", mlflow, "dev", "eth0")
        break_ = ("neigh", "replace", mlflow, "lladdr", "02:00:00:00:00:01", "dev", "eth0", "nud", "permanent")
    one = first.get("/health")["prod"]
    two = {"1": "2", "2": "1"}[one]
    with Load(PORT, lonely.address(3)) as load:
        load.next_answer(after=time.monotonic())
        lonely.inside(*break_)
        scattered.until(lonely.complains_of_mlflow)
        scattered.registry.move("prod", two, expected=one)
        scattered.until(lambda: first.serves(two) and second.serves(two))
        load.next_answer(after=time.monotonic())
        assert lonely.serves(one)
        assert not first.complains_of_mlflow()
    assert load.refused == {}
    assert {number for _, _, number in load.answers.values()} == {one}
    lonely.stop()
    lonely.serve()
    scattered.until(lambda: lonely.serves(one))
    assert lonely.complains_of_mlflow()
    assert lonely.get("/ready")["status"] == "ready"
    lonely.inside(*mend)
    scattered.until(lambda: lonely.serves(two) and not lonely.complains_of_mlflow())
