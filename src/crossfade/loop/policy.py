"""Retrain, monitor or block: what a drift verdict means for this installation, now, with reasons."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from crossfade.loop.drift import DriftReport


@dataclass(frozen=True)
class Situation:
    """What the policy looks at."""

    drift: DriftReport
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

    decision: Literal["retrain", "monitor", "block"]
    reasons: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


def recommend(situation: Situation, min_labeled: int) -> Recommendation:
    """Decide on a retraining.

    Parameters
    ----------
    situation : Situation
        Drift, versions and labels.
    min_labeled : int
        New labelled rows that a retraining needs to learn anything.
    """
    drift, new = situation.drift, situation.new_labeled
    if situation.prod_version is None:
        return Recommendation("retrain", ("no version is in production yet: train the first one",))
    if situation.force:
        return Recommendation("retrain", ("force_retrain was asked for", drift.reason))
    if situation.experiment_open:
        running = f"version {situation.staging_version} is being tested against {situation.prod_version}"
        return Recommendation("monitor", (f"{running}: one challenger at a time", drift.reason))
    if drift.verdict != "drift":
        return Recommendation("monitor", (drift.reason,))
    if new < min_labeled:
        few = f"only {new} labelled rows are new; a retraining needs {min_labeled}: send labels to /feedback"
        return Recommendation("monitor", (drift.reason, few))
    return Recommendation("retrain", (drift.reason, f"{new} labelled rows are new to version {situation.prod_version}"))
