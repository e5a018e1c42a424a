"""E-values against independent numbers: the integrals that they stand for, and simulation."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad

from crossfade.stats.sequential import Evidence, anytime, paired


def _by_integral(difference: float, variance: float, rows: int, alpha: float) -> float:
    """E of `anytime`: the likelihood ratio of a shift, averaged over a half-normal prior of shifts."""
    z = difference / np.sqrt(variance)
    rho = np.sqrt((-2 * np.log(2 * alpha) + np.log(1 - 2 * np.log(2 * alpha))) / 5000)

    def ratio(shift: float) -> float:
        return float(np.exp(shift * z * np.sqrt(rows) - rows * shift**2 / 2) * 2 * stats.norm.pdf(shift / rho) / rho)

    peak = max(z / np.sqrt(rows), 0)
    return float(quad(ratio, 0, 12 * rho + peak, points=[peak], limit=500, epsabs=0, epsrel=1e-12)[0])


@pytest.mark.parametrize("rows", [60, 2_000, 90_000])
@pytest.mark.parametrize("z", [-4.0, -0.5, 0.0, 1.7, 4.0, 6.0])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_anytime_is_its_integral(z: float, rows: int, alpha: float) -> None:
    """The closed form equals the integral over the prior."""
    found = anytime(z * 0.01, 0.0001, rows, alpha)
    assert found is not None
    assert found.e_value == pytest.approx(_by_integral(z * 0.01, 0.0001, rows, alpha), rel=1e-9)


def _by_counting(only_b: int, only_a: int) -> Fraction:
    """E of `paired`, exactly: 2^(n+1) times the integral of q^k (1-q)^(n-k) from 1/2 to 1, term by term."""
    n = only_b + only_a
    area = sum(
        Fraction(comb(only_a, j) * (-1) ** j, only_b + j + 1) * (1 - Fraction(1, 2 ** (only_b + j + 1)))
        for j in range(only_a + 1)
    )
    return 2 ** (n + 1) * area


@given(st.integers(0, 60), st.integers(0, 60))
def test_paired_is_its_integral(only_b: int, only_a: int) -> None:
    """The closed form equals exact arithmetic."""
    assert paired(only_b, only_a).e_value == pytest.approx(float(_by_counting(only_b, only_a)), rel=1e-9)


def test_nothing_seen_is_no_evidence() -> None:
    """Without rows E is 1, or there is none; without a difference it is below 1."""
    assert paired(0, 0).e_value == pytest.approx(1)
    assert anytime(0.1, 0.0, 100, 0.05) is None
    assert anytime(0.1, 0.1, 0, 0.05) is None
    assert paired(50, 50).e_value < 1


@pytest.mark.parametrize(("log_e", "p"), [(-3.0, 1.0), (0.0, 1.0), (np.log(20), 0.05), (5000.0, 0.0)])
def test_p_is_the_inverse(log_e: float, p: float) -> None:
    """p is 1 / E, at most 1; an E beyond floats is infinite."""
    assert Evidence(log_e).p_value == pytest.approx(p)
    assert Evidence(5000.0).e_value == np.inf


def test_huge_counts_stay_finite() -> None:
    """A million pairs overflow nothing."""
    assert paired(600_000, 400_000).p_value == 0
    assert paired(400_000, 600_000).p_value == 1
    assert np.isfinite(paired(500_500, 499_500).log_e)


@pytest.mark.parametrize("looks", [50])
def test_paired_keeps_its_level_however_often_one_looks(looks: int) -> None:
    """Of equal models at most alpha are ever called better, in 2,000 runs of 50 looks."""
    rng = np.random.default_rng(1)
    only_b = rng.binomial(20, 0.5, (2000, looks)).cumsum(axis=1)
    n = 20 * np.arange(1, looks + 1)
    ever = sum(any(paired(int(k), int(m - k)).p_value <= 0.05 for k, m in zip(run, n, strict=True)) for run in only_b)
    assert stats.binomtest(ever, 2000, 0.05, alternative="greater").pvalue > 0.001
