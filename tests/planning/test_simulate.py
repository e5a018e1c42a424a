"""Simulated experiments: the rows are as asked for, and the production functions judge them."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import pandas as pd
import pytest

from crossfade.logreader import LogContents
from crossfade.loop.evaluate import EvaluationRule, Experiment, evaluate
from crossfade.loop.pairing import Pairs
from crossfade.planning.observe import intra_class_correlation
from crossfade.planning.simulate import GATES, Ending, Endings, Rows, Traffic, draw, judge_daily, simulate
from crossfade.stats.arms import design_effect

RULE = EvaluationRule(max_days=inf, max_labeled=10**9)
LARGE = Traffic(rows_per_day=40_000, days=5, split=0.3, accuracy=0.85, difference=0.03)


def drawn(traffic: Traffic, seed: int = 1) -> Rows:
    return draw(traffic, np.random.default_rng(seed))


def test_the_shares_are_as_asked() -> None:
    """Accuracies, split, agreement and rows a day are those asked for."""
    rows = drawn(LARGE)
    assert len(rows.day) == 200_000
    assert np.bincount(rows.day).tolist() == [40_000] * 5
    assert rows.a_right.mean() == pytest.approx(0.85, abs=0.004)
    assert rows.b_right.mean() == pytest.approx(0.88, abs=0.004)
    assert rows.is_b.mean() == pytest.approx(0.3, abs=0.005)
    assert (rows.a_right == rows.b_right).mean() == pytest.approx(0.95, abs=0.003)
    assert rows.correct[rows.is_b].mean() == pytest.approx(0.88, abs=0.006)


def test_users_are_as_asked() -> None:
    """Both arms' answers are correlated within users, whose number of rows is as asked, and who keep their arm."""
    rows = drawn(replace(LARGE, rows_per_user=20, icc=0.1, days=20, rows_per_day=10_000))
    for right, accuracy in ((rows.a_right, 0.85), (rows.b_right, 0.88)):
        frame = pd.DataFrame({"unit": rows.unit, "correct": right})
        assert intra_class_correlation(frame) == pytest.approx(0.1, abs=0.01)
        assert right.mean() == pytest.approx(accuracy, abs=0.006)
    assert (rows.a_right == rows.b_right).mean() == pytest.approx(0.95, abs=0.005)
    by_user = pd.DataFrame({"unit": rows.unit, "day": rows.day, "is_b": rows.is_b}).groupby("unit")
    within = by_user["day"].agg(["min", "max", "size"])
    whole = within[(within["min"] >= 1) & (within["min"] <= 13)]  # cut off neither by the first day nor by the last
    assert whole["size"].mean() == pytest.approx(20, abs=1.5)
    assert len(rows.day) == pytest.approx(200_000, rel=0.02)
    assert within.eval("max > min").mean() > 0.9, "users come back"
    assert by_user["is_b"].nunique().max() == 1


def test_users_have_their_taste() -> None:
    """Which model is right where they differ can depend on the user, without a change of accuracy or agreement."""
    rows = drawn(replace(LARGE, rows_per_user=20, taste=0.8, days=20, rows_per_day=10_000))
    assert rows.a_right.mean() == pytest.approx(0.85, abs=0.006)
    assert rows.b_right.mean() == pytest.approx(0.88, abs=0.006)
    differ = rows.a_right != rows.b_right
    assert differ.mean() == pytest.approx(0.05, abs=0.003)
    frame = pd.DataFrame({"unit": rows.unit[differ], "correct": rows.b_right[differ]})
    assert intra_class_correlation(frame) == pytest.approx(0.8, abs=0.03)


def test_accuracy_drifts_and_the_split_is_raised() -> None:
    """Both accuracies go down in a straight line; the split follows the ramp, and users only ever join B."""
    traffic = replace(LARGE, difference=0.0, ramp=(0.05, 0.05, 0.5), last_accuracy=0.1, rows_per_user=5)
    rows = drawn(traffic)
    by_day = pd.DataFrame({"day": rows.day, "a": rows.a_right, "b": rows.b_right, "split": rows.split}).groupby("day")
    assert np.allclose(by_day["a"].mean(), np.linspace(0.85, 0.1, 5), atol=0.01)
    assert np.allclose(by_day["b"].mean(), np.linspace(0.85, 0.1, 5), atol=0.01)
    assert by_day["split"].first().tolist() == [0.05, 0.05, 0.5, 0.5, 0.5]
    order = np.argsort(rows.unit, kind="stable")
    same_user = np.diff(rows.unit[order]) == 0
    assert (np.diff(rows.is_b[order].astype(int))[same_user] >= 0).all()


