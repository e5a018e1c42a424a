"""The running experiment, or the last one: what each look at it found, and what is still missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from crossfade.dashboard.accuracy import AccuracyPoint, accuracy_of
from crossfade.dashboard.logtail import Tail
from crossfade.dashboard.reportfiles import Decisions
from crossfade.dashboard.traffic import ARMS

_LEAST_P, _MOST_E = 1e-300, 1e300


@dataclass(frozen=True)
class ArmResult:
    """An arm at the newest look."""

    variant: str
    version: str
    labeled: int
    users: int
    accuracy: float | None
    """None without labels."""
    interval: tuple[float, float] | None
    """95 %; None without labels."""
    f1_macro: float | None


@dataclass(frozen=True)
class LookPoint:
    """The evidence at one look."""

    when: str
    """ISO 8601, UTC."""
    verdict: str
    p_chi2: float | None
    """None when nothing could be told apart."""
    e_anytime: float | None
    """None without labels in both arms."""
    e_paired: float | None
    """None when a version could not be loaded."""
    run_id: str


@dataclass(frozen=True)
class Pairs:
    """How both versions answered the same labelled rows."""

    rows: int
    only_a: int
    only_b: int
    skipped: int


@dataclass(frozen=True)
class Check:
    """Something that must hold for a promotion."""

    name: str
    passed: bool
    said: str
    """With its numbers."""


@dataclass(frozen=True)
class Need:
    """Labelled rows that one gate needs, both arms together."""

    gate: str
    difference: float
    """B's lead that it would then see in four of five experiments."""
    rows: int | None
    """None: it never would; see `note`."""
    left: int | None
    """Still to come; 0 when there are enough."""
    note: str


@dataclass(frozen=True)
class ExperimentView:
    """What the experiment panel shows."""

    id: str
    """Empty before the first experiment."""
    running: bool
    version_a: str = ""
    version_b: str = ""
    verdict: str = ""
    """Of the newest look; empty before it."""
    reasons: tuple[str, ...] = ()
    test: str = ""
    """The gate that decides."""
    alpha: float = 0.05
    arms: tuple[ArmResult, ...] = ()
    looks: tuple[LookPoint, ...] = ()
    """Oldest first."""
    pairs: Pairs | None = None
    checks: tuple[Check, ...] = ()
    """The sample ratio and the guardrails; empty before both arms have rows."""
    labeled: Mapping[str, int] = field(default_factory=dict)
    """By arm, in the log now."""
    missing: Mapping[str, int] = field(default_factory=dict)
    """By arm: labels until AB_MIN_LABELED."""
    needs: tuple[Need, ...] = ()
    """What the deciding gate needs, by the lead to be seen."""
    accuracy: Mapping[str, tuple[AccuracyPoint, ...]] | None = None
    """By arm, over time; None when the log holds none of its rows."""

    @property
    def ahead(self) -> str:
        """Which arm is ahead in the log now: surely only where the intervals lie apart."""
        newest = [points[-1] if points else None for points in (self.accuracy or {}).values()]
        if len(newest) < len(ARMS) or newest[0] is None or newest[1] is None:
            return "Too few labels"
        a, b = newest[0], newest[1]
        if b.low > a.high:
            return "B is ahead"
        return "A is ahead" if a.low > b.high else "No clear lead"

    @property
    def leading(self) -> str:
        """Which arm is ahead and how surely, in a sentence."""
        if not self.id:
            return "no experiment yet"
        if not self.verdict:
            return "not looked at yet"
        return self.reasons[0] if self.reasons else self.verdict


