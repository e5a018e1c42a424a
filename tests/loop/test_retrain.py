"""A challenger held against the champion, and what a training leaves in MLflow."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from crossfade.compiled.model import DESCRIPTION
from crossfade.errors import ModelUnusable
from crossfade.loop.automl import Candidate
from crossfade.loop.holdout import SharingRule, TrainingRows, share_out
from crossfade.loop.incumbent import KnownRows
from crossfade.loop.retrain import log_training, train_challenger
from crossfade.loop.tracking import read_metrics, read_profile, read_snapshot, share_of
from crossfade.model import SklearnModel
from crossfade.modelcache import ModelCache
from crossfade.registry import Registry
from crossfade.schema import Feature, FeatureSchema
from crossfade.serving.catalog import Catalog
from crossfade.settings import Settings
from crossfade.stats.profile import CategoricalProfile, NumericProfile
from crossfade.version import COMPILED_FOLDER, Runtime

SCHEMA = FeatureSchema((Feature("size"), Feature("colour", "categorical"), Feature("flag", "boolean")))


def _frame(rows: int, seed: int) -> pd.DataFrame:
    """Large or red rows are `yes`."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "size": rng.normal(size=rows),
            "colour": rng.choice(["red", "green"], rows).astype(object),
            "flag": rng.integers(0, 2, rows).astype(float),
        }
    )
    return frame.assign(y=np.where((frame["size"] > 0.5) | (frame["colour"] == "red"), "yes", "no"))


@dataclass(frozen=True)
class QuickTrainer:
    """A small real trainer: logistic regression on the features it is given."""

    features: tuple[str, ...] = SCHEMA.names

    def train(self, rows: TrainingRows, target: str) -> Candidate:
        """Learn the training rows; see the held-out ones only in the refit."""
        text = [name for name in self.features if name in rows.schema.of_kind("categorical")]
        numbers = [name for name in self.features if name not in text]
        encoder = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), text), ("passthrough", numbers))
        pipeline = make_pipeline(encoder, LogisticRegression(C=100, max_iter=500))
        model = SklearnModel(pipeline.fit(rows.train, rows.train[target]), rows.schema, ("no", "yes"))
        answers = model.predict_frame(rows.holdout[list(rows.schema.names)])
        board = pd.DataFrame({"id": ["lr"], "Model": ["Logistic Regression"]})
        return Candidate(model, answers, "Logistic Regression", board, learnt=250)


@pytest.fixture(scope="module")
def rows() -> TrainingRows:
    """300 rows, in no order."""
    known = KnownRows(_frame(300, 1).assign(request_id=""), SCHEMA, ordered=False)
    return share_out(known, known.frame.head(0), "y", SharingRule(seed=1))


def test_the_first_challenger_passes(rows: TrainingRows) -> None:
    """Without a champion the candidate passes, scored on the held-out rows."""
    candidate, gate = train_challenger(rows, "y", QuickTrainer(), champion=None, max_recall_drop=0.05)
    right = [a.label == truth for a, truth in zip(candidate.holdout_answers, rows.holdout["y"], strict=True)]
    assert gate.passed
    assert (gate.challenger.rows, gate.challenger.accuracy) == (90, pytest.approx(np.mean(right)))


def test_a_champion_is_judged_on_the_same_rows(rows: TrainingRows) -> None:
    """Champion and challenger answer the same held-out rows; one that knows less loses."""
    weak, _ = train_challenger(rows, "y", QuickTrainer(("flag",)), champion=None, max_recall_drop=0.05)
    strong, gate = train_challenger(rows, "y", QuickTrainer(), champion=weak.model, max_recall_drop=0.05)
    assert gate.champion is not None
    assert gate.champion.rows == gate.challenger.rows == 90
    assert gate.passed
    _, gate = train_challenger(rows, "y", QuickTrainer(("flag",)), champion=strong.model, max_recall_drop=0.05)
    assert not gate.passed


def test_a_champion_of_other_features_is_asked_with_what_there_is(rows: TrainingRows) -> None:
    """A champion that takes its features in another order is asked in its own."""
    first, _ = train_challenger(rows, "y", QuickTrainer(), champion=None, max_recall_drop=0.05)
    turned = SklearnModel(first.model.pipeline, FeatureSchema(SCHEMA.features[::-1]), first.model.classes)
    _, gate = train_challenger(rows, "y", QuickTrainer(), champion=turned, max_recall_drop=0.05)
    assert gate.champion is not None
    assert gate.champion.accuracy == gate.challenger.accuracy


