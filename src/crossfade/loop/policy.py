"""Retrain, monitor or block: what drift and quality mean for this installation, now, with reasons."""

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
    trained_hours_ago: float | None = None
    """Since the newest version was trained; None when that is not known."""
    is_first: bool = False
    """The newest version is the first one, which no challenger has followed yet."""
    watched: str = ""
    """What the watch over the last promotion found wrong; empty when all is well."""
    rolled_back: bool = False
    """Production was put back just now, because of it."""
    force: bool = False
    """The caller asked for a retraining whatever else is found."""

    @property
    def experiment_open(self) -> bool:
        """Whether a challenger is being tested against prod."""
        return self.staging_version is not None and self.staging_version != self.prod_version


@dataclass(frozen=True)
class PolicyRule:
    """When a retraining pays."""

    min_labeled: int = 100
    """New labelled rows that a retraining needs to learn anything. Every challenger that was rejected since the last
    promotion doubles it, for what did not help is unlikely to help on almost the same rows; a fall in quality since the
    last of them sets it back."""
    triggers: Collection[str] = ("drift", "quality")
    """What calls for a retraining: `drift`, `quality`, or both."""
    cooldown_hours: float = 1.0
    """After a challenger was trained, no other is for so long."""
    max_age_days: float = 30.0
    """Without a training for so long, new labels alone call for one; 0: never."""


@dataclass(frozen=True)
class Recommendation:
    """What to do, and why."""

    decision: Literal["retrain", "monitor", "block"]
    reasons: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


def recommend(situation: Situation, rule: PolicyRule) -> Recommendation:
    """Decide on a retraining: every reason that speaks is told, the deciding one last."""
    drift, quality = situation.drift, situation.quality
    seen = tuple(said for said in (situation.watched, drift.reason, quality.reason) if said)
    if situation.prod_version is None:
        return Recommendation("retrain", ("no version is in production yet: train the first one",))
    if situation.force:
        return Recommendation("retrain", (*seen, "force_retrain was asked for"))
    if drift.verdict == "schema_broken":
        return Recommendation("block", (*seen, "a retraining would learn the bug; force_retrain overrides this"))
    if situation.rolled_back:
        return Recommendation(
            "monitor", (*seen, f"version {situation.prod_version} is back only now: let it answer first")
        )
    if situation.experiment_open:
        running = f"version {situation.staging_version} is being tested against {situation.prod_version}"
        return Recommendation("monitor", (*seen, f"{running}: one challenger at a time"))
    alarms = {"drift": drift.verdict == "drift", "quality": quality.verdict == "worse"}
    age = _age(situation, rule)
    if not age and not any(alarms[trigger] for trigger in rule.triggers):
        return Recommendation("monitor", seen)
    if age:
        seen = (*seen, age)
    if why_not := _not_now(situation, rule, patient=not age):
        return Recommendation("monitor", (*seen, why_not))
    new = f"{situation.new_labeled} labelled rows are new to version {situation.prod_version}"
    return Recommendation("retrain", (*seen, new))


def _age(situation: Situation, rule: PolicyRule) -> str:
    """Say that the last training is too long ago; nothing while it is not."""
    hours = situation.trained_hours_ago
    if not rule.max_age_days or hours is None or hours < 24 * rule.max_age_days:
        return ""
    return f"the last training was {hours / 24:.0f} days ago"


def _not_now(situation: Situation, rule: PolicyRule, patient: bool) -> str:
    """Say why an alarm does not lead to a retraining yet; nothing when it does."""
    new, attempts, hours = situation.new_labeled, situation.attempts, situation.trained_hours_ago
    if new < rule.min_labeled:
        return f"only {new} labelled rows are new; a retraining needs {rule.min_labeled}: send labels to /feedback"
    if hours is not None and hours < rule.cooldown_hours and not situation.is_first:
        ago = f"a challenger was trained {hours:.1f} hours ago"
        return f"{ago}: the next may be in {rule.cooldown_hours - hours:.1f} hours (RETRAIN_COOLDOWN_HOURS)"
    needed = rule.min_labeled * min(2**attempts.rejected, _MOST_PATIENCE)
    if patient and attempts.rejected and attempts.untried < needed and not attempts.worse_since:
        tried = f"{attempts.rejected} challengers in a row were rejected"
        return f"{tried}: the next needs {needed} new labels, {attempts.untried} came"
    return ""
