"""Two arms over strata: Cochran-Mantel-Haenszel and the clustered difference, against independent recounts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from crossfade.stats.arms import Stratum, design_effect, difference, stratified_test


def _cmh(strata: list[Stratum]) -> float:
    """p of Cochran-Mantel-Haenszel with continuity correction, by its formula (Agresti, Categorical Data Analysis)."""
    excess = variance = 0.0
    for s in strata:
        n, right = s.rows_a + s.rows_b, s.correct_a + s.correct_b
        if not (s.rows_a and s.rows_b):
            continue
        excess += s.correct_a - s.rows_a * right / n
        variance += s.rows_a * s.rows_b * right * (n - right) / (n**2 * (n - 1))
    return float(stats.chi2.sf((abs(excess) - 0.5) ** 2 / variance, 1))


@st.composite
def _strata(draw: st.DrawFn) -> list[Stratum]:
    found = []
    for _ in range(draw(st.integers(2, 5))):
        rows_a, rows_b = draw(st.integers(5, 500)), draw(st.integers(5, 500))
        found.append(Stratum(0.5, rows_a, draw(st.integers(1, rows_a - 1)), rows_b, draw(st.integers(1, rows_b - 1))))
    return found


@given(_strata())
def test_several_strata_are_cmh(strata: list[Stratum]) -> None:
    """Over several strata the p-value is Cochran-Mantel-Haenszel's."""
    found = stratified_test(strata)
    assert found is not None
    assert found.p_value == pytest.approx(_cmh(strata), rel=1e-9, abs=1e-12)


@given(_strata())
def test_one_stratum_is_chi_square(strata: list[Stratum]) -> None:
    """Over one stratum it is scipy's chi-square; a stratum without B changes nothing."""
    s = strata[0]
    table = [[s.correct_a, s.rows_a - s.correct_a], [s.correct_b, s.rows_b - s.correct_b]]
    found = stratified_test([s, Stratum(0.0, 100, 50, 0, 0)])
    assert found is not None
    assert found.p_value == pytest.approx(stats.chi2_contingency(table).pvalue, rel=1e-12)


@pytest.mark.parametrize("strata", [[], [Stratum(0, 9, 5, 0, 0)], [Stratum(0.5, 9, 9, 9, 9), Stratum(0.2, 9, 9, 9, 9)]])
def test_nothing_to_tell_apart(strata: list[Stratum]) -> None:
    """No rows, one arm, or everything right: no test."""
    assert stratified_test(strata) is None


def _rows(seed: int, users: int, per_user: int, shift: float = 0.0) -> tuple[np.ndarray, ...]:
    """Users whose rows resemble each other, in two strata of different accuracy."""
    rng = np.random.default_rng(seed)
    is_b = rng.random(users) < 0.4
    skill = np.clip(0.7 + 0.2 * rng.standard_normal(users) + shift * is_b, 0.02, 0.98)
    stratum = rng.integers(0, 2, users)
    right = rng.random((users, per_user)) < np.clip(skill - 0.1 * stratum, 0, 1)[:, None]
    unit = np.repeat(np.arange(users), per_user)
    return stratum[unit], is_b[unit], right.reshape(-1), unit


def test_independent_rows_have_the_usual_variance() -> None:
    """One row per user and one stratum: the difference of two shares, and its variance as in any textbook."""
    _, is_b, right, unit = _rows(1, 4000, 1)
    found = difference(np.zeros(4000, int), is_b, right, unit)
    assert found is not None
    p, q, a, b = right[~is_b].mean(), right[is_b].mean(), (~is_b).sum(), is_b.sum()
    assert found.value == pytest.approx(q - p)
    assert found.variance == pytest.approx(p * (1 - p) / a + q * (1 - q) / b, rel=5e-3)
    assert found.rows == 4000


def test_clustered_variance_is_what_simulation_says() -> None:
    """With 20 alike rows per user the variance is that of the estimates over many experiments, and not the rows'."""
    found = [difference(*_rows(seed, 300, 20)) for seed in range(400)]
    values, variances = zip(*((f.value, f.variance) for f in found if f is not None), strict=True)
    assert np.mean(variances) == pytest.approx(np.var(values), rel=0.2)
    naive = 0.7 * 0.3 * (1 / (180 * 20) + 1 / (120 * 20))
    assert np.mean(variances) > 3 * naive


def test_strata_keep_a_change_over_time_out() -> None:
    """While the split rises and accuracy falls for both, equal arms have no difference; thrown together they have."""
    rng = np.random.default_rng(3)
    stratum = np.repeat([0, 1], 20_000)
    is_b = rng.random(40_000) < np.where(stratum == 0, 0.1, 0.9)
    right = rng.random(40_000) < np.where(stratum == 0, 0.9, 0.3)
    unit = np.arange(40_000)
    within, together = difference(stratum, is_b, right, unit), difference(np.zeros_like(stratum), is_b, right, unit)
    assert within is not None
    assert together is not None
    assert abs(within.value) < 0.03
    assert together.value < -0.4


def test_a_stratum_with_one_arm_is_left_out() -> None:
    """Rows from before B was shown say nothing of the difference."""
    stratum = np.array([0] * 50 + [1] * 40)
    is_b = np.array([False] * 50 + [False, True] * 20)
    right = np.array([True] * 50 + [False, True] * 20)
    found = difference(stratum, is_b, right, np.arange(90))
    assert found is not None
    assert (found.value, found.rows) == (1.0, 40)
    assert found.variance > 0  # as if a few more had been wrong
    assert difference(stratum[:50], is_b[:50], right[:50], np.arange(50)) is None
    assert difference(np.array([], int), np.array([], bool), np.array([], bool), np.array([], int)) is None


def test_the_design_effect_is_what_simulation_says() -> None:
    """The mean of alike rows varies as that of so many times fewer independent ones."""
    rng, means, effects = np.random.default_rng(2), [], []
    for _ in range(500):
        taste = rng.choice([-0.6, 0.0, 0.6], 200)
        lead = np.sign(rng.uniform(-1, 1, (200, 15)) + taste[:, None]).astype(int)
        means.append(lead.mean())
        effects.append(design_effect(lead.reshape(-1), np.repeat(np.arange(200), 15)))
    assert np.mean(effects) == pytest.approx(np.var(means) * 3000 / 1.0, rel=0.25)  # a sign has variance 1


def test_no_resemblance_is_no_design_effect() -> None:
    """One row per user, rows without variance, and no rows have a design effect of 1, or just above."""
    lead = np.random.default_rng(3).integers(-1, 2, 1000)
    assert design_effect(lead, np.arange(1000)) == pytest.approx(1, rel=2e-3)
    assert design_effect(np.zeros(10, int), np.arange(10)) == 1
    assert design_effect(np.array([], int), np.array([], int)) == 1
    assert design_effect(np.array([1, -1]), np.array([0, 0])) == 1
