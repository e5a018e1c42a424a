"""Two arms compared by the share of right answers, and by how the users were shared out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

SAMPLE_RATIO_ALPHA = 0.001
"""Below this p-value the users were not shared out as configured (GrowthBook's level)."""


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
    """Chi-square test of the users' shares against the splits that were really in force.

    Each split contributes one degree of freedom, so a ramp is judged against its own steps and not against 50/50.
    A split of 0 or 1 leaves nothing to chance: a single user on the wrong side is a mismatch.

    Returns
    -------
    SampleRatio or None
        None without users.
    """
    statistic, degrees, expected_total, impossible = 0.0, 0, 0.0, False
    for a in allocations:
        users = a.users_a + a.users_b
        expected = users * a.split_b
        expected_total += expected
        if a.split_b in (0.0, 1.0):
            impossible |= (a.users_b if a.split_b == 0.0 else a.users_a) > 0
        elif users:
            statistic += (a.users_b - expected) ** 2 / (expected * (1 - a.split_b))
            degrees += 1
    observed = sum(a.users_b for a in allocations)
    if not any(a.users_a + a.users_b for a in allocations):
        return None
    p_value = 0.0 if impossible else float(stats.chi2.sf(statistic, degrees)) if degrees else 1.0
    return SampleRatio(p_value, expected_total, observed)
