"""Two arms compared over strata: the parts of an experiment in which one split was in force.

While a split is raised, the newer rows are more often B's. Were they all thrown together, B would be credited (or
blamed) with whatever else changed over time; within a stratum both arms lived through the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from statsmodels.stats.contingency_tables import StratifiedTable

from crossfade.stats.proportions import ChiSquare, chi_square
from crossfade.stats.sieve import Ints


@dataclass(frozen=True)
class Stratum:
    """Labelled rows that were answered under one split."""

    split_b: float
    rows_a: int
    correct_a: int
    rows_b: int
    correct_b: int


@dataclass(frozen=True)
class Difference:
    """B's accuracy minus A's, within strata."""

    value: float
    """Mean of the strata's differences, each weighted as in Mantel and Haenszel; in [-1, 1]."""
    variance: float
    """Clustered by user; > 0."""
    rows: int
    """Labelled rows of the strata that have both arms."""


def stratified_test(strata: Sequence[Stratum]) -> ChiSquare | None:
    """Test whether the two arms' accuracies differ: chi-square, over several strata Cochran-Mantel-Haenszel.

    Returns
    -------
    ChiSquare or None
        None when nothing can be told apart: no stratum has both arms, or everything was right, or wrong, in all.
    """
    both = [s for s in strata if s.rows_a and s.rows_b]
    if len(both) < 2:
        return chi_square(both[0].correct_a, both[0].rows_a, both[0].correct_b, both[0].rows_b) if both else None
    tables = [
        np.array([[s.correct_a, s.rows_a - s.correct_a], [s.correct_b, s.rows_b - s.correct_b]], dtype=np.float64)
        for s in both
    ]
    if not any(table.sum(axis=0).all() for table in tables):
        return None
    found = StratifiedTable(tables).test_null_odds(correction=True)
    return ChiSquare(float(found.statistic), float(found.pvalue))


def difference(
    stratum: Ints, is_b: npt.NDArray[np.bool_], correct: npt.NDArray[np.bool_], unit: Ints
) -> Difference | None:
    """Estimate B's accuracy minus A's.

    The variance is the delta method's for a ratio of sums over users (Deng, Knoblich and Lu, KDD 2018), summed over the
    strata per user, and at least that of independent rows.

    Parameters
    ----------
    stratum, is_b, correct, unit : array
        Shape (rows,): number of the row's stratum, its arm, whether it was answered rightly, number of its user.

    Returns
    -------
    Difference or None
        None when no stratum has both arms.
    """
    strata = int(stratum.max(initial=-1)) + 1
    cell = stratum * 2 + is_b
    rows = np.bincount(cell, minlength=2 * strata).reshape(strata, 2).astype(np.float64)
    right = np.bincount(cell[correct], minlength=2 * strata).reshape(strata, 2).astype(np.float64)
    weight = np.divide(rows[:, 0] * rows[:, 1], rows.sum(axis=1), out=np.zeros(strata), where=rows.sum(axis=1) > 0)
    if not weight.sum():
        return None
    weight /= weight.sum()
    filled = np.where(rows > 0, rows, 1)
    share = right / filled
    smoothed = (right + 2) / (rows + 4)  # Agresti and Coull: never without variance
    alone = float((weight[:, None] ** 2 * smoothed * (1 - smoothed) / (filled + 4)).sum())
    per_row = (weight[:, None] * np.array([-1.0, 1.0]) / filled).reshape(-1)[cell] * (correct - share.reshape(-1)[cell])
    of_unit = np.bincount(unit, weights=per_row)
    units = np.count_nonzero(np.bincount(unit[weight[stratum] > 0]))
    clustered = float((of_unit**2).sum()) * units / max(units - 1, 1)
    value = float((weight * (share[:, 1] - share[:, 0])).sum())
    return Difference(value, max(clustered, alone), int(rows[weight > 0].sum()))


def design_effect(lead: Ints, unit: Ints) -> float:
    """How many times larger the variance of a mean is because the rows of a user resemble each other (Kish 1965).

    Parameters
    ----------
    lead, unit : array
        Shape (rows,): what is averaged (here 1 where only B is right, -1 where only A is, else 0), number of the user.

    Returns
    -------
    float
        At least 1; 1 without rows or variance, or with a single user.
    """
    rows = np.bincount(unit)
    rows, users = rows[rows > 0], int((rows > 0).sum())
    if users < 2:
        return 1.0
    mean = float(lead.mean())
    alone = float(((lead - mean) ** 2).sum())
    of_user = np.bincount(unit, weights=lead)[np.bincount(unit) > 0]
    together = float(((of_user - rows * mean) ** 2).sum()) * users / (users - 1)
    return max(1.0, together / alone) if alone else 1.0
