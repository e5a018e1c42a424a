"""Reference profiles and the counts made on them."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from decimal import Decimal
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.stats import profile as module
from crossfade.stats.divergence import ks
from crossfade.stats.profile import (
    CHUNK,
    MAX_GRID,
    OTHER,
    CategoricalProfile,
    NumericCounts,
    NumericProfile,
    count_columns,
    profile_from_dict,
)

NAN = float("nan")
numbers = st.one_of(st.floats(-1e6, 1e6), st.integers(-3, 3).map(float), st.just(NAN))
samples = st.lists(numbers, max_size=40)
extremes = st.lists(st.floats(), max_size=40)
words = st.lists(st.one_of(st.sampled_from("abc"), st.none()), max_size=40)
texts = st.lists(st.sampled_from(["a", "b", "c", "1", "1.0", "0.0", "True", "None", "nan", None, NAN]), max_size=40)
anything = st.lists(
    st.sampled_from(["a", "1", "nan", None, NAN, 0, 1, 2, True, False, 0.0, -0.0, 1.0, Decimal(1), Decimal("NaN"), ()]),
    max_size=40,
)
RNG = np.random.default_rng(20261121)


def _by_definition(profile: NumericProfile, live: npt.ArrayLike) -> NumericCounts:
    """Count by looking at the sorted whole."""
    array = np.asarray(live, dtype=float)
    present = np.sort(array[~np.isnan(array)])
    return NumericCounts(
        np.searchsorted(present, profile.values, side="left"),
        np.searchsorted(present, profile.values, side="right"),
        len(present),
        len(array) - len(present),
        float(present.sum()),
    )


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


@given(reference=samples, live=samples, cuts=st.lists(st.integers(0, 40), max_size=5))
def test_counts_of_any_split_add_up(reference: list[float], live: list[float], cuts: list[int]) -> None:
    """However the rows are split, in pieces of any size and empty ones too, the counts add up to those of the whole."""
    profile, edges = NumericProfile.of(reference), [0, *sorted(min(cut, len(live)) for cut in cuts), len(live)]
    merged = profile.count([])
    for start, stop in pairwise(edges):
        merged = merged + profile.count(live[start:stop])
    assert _same(merged, profile.count(live))


@given(reference=extremes, live=extremes)
def test_cutting_into_chunks_changes_no_count(reference: list[float], live: list[float]) -> None:
    """A column longer than a chunk is counted as by definition: infinite, missing, tiny and huge values included."""
    with np.errstate(all="ignore"), patch.object(module, "CHUNK", 4):
        profile = NumericProfile.of(reference)
        found, expected = profile.count(live), _by_definition(profile, live)
    assert np.array_equal(found.below, expected.below)
    assert np.array_equal(found.at_or_below, expected.at_or_below)
    assert (found.rows, found.missing) == (expected.rows, expected.missing)


LONG = 2 * CHUNK + 1234
COLUMNS: dict[str, tuple[npt.ArrayLike, Any]] = {
    "smooth": (RNG.normal(size=5000), RNG.normal(0.2, 1.1, LONG)),
    "missing": (RNG.normal(size=5000), np.where(np.arange(LONG) % 7, RNG.normal(size=LONG), NAN)),
    "all missing": (RNG.normal(size=50), np.full(LONG, NAN)),
    "infinite": (RNG.normal(size=5000), np.where(np.arange(LONG) % 9, RNG.normal(size=LONG), np.inf)),
    "infinite reference": ([-np.inf, 0.0, 1.0, np.inf], RNG.normal(size=LONG)),
    "grid values among others": (values := RNG.normal(size=500), np.where(np.arange(LONG) % 3, 9.9, values[3])),
    "outside the range": (RNG.random(5000), RNG.random(LONG) * 9 - 4),
    "heavy tails": (RNG.standard_cauchy(5000), RNG.standard_cauchy(LONG)),
    "close together": (np.nextafter(1.0, [0.0, 2.0, 3.0]), 1 + RNG.integers(-2, 3, LONG) * 2.0**-53),
    "as far apart as can be": ([-1.7e308, 0.0, 1.7e308], RNG.normal(size=LONG) * 1e302),
    "ties": (RNG.integers(0, 9, 5000), RNG.integers(-1, 11, LONG)),
    "thinned": (RNG.normal(size=3 * MAX_GRID), RNG.normal(size=LONG)),
    "one value": ([3.0], RNG.normal(3, 1, LONG).round(1)),
    "nothing": ([], RNG.normal(size=LONG)),
    "32 bits": (RNG.normal(size=5000), RNG.normal(size=LONG).astype(np.float32)),
    "flags": ([0, 1], RNG.random(LONG) < 0.3),
    "every other value": (RNG.normal(size=5000), RNG.normal(size=2 * LONG)[::2]),
    "a series": (RNG.normal(size=5000), pd.Series(RNG.normal(size=LONG), index=np.arange(LONG)[::-1] + 0.5)),
    "objects": (RNG.normal(size=500), [None, *RNG.normal(size=CHUNK + 5).tolist()]),
}


@pytest.mark.parametrize(("reference", "live"), COLUMNS.values(), ids=COLUMNS.keys())
def test_long_columns_are_counted_exactly(reference: npt.ArrayLike, live: npt.ArrayLike) -> None:
    """Counts of columns of several chunks are those by definition, whatever their values and type."""
    profile = NumericProfile.of(reference)
    with np.errstate(over="ignore"):
        found, expected = profile.count(live), _by_definition(profile, live)
    assert np.array_equal(found.below, expected.below)
    assert np.array_equal(found.at_or_below, expected.at_or_below)
    assert (found.rows, found.missing) == (expected.rows, expected.missing)
    assert found.total == pytest.approx(expected.total, rel=1e-9, abs=1e-6, nan_ok=True)


def test_the_total_is_the_same_every_time() -> None:
    """The sum does not depend on the run, nor on what is counted beside it: to the last bit."""
    column, profile = RNG.normal(size=LONG), NumericProfile.of(RNG.normal(size=5000))
    beside = count_columns({str(i): profile for i in range(8)}, {str(i): column for i in range(8)})
    assert {counts.total for counts in beside.values() if isinstance(counts, NumericCounts)} == {
        profile.count(column).total
    }


def test_counting_takes_the_memory_of_a_few_chunks() -> None:
    """A column is never copied whole, not even one of another type: 64 MB are counted in less than 16."""
    profile, column = NumericProfile.of(RNG.normal(size=5000)), np.arange(8_000_000)
    tracemalloc.start()
    profile.count(column)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16e6


@pytest.mark.parametrize("rows", [100, LONG])
def test_columns_are_counted_together_as_one_by_one(rows: int) -> None:
    """Counting several columns gives what counting each gives, in the profiles' order; unknown names are left out."""
    live = {
        "unknown": np.zeros(rows),
        "word": np.array(["a", "b", None], dtype=object)[RNG.integers(0, 3, rows)],
        "number": RNG.normal(size=rows),
    }
    profiles = {
        "number": NumericProfile.of(RNG.normal(size=500)),
        "absent": NumericProfile.of([1.0]),
        "word": CategoricalProfile.of(["a", "c"]),
    }
    found = count_columns(profiles, live)
    assert list(found) == ["number", "word"]
    assert found["word"] == profiles["word"].count(live["word"])
    number, alone = found["number"], profiles["number"].count(live["number"])
    assert isinstance(number, NumericCounts)
    assert isinstance(alone, NumericCounts)
    assert _same(number, alone)


