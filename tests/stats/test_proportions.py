"""Two arms: chi-square, intervals, sample ratio."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from crossfade.stats.proportions import SAMPLE_RATIO_ALPHA, Allocation, accuracy_interval, chi_square, sample_ratio

counts = st.integers(0, 5000)


@given(counts, counts, counts, counts)
def test_chi_square_is_scipys(right_a: int, wrong_a: int, right_b: int, wrong_b: int) -> None:
    """Statistic and p-value are those of scipy's chi2_contingency on correct/wrong x arm."""
    assume(right_a + right_b and wrong_a + wrong_b and right_a + wrong_a and right_b + wrong_b)
    found = chi_square(right_a, right_a + wrong_a, right_b, right_b + wrong_b)
    expected = stats.chi2_contingency([[right_a, wrong_a], [right_b, wrong_b]])
    assert found is not None
    assert (found.statistic, found.p_value) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-12)


@pytest.mark.parametrize("table", [(0, 0, 5, 9), (5, 9, 0, 0), (0, 0, 0, 0), (9, 9, 7, 7), (0, 9, 0, 7)])
def test_chi_square_that_tells_nothing_is_none(table: tuple[int, int, int, int]) -> None:
    """An arm without rows, or everything right or wrong in both, has no test."""
    assert chi_square(*table) is None


@pytest.mark.parametrize("table", [(6, 5, 1, 5), (1, 5, 6, 5), (-1, 5, 1, 5)])
def test_more_right_rows_than_rows_is_a_mistake(table: tuple[int, int, int, int]) -> None:
    """Counts that cannot be are refused."""
    with pytest.raises(ValueError, match="more correct rows than rows"):
        chi_square(*table)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_the_interval_is_wilsons(share: tuple[int, int], level: float) -> None:
    """The interval is Wilson's (1927), written out."""
    correct, rows = share
    z, p = stats.norm.ppf((1 + level) / 2), correct / rows
    middle = (p + z**2 / (2 * rows)) / (1 + z**2 / rows)
    half = z / (1 + z**2 / rows) * np.sqrt(p * (1 - p) / rows + z**2 / (4 * rows**2))
    found = accuracy_interval(correct, rows, level)
    assert found is not None
    assert found == pytest.approx((max(0, middle - half), min(1, middle + half)), abs=1e-9)


def test_an_interval_without_rows_is_none() -> None:
    """Without rows there is no interval."""
    assert accuracy_interval(0, 0) is None


def test_a_fair_split_is_no_mismatch() -> None:
    """As many users as were due is a p-value of 1."""
    found = sample_ratio([Allocation(0.5, 500, 500)])
    assert found is not None
    assert (found.p_value, found.expected_b, found.observed_b, found.mismatch) == (1.0, 500.0, 500, False)


@given(st.floats(0.01, 0.99), st.integers(1000, 3000), st.integers(1, 2000))
def test_one_split_is_scipys_chisquare(split: float, a: int, b: int) -> None:
    """For one split the p-value is that of scipy's chisquare on the users of both arms, where each expects ten."""
    expected = stats.chisquare([a, b], [(a + b) * (1 - split), (a + b) * split]).pvalue
    found = sample_ratio([Allocation(split, a, b)])
    assert found is not None
    assert found.p_value == pytest.approx(expected, rel=1e-6, abs=1e-300)


@given(st.floats(0.01, 0.99), st.integers(0, 9), st.integers(0, 9))
def test_few_users_are_tested_exactly(split: float, a: int, b: int) -> None:
    """Where an arm expects fewer than ten users the p-value is the binomial test's."""
    assume(0 < (a + b) * min(split, 1 - split) < 10)
    found = sample_ratio([Allocation(split, a, b)])
    assert found is not None
    assert found.p_value == pytest.approx(stats.binomtest(b, a + b, split).pvalue)


def test_forty_five_to_fifty_five_on_many_users_is_a_mismatch() -> None:
    """45/55 where 50/50 was due is a mismatch on 10,000 users, and none on 100."""
    many, few = sample_ratio([Allocation(0.5, 4500, 5500)]), sample_ratio([Allocation(0.5, 45, 55)])
    assert many is not None
    assert few is not None
    assert many.mismatch
    assert not few.mismatch


@pytest.mark.parametrize("allocation", [Allocation(0.0, 1000, 1), Allocation(1.0, 1, 1000)])
def test_one_user_on_the_wrong_side_of_all_or_nothing_is_a_mismatch(allocation: Allocation) -> None:
    """With a split of 0 or 1 a single user on the wrong side is a mismatch, among fair splits, too."""
    for allocations in ([allocation], [Allocation(0.5, 500, 500), allocation]):
        found = sample_ratio(allocations)
        assert found is not None
        assert found.mismatch


@pytest.mark.parametrize("allocation", [Allocation(0.0, 1000, 0), Allocation(1.0, 0, 1000)])
def test_all_or_nothing_as_configured_is_fine(allocation: Allocation) -> None:
    """With a split of 0 or 1 and everybody where due nothing was left to chance: there is nothing to test."""
    assert sample_ratio([allocation]) is None


def test_every_step_of_a_ramp_is_judged_by_itself() -> None:
    """A ramp whose steps were each kept is fine, however far its sum is from 50/50."""
    found = sample_ratio([Allocation(0.01, 9900, 100), Allocation(0.1, 900, 100), Allocation(0.5, 200, 200)])
    assert found is not None
    assert (found.expected_b, found.observed_b, found.mismatch) == (400.0, 400, False)


def test_errors_of_two_steps_do_not_cancel() -> None:
    """Too many users on B in one step and too few in the next is a mismatch, though the sum is right."""
    found = sample_ratio([Allocation(0.2, 700, 300), Allocation(0.8, 300, 700)])
    assert found is not None
    assert found.observed_b == pytest.approx(found.expected_b)
    assert found.mismatch


@pytest.mark.parametrize("allocations", [[], [Allocation(0.5, 0, 0)], [Allocation(0.0, 0, 0), Allocation(0.3, 0, 0)]])
def test_without_users_nothing_is_said(allocations: list[Allocation]) -> None:
    """Without users there is no sample ratio."""
    assert sample_ratio(allocations) is None


def test_steps_without_users_change_nothing() -> None:
    """A split under which nobody came adds no degree of freedom."""
    one = [Allocation(0.5, 460, 540)]
    assert sample_ratio(one) == sample_ratio([*one, Allocation(0.3, 0, 0), Allocation(0.0, 0, 0)])


@pytest.mark.parametrize("splits", [(0.5,), (0.1,), (0.1, 0.25, 0.5)])
def test_sample_ratio_is_calibrated(splits: tuple[float, ...]) -> None:
    """When users are shared out as configured, the p-value is below .05 in 5 % of experiments.

    4000 experiments of 2000 new users per step: 99.9 % of the time between .038 and .062 (3.29 standard errors of
    .0034).
    """
    rng = np.random.default_rng(3)
    drawn = np.column_stack([rng.binomial(2000, split, size=4000) for split in splits])
    found = [
        sample_ratio([Allocation(split, 2000 - int(b), int(b)) for split, b in zip(splits, row, strict=True)])
        for row in drawn
    ]
    p_values = np.array([ratio.p_value for ratio in found if ratio is not None])
    assert len(p_values) == 4000
    assert 0.038 <= np.mean(p_values < 0.05) <= 0.062


def test_the_level_of_the_alarm() -> None:
    """A mismatch is called below p = .001, as the design says."""
    assert SAMPLE_RATIO_ALPHA == 0.001
