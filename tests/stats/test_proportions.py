"""Two arms: chi-square, intervals, sample ratio."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.proportion import test_proportions_2indep as proportions_test

from crossfade.stats.proportions import (
    SAMPLE_RATIO_ALPHA,
    Allocation,
    Share,
    accuracy_interval,
    chi_square,
    sample_ratio,
    share_of_clusters,
    worse_share,
)

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


right_of_rows = st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(right_of_rows)
def test_the_variance_of_a_share_is_agresti_and_coulls(share: tuple[int, int]) -> None:
    """statsmodels' Agresti-Coull interval of two standard errors is four roots of the variance wide."""
    found = Share.of(*share)
    low, high = proportion_confint(*share, alpha=2 * stats.norm.sf(2), method="agresti_coull")
    assert found.value == share[0] / share[1]
    assert found.variance > 0
    if low > 0 and high < 1:  # statsmodels cuts the interval there
        assert 4 * np.sqrt(found.variance) == pytest.approx(high - low, rel=1e-9)


@given(st.lists(st.booleans(), min_size=2, max_size=50))
def test_clusters_of_one_row_are_independent_rows(right: list[bool]) -> None:
    """One row per user is no cluster: value and variance are those of independent rows, or little above."""
    alone, found = Share.of(sum(right), len(right)), share_of_clusters(np.ones(len(right)), np.array(right, dtype=int))
    assert found.value == alone.value
    n, p = len(right), alone.value
    assert found.variance == pytest.approx(max(alone.variance, p * (1 - p) / (n - 1)))


def test_a_single_cluster_is_as_sure_as_its_rows() -> None:
    """Of one user no variance between users can be known: it is that of the rows."""
    assert share_of_clusters(np.array([40]), np.array([30])) == Share.of(30, 40)


def test_users_who_are_always_right_or_wrong_are_one_row_each() -> None:
    """Where all rows of a user are alike, a hundred users of ten rows are worth about a hundred rows."""
    found = share_of_clusters(np.full(100, 10), np.repeat([0, 10], 50))
    assert found.variance == pytest.approx(0.25 / 99)


def test_the_variance_of_clusters_is_that_of_repeated_draws() -> None:
    """Over 4000 draws of 150 users with 1 to 8 rows each, the shares vary as the variance says.

    Their sample variance has a relative standard error of sqrt(2 / 3999) = 2.2 %: 99.9 % of the time within 7.4 %;
    the estimate itself is biased by the order of 1 / 150 users, so that 8.5 % are allowed.
    """
    rng, values, variances = np.random.default_rng(23), [], []
    for _ in range(4000):
        rows = rng.integers(1, 9, 150)
        right = rng.binomial(rows, rng.beta(4, 1, 150))  # users differ in how often they are served right
        found = share_of_clusters(rows, right)
        values.append(found.value)
        variances.append(found.variance)
    assert np.mean(variances) == pytest.approx(np.var(values, ddof=1), rel=0.085)
    assert np.mean(variances) > 1.2 * np.mean([Share.of(round(v * 675), 675).variance for v in values])


@pytest.mark.parametrize(("recent", "baseline"), [((8000, 9000), (9000, 10_000)), ((4550, 5000), (9000, 10_000))])
def test_a_worse_share_is_statsmodels(recent: tuple[int, int], baseline: tuple[int, int]) -> None:
    """On thousands of rows the p-value is that of statsmodels' one-sided Wald test, to a relative 3 %."""
    found = worse_share(Share.of(*recent), Share.of(*baseline))
    wald = {"compare": "diff", "method": "wald", "alternative": "smaller", "correction": False}
    expected = proportions_test(*recent, *baseline, **wald)
    assert found == pytest.approx(expected.pvalue, rel=0.03)


def test_equal_shares_are_even() -> None:
    """Equal shares have a p-value of one half; a lower one less, a higher one more."""
    baseline = Share.of(90, 100)
    assert worse_share(Share.of(900, 1000), baseline) == pytest.approx(0.5)
    assert worse_share(Share.of(800, 1000), baseline) < 0.5 < worse_share(Share.of(950, 1000), baseline)


@given(right_of_rows, right_of_rows)
def test_worse_share_is_a_probability(recent: tuple[int, int], baseline: tuple[int, int]) -> None:
    """Whatever was counted, all right or all wrong included, the p-value is a probability."""
    assert 0 <= worse_share(Share.of(*recent), Share.of(*baseline)) <= 1


@pytest.mark.parametrize("rows_of_each", [1, 6])
def test_worse_share_is_calibrated(rows_of_each: int) -> None:
    """When nothing got worse, the p-value is below .05 in about 5 % of looks, with users of one row or of six.

    3000 looks at 200 users against 500 held-out rows, share .8: 99.9 % of the time .05 plus or minus .013 (3.29
    standard errors of .004); the normal approximation and the smoothing are granted another .01.
    """
    rng, below = np.random.default_rng(29), 0
    for _ in range(3000):
        rows = np.full(200, rows_of_each)
        recent = share_of_clusters(rows, rng.binomial(rows, rng.beta(4, 1, 200)))
        below += worse_share(recent, Share.of(int(rng.binomial(500, 0.8)), 500)) < 0.05
    assert 0.027 <= below / 3000 <= 0.073
