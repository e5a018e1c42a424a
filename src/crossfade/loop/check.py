"""One look at live traffic: drift, quality, and what was tried already."""

from __future__ import annotations

from crossfade.errors import ModelUnusable
from crossfade.loop.drift import DriftReport, DriftRule, check_drift
from crossfade.loop.evidence import DriftCheck
from crossfade.loop.holdout import unlearnt
from crossfade.loop.incumbent import Reference, reference_of
from crossfade.loop.installation import Installation
from crossfade.loop.live import LiveRows, read_live
from crossfade.loop.policy import Attempts
from crossfade.loop.quality import QualityReport, check_quality
from crossfade.loop.tracking import read_metrics, share_of
from crossfade.registry import Version

_FEWEST_SINCE = 30
"""Labelled answers since the last training that can tell whether things got worse since."""


def look_at_traffic(here: Installation, prod: Version | None, current_source: str) -> DriftCheck:
    """Compare live rows with what prod learnt, and its answers with how good it was then."""
    if prod is None:
        return _nothing(None, "no version is in production: nothing to compare with")
    try:
        reference = reference_of(here, prod)
    except ModelUnusable as error:  # somebody made a foreign version prod
        return _nothing(prod, str(error))
    settings = here.settings
    live = read_live(here, current_source, reference.schema, prod.number, settings.drift_strength)
    rule = DriftRule(
        psi_threshold=settings.psi_threshold,
        ks_threshold=settings.ks_threshold,
        alpha=settings.drift_alpha,
        share=settings.drift_share,
        min_rows=settings.drift_min_rows,
    )
    drift = check_drift(reference.profile, live.window, rule)
    newest = live.answers.tail(settings.drift_window_rows)
    quality = check_quality(newest, reference.baseline, settings.retrain_min_labeled, settings.drift_alpha)
    new = len(unlearnt(reference.snapshot, live.labeled, settings.target)[0])
    attempts = _attempts(here, prod, reference, live, new)
    return DriftCheck(prod, live, drift, quality, attempts, new, reference.snapshot)


def _nothing(prod: Version | None, reason: str) -> DriftCheck:
    drift, quality = DriftReport("no_reference", 0, reason), QualityReport("insufficient_data", "", 0)
    return DriftCheck(prod, None, drift, quality, Attempts(), 0)


def _attempts(here: Installation, prod: Version, reference: Reference, live: LiveRows, new: int) -> Attempts:
    """Count the challengers that were rejected since prod's version was trained."""
    rejected = [
        version
        for version in here.registry.versions()
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
