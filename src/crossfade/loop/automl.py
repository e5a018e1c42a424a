"""Training with PyCaret: compare the candidates by cross-validation, keep the best, refit it on every row."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from crossfade.errors import DataError
from crossfade.model import Prediction, SklearnModel
from crossfade.schema import FeatureSchema

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A trained challenger."""

    model: SklearnModel
    """Refitted on training and held-out rows: what is registered."""
    holdout_answers: list[Prediction]
    """What it answered to the held-out rows before it had learnt them; shape (m,)."""
    algorithm: str
    leaderboard: pd.DataFrame
    """Every compared model, best first, with its cross-validated metrics."""


class Trainer(Protocol):
    """Turns labelled rows into a candidate."""

    def train(self, train: pd.DataFrame, holdout: pd.DataFrame, target: str) -> Candidate:
        """Learn `train`; see `holdout` only in the final refit. Raises DataError."""


@dataclass(frozen=True)
class PyCaretTrainer:
    """PyCaret's `setup`, `compare_models` sorted by F1, `finalize_model`."""

    models: Sequence[str]
    """PyCaret's ids, for example `lr`, `rf`."""
    folds: int
    seed: int

    def train(self, train: pd.DataFrame, holdout: pd.DataFrame, target: str) -> Candidate:
        """Learn `train`; see `holdout` only in the final refit."""
        _check_learnable(train, holdout, target)
        features = [name for name in train.columns if name != target]
        with _quiet_pycaret():
            from pycaret.classification import ClassificationExperiment  # takes seconds: only when it is needed

            experiment = ClassificationExperiment()
            experiment.setup(
                data=train.reset_index(drop=True),
                test_data=holdout.set_axis(range(len(train), len(train) + len(holdout)), axis=0),
                target=target,
                session_id=self.seed,
                fold=min(self.folds, int(train[target].value_counts().min())),
                n_jobs=1,
                memory=False,
                html=False,
                verbose=False,
                log_experiment=False,
                system_log=False,
            )
            unknown = set(self.models) - set(experiment.models().index)
            if unknown:
                raise DataError(
                    f"AUTOML_MODELS: {', '.join(sorted(unknown))} unknown; "
                    f"allowed: {', '.join(experiment.models().index)}"
                )
            _log.info("comparing %s on %d rows", ", ".join(self.models), len(train))
            best = experiment.compare_models(include=list(self.models), sort="F1", verbose=False, errors="ignore")
            leaderboard = experiment.pull()
            if not hasattr(best, "predict"):
                raise DataError(f"none of {', '.join(self.models)} could learn these {len(train)} rows")
            answers = experiment.predict_model(best, data=holdout.drop(columns=target), round=15, verbose=False)
            pipeline = experiment.finalize_model(best)
        algorithm = str(leaderboard.iloc[0]["Model"])
        _log.info("best of %d: %s", len(leaderboard), algorithm)
        classes = np.unique(pd.concat([train[target], holdout[target]])).tolist()
        return Candidate(
            SklearnModel(pipeline, FeatureSchema(tuple(features)), tuple(classes)),
            _predictions(answers),
            algorithm,
            leaderboard.reset_index(names="id"),
        )


def _predictions(answers: pd.DataFrame) -> list[Prediction]:
    labels = answers["prediction_label"].tolist()
    if "prediction_score" not in answers:  # the model gives no probabilities
        return [Prediction(label, None) for label in labels]
    return [Prediction(label, float(p)) for label, p in zip(labels, answers["prediction_score"], strict=True)]


def _check_learnable(train: pd.DataFrame, holdout: pd.DataFrame, target: str) -> None:
    unseen = sorted(map(str, set(holdout[target]) - set(train[target])))
    if unseen:
        raise DataError(f"class {', '.join(unseen)} of column {target} is held out, but not among the rows to learn")
    counts = train[target].value_counts()
    if len(counts) < 2:
        raise DataError(
            f"column {target} holds {len(counts)} class in {len(train)} rows; a classifier needs two or more"
        )
    if counts.min() < 2:
        rare = ", ".join(map(str, counts[counts < 2].index))
        raise DataError(f"class {rare} of column {target} has a single row; cross-validation needs two or more")


@contextlib.contextmanager
def _quiet_pycaret() -> Iterator[None]:
    """Keep PyCaret's and its models' droppings (`logs.log`, `catboost_info`) out of the working directory."""
    os.environ.setdefault("PYCARET_CUSTOM_LOGGING_PATH", os.devnull)
    with tempfile.TemporaryDirectory(prefix="crossfade-automl-") as folder, contextlib.chdir(folder):
        yield