def test_nothing_is_counted_where_nothing_is_shared() -> None:
    """No column in common is no counts, and no error."""
    assert count_columns({"a": NumericProfile.of([1.0])}, {"b": np.zeros(LONG)}) == {}


def test_a_mistake_in_a_column_is_not_swallowed() -> None:
    """Text in a numeric column is refused, also when columns are counted side by side."""
    with pytest.raises(ValueError, match="could not convert"):
        count_columns({"a": NumericProfile.of([1.0])}, {"a": np.array(["x"] * LONG, dtype=object)})


def test_counts_can_be_sent_to_another_process() -> None:
    """Counts survive pickling, and still add up."""
    numeric, categorical = NumericProfile.of([1.0, 2.0]), CategoricalProfile.of(["a", "b"])
    counted, words = numeric.count([1.5, NAN]), categorical.count(["a", "z", None])
    assert _same(pickle.loads(pickle.dumps(counted)) + counted, numeric.count([1.5, NAN, 1.5, NAN]))
    assert pickle.loads(pickle.dumps(words)) + words == categorical.count(["a", "z", None] * 2)


def _tally_one_by_one(sample: list[Any]) -> tuple[dict[str, int], int]:
    present = [str(value) for value in sample if value is not None and value == value]
    return {text: present.count(text) for text in present}, len(sample) - len(present)


@given(sample=st.one_of(texts, anything))
def test_categories_are_counted_by_their_text(sample: list[Any]) -> None:
    """Values count by their text, equal or not (1, 1.0 and True; 0.0 and -0.0), in chunks as in one piece."""
    profile = CategoricalProfile({str(value): 1 for value in sample}, 0)
    expected, missing = _tally_one_by_one(sample)
    for size in (3, CHUNK):
        with patch.object(module, "CHUNK", size):
            for column in (sample, pd.Series(sample, dtype=object)):
                found = profile.count(column)
                assert (dict(found.counts), found.missing) == (expected, missing)


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


def test_the_rarest_of_too_many_categories_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile has so many categories at most; the rarest beyond them stand together under `other`."""
    monkeypatch.setattr("crossfade.stats.profile.MAX_CATEGORIES", 2)
    profile = CategoricalProfile.of(["a"] * 50 + ["b"] * 10 + ["c"] * 9 + ["d"] * 8)
    assert profile.counts == {"a": 50, "b": 10, OTHER: 17}


def test_unseen_categories_count_as_other() -> None:
    """A category that the reference does not know counts as `other`."""
    profile = CategoricalProfile.of(["a"] * 995 + ["rare"] * 5)
    assert dict(profile.count(["a", "rare", "new", "newer"]).counts) == {"a": 1, "rare": 1, OTHER: 2}


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
