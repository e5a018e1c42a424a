"""A compose project for container tests, beside whatever else runs: own name, own ports, own volumes."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from crossfade.settings import Settings
from crossfade.stack.airflow import Airflow

PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Containers:
    """The running project, driven by `docker compose` and over HTTP."""

    settings: Settings
    environment: dict[str, str]
    airflow: Airflow
    profile: str = ""
    """Of the compose file; empty: none."""

    def docker(self, *arguments: str) -> str:
        """Run `docker ...` and return what it printed."""
        return self._run("docker", *arguments)

    def compose(self, *arguments: str) -> str:
        """Run `docker compose ...` on this project."""
        profile = ("--profile", self.profile) if self.profile else ()
        return self._run("docker", "compose", *profile, *arguments)

    def back_up(self, what: str, file: Path) -> str:
        """Run `infra/backup.sh save FILE` or `restore FILE` on this project."""
        return self._run("sh", "backup.sh", what, str(file))

    def crossfade(self, *arguments: str) -> str:
        """Run `crossfade ...` on this machine against the containers."""
        return self._run(str(Path(sys.executable).with_name("crossfade")), *arguments)

    def read(self, service: str, path: str) -> str:
        """Return a file's text from inside a container."""
        return self.compose("exec", "-T", service, "cat", path)

    def crash(self, service: str) -> None:
        """Kill a container's first process with -9 from outside it, as the kernel does when memory runs out.

        `docker kill` is no crash: Docker takes it as a wish, and does not restart the container.
        """
        container = self.compose("ps", "--quiet", service).strip()
        pid = self.docker("inspect", "--format", "{{.State.Pid}}", container).strip()
        kill = f"import os; os.kill({pid}, 9)"
        self.docker(
            "run", "--rm", "--pid=host", "--privileged", "--user=0", "crossfade-router:0.1.0", "python", "-c", kill
        )

    def wait_until_healthy(self, service: str, seconds: float = 180) -> None:
        """Wait until Docker calls a service healthy (again)."""
        deadline = time.monotonic() + seconds
        while (state := self.compose("ps", "--all", "--format", "{{.Health}}", service).strip()) != "healthy":
            assert time.monotonic() < deadline, f"{service} is {state!r} after {seconds:.0f} s"
            time.sleep(1)

    @contextmanager
    def load(self, per_second: float, client: int = 0) -> Iterator[Callable[[], list[str]]]:
        """Send requests at a steady rate from a thread; yields a look at the ids that were answered so far."""
        answered: list[str] = []
        stop = threading.Event()

        def run() -> None:
            session, started = requests.Session(), time.monotonic()
            for i in itertools.count():
                if stop.wait(max(0.0, started + i / per_second - time.monotonic())):
                    return
                request_id = f"load-{client}-{i}"
                body = {"request_id": request_id, "user_id": i % 300, "features": [6.1, 3.0, 4.6, 1.5]}
                try:
                    if session.post(f"{self.settings.router_url}/predict", json=body, timeout=10).status_code == 200:
                        answered.append(request_id)
                except requests.RequestException:
                    session = requests.Session()  # unanswered: allowed while the router is down

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield lambda: list(answered)
        finally:
            stop.set()
            thread.join()

    def _run(self, *command: str) -> str:
        done = subprocess.run(
            command, env=self.environment, cwd=PROJECT / "infra", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def containers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, isolate
) -> Iterator[Containers]:
    """The stack, of the profile that the module names, from nothing; all of it, volumes too, is removed at the end."""
    settings, environment = isolate(
        tmp_path_factory.mktemp("home"), COLUMNS="200", COMPOSE_PROJECT_NAME="crossfade-test"
    )
    running = Containers(settings, environment, Airflow(settings), getattr(request.module, "PROFILE", ""))
    try:
        running.compose("up", "--detach", "--build", "--wait")
        yield running
    finally:
        running.compose("down", "--volumes", "--timeout", "5")
