"""Pipelines as PyCaret makes them: its steps, set up once per table, before each of its estimators."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from crossfade.model import SklearnModel
from crossfade.schema import Feature, FeatureSchema


@dataclass(frozen=True)
class Learnt:
    """A pipeline, and the rows that it learnt."""

    model: SklearnModel
    features: pd.DataFrame


Train = Callable[[str, str], Learnt]
"""From a table's name and PyCaret's name of an algorithm."""

_MIXED = FeatureSchema(
    (
        Feature("size", nullable=True),
        Feature("colour", "categorical", nullable=True),
        Feature("flag", "boolean", nullable=True),
        Feature("noise"),
        Feature("town", "categorical"),
        Feature("sex", "categorical"),
        Feature("sure", "boolean"),
    )
)


def mixed(rows: int, seed: int) -> pd.DataFrame:
    """Rows of every kind of feature, of which a tenth or so is missing, with a score that follows from them."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "size": rng.normal(50, 20, rows).round(1),
            "colour": rng.choice(["red", "green", "blue"], rows).astype(object),
            "flag": (rng.random(rows) > 0.5).astype(float),
            "noise": rng.normal(size=rows),
            "town": rng.choice([f"town {i}" for i in range(40)], rows).astype(object),  # too many to be one-hot
            "sex": rng.choice(["f", "m"], rows).astype(object),
            "sure": (rng.random(rows) > 0.2).astype(float),
        }
    )
    score = frame["size"] / 20 + 1.5 * (frame["colour"] == "red") - frame["flag"] + frame["noise"] / 3
    for name, share in (("size", 0.05), ("colour", 0.1), ("flag", 0.05)):
        frame.loc[rng.random(rows) < share, name] = np.nan
    return frame.assign(score=score + rng.normal(scale=0.3, size=rows))


def _table(name: str) -> tuple[FeatureSchema, pd.DataFrame]:
    """Return a table's features, and its rows with the column `target`."""
    rows = mixed(500, seed=4)
    if name == "three texts":
        return _MIXED, rows.assign(target=pd.qcut(rows["score"], 3, labels=["low", "mid", "top"]).astype(str))
    if name == "two numbers":
        return _MIXED, rows.assign(target=(rows["score"] > 2.5).astype(int))
    rows = rows.fillna({"size": 50.0}).assign(twice=np.exp(rows["noise"]), third=np.random.default_rng(1).random(500))
    schema = FeatureSchema.of_numbers("size", "noise", "twice", "third")  # no category, nothing missing
    return schema, rows.assign(target=np.array([1, 2, 5])[pd.qcut(rows["score"], 3, labels=False)])


@cache
def _set_up(name: str) -> tuple[FeatureSchema, pd.DataFrame, Any, pd.DataFrame]:
    os.environ.setdefault("PYCARET_CUSTOM_LOGGING_PATH", os.devnull)
    from pycaret.classification import ClassificationExperiment

    schema, table = _table(name)
    experiment = ClassificationExperiment()
    experiment.setup(
        table[[*schema.names, "target"]],
        target="target",
        numeric_features=schema.of_kind("numeric", "boolean"),
        categorical_features=schema.of_kind("categorical"),
        session_id=1,
        n_jobs=1,
        memory=False,
        html=False,
        verbose=False,
        log_experiment=False,
        system_log=False,
    )
    return schema.with_nulls_of(table), table, experiment.pipeline, experiment.models(internal=True)


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Fit one of PyCaret's algorithms, with PyCaret's steps before it, on a table."""

    @cache
    def fitted(table: str, algorithm: str) -> Learnt:
        with contextlib.chdir(tmp_path_factory.getbasetemp()):  # PyCaret and its models leave files behind
            schema, rows, steps, known = _set_up(table)
            estimator = known.loc[algorithm, "Class"](**known.loc[algorithm, "Args"])
            pipeline = type(steps)([*clone(steps).steps, ("actual_estimator", estimator)])
            pipeline.fit(rows[list(schema.names)], rows["target"])
        classes = tuple(np.unique(rows["target"]).tolist())
        return Learnt(SklearnModel(pipeline, schema, classes), schema.conform(rows))

    return fitted
