"""PSI and KS against scipy and against the formula written out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from crossfade.stats.divergence import CategoryShift, Psi, category_shift, ks, psi, psi_of_bins
from crossfade.stats.profile import MAX_GRID, OTHER, CategoricalProfile, NumericProfile

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
    effective = rows * live_rows / (rows + live_rows)
    p_value = float(stats.f.sf(total * effective / (len(kept) - 1), len(kept) - 1, effective))
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


@pytest.mark.parametrize("shift", [0.1, 0.2, 0.3, 0.5, 1.0, 5.0])
def test_a_ks_p_value_is_not_below_scipys(shift: float) -> None:
    """However small, the p-value is scipy's or a bound above it: it never makes a shift look surer than it is."""
    rng = np.random.default_rng(3)
    reference, live = rng.normal(size=2000), rng.normal(shift, 1, size=3000)
    profile = NumericProfile.of(reference)
    found, expected = ks(profile, profile.count(live)), stats.ks_2samp(reference, live, method="asymp")
    assert found is not None
    assert found.p_value >= expected.pvalue * (1 - 1e-9)


def _sample(rng: np.random.Generator, rows: int) -> npt.NDArray[np.float64]:
    """Draw smooth values, ties, heavy tails or a constant."""
    scale, loc = 10 ** rng.uniform(-3, 3), rng.choice([0.0, 0.3, -5.0])
    drawn = [rng.normal(size=rows), rng.integers(0, 6, rows), rng.standard_cauchy(rows), np.ones(rows)]
    sample = np.asarray(drawn[rng.integers(4)], dtype=float) * scale + loc
    return sample.round(1) if rng.random() < 0.3 else sample


@pytest.mark.parametrize("seed", range(10))
def test_ks_is_scipys_on_a_thousand_random_cases(seed: int) -> None:
    """In 100 random cases for each seed the distance is scipy's to 1e-12 and p to 1e-9.

    From 2 rows to 300,000 against the most that a profile keeps whole; ties, constants and heavy tails among them.
    """
    rng = np.random.default_rng(seed)
    for case in range(100):
        most = (MAX_GRID, 300_000) if case == 0 else (1_000, 1_000)
        _assert_ks_is_scipys(*(_sample(rng, int(rng.integers(2, limit))) for limit in most))


@pytest.mark.parametrize("seed", range(10))
def test_psi_is_the_formula_on_a_thousand_random_cases(seed: int) -> None:
    """In 100 random cases for each seed, PSI is the formula's on the raw values, a tenth of them missing."""
    rng = np.random.default_rng(seed)
    for _ in range(100):
        reference, live = (_sample(rng, int(rng.integers(2, 1_000))) for _ in "ab")
        live[rng.random(len(live)) < 0.1] = NAN
        found, expected = _psi(reference, live), _psi_by_hand(reference, live)
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            assert (found.value, found.p_value) == pytest.approx(expected[:2], rel=1e-9, abs=1e-10)


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
        assert found.p_value < 1e-4


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
    assert found == psi_of_bins(np.array([50, 30, 0, 20]), np.array([10, 20, 5, 15]))


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


def test_categories_that_go_missing_shift_psi() -> None:
    """Missing values are a bin of their own: PSI is the formula's over the categories and that bin."""
    profile = CategoricalProfile.of(["a"] * 60 + ["b"] * 40)
    found = psi(profile, profile.count(["a"] * 30 + ["b"] * 20 + [None] * 50))
    assert found == psi_of_bins(np.array([60, 40, 0]), np.array([30, 20, 50]))
    assert found is not None
    assert found.value > 1


def test_a_column_that_is_missing_at_the_same_rate_has_no_psi() -> None:
    """A steady share of missing values is no shift."""
    profile = CategoricalProfile.of(["a", "a", None] * 50)
    found = psi(profile, profile.count(["a", "a", None] * 50))
    assert found is not None
    assert (found.value, found.bins) == (0.0, 2)


