"""Power: against the textbook, and against experiments that are simulated."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf, sqrt

import pytest
from scipy import stats

from crossfade.loop.evaluate import EvaluationRule
from crossfade.loop.gates import GateName
from crossfade.planning.power import Need, Situation, plan
from crossfade.planning.simulate import Traffic, simulate

RULE = EvaluationRule(max_days=inf, max_labeled=10**9)
NEWS = Situation(0.9, 0.5, 400.0)


def need(gate: GateName, situation: Situation, difference: float, rule: EvaluationRule = RULE, q: float = 0.8) -> Need:
    (found,) = plan(situation, rule, (difference,), q).of(gate)
    return found


@pytest.mark.parametrize("difference", [0.01, 0.02, 0.05])
@pytest.mark.parametrize("accuracy", [0.6, 0.75, 0.9])
@pytest.mark.parametrize("split", [0.5, 0.2])
def test_chi2_is_as_the_textbook_says(difference: float, accuracy: float, split: float) -> None:
    """Fleiss, Tytun and Ury's formula for two proportions, with the continuity correction."""
    a, b, r = accuracy, accuracy + difference, split / (1 - split)
    mean = (a + r * b) / (1 + r)
    z_alpha, z_beta = stats.norm.ppf([0.975, 0.8])
    root = z_alpha * sqrt((r + 1) * mean * (1 - mean)) + z_beta * sqrt(r * a * (1 - a) + b * (1 - b))
    plain = root**2 / (r * difference**2)
    corrected = plain / 4 * (1 + sqrt(1 + 2 * (r + 1) / (plain * r * difference))) ** 2
    found = need("chi2", Situation(accuracy, split, 100.0), difference)
    assert found.rows == pytest.approx(corrected * (1 + r), rel=0.15 if split != 0.5 else 0.04)
    assert found.rows is not None
    assert found.days == -(-found.rows // 100)


def test_chi2_has_its_power() -> None:
    """One look at as many rows as planned promotes 80 % of such experiments."""
    rows = need("chi2", NEWS, 0.05).rows
    assert rows is not None
    found = simulate(Traffic(rows_per_day=rows, days=1, difference=0.05), RULE, 600, processes=2)["chi2"]
    assert found.share()[0] == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize(
    ("gate", "traffic", "experiments"),
    [
        ("anytime", Traffic(rows_per_day=60, days=45, difference=0.05), 200),
        ("anytime", Traffic(rows_per_day=200, days=35, accuracy=0.8, difference=0.05, split=0.2), 150),
        ("anytime", Traffic(rows_per_day=200, days=21, difference=0.05, rows_per_user=10, icc=0.1), 150),
        ("paired", Traffic(rows_per_day=20, days=18, difference=0.05), 250),
        ("paired", Traffic(rows_per_day=150, days=15, accuracy=0.75, difference=0.03, agreement=0.9), 200),
    ],
)
def test_daily_looks_are_as_simulated(gate: GateName, traffic: Traffic, experiments: int) -> None:
    """By the planned rows, half (or 80 %) of the simulated experiments are promoted: within 25 %."""
    simulated = simulate(traffic, RULE, experiments, seed=3, processes=2)[gate]
    situation = Situation(
        traffic.accuracy,
        traffic.split,
        float(traffic.rows_per_day),
        traffic.agreement,
        traffic.rows_per_user,
        traffic.icc,
    )
    for quantile in (0.5, 0.8):
        rows = need(gate, situation, traffic.difference, q=quantile).rows
        assert rows == pytest.approx(simulated.until_promoted(quantile, "rows")[0], rel=0.25)


def test_without_traffic_days_are_unknown() -> None:
    """Labelled requests are known all the same, and fewer than with daily looks."""
    found = need("anytime", replace(NEWS, rows_per_day=None), 0.05)
    daily = need("anytime", NEWS, 0.05)
    assert found.days is None
    assert found.rows is not None
    assert daily.rows is not None
    assert daily.rows - 400 <= found.rows <= daily.rows


def test_what_makes_it_harder_takes_longer() -> None:
    """Fewer users on B, clustered users (but for one outcome per user), and models that disagree cost rows."""

    def rows(gate: GateName, situation: Situation, rule: EvaluationRule = RULE) -> int:
        found = need(gate, replace(situation, rows_per_day=50.0), 0.02, rule).rows
        assert found is not None
        return found

    assert rows("anytime", replace(NEWS, split=0.1)) > 1.5 * rows("anytime", NEWS)
    assert rows("paired", replace(NEWS, agreement=0.85)) > 1.5 * rows("paired", NEWS)
    clustered = replace(NEWS, rows_per_user=11.0, icc=0.1)
    assert rows("anytime", clustered) > 1.8 * rows("anytime", NEWS)
    assert rows("chi2", clustered, replace(RULE, one_per_user=True)) == pytest.approx(11 * rows("chi2", NEWS), rel=0.01)


def test_what_cannot_be_is_said() -> None:
    """An accuracy above 1, a difference that the rule does not count, an arm without users."""
    assert need("chi2", replace(NEWS, accuracy=0.97), 0.05).note == "accuracy above 1"
    assert need("paired", NEWS, 0.01, replace(RULE, min_delta_accuracy=0.02)).note == "below AB_MIN_DELTA_ACC"
    assert need("anytime", replace(NEWS, split=0.0), 0.05).rows is None
    assert need("chi2", replace(NEWS, accuracy=0.995), 0.004).rows is not None


def test_limits_that_come_first_are_said() -> None:
    """The limits of the experiment are named where they end it before its time."""
    assert need("anytime", NEWS, 0.02, EvaluationRule(max_labeled=1000)).note == "AB_MAX_LABELED first"
    assert need("anytime", NEWS, 0.02, EvaluationRule(max_days=5.0, max_labeled=10**6)).note == "AB_MAX_DAYS first"
    assert need("anytime", NEWS, 0.02).note == ""


def test_a_plan_is_told_and_kept() -> None:
    """Its lines name every gate, the one that decides, and what was measured; its dictionary is JSON."""
    made = plan(replace(NEWS, measured=("accuracy",)), EvaluationRule(test="paired"))
    head, *gates = made.lines()
    assert "90.0%" in head
    assert "measured: accuracy" in head
    assert [line.split(":")[0] for line in gates] == ["chi2", "anytime", "paired (decides)"]
    assert all(word in gates[0] for word in ("+1%", "+2%", "+5%", "days", "AB_MAX_LABELED first"))
    kept = json.loads(json.dumps(made.to_dict()))
    assert kept["deciding"] == "paired"
    assert len(kept["needs"]) == 9
    assert kept["situation"]["rows_per_day"] == 400
