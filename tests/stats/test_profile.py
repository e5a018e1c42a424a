"""Reference profiles and the counts made on them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.stats.divergence import ks
from crossfade.stats.profile import (
    MAX_GRID,
    OTHER,
    CategoricalProfile,
    NumericCounts,
    NumericProfile,
    profile_from_dict,
)

NAN = float("nan")
numbers = st.one_of(st.floats(-1e6, 1e6), st.integers(-3, 3).map(float), st.just(NAN))
samples = st.lists(numbers, max_size=40)
words = st.lists(st.one_of(st.sampled_from("abc"), st.none()), max_size=40)


def _same(one: NumericCounts, other: NumericCounts) -> bool:
    return (
        np.array_equal(one.below, other.below)
        and np.array_equal(one.at_or_below, other.at_or_below)
        and (one.rows, one.missing) == (other.rows, other.missing)
        and one.total == pytest.approx(other.total, rel=1e-9, abs=1e-6)
    )


def test_a_profile_holds_distinct_values_and_their_counts() -> None:
    """A profile is the sorted distinct values with their counts, the missing ones counted apart."""
    profile = NumericProfile.of([3, 1, 2, 1, NAN, NAN])
    assert profile.values.tolist() == [1, 2, 3]
    assert profile.counts.tolist() == [2, 1, 1]
    assert (profile.rows, profile.missing) == (4, 2)


def test_mean_and_deviation_leave_missing_out() -> None:
    """Mean and standard deviation (n in the denominator) are those of the values that are there."""
    profile = NumericProfile.of([1, 2, 2, 7, NAN])
    assert profile.mean == 3
    assert profile.std == pytest.approx(np.std([1, 2, 2, 7]), rel=1e-15)


def test_a_profile_of_missing_values_has_no_mean() -> None:
    """Mean and deviation are NaN when every value is missing."""
    profile = NumericProfile.of([NAN, NAN])
    assert profile.rows == 0
    assert profile.missing == 2
    assert np.isnan([profile.mean, profile.std]).all()


def test_live_values_are_counted_on_the_grid() -> None:
    """Counts say how many live values lie below and at each grid value, those outside the range included."""
    counts = NumericProfile.of([1, 2, 3]).count([0, 1, 1, 2.5, 99, NAN])
    assert counts.below.tolist() == [1, 3, 4]
    assert counts.at_or_below.tolist() == [3, 3, 4]
    assert (counts.rows, counts.missing, counts.total) == (5, 1, 103.5)


@given(reference=samples, first=samples, second=samples)
def test_counts_of_chunks_add_up(reference: list[float], first: list[float], second: list[float]) -> None:
    """Counting two chunks and adding gives what counting all rows at once gives."""
    profile = NumericProfile.of(reference)
    assert _same(profile.count(first) + profile.count(second), profile.count(first + second))


@given(reference=words, first=words, second=words)
def test_category_counts_of_chunks_add_up(reference: list[Any], first: list[Any], second: list[Any]) -> None:
    """The same holds for categories."""
    profile = CategoricalProfile.of(reference)
    merged, whole = profile.count(first) + profile.count(second), profile.count(first + second)
    assert (dict(merged.counts), merged.missing, merged.rows) == (dict(whole.counts), whole.missing, whole.rows)


@given(sample=st.lists(st.one_of(st.floats(allow_nan=True, allow_infinity=False)), max_size=40))
def test_a_numeric_profile_survives_json_to_the_bit(sample: list[float]) -> None:
    """A profile written to JSON and read back is the same to the last bit."""
    with np.errstate(over="ignore", invalid="ignore"):  # means of values near the largest float
        profile = NumericProfile.of(sample)
    read = profile_from_dict(json.loads(json.dumps(profile.to_dict())))
    assert isinstance(read, NumericProfile)
    assert read.values.tobytes() == profile.values.tobytes()
    assert read.counts.tobytes() == profile.counts.tobytes()
    assert read.missing == profile.missing
    assert np.array([read.mean, read.std]).tobytes() == np.array([profile.mean, profile.std]).tobytes()


@given(sample=words)
def test_a_categorical_profile_survives_json(sample: list[Any]) -> None:
    """A categorical profile written to JSON and read back is equal."""
    profile = CategoricalProfile.of(sample)
    assert profile_from_dict(json.loads(json.dumps(profile.to_dict()))) == profile


def test_a_large_profile_is_thinned() -> None:
    """Above MAX_GRID distinct values only MAX_GRID quantiles are kept, and no row is lost."""
    sample = np.random.default_rng(0).normal(size=3 * MAX_GRID + 17)
    profile = NumericProfile.of(sample)
    assert len(profile.values) <= MAX_GRID
    assert profile.rows == len(sample)
    assert profile.values[-1] == sample.max()


def test_a_thinned_profile_stays_exact_where_it_is_kept() -> None:
    """The distribution function of a thinned profile is that of the sample at every value kept."""
    sample = np.random.default_rng(1).normal(size=2 * MAX_GRID + 1)
    profile = NumericProfile.of(sample)
    exact = np.searchsorted(np.sort(sample), profile.values, side="right")
    assert np.array_equal(np.cumsum(profile.counts), exact)


@pytest.mark.parametrize("seed", range(4))
def test_thinning_moves_ks_by_less_than_one_grid_step(seed: int) -> None:
    """A KS distance taken on a thinned profile is off by less than 1 / MAX_GRID."""
    rng = np.random.default_rng(seed)
    reference = rng.normal(size=3 * MAX_GRID + seed)
    reference[: MAX_GRID // 2] = 0.25  # one heavy tie among them
    live = rng.normal(loc=0.05 * seed, size=5000)
    profile = NumericProfile.of(reference)
    values, counts = np.unique(reference, return_counts=True)
    whole = NumericProfile(values, counts, 0, profile.mean, profile.std)
    thinned, exact = ks(profile, profile.count(live)), ks(whole, whole.count(live))
    assert thinned is not None
    assert exact is not None
    assert abs(thinned.statistic - exact.statistic) < 1 / MAX_GRID


def test_rare_categories_are_merged() -> None:
    """Categories below 1 % of the reference stand together under `other`; those at 1 % stay."""
    profile = CategoricalProfile.of(["a"] * 981 + ["b"] * 10 + ["c"] * 9)
    assert profile.counts == {"a": 981, "b": 10, OTHER: 9}
    assert profile.rows == 1000


def test_unseen_categories_count_as_other() -> None:
    """A category that the reference does not know, or holds as rare, counts as `other`."""
    profile = CategoricalProfile.of(["a"] * 995 + ["rare"] * 5)
    assert dict(profile.count(["a", "rare", "new", "newer"]).counts) == {"a": 1, OTHER: 3}


def test_missing_categories_are_counted_apart() -> None:
    """None and NaN are missing, on both sides."""
    profile = CategoricalProfile.of(["a", None, NAN])
    assert (profile.rows, profile.missing) == (1, 2)
    counts = profile.count([None, "a", NAN])
    assert (counts.rows, counts.missing) == (1, 2)


def test_categories_are_taken_as_text() -> None:
    """Whole numbers and their text are one category."""
    assert dict(CategoricalProfile.of([1, 1, 2]).count(["1", "2", "2"]).counts) == {"1": 1, "2": 2}


def test_a_category_called_other_loses_no_row() -> None:
    """A category that happens to be called like the rare ones' heap is counted with them, not overwritten."""
    assert CategoricalProfile.of([OTHER] * 50 + ["a"] * 100 + ["rare"]).rows == 151
