"""MLflow runs that a killed step left open."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import mlflow
import pytest

from crossfade.loop.tracking import BY_HAND, read_note, start_run, write_note
from crossfade.registry import Registry

KILLED = f"""
import os, signal, mlflow
from crossfade.loop.tracking import start_run
mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
with start_run("tests", "M", "evaluation", os.environ["TRIGGER"]) as run:
    print(run.info.run_id, flush=True)
    os.kill(os.getpid(), signal.{signal.SIGKILL.name})
"""


def _killed(trigger: str) -> str:
    """Open a run in a process that is killed in the middle; return the run's id."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        env={**os.environ, "TRIGGER": trigger},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(("trigger", "status"), [("dag-run-1", "KILLED"), (BY_HAND, "RUNNING")])
def test_the_next_try_ends_what_a_killed_one_left_open(registry: Registry, trigger: str, status: str) -> None:
    """The same trigger comes again only after its step died; by hand, somebody else may be at work."""
    left = _killed(trigger)
    assert mlflow.get_run(left).info.status == "RUNNING"
    with start_run("tests", "M", "evaluation", trigger) as run:
        pass
    assert mlflow.get_run(left).info.status == status
    assert mlflow.get_run(run.info.run_id).info.status == "FINISHED"


def test_a_note_is_read_back(registry: Registry) -> None:
    """What a run's page says can be read again; a run that is gone says nothing."""
    with start_run("tests", "M", "drift", BY_HAND) as run:
        write_note("All is calm.")
    assert read_note(run.info.run_id) == "All is calm."
    assert read_note("0" * 32) == ""
