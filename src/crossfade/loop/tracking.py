"""MLflow runs: what every version and every decision leaves behind, and how it is read again."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from crossfade.errors import ModelUnusable
from crossfade.loop.reference import ReferenceProfile
from crossfade.stats.proportions import Share

KIND = "crossfade.kind"
"""Tag of a run: drift, retrain, evaluation, or the experiment that groups evaluations."""

MODEL = "crossfade.model"
"""Tag of a run: the registered model it is about; several installations may share one MLflow experiment."""

TRIGGER = "crossfade.trigger"
"""Tag of a run: what asked for it, so that a repeated task finds its own run again."""

GROUP = "crossfade.experiment"
"""Tag of a run: the A/B experiment that it looks at, or groups."""

_VIEW = ("mlflow.experimentKind", "custom_model_development")
"""Tag of the experiment: MLflow's UI opens on the training runs, and not on chat traces."""

PROFILE_FILE, SNAPSHOT_FILE = "reference_profile.json", "training_snapshot.parquet"


BY_HAND = "by hand"
"""Trigger of a step that no DAG run asked for; it is never taken for a repetition."""

_NOTE = "mlflow.note.content"
"""Tag of a run: what its page says, as Markdown."""

_PARENT = "mlflow.parentRunId"

_DAY_MS = 24 * 60 * 60 * 1000
"""No step takes so long."""


@contextmanager
def start_run(
    experiment: str, model: str, kind: str, trigger: str, name: str = "", parent: str = ""
) -> Iterator[mlflow.ActiveRun]:
    """Open a run of a kind for a registered model; it ends FAILED when the block raises.

    Runs that a killed process left open under the same trigger, or a day ago, are ended as KILLED.

    Parameters
    ----------
    experiment, model, kind, trigger : str
        Name of the MLflow experiment, and what the tags of the run say.
    name : str
        As the list of runs shows it; empty: the kind.
    parent : str
        Run that it is listed under; empty: none.
    """
    found = _use(experiment)
    _end_killed(found.experiment_id, model, kind, trigger)
    tags = {KIND: kind, MODEL: model, TRIGGER: _quotable(trigger)} | ({_PARENT: parent} if parent else {})
    with mlflow.start_run(run_name=name or kind, tags=tags) as run:
        yield run


def _use(name: str) -> Experiment:
    """Make an experiment the present one, shown as a list of training runs."""
    found = mlflow.set_experiment(name)
    if _VIEW[0] not in found.tags:
        try:
            mlflow.set_experiment_tag(*_VIEW)
        except MlflowException:  # MLflow refuses it where another run does it at the same time
            if _VIEW[0] not in mlflow.get_experiment(found.experiment_id).tags:
                raise
    return found


def _end_killed(experiment_id: str, model: str, kind: str, trigger: str) -> None:
    open_runs: Any = mlflow.search_runs(
        [experiment_id], _having({KIND: kind, MODEL: model}, "RUNNING"), output_format="list"
    )
    for run in open_runs:
        again = trigger != BY_HAND and run.data.tags.get(TRIGGER) == _quotable(trigger)
        if again or run.info.start_time < time.time() * 1000 - _DAY_MS:
            mlflow.start_run(run_id=run.info.run_id)
            mlflow.end_run("KILLED")


def write_note(text: str) -> None:
    """Say on the open run's page what it found; MLflow keeps 8,000 characters."""
    mlflow.set_tag(_NOTE, text)


def read_note(run_id: str) -> str:
    """Read back what `write_note` wrote; empty when there is no such run, or it says nothing."""
    found = _run(run_id)
    return str(found.data.tags.get(_NOTE, "")) if found else ""


def group_run(experiment: str, model: str, name: str) -> str:
    """Return the id of the run that the looks at an A/B experiment are listed under; made by the first one."""
    tags = {KIND: "experiment", MODEL: model, GROUP: name}
    found: Any = mlflow.search_runs(
        experiment_names=[experiment], filter_string=_having(tags), max_results=1, output_format="list"
    )
    if found:
        return str(found[0].info.run_id)
    _use(experiment)
    with mlflow.start_run(run_name=name, tags=tags) as run:
        return str(run.info.run_id)


def find_run(experiment: str, model: str, kind: str, trigger: str) -> str | None:
    """Return the id of the finished run of this kind that this trigger made for this model, if there is one."""
    query = _having({KIND: kind, MODEL: model, TRIGGER: _quotable(trigger)}, "FINISHED")
    found = mlflow.search_runs(experiment_names=[experiment], filter_string=query, max_results=1, output_format="list")
    return str(found[0].info.run_id) if found else None


def _having(tags: Mapping[str, str], status: str = "") -> str:
    """Ask MLflow for runs with these tags, and this status where one is given."""
    wanted = [f"tags.`{tag}` = '{value}'" for tag, value in tags.items()]
    return " and ".join([*wanted, *([f"status = '{status}'"] if status else [])])


def log_json(payload: Mapping[str, Any], name: str) -> None:
    """Log a dictionary as a readable file of the open run."""
    mlflow.log_text(json.dumps(payload, indent=2), name)


def read_json(run_id: str, name: str) -> dict[str, Any]:
    """Read back what `log_json` wrote to a run."""
    return dict(json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/{name}")))


def log_frame(frame: pd.DataFrame, name: str) -> None:
    """Log a table as a Parquet or CSV file of the open run, by the name's ending."""
    with tempfile.TemporaryDirectory(prefix="crossfade-") as folder:
        path = Path(folder) / name
        if path.suffix == ".parquet":
            frame.to_parquet(path, index=False)
        else:
            frame.to_csv(path, index=False)
        mlflow.log_artifact(str(path))


def read_profile(run_id: str) -> ReferenceProfile:
    """Read the reference profile that a training run logged.

    Raises
    ------
    ModelUnusable
        The run has none: its model was not trained by Crossfade.
    """
    with _artifact(run_id, PROFILE_FILE) as path:
        return ReferenceProfile.from_json(path.read_text())


def read_snapshot(run_id: str) -> pd.DataFrame:
    """Read the rows that a training run learnt, with the `request_id` of those that came from traffic."""
    with _artifact(run_id, SNAPSHOT_FILE) as path:
        return pd.read_parquet(path)


def read_metrics(run_id: str) -> Mapping[str, float]:
    """Read a run's metrics; none when there is no such run."""
    found = _run(run_id)
    return dict(found.data.metrics) if found else {}


def _run(run_id: str) -> Run | None:
    try:
        return mlflow.get_run(run_id) if run_id else None
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            return None
        raise


def share_of(metrics: Mapping[str, float], side: str) -> Share | None:
    """Take a training's right answers of `holdout` (its own) or `champion`; None when the metrics do not tell."""
    accuracy, rows = metrics.get(f"{side}_accuracy"), int(metrics.get(f"{side}_rows", 0))
    return Share.of(round(accuracy * rows), rows) if accuracy is not None and rows else None


@contextmanager
def _artifact(run_id: str, name: str) -> Iterator[Path]:
    """Fetch a file of a run for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="crossfade-") as folder:
        try:
            path = mlflow.artifacts.download_artifacts(artifact_uri=f"runs:/{run_id}/{name}", dst_path=folder)
        except (MlflowException, OSError) as error:
            hint = "force_retrain trains a version that has one"
            raise ModelUnusable(f"run {run_id or '(none)'} has no {name}: {hint}. MLflow says: {error}") from error
        yield Path(path)


def _quotable(trigger: str) -> str:
    """Take out what would end a string in MLflow's query language (people may name a DAG run as they like)."""
    return trigger.replace("'", "").replace('"', "")
