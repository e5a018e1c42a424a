"""2. Who serves."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, dataclass, field
from pathlib import Path

import pytest

from crossfade.logreader import read_log
from crossfade.memorylog import MemoryRequestLog
from crossfade.model import Predictions
from crossfade.schema import FeatureSchema
from crossfade.serving.config import SplitConfig
from crossfade.serving.deployment import Arm, Deployment
from crossfade.serving.messages import PredictBody
from crossfade.serving.predictor import Predictor
from crossfade.serving.split import assign
from crossfade.version import LoadedModel, Version


@dataclass(frozen=True)
class PatientModel:
    """Answers when it is allowed to, and says when it was asked."""

    schema: FeatureSchema = field(default_factory=lambda: FeatureSchema.of_numbers("x"))
    asked: threading.Event = field(default_factory=threading.Event)
    allowed: threading.Event = field(default_factory=threading.Event)
    classes: tuple[int, ...] = (0,)

    def predict(self, rows: Sequence[Sequence[float]]) -> Predictions:
        self.asked.set()
        assert self.allowed.wait(120)
        return Predictions([0] * len(rows), [None] * len(rows))


@dataclass
class Holder:
    """Holds a deployment, as the reloader does."""

    current: Deployment


def _loaded(number: str, model: PatientModel | None = None) -> LoadedModel:
    return LoadedModel(Version(number, f"run-{number}", {}), model or PatientModel(), "digest")


def _deployment(prod: str, staging: str | None, model: PatientModel | None = None) -> Deployment:
    challenger = Arm("B", "staging", _loaded(staging)) if staging else None
    return Deployment("Wine", Arm("A", "prod", _loaded(prod, model)), challenger)


def test_experiment_is_named_by_model_and_both_versions() -> None:
    """The experiment id is `{model}-v{prod}-v{staging}`."""
    assert _deployment("3", "5").experiment_id == "Wine-v3-v5"


def test_without_staging_there_is_no_experiment() -> None:
    """A deployment of prod alone has no experiment id."""
    assert _deployment("3", None).experiment_id is None


def test_without_staging_prod_answers_everybody() -> None:
    """Without a challenger the arm is A for every user, whatever the split."""
    deployment = _deployment("3", None)
    assert {deployment.route(f"user-{i}", 1.0).variant for i in range(100)} == {"A"}


def test_the_experiment_id_seeds_the_split() -> None:
    """With a challenger a user's arm is what the split says for that experiment."""
    deployment = _deployment("3", "5")
    arms = [deployment.route(f"user-{i}", 0.3).variant for i in range(500)]
    assert arms == [assign("Wine-v3-v5", f"user-{i}", 0.3) for i in range(500)]


def test_a_new_pair_of_versions_shuffles_the_users() -> None:
    """Another challenger gets other users: about half of them change sides at a split of one half."""
    before, after = _deployment("3", "5"), _deployment("3", "6")
    moved = sum(before.route(f"user-{i}", 0.5).variant != after.route(f"user-{i}", 0.5).variant for i in range(1000))
    assert 400 < moved < 600


def test_arm_b_is_the_version_under_staging() -> None:
    """Who is on B is answered by staging's version under staging's alias."""
    arm = _deployment("3", "5").route("anybody", 1.0)
    assert (arm.variant, arm.alias, arm.version) == ("B", "staging", "5")


def test_a_deployment_cannot_be_changed() -> None:
    """What a request holds on to stays what it was: setting a part of it is an error."""
    with pytest.raises(FrozenInstanceError):
        _deployment("3", "5").staging = None  # type: ignore[misc]


def test_a_request_ends_on_the_deployment_it_began_with(tmp_path: Path) -> None:
    """When the deployment is swapped while a model computes, answer and log still name the version that computed."""
    model, log = PatientModel(), MemoryRequestLog()
    holder = Holder(_deployment("1", None, model))
    predictor = Predictor(holder, SplitConfig(tmp_path / "none.json", 0.5), log, 5)  # type: ignore[arg-type]
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(predictor.answer, PredictBody(features=[1.0]))
        assert model.asked.wait(120)
        holder.current = _deployment("2", "3")
        model.allowed.set()
        answered = answer.result()
    assert answered.arm.version == "1"
    assert read_log(log).rows["model_version"].tolist() == ["1"]
    assert answered.experiment_id is None
