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

from crossfade.errors import ModelUnusable
from crossfade.loop.drift import ReferenceProfile

KIND = "crossfade.kind"
"""Tag of a run: drift, retrain or evaluation."""

TRIGGER = "crossfade.trigger"
"""Tag of a run: what asked for it, so that a repeated task finds its own run again."""

_VIEW = ("mlflow.experimentKind", "custom_model_development")
"""Tag of the experiment: MLflow's UI opens on the training runs, and not on chat traces."""

PROFILE_FILE, SNAPSHOT_FILE = "reference_profile.json", "training_snapshot.parquet"


@contextmanager
def start_run(experiment: str, kind: str, trigger: str) -> Iterator[mlflow.ActiveRun]:
    """Open a run of a kind; it ends FAILED when the block raises."""
    found = mlflow.set_experiment(experiment)
    if _VIEW[0] not in found.tags:
        mlflow.set_experiment_tag(*_VIEW)
    with mlflow.start_run(run_name=kind, tags={KIND: kind, TRIGGER: _quotable(trigger)}) as run:
        yield run


def find_run(experiment: str, kind: str, trigger: str) -> str | None:
    """Return the id of the finished run of this kind that this trigger made, if there is one."""
    query = f"tags.`{KIND}` = '{kind}' and tags.`{TRIGGER}` = '{_quotable(trigger)}' and attributes.status = 'FINISHED'"
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
    return ReferenceProfile.from_json(_artifact(run_id, PROFILE_FILE).read_text())


def read_snapshot(run_id: str) -> pd.DataFrame:
    """Read the rows that a training run learnt, with the `request_id` of those that came from traffic."""
    return pd.read_parquet(_artifact(run_id, SNAPSHOT_FILE))


def _artifact(run_id: str, name: str) -> Path:
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=f"runs:/{run_id}/{name}"))
    except (MlflowException, OSError) as error:
        hint = "train a version with Crossfade (force_retrain) and make it prod"
        raise ModelUnusable(f"run {run_id or '(none)'} has no {name}: {hint}. MLflow says: {error}") from error


def _quotable(trigger: str) -> str:
    """Take out what would end a string in MLflow's query language (people may name a DAG run as they like)."""
    return trigger.replace("'", "").replace('"', "")
