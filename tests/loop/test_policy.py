"""What a drift verdict means, now."""

from __future__ import annotations

from typing import Any

import pytest

from crossfade.loop.drift import DriftReport
from crossfade.loop.policy import Situation, recommend

DRIFT = DriftReport("drift", 500, "a drifted")
STABLE = DriftReport("stable", 500, "nothing drifted")
SHORT = DriftReport("insufficient_data", 5, "5 live rows; a verdict needs 200")
NONE = DriftReport("no_reference", 0, "no version is in production")


def _situation(**changes: Any) -> Situation:
    values = {"drift": DRIFT, "prod_version": "1", "staging_version": None, "new_labeled": 100, "force": False}
    return Situation(**{**values, **changes})


def test_drift_and_labels_mean_retrain() -> None:
    """Drift and enough new labelled rows are a retraining, with both as reasons."""
    advice = recommend(_situation(), min_labeled=100)
    assert advice.decision == "retrain"
    assert advice.reasons[0] == "a drifted"
    assert "100 labelled rows" in advice.reasons[1]


def test_drift_alone_means_monitor() -> None:
    """Drift without enough new labels is only watched, and the reason says how many are needed."""
    advice = recommend(_situation(new_labeled=99), min_labeled=100)
    assert advice.decision == "monitor"
    assert "only 99 labelled rows are new; a retraining needs 100" in advice.reasons[1]


@pytest.mark.parametrize("drift", [STABLE, SHORT])
def test_no_drift_means_monitor(drift: DriftReport) -> None:
    """Without a drift verdict there is no retraining, however many labels came, and the reason is passed on."""
    advice = recommend(_situation(drift=drift, new_labeled=10_000), min_labeled=100)
    assert (advice.decision, advice.reasons) == ("monitor", (drift.reason,))


def test_no_model_means_the_first_training() -> None:
    """Without a version in production the first one is trained, whatever else is found."""
    advice = recommend(_situation(drift=NONE, prod_version=None, new_labeled=0), min_labeled=100)
    assert advice.decision == "retrain"
    assert "first" in advice.reasons[0]


def test_one_challenger_at_a_time() -> None:
    """While an experiment is open nothing is retrained, and the reason names its versions."""
    advice = recommend(_situation(staging_version="2"), min_labeled=100)
    assert advice.decision == "monitor"
    assert "version 2 is being tested against 1" in advice.reasons[0]


def test_staging_on_prods_version_is_no_experiment() -> None:
    """Staging on prod's own version holds no retraining up."""
    situation = _situation(staging_version="1")
    assert not situation.experiment_open
    assert recommend(situation, min_labeled=100).decision == "retrain"


@pytest.mark.parametrize("changes", [{"drift": STABLE}, {"drift": SHORT}, {"new_labeled": 0}, {"staging_version": "2"}])
def test_force_overrides(changes: dict[str, Any]) -> None:
    """force_retrain overrides a missing drift, missing labels and an open experiment."""
    advice = recommend(_situation(**changes, force=True), min_labeled=100)
    assert advice.decision == "retrain"
    assert "force_retrain" in advice.reasons[0]


def test_advice_is_a_dictionary_with_its_reasons() -> None:
    """The advice is written with decision and reasons."""
    assert recommend(_situation(drift=STABLE), 100).to_dict() == {
        "decision": "monitor",
        "reasons": ("nothing drifted",),
    }
