"""One look at live traffic: drift, quality, and what was tried already."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from crossfade.errors import DataError, ModelUnusable
from crossfade.loop.drift import DriftReport, DriftRule, check_drift
from crossfade.loop.holdout import unlearnt
from crossfade.loop.incumbent import Reference, reference_of
from crossfade.loop.installation import Installation
from crossfade.loop.live import LabeledRows, LiveSource, LiveWindows, read_labeled, read_windows
from crossfade.loop.policy import Attempts
from crossfade.loop.quality import QualityReport, check_quality
from crossfade.loop.tracking import read_metrics, share_of
from crossfade.settings import Settings
from crossfade.version import FEATURES, TRAINED_AT, Version

_log = logging.getLogger(__name__)

TREND_WINDOWS = 30
"""Windows without overlap, the newest among them, over which the PSI of each feature is followed."""

_MOST_HISTORY_ROWS = 1_000_000
"""So many rows are read for them: where windows are large, fewer are read and the older ones come from the file."""

_UNTRIED = Attempts()

_NOT_LOOKED_AT = QualityReport("insufficient_data", "", 0)

_FEWEST_SINCE = 30
"""Labelled answers since the last training that can tell whether things got worse since."""


@dataclass(frozen=True)
class TrafficCheck:
    """One look at live traffic."""

    prod: Version | None
    versions: tuple[Version, ...]
    """All that are registered, oldest first."""
    report: DriftReport
    quality: QualityReport
    attempts: Attempts = _UNTRIED
    new_labeled: int = 0
    """Labelled rows that prod has not learnt."""
    trained_hours_ago: float | None = None
    """Since the newest version was trained; None when that is not known."""
    reference: Reference | None = None
    """What prod learnt; None where it was not trained here."""
    live: LiveWindows | None = None
    """None where there is no reference to compare with."""
    set_aside: int = 0
    """Lines of the log that could not be read."""


def look_at_traffic(here: Installation, prod: Version | None, current_source: str) -> TrafficCheck:
    """Compare live rows with what prod learnt, and its answers with how good it was then."""
    if prod is None:
        return _nothing(None, (), "no version is in production: nothing to compare with")
    versions = tuple(here.registry.versions())
    try:
        reference = reference_of(here, prod)
    except ModelUnusable as error:  # somebody made a foreign version prod
        return _nothing(prod, versions, str(error))
    settings = here.settings
    features = reference.schema.digest
    strangers = tuple(v.number for v in versions if v.tags.get(FEATURES, features) != features)
    source = LiveSource(here, current_source, reference.schema, prod.number, strangers)
    history = max(1, min(TREND_WINDOWS, _MOST_HISTORY_ROWS // settings.drift_window_rows))
    live = read_windows(source, reference.profile, history if here.for_use else 1)
    drift = check_drift(reference.profile, live.newest, rule_of(settings))
    found = TrafficCheck(
        prod, versions, drift, _NOT_LOOKED_AT, reference=reference, live=live, trained_hours_ago=_age(here, versions)
    )
    try:
        labeled = read_labeled(source)
    except DataError as error:  # a file that nothing can be learnt from still has a verdict
        _log.warning("no labelled rows: %s", error)
        return found
    newest = labeled.answers.tail(settings.drift_window_rows)
    quality = check_quality(newest, reference.baseline, settings.retrain_min_labeled, settings.drift_alpha)
    new = len(unlearnt(reference.snapshot, labeled.labeled, settings.target)[0])
    attempts = _attempts(here, versions, prod, reference, labeled, new)
    return replace(found, quality=quality, attempts=attempts, new_labeled=new, set_aside=labeled.set_aside)


def rule_of(settings: Settings) -> DriftRule:
    """Take the rule from the settings."""
    return DriftRule(
        psi_threshold=settings.psi_threshold,
        ks_threshold=settings.ks_threshold,
        alpha=settings.drift_alpha,
        share=settings.drift_share,
        min_rows=settings.drift_min_rows,
    )


def _nothing(prod: Version | None, versions: tuple[Version, ...], reason: str) -> TrafficCheck:
    return TrafficCheck(prod, versions, DriftReport("no_reference", 0, reason), _NOT_LOOKED_AT)


def _age(here: Installation, versions: tuple[Version, ...]) -> float | None:
    """Return the hours since the newest version was trained; None where there is none."""
    trained = [version.tags.get(TRAINED_AT) or version.registered_at for version in versions]
    if not trained:
        return None
    return max(0.0, (datetime.fromisoformat(here.clock()) - datetime.fromisoformat(trained[-1])) / timedelta(hours=1))


def _attempts(
    here: Installation, versions: tuple[Version, ...], prod: Version, reference: Reference, live: LabeledRows, new: int
) -> Attempts:
    """Count the challengers that were rejected since prod's version was trained."""
    rejected = [
        version
        for version in versions
        if int(version.number) > int(prod.number)
        and version.status == "rejected"
        and version.tags.get("crossfade.decided_by") != "rollback"
    ]
    if not rejected:
        return Attempts(untried=new)
    then = read_metrics(rejected[-1].run_id)
    untried = len(reference.snapshot) + new - int(then.get("snapshot_rows", 0))
    since = live.answers.tail(max(0, len(live.answers) - int(then.get("champion_answers", 0))))
    quality = check_quality(since, share_of(then, "champion"), _FEWEST_SINCE, here.settings.drift_alpha)
    return Attempts(len(rejected), untried, worse_since=quality.verdict == "worse")
