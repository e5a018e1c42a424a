"""5. Retraining: learn what was seen since, prove it against the champion, and leave everything in MLflow."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from typing import Any

import mlflow
import pandas as pd
from mlflow.models import infer_signature
from sklearn.model_selection import train_test_split

from crossfade.loop.automl import Candidate, Trainer
from crossfade.loop.champion import GateResult, Scores, champion_gate
from crossfade.loop.drift import PREDICTION, PROBABILITY, ReferenceProfile
from crossfade.loop.live import REQUEST_ID
from crossfade.loop.plots import confusion_figure, importance_figure
from crossfade.loop.tracking import PROFILE_FILE, SNAPSHOT_FILE, log_frame, log_json
from crossfade.model import Model, Prediction
from crossfade.schema import label_text

_log = logging.getLogger(__name__)

# Enough to load the model elsewhere; the lock file holds the whole environment.
_MODEL_PACKAGES = ("pycaret", "scikit-learn", "pandas", "numpy", "lightgbm", "cloudpickle")


_MIN_NEW_CLASS_ROWS = 10
"""Fewer rows of a class that was never seen before are taken for mistakes."""


@dataclass(frozen=True)
class TrainingRows:
    """Labelled rows, shared out for one retraining; each frame holds the features and the label."""

    train: pd.DataFrame
    holdout: pd.DataFrame
    """Judges the candidate; the newest rows where there are enough new ones."""
    snapshot: pd.DataFrame
    """All rows, oldest first, with the `request_id` of those that came from traffic ('' for the others)."""
    new: int
    """Rows that no version has learnt before."""
    left_out: int
    """Live rows whose label is of another kind than the known ones, or of a new class with too few rows to learn."""


def share_out(
    known: pd.DataFrame, labeled: pd.DataFrame, target: str, min_new: int, holdout_share: float, seed: int
) -> TrainingRows:
    """Join what prod learnt with what was seen since, and set rows aside for the champion gate.

    Parameters
    ----------
    known : DataFrame
        Features, label and `request_id`: the snapshot of prod's version, or the dataset.
    labeled : DataFrame
        Labelled live rows, oldest first, labels as text; those that `known` holds already are dropped.
    target : str
        Name of the label column.
    min_new : int
        With at least this many new rows, the newest of them are held out; else a stratified draw from all rows.
    holdout_share : float
        Share that is held out.
    seed : int
        Of the draw.
    """
    new = labeled[~labeled[REQUEST_ID].isin(known[REQUEST_ID])]
    readable = _learnable(_in_kind_of(new, known[target]), known[target])
    snapshot = pd.concat([known, readable[known.columns]], ignore_index=True)
    rows = snapshot.drop(columns=REQUEST_ID)
    if len(readable) >= min_new:
        held = max(1, round(len(readable) * holdout_share))
        train, holdout = _with_every_class(rows.iloc[:-held], rows.iloc[-held:], target)
    else:
        enough = rows[target].value_counts().min() > 1
        train, holdout = train_test_split(
            rows, test_size=holdout_share, random_state=seed, stratify=rows[target] if enough else None
        )
    return TrainingRows(train, holdout, snapshot, len(readable), len(new) - len(readable))


def _in_kind_of(new: pd.DataFrame, labels: pd.Series[Any]) -> pd.DataFrame:
    """Give the labels, text so far, the kind of the known ones; rows whose label cannot have it are left out."""
    if not pd.api.types.is_integer_dtype(labels):
        return new
    whole = new[new[labels.name].astype(str).str.fullmatch(r"-?\d{1,18}")]
    return whole.astype({labels.name: "int64"})


def _learnable(new: pd.DataFrame, labels: pd.Series[Any]) -> pd.DataFrame:
    """Leave out classes that are new and rare: one mistyped label must not stop every retraining."""
    counts = new[labels.name].value_counts()
    rare = counts[(counts < _MIN_NEW_CLASS_ROWS) & ~counts.index.isin(labels)]
    return new[~new[labels.name].isin(rare.index)]


def _with_every_class(train: pd.DataFrame, holdout: pd.DataFrame, target: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Let a class that only the newest rows hold be learnt from the older half of its rows."""
    unknown = holdout[~holdout[target].isin(train[target])]
    older = unknown.groupby(target).cumcount() < unknown.groupby(target)[target].transform("size") / 2
    moved = unknown[older]
    return pd.concat([train, moved]), holdout.drop(index=moved.index)


def train_challenger(
    rows: TrainingRows, target: str, trainer: Trainer, champion: Model | None, max_recall_drop: float
) -> tuple[Candidate, GateResult]:
    """Train a candidate and hold it against the champion on the held-out rows."""
    _log.info("learning %d rows, judging on %d held-out ones (%d new)", len(rows.train), len(rows.holdout), rows.new)
    candidate = trainer.train(rows.train, rows.holdout, target)
    challenger_scores = _scores(rows.holdout[target], candidate.holdout_answers)
    champion_scores = None
    if champion is not None:
        features = rows.holdout[list(champion.schema.names)]
        champion_scores = _scores(rows.holdout[target], champion.predict(features.to_numpy().tolist()))
    return candidate, champion_gate(challenger_scores, champion_scores, max_recall_drop)


def log_training(
    rows: TrainingRows, target: str, candidate: Candidate, gate: GateResult, params: dict[str, Any]
) -> str:
    """Log a candidate with everything a later check or reader needs to the open MLflow run.

    Returns
    -------
    str
        URI of the logged model.
    """
    mlflow.log_params({**params, "algorithm": candidate.algorithm, "train_rows": len(rows.train), "new_rows": rows.new})
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
    features = rows.snapshot[list(candidate.model.schema.names)]
    mlflow.log_text(_profile(features, candidate.holdout_answers).to_json(), PROFILE_FILE)
    answers = [label_text(answer.label) for answer in candidate.holdout_answers]
    truth = [label_text(label) for label in rows.holdout[target].tolist()]
    mlflow.log_figure(confusion_figure(truth, answers), "plots/confusion_matrix.png")
    mlflow.log_figure(importance_figure(candidate.model, rows.holdout, target), "plots/feature_importance.png")
    info = mlflow.sklearn.log_model(
        candidate.model.pipeline,
        name="model",
        serialization_format="cloudpickle",  # skops, MLflow's default, refuses PyCaret's steps
        pip_requirements=[f"{name}=={installed_version(name)}" for name in _MODEL_PACKAGES],
        signature=infer_signature(features, rows.snapshot[target]),
        input_example=features.head(2),
        metadata={"classes": list(candidate.model.classes)},
    )
    return str(info.model_uri)


def _profile(features: pd.DataFrame, held_out: list[Prediction]) -> ReferenceProfile:
    """Profile what was learnt; the outputs on rows *not* learnt, for a model is too sure of those it has seen."""
    outputs = pd.DataFrame(
        {
            PREDICTION: [label_text(answer.label) for answer in held_out],
            PROBABILITY: pd.Series([answer.probability for answer in held_out], dtype="float64"),
        }
    )
    return ReferenceProfile.of(features, outputs)


def _scores(truth: pd.Series[Any], answers: list[Prediction]) -> Scores:
    scores = Scores.of(
        [label_text(label) for label in truth.tolist()], [label_text(answer.label) for answer in answers]
    )
    assert scores is not None, "a held-out slice has at least one row"
    return scores
