"""5. Retraining: learn what was seen since, prove it against the champion, and leave everything in MLflow."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from crossfade.compiled.compiler import Compilation, compile_model
from crossfade.loop.automl import Candidate, Trainer
from crossfade.loop.champion import GateResult, Scores, champion_gate
from crossfade.loop.holdout import TrainingRows
from crossfade.loop.plots import CONFUSION, IMPORTANCE, confusion_figure, importance_figure
from crossfade.loop.reference import PREDICTION, PROBABILITY, ReferenceProfile
from crossfade.loop.tracking import PROFILE_FILE, SNAPSHOT_FILE, log_frame, log_json
from crossfade.model import Model, Prediction
from crossfade.schema import FeatureSchema, label_text
from crossfade.signature import signature_of
from crossfade.version import COMPILED_FOLDER

_log = logging.getLogger(__name__)

# Enough to load the model elsewhere; the lock file holds the whole environment.
_MODEL_PACKAGES = ("pycaret", "scikit-learn", "pandas", "numpy", "lightgbm", "cloudpickle")


def train_challenger(
    rows: TrainingRows, target: str, trainer: Trainer, champion: Model | None, max_recall_drop: float
) -> tuple[Candidate, GateResult]:
    """Train a candidate and hold it against the champion on the held-out rows."""
    _log.info("%d rows to learn, %d held out to judge (%d are new)", len(rows.train), len(rows.holdout), rows.new)
    candidate = trainer.train(rows, target)
    challenger_scores = _scores(rows.holdout[target], candidate.holdout_answers)
    champion_scores = None
    if champion is not None:
        features = champion.schema.conform(rows.holdout)
        champion_scores = _scores(rows.holdout[target], champion.predict_frame(features))
    return candidate, champion_gate(challenger_scores, champion_scores, max_recall_drop)


def log_training(
    rows: TrainingRows, target: str, candidate: Candidate, gate: GateResult, params: dict[str, Any], for_use: bool
) -> tuple[str, Compilation | None]:
    """Log a candidate with everything a later check needs to the open MLflow run.

    Where it is `for_use` there are pictures for readers as well, and the model in the form that serves fastest.

    Returns
    -------
    tuple
        URI of the logged model, and what became of it in compiled form.
    """
    mlflow.log_params(
        {
            **params,
            "algorithm": candidate.algorithm,
            "train_rows": len(rows.train),
            "new_rows": rows.new,
            "learnt_rows": candidate.learnt,
        }
    )
    mlflow.log_metric("snapshot_rows", len(rows.snapshot))
    for side, scores in (("holdout", gate.challenger), ("champion", gate.champion)):
        if scores is not None:
            mlflow.log_metrics(
                {
                    f"{side}_accuracy": scores.accuracy,
                    f"{side}_precision_macro": scores.precision_macro,
                    f"{side}_recall_macro": scores.recall_macro,
                    f"{side}_f1_macro": scores.f1_macro,
                    f"{side}_rows": scores.rows,
                }
            )
    log_json(gate.to_dict(), "champion_gate.json")
    log_frame(candidate.leaderboard, "leaderboard.csv")
    log_frame(rows.snapshot, SNAPSHOT_FILE)
    features = rows.snapshot[list(rows.schema.names)]
    mlflow.log_text(_profile(features.tail(candidate.learnt), candidate.holdout_answers).to_json(), PROFILE_FILE)
    compiled = None
    if for_use:
        _log_pictures(rows, target, candidate)
        compiled = _log_compiled(candidate, features)
    info = mlflow.sklearn.log_model(
        candidate.model.pipeline,
        name="model",
        serialization_format="cloudpickle",  # skops, MLflow's default, refuses PyCaret's steps
        pip_requirements=[f"{name}=={installed_version(name)}" for name in _MODEL_PACKAGES],
        signature=signature_of(rows.schema, text_labels=rows.snapshot[target].dtype == object),
        input_example=_example(features, rows.schema),
        metadata={"classes": list(candidate.model.classes)},
    )
    return str(info.model_uri), compiled


def _log_compiled(candidate: Candidate, features: pd.DataFrame) -> Compilation:
    compiled = compile_model(candidate.model, features)
    with tempfile.TemporaryDirectory(prefix="crossfade-compiled-") as folder:
        for name, content in compiled.files.items():
            Path(folder, name).write_bytes(content)
        mlflow.log_artifacts(folder, COMPILED_FOLDER)
    _log.info("served as %s: %s", compiled.tier, compiled.refused or "the fastest form")
    return compiled


def _log_pictures(rows: TrainingRows, target: str, candidate: Candidate) -> None:
    answers = [label_text(answer.label) for answer in candidate.holdout_answers]
    truth = [label_text(label) for label in rows.holdout[target].tolist()]
    mlflow.log_figure(confusion_figure(truth, answers), CONFUSION)
    mlflow.log_figure(importance_figure(candidate.model, rows.holdout, target), IMPORTANCE)


def _example(features: pd.DataFrame, schema: FeatureSchema) -> pd.DataFrame | None:
    """Return two complete rows, as a caller would send them to MLflow; None where every row lacks something."""
    complete = features.dropna().head(2)
    return complete.astype(dict.fromkeys(schema.of_kind("boolean"), bool)) if len(complete) else None


def _profile(features: pd.DataFrame, held_out: Sequence[Prediction]) -> ReferenceProfile:
    """Profile what was learnt; the outputs on rows *not* learnt, for a model is too sure of those it has seen."""
    outputs = pd.DataFrame(
        {
            PREDICTION: [label_text(answer.label) for answer in held_out],
            PROBABILITY: pd.Series([answer.probability for answer in held_out], dtype="float64"),
        }
    )
    return ReferenceProfile.of(features, outputs)


def _scores(truth: pd.Series[Any], answers: Sequence[Prediction]) -> Scores:
    scores = Scores.of(
        [label_text(label) for label in truth.tolist()], [label_text(answer.label) for answer in answers]
    )
    assert scores is not None, "a held-out slice has at least one row"
    return scores
