"""Reference profiles, and live values counted on them.

A profile is what drift is measured against. Live values are never kept: they are *counted* on the profile's grid, and
such counts add up across chunks, files and machines to exactly what one pass over all rows would have given.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from crossfade.stats.sieve import CHUNK, Floats, Ints, Sieve

MAX_GRID = 65_536
"""Most grid values of a numeric profile. A thinned grid moves a KS distance by less than 1 / MAX_GRID."""

MAX_CATEGORIES = 10_000
"""Most categories of a categorical profile; beyond them the rarest are counted as `OTHER`."""

OTHER = "(other)"

_MOST_THREADS = 8
_EQUAL_MEANS_EQUAL_TEXT = ({str, float, type(None)}, {int, type(None)}, {bool, type(None)})


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
        """Count live values, shape (m,), on this grid; the counts are exact, in memory of a few chunks.

        Sorting a chunk and looking the grid up in it is several times faster than looking every value up; a `Sieve`
        spares most values of a fine grid the sorting too.
        """
        array = np.asarray(sample)
        if array.dtype.kind not in "biuf":
            array = np.asarray(sample, dtype=np.float64)
        sieve = Sieve.worth_it(self.values, array)
        below, at_or_below = np.zeros((2, len(self.values)), dtype=np.int64)
        rows, total = 0, 0.0
        for start in range(0, len(array), CHUNK):
            chunk = np.ascontiguousarray(array[start : start + CHUNK], dtype=np.float64)
            partial = chunk.sum()
            if np.isnan(partial):  # only then can there be a NaN: the others are spared the search for it
                chunk = chunk[~np.isnan(chunk)]
                partial = chunk.sum()
            held = np.sort(sieve.hold(chunk) if sieve else chunk)
            below += np.searchsorted(held, self.values, side="left")
            at_or_below += np.searchsorted(held, self.values, side="right")
            rows, total = rows + len(chunk), total + float(partial)
        passed = sieve.passed_below_grid() if sieve else 0
        return NumericCounts(below + passed, at_or_below + passed, rows, len(array) - rows, total)

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
    """Reference of a categorical feature: rows per category."""

    counts: Mapping[str, int]
    """Reference rows of each category."""
    missing: int
    """Reference rows without a value."""

    @classmethod
    def of(cls, sample: Iterable[object]) -> CategoricalProfile:
        """Profile a sample; None and NaN are missing, everything else is taken as text."""
        counts, missing = _tally(sample)
        kept = dict(counts.most_common(MAX_CATEGORIES))
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
Counts = NumericCounts | CategoricalCounts


def count_columns(profiles: Mapping[str, Profile], columns: Mapping[str, Any]) -> dict[str, Counts]:
    """Count live columns, each on its profile; long ones several at a time.

    Parameters
    ----------
    profiles : mapping of name to Profile
        The reference.
    columns : mapping of name to array or Series, shape (m,) each
        Live values. Names that only one side knows are left out.

    Returns
    -------
    dict of name to Counts
        In the order of `profiles`; the same numbers as counting one column after the other.

    Examples
    --------
    >>> live = {"height": [1.0, 5.0], "unknown": [1.0]}
    >>> count_columns({"height": NumericProfile.of([1.0, 2.0])}, live)["height"].rows
    2
    """
    names = [name for name in profiles if name in columns]
    if sum(len(columns[name]) for name in names) <= CHUNK:  # starting threads would take longer than counting
        return {name: profiles[name].count(columns[name]) for name in names}
    # numpy sorts and searches without the interpreter's lock, so threads count side by side and nothing is copied
    with ThreadPoolExecutor(min(len(names), os.cpu_count() or 1, _MOST_THREADS)) as pool:
        counts = pool.map(lambda name: profiles[name].count(columns[name]), names)
        return dict(zip(names, counts, strict=True))


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
    for chunk in _chunks(sample):
        for value, n in _grouped(chunk):
            if value is None or value != value:  # NaN is the only value that differs from itself
                missing += n
            else:
                counts[str(value)] += n
    return counts, missing


def _chunks(sample: Iterable[object]) -> Iterator[list[object]]:
    if getattr(sample, "dtype", None) == np.dtype(object):  # three times as fast as going through the values
        array = np.asarray(sample)
        yield from (array[start : start + CHUNK].tolist() for start in range(0, len(array), CHUNK))
    else:
        values = iter(sample)
        while chunk := list(islice(values, CHUNK)):
            yield chunk


def _grouped(values: list[object]) -> Iterable[tuple[object, int]]:
    """Count equal values first where that is safe: 1, 1.0 and True are equal, and so are 0.0 and -0.0."""
    kinds = set(map(type, values))
    if any(kinds <= alike for alike in _EQUAL_MEANS_EQUAL_TEXT):
        groups = Counter(values)
        if float not in kinds or 0.0 not in groups:
            return groups.items()
    return zip(values, repeat(1))