def test_impossible_traffic_is_refused() -> None:
    """Accuracies outside (0, 1) are a mistake of the caller."""
    with pytest.raises(ValueError, match="both lie in"):
        Traffic(accuracy=0.98, difference=0.03)


@pytest.mark.parametrize("one_per_user", [False, True])
def test_a_look_is_that_of_evaluate(one_per_user: bool) -> None:
    """A look at simulated rows says what `evaluate` says of the same rows in a log."""
    rule = replace(RULE, one_per_user=one_per_user, max_days=3.0)
    rows = drawn(Traffic(rows_per_day=300, days=3, difference=0.02, rows_per_user=3, icc=0.1, ramp=(0.2, 0.5)))
    counted = rows.of(np.sort(np.unique(rows.unit, return_index=True)[1])) if one_per_user else rows
    log = pd.DataFrame(
        {
            "ts_utc": pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(rows.day * 1.5, unit="D"),
            "request_id": np.arange(len(rows.day)).astype(str),
            "user_id": rows.unit.astype(str),
            "experiment_id": "m-v1-v2",
            "variant": np.where(rows.is_b, "B", "A"),
            "model_version": np.where(rows.is_b, "2", "1"),
            "ab_split_b": rows.split,
            "label": "yes",
            "prediction": np.where(rows.correct, "yes", "no"),
            "latency_ms": 1.0,
            "status": 200,
        }
    )
    pairs = Pairs(
        len(counted.day),
        int((counted.a_right & ~counted.b_right).sum()),
        int((counted.b_right & ~counted.a_right).sum()),
        design_effect(counted.b_right.astype(int) - counted.a_right, counted.unit),
    )
    for gate in GATES:
        mine = judge_daily(rows, rule, looks=(3,))[gate]
        asked = replace(rule, test=gate)
        expected = evaluate(LogContents(log, 0), Experiment("m-v1-v2", "1", "2"), asked, pairs=pairs)
        assert mine.verdict == expected.verdict
        assert mine.rows == sum(arm.labeled for arm in expected.arms.values())


def test_a_better_model_is_promoted_soon() -> None:
    """Three points are seen by all gates, soonest by `paired`."""
    found = simulate(Traffic(difference=0.03), RULE, experiments=20)
    days = {gate: found[gate].until_promoted(0.5)[0] for gate in GATES}
    assert days["paired"] <= 2
    assert days["paired"] < days["anytime"] <= 9


def test_the_same_model_is_seldom_promoted() -> None:
    """Twenty looks at the same model: the two gates made for it stay below their level (with room for chance)."""
    found = simulate(Traffic(days=20), RULE, experiments=60, processes=2)
    for gate in ("anytime", "paired"):
        assert found[gate].share()[0] <= 0.1


def test_the_outcome_depends_on_the_seed_only() -> None:
    """The same seed gives the same endings, whatever the number of processes, and every one is told of."""
    told: list[int] = []
    traffic = Traffic(days=3, difference=0.02)
    alone = simulate(traffic, RULE, 25, seed=4, tick=told.append)
    assert alone == simulate(traffic, RULE, 25, seed=4, processes=2)
    assert alone != simulate(traffic, RULE, 25, seed=5)
    assert sum(told) == 25


def test_a_broken_split_is_never_promoted() -> None:
    """Users shared out otherwise than the log says: `invalid`, however much better B is."""
    traffic = Traffic(rows_per_day=20_000, days=2, difference=0.05, true_split=0.45)
    for endings in simulate(traffic, RULE, 5).values():
        assert {ending.verdict for ending in endings.endings} == {"invalid"}


def test_an_experiment_without_a_verdict_is_given_up() -> None:
    """The limits of time and size end it, as in `evaluate`."""
    timed = simulate(Traffic(days=10), replace(RULE, max_days=4.0), 10)["anytime"]
    assert {ending.day for ending in timed.endings if ending.verdict == "reject"} >= {4}
    sized = simulate(Traffic(days=10), replace(RULE, max_labeled=300), 10)["paired"]
    assert max(ending.day for ending in sized.endings) == 2


def test_days_to_promotion_count_those_never_promoted() -> None:
    """The median is over all experiments: it is never when fewer than half of them are promoted."""
    endings = Endings(tuple(Ending("promote", day, 10 * day) for day in range(1, 41)) + (Ending("keep", 90, 900),) * 60)
    assert endings.until_promoted(0.5)[0] == inf
    found, low, high = endings.until_promoted(0.25, "rows")
    assert low < found == 250 < high < 400
    assert endings.share()[0] == 0.4
