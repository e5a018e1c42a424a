"""PSI, KS and chi-square from counts: how far live values lie from the reference, and how surely.

Sources
-------
PSI's null distribution, (1/N + 1/M) * chi2(B - 1): B. Yurdakul and J. Naranjo, "Statistical properties of the
population stability index", Journal of Risk Model Validation 14(4), 2020. For a few hundred rows its tail is too light;
F with N * M / (N + M) degrees of freedom in the denominator is not, and becomes chi-square as they grow. KS: scipy's
two-sided asymptotic p-value (``ks_2samp``); P. Massart, "The tight constant in the Dvoretzky-Kiefer-Wolfowitz
inequality", Annals of Probability 18(3), 1990, for its bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from crossfade.stats.profile import OTHER, CategoricalCounts, CategoricalProfile, NumericCounts, NumericProfile
from crossfade.stats.sieve import Floats, Ints

SMOOTHING = 0.5
"""Added to every bin's count, so that an empty bin gives a large PSI and not an infinite one."""

RARE_SHARE = 0.01
"""Categories below this share of the rows of both sides are compared together."""

_NO_CHANCE = 1e-10


@dataclass(frozen=True)
class Psi:
    """Population stability index of one feature."""

    value: float
    """Sum of (live - reference) * ln(live / reference) over the bins' shares; >= 0, unbounded above."""
    p_value: float
    """Chance of a PSI at least this large when nothing drifted; in [0, 1]."""
    bins: int
    """Bins that hold at least one row of either side."""


@dataclass(frozen=True)
class Ks:
    """Two-sample Kolmogorov-Smirnov test of one numeric feature."""

    statistic: float
    """Largest distance between the two distribution functions; in [0, 1]."""
    p_value: float
    """Two-sided, asymptotic; in [0, 1]. Below 1e-10 it is Massart's bound, which the exact one does not exceed."""


@dataclass(frozen=True)
class CategoryShift:
    """Two-sample chi-square test of one categorical feature: what KS is to a numeric one."""

    distance: float
    """Total variation: the largest difference in share that any set of categories has between the sides; in [0, 1]."""
    statistic: float
    """Pearson's chi-square over category x side; >= 0."""
    p_value: float
    """In [0, 1]."""


def psi_of_bins(reference: Ints, live: Ints) -> Psi | None:
    """PSI of two histograms over the same bins, shape (b,) each.

    Returns
    -------
    Psi or None
        None when a side has no row, or when fewer than two bins hold any: no shift could be seen.

    Examples
    --------
    >>> round(psi_of_bins(np.array([50, 50]), np.array([30, 70])).value, 4)
    0.1659
    """
    used = (reference + live) > 0
    reference, live = reference[used], live[used]
    n, m, bins = int(reference.sum()), int(live.sum()), int(used.sum())
    if n == 0 or m == 0 or bins < 2:
        return None
    p = (reference + SMOOTHING) / (n + SMOOTHING * bins)
    q = (live + SMOOTHING) / (m + SMOOTHING * bins)
    value = float(np.sum((q - p) * np.log(q / p)))
    noise, freedom = 1 / n + 1 / m, bins - 1
    return Psi(value, float(stats.f.sf(value / noise / freedom, freedom, 1 / noise)), bins)


def psi(reference: NumericProfile | CategoricalProfile, live: NumericCounts | CategoricalCounts) -> Psi | None:
    """PSI over the reference's deciles (numeric) or categories; missing values are a bin of their own."""
    if isinstance(reference, NumericProfile) and isinstance(live, NumericCounts):
        return psi_of_bins(*_decile_bins(reference, live))
    if isinstance(reference, CategoricalProfile) and isinstance(live, CategoricalCounts):
        return psi_of_bins(*_category_bins(reference, live))
    raise TypeError(f"{type(live).__name__} were not counted on a {type(reference).__name__}")


