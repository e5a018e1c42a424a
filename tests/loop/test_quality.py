"""Quality: recent answers against the rows held out at training."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from crossfade.loop.quality import check_quality
from crossfade.stats.proportions import Share, worse_share

BASELINE = Share.of(450, 500)


def _answers(right: int, rows: int, users: int | None = None) -> pd.DataFrame:
    """So many rows, the first ones right, of so many users in turn (one each when it is not said)."""
    return pd.DataFrame(
        {"unit": [f"u{i % (users or rows)}" for i in range(rows)], "correct": [i < right for i in range(rows)]}
    )


def test_a_fall_is_noticed() -> None:
    """Accuracy far below the baseline is `worse`, with both numbers and the p-value in the reason."""
    found = check_quality(_answers(200, 300), BASELINE, min_rows=100, alpha=0.01)
    assert (found.verdict, found.rows, found.baseline) == ("worse", 300, 0.9)
    assert found.accuracy == pytest.approx(2 / 3)
    assert "accuracy 0.667 on the newest 300 labels against 0.900 held out at training" in found.reason
    assert found.p_value is not None
    assert found.p_value < 1e-6


@pytest.mark.parametrize("right", [270, 264, 300])
def test_the_same_accuracy_or_better_is_as_good(right: int) -> None:
    """Equal accuracy, a fall that may be chance, and a rise are `as_good`."""
    assert check_quality(_answers(right, 300), BASELINE, min_rows=100, alpha=0.01).verdict == "as_good"


def test_alpha_is_the_callers() -> None:
    """The same fall is a verdict or not as alpha says."""
    p_value = worse_share(Share.of(255, 300), BASELINE)
    assert check_quality(_answers(255, 300), BASELINE, 100, alpha=p_value * 1.01).verdict == "worse"
    assert check_quality(_answers(255, 300), BASELINE, 100, alpha=p_value * 0.99).verdict == "as_good"


def test_too_few_labels_are_no_verdict() -> None:
    """Fewer labelled answers than needed are `insufficient_data`, not good; exactly enough are a verdict."""
    found = check_quality(_answers(0, 99), BASELINE, min_rows=100, alpha=0.01)
    assert (found.verdict, found.p_value, found.baseline) == ("insufficient_data", None, 0.9)
    assert found.reason == "99 labelled answers of prod's version; a verdict on its quality needs 100"
    assert check_quality(_answers(0, 100), BASELINE, min_rows=100, alpha=0.01).verdict == "worse"


def test_without_a_baseline_there_is_no_verdict() -> None:
    """A version that does not tell how good it was cannot have got worse."""
    found = check_quality(_answers(0, 500), None, min_rows=100, alpha=0.01)
    assert (found.verdict, found.rows, found.baseline) == ("insufficient_data", 500, None)


def test_no_answers_are_no_verdict() -> None:
    """An empty frame, as without traffic, is `insufficient_data`."""
    assert check_quality(pd.DataFrame({"unit": [], "correct": []}), BASELINE, 1, 0.01).verdict == "insufficient_data"


def test_rows_of_one_user_are_not_independent() -> None:
    """The same fall is surer when it is seen on many users than on three of them."""
    many = check_quality(_answers(250, 300), BASELINE, 100, 0.01)
    rows = pd.DataFrame({"unit": ["a"] * 125 + ["b"] * 125 + ["c"] * 50, "correct": [True] * 250 + [False] * 50})
    few = check_quality(rows, BASELINE, 100, 0.01)
    assert many.accuracy == few.accuracy
    assert many.p_value is not None
    assert few.p_value is not None
    assert many.p_value < 0.01 < few.p_value
    assert few.verdict == "as_good"


def test_any_index_will_do() -> None:
    """The rows' index, as left by a filter of the log, changes nothing."""
    answers = _answers(200, 300, users=50)
    shuffled = answers.set_index(np.random.default_rng(0).permutation(300))
    assert check_quality(shuffled, BASELINE, 100, 0.01) == check_quality(answers, BASELINE, 100, 0.01)


def test_the_false_alarm_rate_is_alphas() -> None:
    """When nothing got worse, an alarm at .05 is as rare as that.

    2000 checks of 200 answers against a baseline of 300, both of accuracy .9, one answer per user: 99.9 % of the time
    at most .066 (3.29 standard errors of .0049); the smoothed variance makes it rarer, not never.
    """
    rng = np.random.default_rng(5)
    alarms = 0
    for recent, held_out in zip(rng.binomial(200, 0.9, 2000), rng.binomial(300, 0.9, 2000), strict=True):
        alarms += worse_share(Share.of(int(recent), 200), Share.of(int(held_out), 300)) < 0.05
    assert 0.02 <= alarms / 2000 <= 0.066


def test_a_report_is_jsonable() -> None:
    """The report is plain JSON."""
    report = check_quality(_answers(200, 300), BASELINE, 100, 0.01).to_dict()
    assert json.loads(json.dumps(report)) == report
