"""The watch: is what was promoted at least as good as what it replaced had been?"""

from __future__ import annotations

import pandas as pd

from crossfade.logreader import read_log, units
from crossfade.loop.audit import BY_OTHERS, Event, Trail
from crossfade.loop.installation import Installation
from crossfade.loop.quality import QualityReport, check_quality
from crossfade.stats.proportions import Share

_ALPHA = 0.001
"""As of the guardrails: the watch is looked at as often as labels come."""


def watch(here: Installation) -> QualityReport | None:
    """Compare prod's labelled answers since its promotion with what `previous` did in the experiment that it lost.

    Returns
    -------
    QualityReport or None
        None where nothing is to be watched: `prod` or `previous` is not where a promotion of ours left them.
    """
    trail = here.audit.read()
    promotion = _promotion(here, trail)
    look = _look(trail, promotion) if promotion else None
    if promotion is None or look is None:
        return None
    lost = look["arms"]["A"]
    promised = Share(lost["scores"]["accuracy"], lost["accuracy_variance"])
    rows = read_log(
        here.log,
        ("user_id", "prediction"),
        labeled=True,
        model=here.settings.reg_model_name,
        model_version=promotion["to"],
    ).rows
    rows = rows[rows["ts_utc"] > pd.Timestamp(promotion["ts_utc"])]
    answers = pd.DataFrame({"unit": units(rows), "correct": rows["label"] == rows["prediction"]})
    origin = f"that version {promotion['from']} had in experiment {promotion['experiment_id']}"
    return check_quality(answers, promised, here.settings.ab_min_labeled, _ALPHA, origin)


def _promotion(here: Installation, trail: Trail) -> Event | None:
    """Return the move of `prod` by a promotion whose `previous` still stands; None without one."""
    where = trail.whereabouts(here.registry.name)
    prod, previous = (
        where[alias].last if alias in where else None for alias in (here.aliases.prod, here.aliases.previous)
    )
    if prod is None or previous is None or BY_OTHERS in (prod["event"], previous["event"]):
        return None
    is_one = prod.get("action") == previous.get("action") == "promote" and prod["from"] == previous["to"]
    return prod if is_one else None


def _look(trail: Trail, promotion: Event) -> Event | None:
    looks = [event for event in trail.of_run(promotion["run_id"]) if event.get("verdict") == "promote"]
    return looks[-1] if looks else None
