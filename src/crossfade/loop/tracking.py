"""MLflow runs: what every version and every decision leaves behind, and how it is read again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from crossfade.errors import ModelUnusable
from crossfade.loop.reference import ReferenceProfile
from crossfade.stats.proportions import Share

KIND = "crossfade.kind"
"""Tag of a run: drift, retrain or evaluation."""

MODEL = "crossfade.model"
"""Tag of a run: the registered model it is about; several installations may share one MLflow experiment."""

TRIGGER = "crossfade.trigger"
"""Tag of a run: what asked for it, so that a repeated task finds its own run again."""

_VIEW = ("mlflow.experimentKind", "custom_model_development")
"""Tag of the experiment: MLflow's UI opens on the training runs, and not on chat traces."""

PROFILE_FILE, SNAPSHOT_FILE = "reference_profile.json", "training_snapshot.parquet"


@contextmanager
def start_run(experiment: str, model: str, kind: str, trigger: str) -> Iterator[mlflow.ActiveRun]:
    """Open a run of a kind for a registered model; it ends FAILED when the block raises."""
    found = mlflow.set_experiment(experiment)
    if _VIEW[0] not in found.tags:
        mlflow.set_experiment_tag(*_VIEW)
    with mlflow.start_run(run_name=kind, tags={KIND: kind, MODEL: model, TRIGGER: _quotable(trigger)}) as run:
        yield run


def find_run(experiment: str, model: str, kind: str, trigger: str) -> str | None:
    """Return the id of the finished run of this kind that this trigger made for this model, if there is one."""
    wanted = {KIND: kind, MODEL: model, TRIGGER: _quotable(trigger)}
    query = " and ".join([*(f"tags.`{tag}` = '{value}'" for tag, value in wanted.items()), "status = 'FINISHED'"])
    found = mlflow.search_runs(experiment_names=[experiment], filter_string=query, max_results=1, output_format="list")
    return str(found[0].info.run_id) if found else None


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
    try:
        return dict(mlflow.get_run(run_id).data.metrics) if run_id else {}
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            return {}
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
