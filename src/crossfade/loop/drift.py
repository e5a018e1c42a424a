"""4. Drift: does live traffic still look like the data the model in production learnt?

A feature drifted when the shift is large enough to matter *and* is not noise: PSI or KS above its threshold, with a
p-value below alpha after Holm's correction over the features. Categories have no order, so chi-square stands in for KS,
and the total variation distance for its distance.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from crossfade.stats.divergence import CategoryShift, Ks, Psi, category_shift, ks, psi
from crossfade.stats.profile import (
    CategoricalCounts,
    CategoricalProfile,
    NumericCounts,
    NumericProfile,
    Profile,
    profile_from_dict,
)

PREDICTION, PROBABILITY = "prediction", "probability"
"""The model's outputs, monitored like features where the live rows have them."""


@dataclass(frozen=True)
class DriftRule:
    """When a shift counts."""

    psi_threshold: float = 0.2
    ks_threshold: float = 0.1
    alpha: float = 0.01
    share: float = 0.0
    """Drift is called when more than this share of the features drifted."""
    min_rows: int = 200


@dataclass(frozen=True)
class ReferenceProfile:
    """What one model version learnt, as profiles by column name."""

    columns: Mapping[str, Profile]
    """Every feature, and the held-out predictions and probabilities."""

    @classmethod
    def of(cls, features: pd.DataFrame, outputs: pd.DataFrame) -> ReferenceProfile:
        """Profile training rows, shape (n, features), and answers to held-out rows, shape (m, 2)."""
        columns: dict[str, Profile] = {
            str(name): CategoricalProfile.of(column) if column.dtype == object else NumericProfile.of(column)
            for name, column in features.items()
        }
        columns[PREDICTION] = CategoricalProfile.of(outputs[PREDICTION])
        columns[PROBABILITY] = NumericProfile.of(outputs[PROBABILITY])
        return cls(columns)

    @property
    def features(self) -> list[str]:
        """Names of the features, in the model's order."""
        return [name for name in self.columns if name not in (PREDICTION, PROBABILITY)]

    def to_json(self) -> str:
        """Serialise; floats survive the round trip to the bit."""
        return json.dumps({name: profile.to_dict() for name, profile in self.columns.items()})

    @classmethod
    def from_json(cls, text: str) -> ReferenceProfile:
        """Read back what `to_json` wrote."""
        return cls({name: profile_from_dict(stored) for name, stored in json.loads(text).items()})


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
    """Holm-adjusted, together with the chi-squares'."""
    category_distance: float | None
    """Total variation distance between the categories' shares; None for a numeric column."""
    chi2_pvalue: float | None
    """Holm-adjusted, together with the KS tests'."""
    reference_mean: float | None
    live_mean: float | None
    shift: float | None
    """Difference of the means in the reference's standard deviations; None when those are 0 or undefined."""
    verdict: Literal["stable", "drift", "insufficient_data"]

    @property
    def described(self) -> str:
        """Name and distances, for a sentence."""
        distances = (("PSI", self.psi), ("KS", self.ks_statistic), ("distance", self.category_distance))
        return f"{self.feature} ({', '.join(f'{name} {value:.2f}' for name, value in distances if value is not None)})"


@dataclass(frozen=True)
class DriftReport:
    """Outcome of one drift check."""

    verdict: Literal["stable", "drift", "insufficient_data", "no_reference"]
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


def check_drift(reference: ReferenceProfile, live: pd.DataFrame, rule: DriftRule) -> DriftReport:
    """Compare a window of live rows with the reference.

    Parameters
    ----------
    reference : ReferenceProfile
        What the model in production learnt.
    live : DataFrame
        Shape (n, columns): the features, and `prediction` and `probability` where known. Outputs may be missing in
        rows that another version answered; such rows are left out of that column's comparison.
    rule : DriftRule
        When a shift counts.
    """
    if len(live) < rule.min_rows:
        reason = f"{len(live)} live rows; a verdict needs {rule.min_rows}"
        return DriftReport("insufficient_data", len(live), reason)
    columns = _compare(reference, live, rule)
    drifted = _drifted(columns)
    listed = ", ".join(c.described for c in drifted)
    reason = f"{len(drifted)} of {len(columns)} columns drifted over {len(live)} rows" + (
        f": {listed}" if listed else ""
    )
    verdict: Literal["drift", "stable"] = "drift" if len(drifted) > rule.share * len(columns) else "stable"
    return DriftReport(verdict, len(live), reason, columns)


def _drifted(columns: Sequence[ColumnDrift]) -> list[ColumnDrift]:
    """Pick the columns that drifted, the largest PSI first."""
    return sorted((c for c in columns if c.verdict == "drift"), key=lambda c: -(c.psi or 0))


def _compare(reference: ReferenceProfile, live: pd.DataFrame, rule: DriftRule) -> tuple[ColumnDrift, ...]:
    tested: list[tuple[str, pd.Series[Any], Psi | None, Ks | CategoryShift | None]] = []
    for name, profile in reference.columns.items():
        if name not in live:
            continue
        sample = live[name].dropna() if name in (PREDICTION, PROBABILITY) else live[name]
        counts = profile.count(sample)
        tested.append((name, sample, psi(profile, counts), _shape_test(profile, counts)))
    psi_p = _holm([divergence.p_value if divergence else None for _, _, divergence, _ in tested])
    shape_p = _holm([shape.p_value if shape else None for _, _, _, shape in tested])
    return tuple(
        _judge(reference.columns[name], name, sample, divergence, p, shape, q, rule)
        for (name, sample, divergence, shape), p, q in zip(tested, psi_p, shape_p, strict=True)
    )


def _shape_test(profile: Profile, counts: NumericCounts | CategoricalCounts) -> Ks | CategoryShift | None:
    """Compare the distributions as a whole: KS where values have an order, chi-square where they have none."""
    if isinstance(profile, NumericProfile) and isinstance(counts, NumericCounts):
        return ks(profile, counts)
    if isinstance(profile, CategoricalProfile) and isinstance(counts, CategoricalCounts):
        return category_shift(profile, counts)
    return None


def _judge(
    profile: Profile,
    name: str,
    sample: pd.Series[Any],
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
    if isinstance(profile, NumericProfile) and profile.rows and sample.notna().any():
        mean, std, live_mean = profile.mean, profile.std, float(sample.mean())
    return ColumnDrift(
        feature=name,
        rows=len(sample),
        psi=divergence.value if divergence else None,
        psi_pvalue=psi_pvalue,
        ks_statistic=distance if isinstance(shape, Ks) else None,
        ks_pvalue=shape_pvalue if isinstance(shape, Ks) else None,
        category_distance=distance if isinstance(shape, CategoryShift) else None,
        chi2_pvalue=shape_pvalue if isinstance(shape, CategoryShift) else None,
        reference_mean=mean,
        live_mean=live_mean,
        shift=(live_mean - mean) / std if mean is not None and live_mean is not None and std else None,
        verdict="insufficient_data" if len(sample) < rule.min_rows else "drift" if by_psi or by_shape else "stable",
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
