"""PSI and KS against scipy and against the formula written out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from crossfade.stats.divergence import Psi, ks, psi, psi_of_bins
from crossfade.stats.profile import CategoricalProfile, NumericProfile

NAN = float("nan")
RNG = np.random.default_rng(20261121)

values = st.one_of(st.floats(-1e9, 1e9), st.integers(-4, 4).map(float))
filled = st.lists(values, min_size=2, max_size=60)
with_gaps = st.lists(st.one_of(values, st.just(NAN)), max_size=60)


def _psi(reference: npt.ArrayLike, live: npt.ArrayLike) -> Psi | None:
    profile = NumericProfile.of(reference)
    return psi(profile, profile.count(live))


def _psi_by_hand(reference: npt.ArrayLike, live: npt.ArrayLike) -> tuple[float, float, int] | None:
    """PSI from scratch: raw values, no counts on a grid."""
    both = [np.asarray(side, dtype=float) for side in (reference, live)]
    present = [side[~np.isnan(side)] for side in both]
    edges = np.array([])
    if len(present[0]):
        edges = np.unique(np.quantile(present[0], np.arange(1, 10) / 10, method="inverted_cdf"))
    histograms = []
    for side, there in zip(both, present, strict=True):
        bins = np.digitize(there, edges, right=True)  # (-inf, e1], (e1, e2], ..., (e9, inf)
        histograms.append([*(int((bins == b).sum()) for b in range(len(edges) + 1)), len(side) - len(there)])
    kept = [(r, n) for r, n in zip(*histograms, strict=True) if r or n]
    rows, live_rows = sum(r for r, _ in kept), sum(n for _, n in kept)
    if not rows or not live_rows or len(kept) < 2:
        return None
    total = 0.0
    for r, n in kept:
        p, q = (r + 0.5) / (rows + 0.5 * len(kept)), (n + 0.5) / (live_rows + 0.5 * len(kept))
        total += (q - p) * np.log(q / p)
    p_value = float(stats.chi2.sf(total / (1 / rows + 1 / live_rows), len(kept) - 1))
    return float(total), p_value, len(kept)


def _assert_ks_is_scipys(reference: npt.ArrayLike, live: npt.ArrayLike) -> None:
    profile = NumericProfile.of(reference)
    found, expected = ks(profile, profile.count(live)), stats.ks_2samp(reference, live, method="asymp")
    assert found is not None
    assert found.statistic == pytest.approx(expected.statistic, abs=1e-12)
    assert found.p_value == pytest.approx(expected.pvalue, abs=1e-9)


SIDES = {
    "same distribution": (RNG.normal(size=300), RNG.normal(size=200)),
    "shifted": (RNG.normal(size=300), RNG.normal(loc=1, size=250)),
    "ties": (RNG.integers(0, 5, 400), RNG.integers(0, 6, 100)),
    "rounded": (RNG.normal(size=150).round(1), RNG.normal(scale=2, size=1000).round(1)),
    "constant reference": (np.full(50, 2.0), RNG.normal(size=60)),
    "constant live": (RNG.normal(size=60), np.full(40, 0.1)),
    "the same constant": (np.full(50, 2.0), np.full(70, 2.0)),
    "two constants": (np.full(50, 2.0), np.full(70, 3.0)),
    "all below the range": (np.arange(100.0), np.arange(-50.0, -10.0)),
    "all above the range": (np.arange(100.0), np.arange(1000.0, 1010.0)),
    "between two values": (np.array([0.0, 10.0] * 20), np.linspace(1, 9, 30)),
    "few rows": (np.array([1.0, 2.0]), np.array([1.5])),
    "heavy tails": (RNG.standard_cauchy(500), RNG.standard_cauchy(400)),
}
sides = pytest.mark.parametrize(("reference", "live"), SIDES.values(), ids=SIDES.keys())


@sides
def test_ks_is_scipys(reference: npt.NDArray[np.float64], live: npt.NDArray[np.float64]) -> None:
    """KS distance and p-value are those of scipy's asymptotic two-sample test."""
    _assert_ks_is_scipys(reference, live)


@given(reference=filled, live=filled)
def test_ks_is_scipys_on_anything(reference: list[float], live: list[float]) -> None:
    """They are so on any two samples, ties and repeats included."""
    _assert_ks_is_scipys(reference, live)


def test_ks_leaves_missing_out() -> None:
    """Missing values do not change KS."""
    profile, gaps = NumericProfile.of([1, 2, 3, 4]), NumericProfile.of([1, NAN, 2, 3, NAN, 4])
    assert ks(profile, profile.count([2, 5, 6])) == ks(gaps, gaps.count([NAN, 2, 5, 6]))


@pytest.mark.parametrize(("reference", "live"), [([], [1.0]), ([1.0], []), ([NAN], [1.0]), ([1.0], [NAN]), ([], [])])
def test_ks_of_nothing_is_none(reference: list[float], live: list[float]) -> None:
    """A side without a value has no KS."""
    profile = NumericProfile.of(reference)
    assert ks(profile, profile.count(live)) is None


