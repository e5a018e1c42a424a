"""4. Drift: does live traffic still look like the data the model in production learnt?

A feature drifted when the shift is large enough to matter *and* is not noise: PSI or KS above its threshold, with a
p-value below alpha after Holm's correction over all tests of the check. Categories have no order, so chi-square stands
in for KS, and the total variation distance for its distance. A feature that is gone, or of another type than it was,
has not drifted: the schema broke, and a model that learnt from such rows would learn the bug.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from crossfade.loop.reference import PREDICTION, PROBABILITY, ReferenceProfile
from crossfade.loop.window import Window
from crossfade.stats.divergence import CategoryShift, Ks, Psi, category_shift, ks, psi
from crossfade.stats.profile import (
    CategoricalCounts,
    CategoricalProfile,
    Counts,
    NumericCounts,
    NumericProfile,
    Profile,
)

_MOST_NAMED = 6
"""Columns that one sentence names; the report has them all."""

Verdict = Literal["stable", "drift", "insufficient_data", "schema_broken", "no_reference"]


@dataclass(frozen=True)
class DriftRule:
    """When a shift counts."""

    psi_threshold: float = 0.2
    ks_threshold: float = 0.1
    alpha: float = 0.01
    share: float = 0.0
    """Drift is called when more than this share of the columns drifted."""
    min_rows: int = 200
    misread_share: float = 0.05
    """Of a feature's values: with more than this of another kind, the schema broke."""


@dataclass(frozen=True)
class ColumnDrift:
    """Comparison of one column's live values with the reference."""

    feature: str
    rows: int
    """Live rows compared, missing values included."""
    psi: float | None
    """None when there is nothing to compare."""
    psi_pvalue: float | None
    """Holm-adjusted."""
    ks_statistic: float | None
    """None for a categorical column."""
    ks_pvalue: float | None
    """Holm-adjusted, together with those of the PSIs and the chi-squares."""
    category_distance: float | None
    """Total variation distance between the categories' shares; None for a numeric column."""
    chi2_pvalue: float | None
    """Holm-adjusted likewise."""
    reference_mean: float | None
    live_mean: float | None
    shift: float | None
    """Difference of the means in the reference's standard deviations; None when those are 0 or undefined."""
    verdict: Literal["stable", "drift", "insufficient_data", "schema_broken"]

    @property
    def described(self) -> str:
        """Name and distances, for a sentence."""
        distances = (("PSI", self.psi), ("KS", self.ks_statistic), ("distance", self.category_distance))
        return f"{self.feature} ({', '.join(f'{name} {value:.2f}' for name, value in distances if value is not None)})"