def _category_shift(reference: list[str | None], live: list[str | None]) -> CategoryShift | None:
    profile = CategoricalProfile.of(reference)
    return category_shift(profile, profile.count(live))


def _shares(sample: list[str]) -> dict[str, float]:
    return {name: sample.count(name) / len(sample) for name in sample}


categories = st.lists(st.sampled_from(["a", "b", "c", "d", None]), max_size=60)


@given(reference=categories, live=categories)
def test_category_shift_is_scipys_and_total_variation(reference: list[str | None], live: list[str | None]) -> None:
    """p-value and statistic are chi2_contingency's; the distance is the largest over all sets of categories."""
    found, before, now = (
        _category_shift(reference, live),
        [v for v in reference if v is not None],
        [v for v in live if v is not None],
    )
    names = sorted({name if name in before else OTHER for name in before + now})
    if not before or not now or len(names) < 2:
        assert found is None
        return
    now = [name if name in before else OTHER for name in now]
    table = [[side.count(name) for name in names] for side in (before, now)]
    expected = stats.chi2_contingency(table, correction=False)
    assert found is not None
    assert (found.statistic, found.p_value) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9, abs=1e-12)
    p, q = _shares(before), _shares(now)
    subsets = [[name for i, name in enumerate(names) if chosen >> i & 1] for chosen in range(2 ** len(names))]
    largest = max(abs(sum(p.get(n, 0) - q.get(n, 0) for n in subset)) for subset in subsets)
    assert found.distance == pytest.approx(largest)
    assert 0 <= found.distance <= 1


def test_unseen_categories_count_together() -> None:
    """Categories that the reference never had are one cell, as large as all of them."""
    one = _category_shift(["a", "b"] * 100, ["a", "b"] * 40 + ["new"] * 20)
    many = _category_shift(["a", "b"] * 100, ["a", "b"] * 40 + [f"new{i}" for i in range(20)])
    assert one == many
    assert one is not None
    assert one.distance == pytest.approx(0.2)


def test_rare_categories_count_with_the_unseen_ones() -> None:
    """Below a hundredth of the reference a category is one of the others: swapping two of them is no shift."""
    common, rare = ["a", "b"] * 1000, [f"rare{i}" for i in range(20)]
    found = _category_shift(common + rare, common + [f"unseen{i}" for i in range(20)])
    assert found is not None
    assert (found.distance, found.p_value) == (0.0, 1.0)


def test_missing_categories_are_left_out() -> None:
    """Missing values say nothing about the shares of the others (they are PSI's)."""
    full, gaps = ["a", "b", "b"] * 50, ["a", None, "b", None, "b"] * 50
    found = _category_shift(full, gaps)
    assert found is not None
    assert found.distance == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("reference", "live"),
    [([], ["a"]), (["a", "b"], []), ([None], ["a"]), (["a", "b"], [None]), (["a"], ["a", "a"]), ([], [])],
)
def test_categories_that_tell_nothing_have_no_shift(reference: list[str | None], live: list[str | None]) -> None:
    """A side without a value, or one category everywhere, has no test."""
    assert _category_shift(reference, live) is None


def test_one_category_replaced_by_another_is_the_largest_shift() -> None:
    """Nothing in common is a distance of 1."""
    found = _category_shift(["a"] * 100, ["b"] * 100)
    assert found is not None
    assert found.distance == 1.0
    assert found.p_value < 1e-20


def test_category_p_values_are_calibrated() -> None:
    """Without drift the p-value is below .05 in 5 % of windows.

    2000 windows: 99.9 % of the time between .034 and .066 (3.29 standard errors of .0049).
    """
    rng, below = np.random.default_rng(17), 0
    for _ in range(2000):
        reference, live = (rng.choice(["a", "b", "c", "d"], rows, p=[0.4, 0.3, 0.2, 0.1]) for rows in (1000, 300))
        found = _category_shift(reference.tolist(), live.tolist())
        assert found is not None
        below += found.p_value < 0.05
    assert 0.034 <= below / 2000 <= 0.066
