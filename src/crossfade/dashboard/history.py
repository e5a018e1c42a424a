"""Everything that happened, on one time axis: alarms, retrains, rejections, promotions, rollbacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from crossfade.dashboard.reportfiles import Decisions
from crossfade.loop.audit import BY_OTHERS, FINISHED, MOVED, SEEN, SPLIT, headline

EventKind = Literal["alarm", "retrain", "rejection", "promotion", "rollback", "split"]

KINDS: tuple[EventKind, ...] = ("alarm", "retrain", "rejection", "promotion", "rollback", "split")

_ALARMS = {"drift": "drift alarm", "schema_broken": "the schema broke"}

_OF_MOVES: dict[str, EventKind] = {"promote": "promotion", "bootstrap": "promotion", "rollback": "rollback"}


@dataclass(frozen=True)
class Happening:
    """One event."""

    when: str
    """ISO 8601, UTC."""
    kind: EventKind
    what: str
    """In a few words."""
    why: str
    """The reason, as it was written down."""
    run_id: str
    """MLflow run that holds the evidence; empty where there is none."""
    version: str
    """Version that it is about; empty where there is none."""


def history_of(
    decisions: Decisions, verdicts: Mapping[str, str], prod_alias: str, staging_alias: str
) -> list[Happening]:
    """Tell what happened, oldest first.

    Parameters
    ----------
    decisions : Decisions
        Runs and moves.
    verdicts : mapping of run id to str
        Of drift checks; of one that is not among them, its decision tells.
    prod_alias, staging_alias : str
        Names of the aliases.
    """
    found = [event for run in decisions.runs if (event := _of_run(run, verdicts)) is not None]
    found += [event for move in decisions.moves if (event := _of_move(move, prod_alias, staging_alias)) is not None]
    return sorted(found, key=lambda event: event.when)


def _of_run(run: Mapping[str, Any], verdicts: Mapping[str, str]) -> Happening | None:
    when, run_id, why, outcome = (str(run[name]) for name in ("ts_utc", "run_id", "reason", "outcome"))
    if run["kind"] == "retrain":
        if outcome == "rejected":
            return Happening(when, "rejection", "challenger rejected at training", why, run_id, "")
        return Happening(when, "retrain", "challenger trained", why, run_id, "")
    if run["kind"] != "drift":
        return None
    verdict = verdicts.get(run_id, "")
    if verdict in _ALARMS:
        return Happening(when, "alarm", _ALARMS[verdict], why, run_id, "")
    if verdict and outcome == "retrain":
        return Happening(when, "alarm", "retraining called for", why, run_id, "")
    if not verdict and outcome in ("retrain", "block"):  # MLflow has not told yet
        return Happening(when, "alarm", f"check: {outcome}", why, run_id, "")
    return None


def _of_move(move: Mapping[str, Any], prod_alias: str, staging_alias: str) -> Happening | None:
    said = headline(move)
    when = str(move["ts_utc"])
    if move["event"] == SPLIT:
        return Happening(when, "split", f"split: {said.decision}", said.reason, said.run_id, "")
    if move["event"] not in (MOVED, FINISHED, SEEN, BY_OTHERS):
        return None
    action, alias = str(move.get("action", "")), move.get("alias")
    origin, to = str(move.get("from") or ""), str(move.get("to") or "")
    if alias == prod_alias:
        kind = _OF_MOVES.get(action, "promotion")
        what = f"version {to} in production" + (f" for {origin}" if origin else "")
        if move["event"] == BY_OTHERS:
            what += ", moved by somebody else"
        return Happening(when, kind, what, said.reason, said.run_id, to)
    if alias == staging_alias and action == "reject":
        return Happening(when, "rejection", f"version {origin} rejected", said.reason, said.run_id, origin)
    return None