@pytest.fixture
def logged(registry: Registry, rows: TrainingRows) -> tuple[str, str]:
    """Run id and model URI of a training that was logged."""
    candidate, gate = train_challenger(rows, "y", QuickTrainer(), champion=None, max_recall_drop=0.05)
    with mlflow.start_run() as run:
        model_uri, compiled = log_training(rows, "y", candidate, gate, {"dataset": "here"}, for_use=True)
    assert compiled is not None
    return run.info.run_id, model_uri


def test_a_training_leaves_what_a_later_check_needs(
    logged: tuple[str, str], rows: TrainingRows, registry: Registry
) -> None:
    """The run holds the snapshot, the profile of what was learnt, the baseline, and a model that loads and answers."""
    run_id, uri = logged
    pd.testing.assert_frame_equal(read_snapshot(run_id), rows.snapshot)
    profile = read_profile(run_id).columns
    assert isinstance(profile["colour"], CategoricalProfile)
    assert isinstance(profile["flag"], NumericProfile)
    assert profile["colour"].rows == profile["flag"].rows == 250
    baseline = share_of(read_metrics(run_id), "holdout")
    assert baseline is not None
    assert baseline.value > 0.8
    loaded = registry.load(registry.register(run_id, uri, {})).model
    assert (loaded.schema, loaded.classes) == (SCHEMA, ("no", "yes"))
    answers = loaded.predict([[2.0, "red", True], [-2.0, "green", False]])
    assert [answer.label for answer in answers] == ["yes", "no"]


def _served(registry: Registry, runtime: Runtime, settings: Settings) -> Catalog:
    return Catalog(registry, runtime, ModelCache(settings.crossfade_home / f"copies-{runtime}"))


def test_a_router_gets_the_compiled_form(logged: tuple[str, str], registry: Registry, settings: Settings) -> None:
    """With `auto` and with `onnx` a version is loaded in its compiled form, which answers like the pipeline."""
    version = registry.register(*logged, {})
    trained = registry.load(version).model
    rows = [[size / 10, colour, flag] for size in range(-30, 30) for colour in ("red", "green") for flag in (0.0, 1.0)]
    assert trained.tier == "pipeline"
    for runtime in ("auto", "onnx"):
        compiled = _served(registry, runtime, settings).load(version).model
        assert compiled.tier == "plain"
        assert (compiled.schema, compiled.classes) == (trained.schema, trained.classes)
        for found, expected in zip(compiled.predict(rows), trained.predict(rows), strict=True):
            assert (found.label, found.probability) == (expected.label, pytest.approx(expected.probability, abs=1e-5))


@pytest.mark.parametrize("broken", [True, False])
def test_without_a_compiled_form_the_pipeline_stands_in(
    logged: tuple[str, str], registry: Registry, settings: Settings, broken: bool
) -> None:
    """Where the compiled files are broken or missing, `auto` serves the pipeline, and `onnx` refuses the version."""
    version = registry.register(*logged, {})
    folder = Path(mlflow.get_run(version.run_id).info.artifact_uri.removeprefix("file://")) / COMPILED_FOLDER
    if broken:
        (folder / DESCRIPTION).write_text("{")
    else:
        shutil.rmtree(folder)
    assert _served(registry, "auto", settings).load(version).model.tier == "pipeline"
    with pytest.raises(ModelUnusable, match=r"version 1: .*MODEL_RUNTIME=onnx serves nothing else"):
        _served(registry, "onnx", settings).load(version)


def test_the_run_says_how_many_rows_it_knew(logged: tuple[str, str]) -> None:
    """The numbers that the policy's back-off reads later stand in the run."""
    metrics = mlflow.get_run(logged[0]).data.metrics
    assert (metrics["snapshot_rows"], metrics["holdout_rows"]) == (300, 90)


def test_a_run_without_scores_has_no_baseline(registry: Registry) -> None:
    """A run that somebody else made, or that is gone, does not tell how good its model was."""
    with mlflow.start_run() as run:
        pass
    assert share_of(read_metrics(run.info.run_id), "holdout") is None
    assert share_of(read_metrics("0" * 32), "holdout") is None
