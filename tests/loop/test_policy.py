"""What drift and quality mean, now."""

from __future__ import annotations

from typing import Any

import pytest

from crossfade.loop.drift import DriftReport
from crossfade.loop.policy import Attempts, PolicyRule, Recommendation, Situation, recommend
from crossfade.loop.quality import QualityReport

DRIFT = DriftReport("drift", 500, "a drifted")
STABLE = DriftReport("stable", 500, "nothing drifted")
SHORT = DriftReport("insufficient_data", 5, "5 live rows; a verdict needs 200")
NONE = DriftReport("no_reference", 0, "no version is in production")
WORSE = QualityReport("worse", "accuracy fell", 300, 0.7, 0.9, 1e-9)
AS_GOOD = QualityReport("as_good", "accuracy held", 300, 0.9, 0.9, 0.5)
BROKEN = DriftReport("schema_broken", 500, "of 500 rows, a is in none: mend what sends them")
UNKNOWN = QualityReport("insufficient_data", "3 labelled answers", 3)


def _situation(**changes: Any) -> Situation:
    values = {
        "drift": DRIFT,
        "quality": AS_GOOD,
        "attempts": Attempts(),
        "prod_version": "1",
        "staging_version": None,
        "new_labeled": 100,
        "force": False,
    }
    return Situation(**{**values, **changes})


def _advice(situation: Situation, *triggers: str) -> Recommendation:
    """Ask for advice where 100 labels are enough; both triggers, when none is named."""
    return recommend(situation, PolicyRule(min_labeled=100, triggers=triggers or ("drift", "quality")))


def test_drift_and_labels_mean_retrain() -> None:
    """Drift and enough new labelled rows are a retraining; drift, quality and labels are its reasons."""
    advice = _advice(_situation())
    assert advice.decision == "retrain"
    assert advice.reasons[:2] == ("a drifted", "accuracy held")
    assert "100 labelled rows" in advice.reasons[2]


def test_drift_alone_means_monitor() -> None:
    """Drift without enough new labels is only watched, and the reason says how many are needed."""
    advice = _advice(_situation(new_labeled=99))
    assert advice.decision == "monitor"
    assert "only 99 labelled rows are new; a retraining needs 100" in advice.reasons[-1]


@pytest.mark.parametrize("drift", [STABLE, SHORT])
@pytest.mark.parametrize("quality", [AS_GOOD, UNKNOWN])
def test_neither_drift_nor_lost_quality_means_monitor(drift: DriftReport, quality: QualityReport) -> None:
    """Without either verdict there is no retraining, however many labels came, and both reasons are passed on."""
    advice = _advice(_situation(drift=drift, quality=quality, new_labeled=10_000))
    assert (advice.decision, advice.reasons) == ("monitor", (drift.reason, quality.reason))


@pytest.mark.parametrize("drift", [STABLE, SHORT])
def test_lost_quality_alone_means_retrain(drift: DriftReport) -> None:
    """A rule that changed under stable inputs is a retraining, with the fall in quality as a reason."""
    advice = _advice(_situation(drift=drift, quality=WORSE))
    assert advice.decision == "retrain"
    assert "accuracy fell" in advice.reasons


def test_lost_quality_without_labels_means_monitor() -> None:
    """Quality that fell on labels which prod has learnt already gives nothing to learn."""
    assert _advice(_situation(drift=STABLE, quality=WORSE, new_labeled=99)).decision == "monitor"


@pytest.mark.parametrize(
    ("trigger", "drift", "quality", "decision"),
    [
        ("drift", DRIFT, AS_GOOD, "retrain"),
        ("drift", STABLE, WORSE, "monitor"),
        ("quality", DRIFT, AS_GOOD, "monitor"),
        ("quality", STABLE, WORSE, "retrain"),
    ],
)
def test_only_the_triggers_asked_for_count(
    trigger: str, drift: DriftReport, quality: QualityReport, decision: str
) -> None:
    """Where only drift, or only quality, is to call for a retraining, the other one does not."""
    assert _advice(_situation(drift=drift, quality=quality), trigger).decision == decision


def test_an_empty_reason_is_left_out() -> None:
    """A quality report without a sentence adds no empty reason."""
    silent = QualityReport("insufficient_data", "", 0)
    assert _advice(_situation(drift=STABLE, quality=silent)).reasons == ("nothing drifted",)


def test_no_model_means_the_first_training() -> None:
    """Without a version in production the first one is trained, whatever else is found."""
    advice = _advice(_situation(drift=NONE, prod_version=None, new_labeled=0))
    assert advice.decision == "retrain"
    assert "first" in advice.reasons[0]


def test_one_challenger_at_a_time() -> None:
    """While an experiment is open nothing is retrained, and the reason names its versions."""
    advice = _advice(_situation(quality=WORSE, staging_version="2"))
    assert advice.decision == "monitor"
    assert "version 2 is being tested against 1" in advice.reasons[-1]


def test_staging_on_prods_version_is_no_experiment() -> None:
    """Staging on prod's own version holds no retraining up."""
    situation = _situation(staging_version="1")
    assert not situation.experiment_open
    assert _advice(situation).decision == "retrain"