def ks(reference: NumericProfile, live: NumericCounts) -> Ks | None:
    """KS distance and p-value, missing values left out.

    The distance is exact: between two grid values the reference's distribution function is flat and the live one only
    rises, so the largest gap is found at a grid value or just below one.

    Returns
    -------
    Ks or None
        None when a side has no value, or each has one: the asymptotic p-value does not exist.
    """
    n, m = reference.rows, live.rows
    if n == 0 or m == 0:
        return None
    at = np.cumsum(reference.counts) / n
    before = np.concatenate(([0.0], at[:-1]))
    gap_at = np.abs(at - live.at_or_below / m)
    gap_before = np.abs(before - live.below / m)
    statistic = float(max(gap_at.max(), gap_before.max()))
    larger, smaller = max(n, m), min(n, m)
    effective = np.round(larger * smaller / (larger + smaller))  # as scipy does: p-values equal its own
    if effective < 1:
        return None
    bound = 2 * np.exp(-2 * effective * statistic**2)
    if bound < _NO_CHANCE:  # scipy would add up a term for each row: 10 ms at 10,000
        return Ks(statistic, float(bound))
    return Ks(statistic, float(np.clip(stats.kstwo.sf(statistic, effective), 0, 1)))


def category_shift(reference: CategoricalProfile, live: CategoricalCounts) -> CategoryShift | None:
    """Compare the shares of the categories, missing values left out; rare and unseen ones count together.

    Returns
    -------
    CategoryShift or None
        None when a side has no value, or both have one and the same category only.
    """
    before, now = (side[:-1] for side in _category_bins(reference, live))
    used = before + now > 0
    table = np.array([before[used], now[used]])
    if table.shape[1] < 2 or not table.sum(axis=1).all():
        return None
    shares = table / table.sum(axis=1, keepdims=True)
    test = stats.chi2_contingency(table, correction=False)
    return CategoryShift(float(np.abs(shares[0] - shares[1]).sum() / 2), float(test.statistic), float(test.pvalue))


def _decile_bins(reference: NumericProfile, live: NumericCounts) -> tuple[Ints, Ints]:
    """Regroup both sides to the reference's deciles; the outer bins are open.

    The edges are reference values (``inverted_cdf``), so that the live counts regroup exactly.
    """
    cumulative = np.cumsum(reference.counts)
    if reference.rows == 0:
        return np.array([0, reference.missing]), np.array([live.rows, live.missing])
    deciles = np.ceil(np.arange(1, 10) * cumulative[-1] / 10)
    edges = np.unique(np.searchsorted(cumulative, deciles, side="left"))
    return (
        _between(cumulative[edges], reference.rows, reference.missing),
        _between(live.at_or_below[edges], live.rows, live.missing),
    )


def _between(at_or_below: Ints, rows: int, missing: int) -> Ints:
    inner: Ints | Floats = np.diff(at_or_below, prepend=0, append=rows)
    return np.append(inner, missing).astype(np.int64)


def _category_bins(reference: CategoricalProfile, live: CategoricalCounts) -> tuple[Ints, Ints]:
    """Return the rows of both sides per category; the last two bins are what is rare or unseen, and what is missing.

    Rare is what both sides together have little of: were it judged by the reference alone, the categories that only
    chance had made frequent there would be kept, and seem to have become rarer since.
    """
    names = sorted((set(reference.counts) | set(live.counts)) - {OTHER})
    before = np.array([reference.counts.get(name, 0) for name in names], dtype=np.int64)
    now = np.array([live.counts.get(name, 0) for name in names], dtype=np.int64)
    frequent = before + now >= RARE_SHARE * (reference.rows + live.rows)

    def bins(counts: Ints, others: int, missing: int) -> Ints:
        return np.array([*counts[frequent], counts[~frequent].sum() + others, missing], dtype=np.int64)

    return (
        bins(before, reference.counts.get(OTHER, 0), reference.missing),
        bins(now, live.counts.get(OTHER, 0), live.missing),
    )
