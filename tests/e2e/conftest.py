"""One real stack for all end-to-end tests: Airflow, MLflow and gunicorn on free ports, state in a temporary folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from crossfade.settings import Settings
from crossfade.stack.airflow import Airflow


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the dashboard be looked at when the stack has something to show, and before it is taken down."""
    places = [place for place, item in enumerate(items) if "e2e/" in item.nodeid]
    for place, item in zip(places, sorted((items[place] for place in places), key=_turn), strict=True):
        items[place] = item


def _turn(item: pytest.Item) -> int:
    if "test_down_leaves_nothing_behind" in item.nodeid:
        return 2
    return int("e2e/test_dashboard" in item.nodeid)


@dataclass(frozen=True)
class Stack:
    """A running installation, driven as a user drives it: by the command line and over HTTP."""

    settings: Settings
    environment: dict[str, str]
    airflow: Airflow

    def crossfade(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `crossfade ...` and return what it printed."""
        command = [str(Path(sys.executable).with_name("crossfade")), *arguments]
        done = subprocess.run(
            command, env=self.environment, cwd=self.settings.crossfade_home, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise AssertionError(
                f"crossfade {' '.join(arguments)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done

    def predict(self, **body: Any) -> dict[str, Any]:
        """POST /predict on a connection of its own, so that any worker may answer."""
        answer = requests.post(f"{self.settings.router_url}/predict", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def health(self) -> dict[str, Any]:
        """GET /health of one worker."""
        return dict(requests.get(f"{self.settings.router_url}/health", timeout=30).json())

    def version(self) -> dict[str, Any]:
        """GET /version of one worker."""
        return dict(requests.get(f"{self.settings.router_url}/version", timeout=30).json())

    def set_split(self, share: float) -> None:
        """POST /config."""
        answer = requests.post(f"{self.settings.router_url}/config", json={"ab_split_b": share}, timeout=30)
        assert answer.status_code == 200, answer.text

    def run_dag(self, **conf: Any) -> str:
        """Trigger the DAG through Airflow's REST API and wait until it has succeeded."""
        run_id = self.airflow.trigger(conf)
        self.airflow.wait(run_id, lambda run: None)
        return run_id


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, isolate) -> Iterator[Stack]:
    """A stack that was started by `crossfade up`; stopped by `crossfade down` at the end."""
    given = {"AUTOML_MODELS": "lr,nb,knn,dt", "COLUMNS": "200", "DASHBOARD_REFRESH_SECONDS": "1"}
    settings, environment = isolate(tmp_path_factory.mktemp("home"), **given)
    running = Stack(settings, environment, Airflow(settings))
    try:
        running.crossfade("up")
        yield running
    finally:
        running.crossfade("down")
