"""The reference against the live distribution of a feature: the newest answers on the grid of what prod learnt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from crossfade.dashboard.logtail import OneSlice
from crossfade.dashboard.neighbours import Learnt
from crossfade.engine import open_engine
from crossfade.loop.reference import PREDICTION, PROBABILITY, ReferenceProfile
from crossfade.loop.window import Window, WindowCounter
from crossfade.requestlog import RequestLog
from crossfade.stats.profile import OTHER, CategoricalCounts, CategoricalProfile, Counts, NumericCounts, NumericProfile

_SLICES = 2
"""The newest ones are looked at: the newest may have just been begun."""

_BINS = 20
_MOST_CATEGORIES = 15


@dataclass(frozen=True)
class LiveWindow:
    """The newest answers, counted."""

    window: Window | None = field(default=None, compare=False)
    """None before the first one."""
    version: str = ""
    """On whose profile."""
    mark: object = None
    """Differs when the rows do."""


@dataclass(frozen=True)
class Distribution:
    """Shares of a feature's values, by bin or category."""

    feature: str
    numeric: bool
    names: tuple[str, ...]
    """Of the bins or categories, in order."""
    middles: tuple[float, ...]
    """Of a numeric feature's bins; empty otherwise."""
    learnt: tuple[float, ...]
    """Share of the rows learnt, by bin; missing values left out."""
    live: tuple[float, ...]
    """Share of the live rows, likewise."""
    learnt_rows: int
    live_rows: int


class LiveCounter:
    """Counts the newest answers, if there are new ones.

    Parameters
    ----------
    log : RequestLog
        The log.
    model : str
        Name of the registered model.
    rows : int
        DRIFT_WINDOW_ROWS.
    """

    def __init__(self, log: RequestLog, model: str, rows: int) -> None:
        self._log = log
        self._model = model
        self._rows = rows
        self._found = LiveWindow()

    def look(self, learnt: Learnt | None) -> LiveWindow:
        """Count. Raises LogUnavailable."""
        if learnt is None:
            return LiveWindow()
        version = learnt.version.number
        counter = WindowCounter(learnt.profile, learnt.schema, self._model, version, learnt.strangers)
        newest = list(self._log.slices(counter.answered))[-_SLICES:]
        mark = (version, learnt.version.run_id, *(part.mark for part in newest))
        if mark != self._found.mark:
            with open_engine("local") as engine:
                windows = counter.windows(OneSlice(*newest), self._rows, 1, engine)
            self._found = LiveWindow(windows[0] if windows else None, version, mark)
        return self._found


def features_of(learnt: Learnt | None) -> list[str]:
    """Name what can be chosen: the features, and the model's outputs."""
    return [*learnt.profile.features, *_outputs(learnt.profile)] if learnt else []


def distribution_of(learnt: Learnt, live: LiveWindow, feature: str) -> Distribution | None:
    """Compare a feature; None when there is no live row, or no such feature."""
    profile = learnt.profile.columns.get(feature)
    counts: Mapping[str, Counts] = live.window.counts if live.window and live.version == learnt.version.number else {}
    found = counts.get(feature)
    if isinstance(profile, NumericProfile) and isinstance(found, NumericCounts) and profile.rows and found.rows:
        return _numeric(feature, profile, found)
    if isinstance(profile, CategoricalProfile) and isinstance(found, CategoricalCounts) and profile.rows and found.rows:
        return _categorical(feature, profile, found)
    return None


def _outputs(profile: ReferenceProfile) -> list[str]:
    return [name for name in (PREDICTION, PROBABILITY) if name in profile.columns]


def _numeric(feature: str, profile: NumericProfile, live: NumericCounts) -> Distribution:
    """Regroup both sides to bins of about equal width whose edges are grid values, so that the counts are exact.

    The outer bins are open: what is live beyond all that was learnt is in them.
    """
    wanted = np.linspace(profile.values[0], profile.values[-1], _BINS + 1)[1:-1]
    edges = np.unique(np.searchsorted(profile.values, wanted, side="right") - 1)
    learnt_rows = np.diff(np.cumsum(profile.counts)[edges], prepend=0, append=profile.rows)
    live_rows = np.diff(live.at_or_below[edges], prepend=0, append=live.rows)
    ends = [profile.values[0], *profile.values[edges], profile.values[-1]]
    names = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(ends)]
    names[0], names[-1] = f"up to {ends[1]:.4g}", f"above {ends[-2]:.4g}"
    middles = [(low + high) / 2 for low, high in pairwise(ends)]
    return Distribution(
        feature,
        True,
        tuple(names),
        tuple(float(middle) for middle in middles),
        tuple((learnt_rows / profile.rows).tolist()),
        tuple((live_rows / live.rows).tolist()),
        profile.rows,
        live.rows,
    )


def _categorical(feature: str, profile: CategoricalProfile, live: CategoricalCounts) -> Distribution:
    """Take the categories that are the most frequent on either side; the rest together."""
    names = set(profile.counts) | set(live.counts)
    shares = {
        name: (profile.counts.get(name, 0) / profile.rows, live.counts.get(name, 0) / live.rows) for name in names
    }
    shown = sorted((name for name in names if name != OTHER), key=lambda name: (-max(shares[name]), name))
    kept, rest = shown[:_MOST_CATEGORIES], shown[_MOST_CATEGORIES:] + ([OTHER] if OTHER in names else [])
    columns = [(name, *shares[name]) for name in sorted(kept)]
    if rest:
        columns.append(("other", sum(shares[name][0] for name in rest), sum(shares[name][1] for name in rest)))
    return Distribution(
        feature,
        False,
        tuple(name for name, _, _ in columns),
        (),
        tuple(learnt for _, learnt, _ in columns),
        tuple(now for _, _, now in columns),
        profile.rows,
        live.rows,
    )
