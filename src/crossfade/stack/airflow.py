"""Airflow's REST API, as its UI uses it: trigger the DAG, watch it, read why a task failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import requests

from crossfade.errors import ServiceError
from crossfade.settings import Settings

DAG_ID = "drift_retrain_ab_pipeline"

_TRIES_WHILE_DOWN = 15
"""Looks in a row that Airflow may leave unanswered before the wait is given up."""


@dataclass(frozen=True)
class DagRun:
    """A run and its tasks."""

    id: str
    state: str
    tasks: Mapping[str, str]
    """State of each task by its id."""


class Airflow:
    """Client of one Airflow.

    Parameters
    ----------
    settings : Settings
        Address, user and password.
    """

    def __init__(self, settings: Settings) -> None:
        self.url = settings.airflow_url
        self._credentials = {
            "username": settings.airflow_user,
            "password": settings.airflow_password.get_secret_value(),
        }
        self._session = requests.Session()

    def import_errors(self) -> list[str]:
        """Return what stops Airflow from reading the DAG files."""
        return [error["stack_trace"] for error in self._call("GET", "importErrors")["import_errors"]]

    def wait_for_dag(self, seconds: float = 120) -> None:
        """Wait until Airflow has read the DAG, and let it run. Raises ServiceError."""
        deadline = time.monotonic() + seconds
        while True:
            if self._call("GET", f"dags/{DAG_ID}", missing_ok=True):
                self._call("PATCH", f"dags/{DAG_ID}", {"is_paused": False})
                return
            if errors := self.import_errors():
                raise ServiceError(f"Airflow cannot read the DAG: {errors[0]}")
            if time.monotonic() > deadline:
                raise ServiceError(f"Airflow did not find {DAG_ID} within {seconds:.0f} s; is its dags folder right?")
            time.sleep(1)

    def trigger(self, conf: Mapping[str, Any] | None = None) -> str:
        """Trigger the DAG as its UI does; return the run's id."""
        run = self._call("POST", f"dags/{DAG_ID}/dagRuns", {"logical_date": None, "conf": dict(conf or {})})
        return str(run["dag_run_id"])

    def look(self, run_id: str) -> DagRun:
        """Look at a run."""
        state = self._call("GET", f"dags/{DAG_ID}/dagRuns/{run_id}")["state"]
        tasks = self._call("GET", f"dags/{DAG_ID}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return DagRun(run_id, state, {task["task_id"]: task["state"] or "waiting" for task in tasks})

    def wait(self, run_id: str, progress: Callable[[DagRun], None], seconds: float = 900) -> DagRun:
        """Wait until a run has succeeded, for as long as it gets on.

        Parameters
        ----------
        run_id : str
            The run.
        progress : callable
            Is shown each look at it.
        seconds : float
            How long every task may stay as it is.

        Raises
        ------
        ServiceError
            It failed (the message holds the failed task's last log lines), or nothing changed for too long.
        """
        seen, deadline, unanswered = None, time.monotonic() + seconds, 0
        while True:
            try:
                run = self.look(run_id)
            except ServiceError:
                unanswered += 1
                if unanswered > _TRIES_WHILE_DOWN:
                    raise
            else:
                unanswered = 0
                progress(run)
                if run.state == "success":
                    return run
                if run.state == "failed":
                    raise ServiceError(self._why(run))
                if run != seen:
                    seen, deadline = run, time.monotonic() + seconds
                if time.monotonic() > deadline:
                    raise ServiceError(f"{run_id} is {run.state}, unchanged for {seconds:.0f} s; see {self.url}")
            time.sleep(1)

    def result(self, run_id: str, task_id: str) -> Any:
        """Return what a task returned; None when it did not run."""
        path = f"dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value?deserialize=true"
        return self._call("GET", path, missing_ok=True).get("value")

    def _why(self, run: DagRun) -> str:
        failed = [task for task, state in run.tasks.items() if state == "failed"]
        if not failed:
            return f"{run.id} failed; see {self.url}"
        log = self._call("GET", f"dags/{DAG_ID}/dagRuns/{run.id}/taskInstances/{failed[0]}/logs/1")
        events = [str(entry.get("event", "")) for entry in log["content"] if isinstance(entry, dict)]
        details = [
            str(entry["error_detail"])
            for entry in log["content"]
            if isinstance(entry, dict) and entry.get("error_detail")
        ]
        return f"task {failed[0]} of {run.id} failed:\n  " + "\n  ".join([*events[-10:], *details][-12:])[-3000:]

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None, missing_ok: bool = False) -> Any:
        try:
            if "Authorization" not in self._session.headers:
                self._log_in()
            answer = self._session.request(method, f"{self.url}/api/v2/{path}", json=body, timeout=30)
            if answer.status_code == 401:  # tokens end after a day
                self._log_in()
                answer = self._session.request(method, f"{self.url}/api/v2/{path}", json=body, timeout=30)
        except requests.RequestException as error:
            raise ServiceError(
                f"Airflow at {self.url} does not answer; start it with `crossfade up`: {error}"
            ) from error
        if missing_ok and answer.status_code == 404:
            return {}
        if not answer.ok:
            raise ServiceError(f"Airflow refused {method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer.json()

    def _log_in(self) -> None:
        answer = requests.post(f"{self.url}/auth/token", json=self._credentials, timeout=30)
        if not answer.ok:
            raise ServiceError(f"Airflow refused the login of {self._credentials['username']}: check AIRFLOW_PASSWORD")
        self._session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
