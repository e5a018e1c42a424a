"""Accuracy of an experiment's arms as its labels came: what the log says between two looks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crossfade.dashboard.logtail import Tail
from crossfade.dashboard.traffic import ARMS
from crossfade.stats.proportions import accuracy_interval

_POINTS = 40


@dataclass(frozen=True)
class AccuracyPoint:
    """What an arm had got right up to a time."""

    at: int
    """Milliseconds since the epoch."""
    labeled: int
    correct: int
    low: float
    """Wilson's interval, 95 %: rows are taken for independent."""
    high: float

    @property
    def accuracy(self) -> float:
        """In [0, 1]."""
        return self.correct / self.labeled


def accuracy_of(tail: Tail, experiment_id: str) -> dict[str, tuple[AccuracyPoint, ...]]:
    """Follow the accuracy of each arm over the rows that were answered so far.

    A request that was sent twice counts twice here; the looks at the experiment count it once.

    Returns
    -------
    dict of variant to tuple of AccuracyPoint
        Oldest first; a time at which an arm had no label yet is left out.
    """
    arms = [
        [i for i, group in enumerate(tail.groups) if group.experiment_id == experiment_id and group.variant == variant]
        for variant in ARMS
    ]
    mine = [(part, [np.flatnonzero(np.isin(part.group, arm) & part.known) for arm in arms]) for part in tail.parts]
    mine = [(part, places) for part, places in mine if any(map(len, places))]
    if not mine:
        return dict.fromkeys(ARMS, ())
    times = np.concatenate([part.at[place] for part, places in mine for place in places])
    first, last = int(times.min()), int(times.max())
    width = max(1, -(-(last - first + 1) // _POINTS))
    counts = np.zeros((len(ARMS), 2, _POINTS), np.int64)
    for part, places in mine:
        for i, place in enumerate(places):
            bucket = (part.at[place] - first) // width
            counts[i, 0] += np.bincount(bucket, minlength=_POINTS)
            counts[i, 1] += np.bincount(bucket[part.correct[place]], minlength=_POINTS)
    ends = [min(last, first + (bucket + 1) * width) for bucket in range(_POINTS)]
    return {
        variant: tuple(
            _point(at, int(n), int(k)) for at, n, k in zip(ends, *counts[i].cumsum(axis=1), strict=True) if n
        )
        for i, variant in enumerate(ARMS)
    }


def _point(at: int, labeled: int, correct: int) -> AccuracyPoint:
    interval = accuracy_interval(correct, labeled)
    assert interval is not None, "there are labels"
    return AccuracyPoint(at, labeled, correct, *interval)
