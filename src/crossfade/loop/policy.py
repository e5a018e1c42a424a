"""Retrain or monitor: what drift and quality mean for this installation, now, with reasons."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any, Literal

from crossfade.loop.drift import DriftReport
from crossfade.loop.quality import QualityReport

_MOST_PATIENCE = 64
"""However many challengers were rejected: the next waits for this many times RETRAIN_MIN_LABELED rows at most."""


@dataclass(frozen=True)
class Attempts:
    """Trainings since prod's own whose challengers were all rejected."""

    rejected: int = 0
    untried: int = 0
    """Labelled rows that came since the last of them; since prod's own training when there was none."""
    worse_since: bool = False
    """Whether prod's quality fell significantly since the last of them."""


@dataclass(frozen=True)
class Situation:
    """What the policy looks at."""

    drift: DriftReport
    quality: QualityReport
    attempts: Attempts
    prod_version: str | None
    staging_version: str | None
    new_labeled: int
    """Labelled rows that prod's version has not learnt from."""
    force: bool = False
    """The caller asked for a retraining whatever else is found."""

    @property
    def experiment_open(self) -> bool:
        """Whether a challenger is being tested against prod."""
        return self.staging_version is not None and self.staging_version != self.prod_version


@dataclass(frozen=True)
class Recommendation:
    """What to do, and why."""

    decision: Literal["retrain", "monitor"]
    reasons: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


def recommend(situation: Situation, min_labeled: int, triggers: Collection[str]) -> Recommendation:
    """Decide on a retraining.

    Parameters
    ----------
    situation : Situation
        Drift, quality, versions and labels.
    min_labeled : int
        New labelled rows that a retraining needs to learn anything. Every challenger that was rejected since the last
        promotion doubles it, for what did not help is unlikely to help on almost the same rows; a fall in quality
        since the last of them sets it back.
    triggers : collection of str
        What calls for a retraining: `drift`, `quality`, or both.
    """
    drift, quality, new = situation.drift, situation.quality, situation.new_labeled
    seen = tuple(said for said in (drift.reason, quality.reason) if said)
    if situation.prod_version is None:
        return Recommendation("retrain", ("no version is in production yet: train the first one",))
    if situation.force:
        return Recommendation("retrain", ("force_retrain was asked for", *seen))
    if situation.experiment_open:
        running = f"version {situation.staging_version} is being tested against {situation.prod_version}"
        return Recommendation("monitor", (f"{running}: one challenger at a time", *seen))
    alarms = {"drift": drift.verdict == "drift", "quality": quality.verdict == "worse"}
    if not any(alarms[trigger] for trigger in triggers):
        return Recommendation("monitor", seen)
    if new < min_labeled:
        few = f"only {new} labelled rows are new; a retraining needs {min_labeled}: send labels to /feedback"
        return Recommendation("monitor", (*seen, few))
    attempts = situation.attempts
    needed = min_labeled * min(2**attempts.rejected, _MOST_PATIENCE)
    if attempts.rejected and attempts.untried < needed and not attempts.worse_since:
        tried = f"{attempts.rejected} challengers in a row were rejected"
        return Recommendation(
            "monitor", (*seen, f"{tried}: the next needs {needed} new labels, {attempts.untried} came")
        )
    return Recommendation("retrain", (*seen, f"{new} labelled rows are new to version {situation.prod_version}"))