@pytest.mark.parametrize(
    "changes",
    [
        {"drift": STABLE},
        {"drift": SHORT},
        {"new_labeled": 0},
        {"staging_version": "2"},
        {"attempts": Attempts(rejected=9, untried=0)},
    ],
)
def test_force_overrides(changes: dict[str, Any]) -> None:
    """force_retrain overrides a missing drift, missing labels, an open experiment and the back-off."""
    advice = _advice(_situation(**changes, force=True))
    assert advice.decision == "retrain"
    assert "force_retrain" in advice.reasons[-1]


@pytest.mark.parametrize(
    ("rejected", "needed"), [(0, 100), (1, 200), (2, 400), (3, 800), (6, 6400), (7, 6400), (5000, 6400)]
)
def test_every_rejected_challenger_doubles_the_wait(rejected: int, needed: int) -> None:
    """Each challenger rejected since the last promotion doubles the labels that the next one needs, 64-fold at most."""
    for untried, decision in ((needed - 1, "monitor"), (needed, "retrain")):
        attempts = Attempts(rejected, untried)
        advice = _advice(_situation(attempts=attempts, new_labeled=max(100, untried)))
        assert advice.decision == (decision if rejected else "retrain")


def test_the_wait_is_explained() -> None:
    """Who waits is told how many were rejected, what is needed and what came."""
    advice = _advice(_situation(attempts=Attempts(2, 150), new_labeled=500))
    assert advice.reasons[-1] == "2 challengers in a row were rejected: the next needs 400 new labels, 150 came"


def test_a_fall_in_quality_since_the_last_attempt_ends_the_wait() -> None:
    """When prod got worse after the last rejected challenger, the next is tried on RETRAIN_MIN_LABELED rows."""
    situation = _situation(quality=WORSE, attempts=Attempts(rejected=6, untried=0, worse_since=True))
    assert _advice(situation).decision == "retrain"


def test_a_fall_since_the_last_attempt_still_needs_labels() -> None:
    """Without RETRAIN_MIN_LABELED new rows nothing is tried, however bad it got."""
    attempts = Attempts(rejected=6, untried=0, worse_since=True)
    assert _advice(_situation(quality=WORSE, attempts=attempts, new_labeled=99)).decision == "monitor"


def test_advice_is_a_dictionary_with_its_reasons() -> None:
    """The advice is written with decision and reasons."""
    assert _advice(_situation(drift=STABLE, quality=UNKNOWN)).to_dict() == {
        "decision": "monitor",
        "reasons": ("nothing drifted", "3 labelled answers"),
    }


def test_a_broken_schema_blocks() -> None:
    """What a broken sender sends is not learnt, even while quality falls; the reason says how to do it all the same."""
    advice = _advice(_situation(drift=BROKEN, quality=WORSE, trained_hours_ago=9999.0))
    assert advice.decision == "block"
    assert advice.reasons[0] == BROKEN.reason
    assert "force_retrain overrides" in advice.reasons[-1]


def test_a_broken_schema_is_told_while_a_challenger_is_tested() -> None:
    """A broken schema is worth a pager, experiment or not."""
    assert _advice(_situation(drift=BROKEN, staging_version="2")).decision == "block"


def test_force_overrides_a_broken_schema() -> None:
    """Whoever asks for a retraining gets it, and is told what was found."""
    advice = _advice(_situation(drift=BROKEN, force=True))
    assert (advice.decision, advice.reasons[0]) == ("retrain", BROKEN.reason)


def test_the_cool_down_is_waited_for() -> None:
    """Within the cool-down after a challenger was trained no other is, and the reason says how long it takes."""
    advice = _advice(_situation(trained_hours_ago=0.4))
    assert advice.decision == "monitor"
    assert "a challenger was trained 0.4 hours ago: the next may be in 0.6 hours" in advice.reasons[-1]
    assert _advice(_situation(trained_hours_ago=1.0)).decision == "retrain"


def test_the_first_version_needs_no_cool_down() -> None:
    """The first version is no challenger: drift that is there at once is answered at once."""
    assert _advice(_situation(trained_hours_ago=0.1, is_first=True)).decision == "retrain"


def test_force_overrides_the_cool_down() -> None:
    """force_retrain does not wait."""
    assert _advice(_situation(trained_hours_ago=0.1, force=True)).decision == "retrain"


def test_new_labels_are_learnt_in_the_end() -> None:
    """After 30 days without a training new labels are learnt, though nothing calls for it; not a day earlier."""
    calm = {"drift": STABLE, "quality": AS_GOOD}
    advice = _advice(_situation(**calm, trained_hours_ago=30 * 24.0))
    assert advice.decision == "retrain"
    assert "the last training was 30 days ago" in advice.reasons
    assert _advice(_situation(**calm, trained_hours_ago=29 * 24.0)).decision == "monitor"
    assert _advice(_situation(**calm, trained_hours_ago=30 * 24.0, new_labeled=99)).decision == "monitor"


def test_age_may_be_no_reason() -> None:
    """RETRAIN_MAX_AGE_DAYS=0 never retrains for age."""
    old = _situation(drift=STABLE, trained_hours_ago=1e6)
    assert recommend(old, PolicyRule(max_age_days=0)).decision == "monitor"