@dataclass(frozen=True)
class DriftReport:
    """Outcome of one drift check."""

    verdict: Verdict
    rows: int
    """Live rows in the window."""
    reason: str
    """One sentence with the numbers behind the verdict."""
    columns: tuple[ColumnDrift, ...] = ()

    @property
    def drifted(self) -> list[str]:
        """Columns that drifted, the largest PSI first."""
        return [column.feature for column in _drifted(self.columns)]

    def to_frame(self) -> pd.DataFrame:
        """One line per column."""
        return pd.DataFrame([asdict(column) for column in self.columns], columns=list(ColumnDrift.__annotations__))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able summary."""
        return {"verdict": self.verdict, "rows": self.rows, "reason": self.reason, "drifted": self.drifted}


def check_drift(reference: ReferenceProfile, live: Window, rule: DriftRule) -> DriftReport:
    """Compare a window of live rows with the reference.

    Parameters
    ----------
    reference : ReferenceProfile
        What the model in production learnt.
    live : Window
        Live rows, counted on it.
    rule : DriftRule
        When a shift counts.
    """
    if live.rows < rule.min_rows:
        return DriftReport("insufficient_data", live.rows, f"{live.rows} live rows; a verdict needs {rule.min_rows}")
    columns = _compare(reference, live, rule)
    broken = {name: said for name in reference.features if (said := _broken(reference, name, live, rule))}
    if broken:
        reason = f"of {live.rows} rows, {_listed(list(broken.values()), '; ')}: mend what sends them"
        marked = tuple(replace(c, verdict="schema_broken") if c.feature in broken else c for c in columns)
        return DriftReport("schema_broken", live.rows, reason, marked)
    drifted = [column.described for column in _drifted(columns)]
    reason = f"{len(drifted)} of {len(columns)} columns drifted over {live.rows} rows" + (
        f": {_listed(drifted)}" if drifted else ""
    )
    verdict: Verdict = "drift" if len(drifted) > rule.share * len(columns) else "stable"
    return DriftReport(verdict, live.rows, reason, columns)


def _listed(items: Sequence[str], between: str = ", ") -> str:
    """List what fits into a sentence."""
    more = len(items) - _MOST_NAMED
    return between.join(items[:_MOST_NAMED]) + (f"{between}and {more} more" if more > 0 else "")


def _drifted(columns: Sequence[ColumnDrift]) -> list[ColumnDrift]:
    """Pick the columns that drifted, the largest PSI first."""
    return sorted((c for c in columns if c.verdict == "drift"), key=lambda c: -(c.psi or 0))


def _compare(reference: ReferenceProfile, live: Window, rule: DriftRule) -> tuple[ColumnDrift, ...]:
    """Compare every column of the reference; outputs only where the window has them."""
    tested: list[tuple[str, Counts | None, Psi | None, Ks | CategoryShift | None]] = []
    for name, profile in reference.columns.items():
        counts = live.counts.get(name)
        if counts is not None:
            tested.append((name, counts, psi(profile, counts), _shape_test(profile, counts)))
        elif name not in (PREDICTION, PROBABILITY):
            tested.append((name, None, None, None))
    found = [test.p_value if test else None for *_, divergence, shape in tested for test in (divergence, shape)]
    adjusted = _holm(found)  # together: either test of a column calls drift
    return tuple(
        _judge(reference.columns[name], name, counts, divergence, p, shape, q, rule)
        for (name, counts, divergence, shape), p, q in zip(tested, adjusted[::2], adjusted[1::2], strict=True)
    )


def _broken(reference: ReferenceProfile, name: str, live: Window, rule: DriftRule) -> str:
    """Say what is wrong with a feature that cannot be compared; nothing when all is well."""
    counts, profile = live.counts.get(name), reference.columns[name]
    if counts is None:
        return f"{name} is in none"
    misread, there = live.misread.get(name, 0), counts.rows + live.misread.get(name, 0)
    if misread > rule.misread_share * there:
        return f"{name} is of another type than it was in {misread} of the {there} that have it"
    empty_before = profile.missing / max(1, profile.rows + profile.missing)
    if counts.rows == 0 and empty_before**counts.missing < rule.alpha:  # a feature may be all but empty by nature
        return f"{name} has a value in none"
    return ""


def _shape_test(profile: Profile, counts: Counts) -> Ks | CategoryShift | None:
    """Compare the distributions as a whole: KS where values have an order, chi-square where they have none."""
    if isinstance(profile, NumericProfile) and isinstance(counts, NumericCounts):
        return ks(profile, counts)
    if isinstance(profile, CategoricalProfile) and isinstance(counts, CategoricalCounts):
        return category_shift(profile, counts)
    return None


def _judge(
    profile: Profile,
    name: str,
    counts: Counts | None,
    divergence: Psi | None,
    psi_pvalue: float | None,
    shape: Ks | CategoryShift | None,
    shape_pvalue: float | None,
    rule: DriftRule,
) -> ColumnDrift:
    by_psi = divergence and psi_pvalue is not None and divergence.value > rule.psi_threshold and psi_pvalue < rule.alpha
    distance = shape.statistic if isinstance(shape, Ks) else shape.distance if shape else 0.0
    by_shape = shape_pvalue is not None and distance > rule.ks_threshold and shape_pvalue < rule.alpha
    mean, std, live_mean = None, None, None
    if isinstance(profile, NumericProfile) and isinstance(counts, NumericCounts) and profile.rows and counts.rows:
        mean, std, live_mean = profile.mean, profile.std, counts.total / counts.rows
    rows = counts.rows + counts.missing if counts else 0
    return ColumnDrift(
        feature=name,
        rows=rows,
        psi=divergence.value if divergence else None,
        psi_pvalue=psi_pvalue,
        ks_statistic=distance if isinstance(shape, Ks) else None,
        ks_pvalue=shape_pvalue if isinstance(shape, Ks) else None,
        category_distance=distance if isinstance(shape, CategoryShift) else None,
        chi2_pvalue=shape_pvalue if isinstance(shape, CategoryShift) else None,
        reference_mean=mean,
        live_mean=live_mean,
        shift=(live_mean - mean) / std if mean is not None and live_mean is not None and std else None,
        verdict="insufficient_data" if rows < rule.min_rows else "drift" if by_psi or by_shape else "stable",
    )


def _holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust the p-values that exist for their number (Holm 1979); the others stay None.

    statsmodels' `multipletests` says the same, and collects garbage at every call: half a second beside MLflow.
    """
    known = np.array([p for p in p_values if p is not None])
    order = np.argsort(known)
    adjusted = np.empty_like(known)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(known[order] * np.arange(len(known), 0, -1)))
    remaining = iter(adjusted.tolist())
    return [None if p is None else next(remaining) for p in p_values]