def experiment_view(
    decisions: Decisions, tail: Tail, running_id: str | None, least_labeled: int, default_test: str
) -> ExperimentView:
    """Tell of the experiment that runs, or of the last one that was looked at.

    Parameters
    ----------
    decisions : Decisions
        Looks and plans.
    tail : Tail
        The log.
    running_id : str or None
        The experiment that the router runs; None when it runs none.
    least_labeled : int
        AB_MIN_LABELED.
    default_test : str
        AB_TEST, before a look says which gate decides.
    """
    last = decisions.looks[-1] if decisions.looks else None
    found = running_id or (str(last["experiment_id"]) if last else "")
    if not found:
        return ExperimentView("", False)
    looks = [look for look in decisions.looks if look["experiment_id"] == found]
    view = _looked_at(found, bool(running_id), looks) if looks else ExperimentView(found, True, test=default_test)
    accuracy = accuracy_of(tail, found)
    labeled = {variant: points[-1].labeled if points else 0 for variant, points in accuracy.items()}
    missing = {variant: max(0, least_labeled - n) for variant, n in labeled.items()}
    needs = _needs(decisions.plan, view.test, sum(labeled.values())) if view.running else ()
    curves = accuracy if any(accuracy.values()) else None
    return replace(view, accuracy=curves, labeled=labeled, missing=missing, needs=needs)


def _looked_at(name: str, running: bool, looks: Sequence[Mapping[str, Any]]) -> ExperimentView:
    newest = looks[-1]
    pairs = newest.get("pairs")
    return ExperimentView(
        id=name,
        running=running,
        version_a=str(newest["model_version_a"]),
        version_b=str(newest["model_version_b"]),
        verdict=str(newest["verdict"]),
        reasons=tuple(newest["reasons"]),
        test=str(newest["test"]),
        alpha=float(newest["alpha"]),
        arms=tuple(_arm(variant, arm) for variant, arm in sorted(newest["arms"].items())),
        looks=tuple(_point(look) for look in looks),
        pairs=Pairs(pairs["rows"], pairs["only_a"], pairs["only_b"], pairs.get("skipped", 0)) if pairs else None,
        checks=tuple(_checks(newest)),
    )


def _arm(variant: str, arm: Mapping[str, Any]) -> ArmResult:
    scores, interval = arm["scores"] or {}, arm["accuracy_interval"]
    return ArmResult(
        variant=variant,
        version=str(arm["version"]),
        labeled=int(arm["labeled"]),
        users=int(arm["users"]),
        accuracy=scores.get("accuracy"),
        interval=(float(interval[0]), float(interval[1])) if interval else None,
        f1_macro=scores.get("f1_macro"),
    )


def _point(look: Mapping[str, Any]) -> LookPoint:
    gates = look["gates"]

    def number(gate: str, name: str) -> float | None:
        value = gates.get(gate, {}).get(name)
        return None if value is None else min(max(float(value), _LEAST_P), _MOST_E)

    return LookPoint(
        when=str(look["ts_utc"]),
        verdict=str(look["verdict"]),
        p_chi2=number("chi2", "p_value"),
        e_anytime=number("anytime", "e_value"),
        e_paired=number("paired", "e_value"),
        run_id=str(look.get("run_id", "")),
    )


def _checks(look: Mapping[str, Any]) -> list[Check]:
    found, ratio = [], look.get("sample_ratio")
    if ratio:
        said = f"B has {ratio['observed_b']} users where {ratio['expected_b']:.0f} were due, p = {ratio['p_value']:.2g}"
        found.append(Check("sample ratio", not ratio["mismatch"], said))
    return found + [Check(rail["name"], not rail["breached"], rail["reason"]) for rail in look["guardrails"]]


def _needs(plan: Mapping[str, Any] | None, gate: str, labeled: int) -> tuple[Need, ...]:
    """Hold what a plan says of the deciding gate against the labels that have come."""
    mine = [need for need in (plan or {}).get("needs", ()) if need["gate"] == gate]
    return tuple(
        Need(gate, float(need["difference"]), need["rows"], _left(need["rows"], labeled), str(need.get("note", "")))
        for need in mine
    )


def _left(rows: float | None, labeled: int) -> int | None:
    return None if rows is None else max(0, math.ceil(rows) - labeled)