def test_ks_of_one_row_each_is_a_probability_or_nothing() -> None:
    """One row on either side gives a p-value in [0, 1] or none at all, never NaN."""
    profile = NumericProfile.of([1.0])
    found = ks(profile, profile.count([2.0]))
    assert found is None or 0 <= found.p_value <= 1


@sides
def test_psi_is_the_formula(reference: npt.NDArray[np.float64], live: npt.NDArray[np.float64]) -> None:
    """PSI, its p-value and its bins are those of the formula worked out on the raw values."""
    found, expected = _psi(reference, live), _psi_by_hand(reference, live)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert (found.value, found.p_value) == pytest.approx(expected[:2], rel=1e-10, abs=1e-12)
        assert found.bins == expected[2]


@given(reference=with_gaps, live=with_gaps)
def test_psi_is_the_formula_on_anything(reference: list[float], live: list[float]) -> None:
    """It is so on any two samples, with missing values and with nothing in them."""
    found, expected = _psi(reference, live), _psi_by_hand(reference, live)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert (found.value, found.p_value) == pytest.approx(expected[:2], rel=1e-9, abs=1e-10)
        assert found.bins == expected[2]


@given(reference=with_gaps, live=with_gaps)
def test_psi_is_not_negative(reference: list[float], live: list[float]) -> None:
    """PSI is never negative and its p-value is a probability."""
    found = _psi(reference, live)
    assert found is None or (found.value >= 0 and 0 <= found.p_value <= 1)


def test_missing_is_a_bin_of_its_own() -> None:
    """Values that go missing are a shift, even where those that are left look the same."""
    reference = np.arange(100.0)
    found = _psi(reference, [*reference, *[NAN] * 100])
    assert found is not None
    assert found.bins == 11
    assert found.value > 1


def test_values_outside_the_range_count() -> None:
    """Values below or above everything the reference holds fall into its open outer bins."""
    reference = np.arange(100.0)
    for outside in (-1e6, 1e6):
        found = _psi(reference, np.where(reference % 2, outside, reference))
        assert found is not None
        assert found.value > 0.5
        assert found.p_value < 1e-6


def test_bins_empty_on_both_sides_are_dropped() -> None:
    """Bins that hold no row of either side change nothing."""
    lean = psi_of_bins(np.array([5, 7]), np.array([9, 2]))
    assert lean == psi_of_bins(np.array([0, 5, 0, 7, 0]), np.array([0, 9, 0, 2, 0]))
    assert lean is not None
    assert lean.bins == 2


def test_an_empty_bin_gives_a_large_psi_not_an_infinite_one() -> None:
    """Smoothing keeps the PSI of a bin that emptied finite."""
    found = psi_of_bins(np.array([100, 100]), np.array([200, 0]))
    assert found is not None
    assert 1 < found.value < 10


@pytest.mark.parametrize(("reference", "live"), [([3, 4], [0, 0]), ([0, 0], [3, 4]), ([5], [6]), ([5, 0], [6, 0])])
def test_psi_that_could_see_nothing_is_none(reference: list[int], live: list[int]) -> None:
    """An empty side, or a single bin, has no PSI."""
    assert psi_of_bins(np.array(reference), np.array(live)) is None


def test_categories_are_compared_by_name() -> None:
    """PSI of categories is that of their counts; unseen ones count as `other`, missing ones apart."""
    profile = CategoricalProfile.of(["a"] * 50 + ["b"] * 30 + [None] * 20)
    found = psi(profile, profile.count(["a"] * 10 + ["b"] * 20 + ["new"] * 5 + [None] * 15))
    assert found == psi_of_bins(np.array([0, 50, 30, 20]), np.array([5, 10, 20, 15]))


def test_same_categories_have_no_psi() -> None:
    """A sample compared with itself has a PSI of 0 and a p-value of 1."""
    profile = CategoricalProfile.of(["a", "b", "b"] * 40)
    found = psi(profile, profile.count(["a", "b", "b"] * 40))
    assert found is not None
    assert (found.value, found.p_value) == (0.0, 1.0)


def test_counts_of_another_kind_are_a_mistake() -> None:
    """Counts made on another kind of profile are refused."""
    with pytest.raises(TypeError, match="NumericCounts"):
        psi(CategoricalProfile.of(["a"]), NumericProfile.of([1.0]).count([1.0]))


@pytest.mark.parametrize(("rows", "live_rows"), [(2000, 500), (500, 500)])
def test_psi_p_values_are_calibrated(rows: int, live_rows: int) -> None:
    """Without drift the p-value is below .05 in 5 % of windows.

    2000 windows: 99.9 % of the time between .034 and .066 (3.29 standard errors of .0049).
    """
    rng = np.random.default_rng(11)
    below = 0
    for _ in range(2000):
        found = _psi(rng.normal(size=rows), rng.normal(size=live_rows))
        assert found is not None
        below += found.p_value < 0.05
    assert 0.034 <= below / 2000 <= 0.066
