"""Reference profiles, and live values counted on them.

A profile is what drift is measured against. Live values are never kept: they are *counted* on the profile's grid, and
such counts add up across chunks, files and machines to exactly what one pass over all rows would have given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MAX_GRID = 65_536
"""Most grid values of a numeric profile. A thinned grid moves a KS distance by less than 1 / MAX_GRID."""

RARE_SHARE = 0.01
"""Categories below this share of the reference are counted as `OTHER`."""

OTHER = "(other)"


@dataclass(frozen=True)
class NumericCounts:
    """Live values of one numeric feature, counted on a profile's grid of k values.

    Counts of the same profile add up with ``+``.
    """

    below: Ints
    """Shape (k,): how many live values lie below each grid value."""
    at_or_below: Ints
    """Shape (k,): how many lie at or below it."""
    rows: int
    """Live values that are not missing."""
    missing: int
    """Live values that are missing (NaN)."""
    total: float
    """Sum of the values that are not missing, for the mean."""

    def __add__(self, other: NumericCounts) -> NumericCounts:
        return NumericCounts(
            self.below + other.below,
            self.at_or_below + other.at_or_below,
            self.rows + other.rows,
            self.missing + other.missing,
            self.total + other.total,
        )


@dataclass(frozen=True)
class NumericProfile:
    """Reference of a numeric feature: its sorted distinct values with their counts.

    Examples
    --------
    >>> profile = NumericProfile.of([1.0, 2.0, 2.0, float("nan")])
    >>> profile.values.tolist(), profile.counts.tolist(), profile.missing
    ([1.0, 2.0], [1, 2], 1)
    >>> live = profile.count([0.0, 2.0]) + profile.count([5.0])
    >>> live.below.tolist(), live.at_or_below.tolist(), live.rows
    ([1, 1], [1, 2], 3)
    """

    values: Floats
    """Shape (k,): distinct values, ascending; thinned to MAX_GRID quantiles above that many."""
    counts: Ints
    """Shape (k,): reference rows at each value (of a thinned grid: since the value before)."""
    missing: int
    """Reference rows without a value."""
    mean: float
    """Mean of the reference; NaN when every value is missing."""
    std: float
    """Standard deviation (n in the denominator); NaN when every value is missing."""

    @classmethod
    def of(cls, sample: npt.ArrayLike) -> NumericProfile:
        """Profile a sample of shape (n,); NaN is missing."""
        array = np.asarray(sample, dtype=np.float64)
        present = array[~np.isnan(array)]
        values, counts = np.unique(present, return_counts=True)
        if len(values) > MAX_GRID:
            values, counts = _thin(values, counts)
        mean, std = (float(present.mean()), float(present.std())) if len(present) else (np.nan, np.nan)
        return cls(values, counts.astype(np.int64), len(array) - len(present), mean, std)

    @property
    def rows(self) -> int:
        """Reference rows that have a value."""
        return int(self.counts.sum())

    def count(self, sample: npt.ArrayLike) -> NumericCounts:
        """Count a chunk of live values, shape (m,), on this grid.

        Sorting the chunk and looking the grid up in it is several times faster than looking every value up.
        """
        array = np.asarray(sample, dtype=np.float64)
        present = np.sort(array[~np.isnan(array)])
        return NumericCounts(
            below=np.searchsorted(present, self.values, side="left").astype(np.int64),
            at_or_below=np.searchsorted(present, self.values, side="right").astype(np.int64),
            rows=len(present),
            missing=len(array) - len(present),
            total=float(present.sum()),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able form; floats survive the round trip to the bit."""
        return {
            "kind": "numeric",
            "values": self.values.tolist(),
            "counts": self.counts.tolist(),
            "missing": self.missing,
            "mean": self.mean,
            "std": self.std,
        }


@dataclass(frozen=True)
class CategoricalCounts:
    """Live values of one categorical feature; counts of the same profile add up with ``+``."""

    counts: Mapping[str, int]
    """Rows of each category of the profile, and of `OTHER`."""
    missing: int
    """Rows without a value."""

    def __add__(self, other: CategoricalCounts) -> CategoricalCounts:
        return CategoricalCounts(Counter(self.counts) + Counter(other.counts), self.missing + other.missing)

    @property
    def rows(self) -> int:
        """Live values that are not missing."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class CategoricalProfile:
    """Reference of a categorical feature: rows per category, the rare ones together under `OTHER`."""

    counts: Mapping[str, int]
    """Reference rows of each category."""
    missing: int
    """Reference rows without a value."""

    @classmethod
    def of(cls, sample: Iterable[object]) -> CategoricalProfile:
        """Profile a sample; None and NaN are missing, everything else is taken as text."""
        counts, missing = _tally(sample)
        limit = RARE_SHARE * sum(counts.values())
        kept = {name: n for name, n in counts.items() if n >= limit}
        rare = sum(counts.values()) - sum(kept.values())
        return cls({**kept, OTHER: kept.get(OTHER, 0) + rare} if rare else kept, missing)

    @property
    def rows(self) -> int:
        """Reference rows that have a value."""
        return sum(self.counts.values())

    def count(self, sample: Iterable[object]) -> CategoricalCounts:
        """Count a chunk of live values; a category the profile does not know counts as `OTHER`."""
        counts, missing = _tally(sample)
        merged: Counter[str] = Counter()
        for name, n in counts.items():
            merged[name if name in self.counts else OTHER] += n
        return CategoricalCounts(merged, missing)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able form."""
        return {"kind": "categorical", "counts": dict(self.counts), "missing": self.missing}


Profile = NumericProfile | CategoricalProfile


def profile_from_dict(stored: Mapping[str, Any]) -> Profile:
    """Read back what ``to_dict`` of either profile wrote."""
    if stored["kind"] == "categorical":
        return CategoricalProfile(dict(stored["counts"]), int(stored["missing"]))
    return NumericProfile(
        np.asarray(stored["values"], dtype=np.float64),
        np.asarray(stored["counts"], dtype=np.int64),
        int(stored["missing"]),
        float(stored["mean"]),
        float(stored["std"]),
    )


def _thin(values: Floats, counts: Ints) -> tuple[Floats, Ints]:
    """Keep MAX_GRID quantiles; the reference's distribution function stays exact at each value kept."""
    cumulative = np.cumsum(counts)
    ranks = np.ceil(np.arange(1, MAX_GRID + 1) / MAX_GRID * cumulative[-1])
    keep = np.unique(np.searchsorted(cumulative, ranks, side="left"))
    return values[keep], np.diff(cumulative[keep], prepend=0)


def _tally(sample: Iterable[object]) -> tuple[Counter[str], int]:
    counts: Counter[str] = Counter()
    missing = 0
    for value in sample:
        if value is None or value != value:  # NaN is the only value that differs from itself
            missing += 1
        else:
            counts[str(value)] += 1
    return counts, missing
