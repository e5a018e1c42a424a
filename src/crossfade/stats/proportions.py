"""Two arms compared by the share of right answers, and by how the users were shared out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from crossfade.stats.sieve import Ints

SAMPLE_RATIO_ALPHA = 0.001
"""Below this p-value the users were not shared out as configured (GrowthBook's level)."""

_SMALLEST_EXPECTED = 10
"""Users that each arm must expect for the chi-square approximation of the sample ratio."""


@dataclass(frozen=True)
class ChiSquare:
    """Chi-square test of correct/wrong x arm."""

    statistic: float
    """With Yates' continuity correction, as ``scipy.stats.chi2_contingency`` by default; >= 0."""
    p_value: float
    """Two-sided; in [0, 1]."""


@dataclass(frozen=True)
class Allocation:
    """Users seen while one split was in force."""

    split_b: float
    """Share of users meant for B; in [0, 1]."""
    users_a: int
    """Distinct users answered by A."""
    users_b: int
    """Distinct users answered by B."""

    @property
    def users(self) -> int:
        """Users of both arms."""
        return self.users_a + self.users_b


@dataclass(frozen=True)
class SampleRatio:
    """Were users shared out as configured?"""

    p_value: float
    """Chance of a share at least this far off when the split works; in [0, 1]."""
    expected_b: float
    """Users that B should have had."""
    observed_b: int
    """Users that B had."""

    @property
    def mismatch(self) -> bool:
        """Whether the experiment is broken: its arms are not comparable."""
        return self.p_value < SAMPLE_RATIO_ALPHA


@dataclass(frozen=True)
class Share:
    """A share of right answers, and how surely it is known."""

    value: float
    """In [0, 1]."""
    variance: float
    """Of `value`; >= 0."""

    @classmethod
    def of(cls, correct: int, rows: int) -> Share:
        """Take independent rows, at least one; the variance is that of Agresti and Coull, never 0."""
        smoothed = (correct + 2) / (rows + 4)
        return cls(correct / rows, smoothed * (1 - smoothed) / (rows + 4))


def share_of_clusters(rows: Ints, correct: Ints) -> Share:
    """Share of right answers whose rows come in clusters (several of one user), at least one row.

    The variance is the delta method's for a ratio of sums over clusters (Deng, Knoblich and Lu, KDD 2018), and at
    least that of independent rows.

    Parameters
    ----------
    rows, correct : array of int
        Shape (clusters,): rows of each cluster, and how many of them are right.
    """
    alone = Share.of(int(correct.sum()), int(rows.sum()))
    clusters = len(rows)
    if clusters < 2:
        return alone
    residual = correct - alone.value * rows
    variance = float((residual**2).sum()) / int(rows.sum()) ** 2 * clusters / (clusters - 1)
    return Share(alone.value, max(variance, alone.variance))


def worse_share(recent: Share, baseline: Share) -> float:
    """One-sided p-value: the chance of `recent` this far below `baseline` when it is no worse."""
    z = (recent.value - baseline.value) / np.sqrt(recent.variance + baseline.variance)
    return float(stats.norm.cdf(z))


def exceeding_share(share: Share, level: float, clusters: int) -> float:
    """One-sided p-value: the chance of a share this far above a level when it is no higher.

    By Student's t, for a variance that comes of few clusters is itself uncertain (Cameron and Miller, Journal of Human
    Resources 2015).

    Parameters
    ----------
    share : Share
        As `share_of_clusters` makes it.
    level : float
        In [0, 1].
    clusters : int
        How many clusters it was made of, two at least.
    """
    return float(stats.t.sf((share.value - level) / np.sqrt(share.variance), clusters - 1))


def chi_square(correct_a: int, rows_a: int, correct_b: int, rows_b: int) -> ChiSquare | None:
    """Test whether the two arms' accuracies differ.

    Returns
    -------
    ChiSquare or None
        None when an arm has no row, or when everything was right (or wrong) in both: nothing can be told apart.

    Examples
    --------
    >>> round(chi_square(180, 200, 196, 200).p_value, 6)
    0.001588
    """
    table = np.array([[correct_a, rows_a - correct_a], [correct_b, rows_b - correct_b]])
    if (table < 0).any():
        raise ValueError(f"more correct rows than rows: {correct_a}/{rows_a} and {correct_b}/{rows_b}")
    if not (table.sum(axis=0).all() and table.sum(axis=1).all()):
        return None
    result = stats.chi2_contingency(table)
    return ChiSquare(float(result.statistic), float(result.pvalue))


def accuracy_interval(correct: int, rows: int, level: float = 0.95) -> tuple[float, float] | None:
    """Wilson interval of a share; None without rows."""
    if rows == 0:
        return None
    low, high = proportion_confint(correct, rows, alpha=1 - level, method="wilson")
    return float(low), float(high)


def sample_ratio(allocations: Sequence[Allocation]) -> SampleRatio | None:
    """Test the users' shares against the splits that were really in force (chi-square; exact at small counts).

    Each split contributes one degree of freedom, so a ramp is judged against its own steps and not against 50/50.
    A split of 0 or 1 leaves nothing to chance: a single user on the wrong side is a mismatch.

    Returns
    -------
    SampleRatio or None
        None when there is nothing to test: no users, or splits of 0 and 1 only.
    """
    expected, observed = sum(a.users * a.split_b for a in allocations), sum(a.users_b for a in allocations)
    if any((a.split_b == 0 and a.users_b) or (a.split_b == 1 and a.users_a) for a in allocations):
        return SampleRatio(0.0, expected, observed)
    by_chance = [a for a in allocations if 0 < a.split_b < 1 and a.users]
    if not by_chance:
        return None
    if all(a.users * min(a.split_b, 1 - a.split_b) >= _SMALLEST_EXPECTED for a in by_chance):
        squares = [(a.users_b - a.users * a.split_b) ** 2 / (a.users * a.split_b * (1 - a.split_b)) for a in by_chance]
        p_value = float(stats.chi2.sf(sum(squares), len(squares)))
    else:  # chi-square alarms too often at such counts; exact tests, corrected for their number
        exact = [float(stats.binomtest(a.users_b, a.users, a.split_b).pvalue) for a in by_chance]
        p_value = min(1.0, min(exact) * len(exact))
    return SampleRatio(p_value, expected, observed)
