"""What a step tells people: a paragraph with its numbers, and tables under it.

The paragraph goes to the log of the task, the whole to the MLflow run, and to the page of the version that it is about.
MLflow shows notes as Markdown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from textwrap import wrap
from typing import Any
from urllib.parse import quote

import pandas as pd

from crossfade.loop.champion import GateResult, Scores
from crossfade.loop.check import TrafficCheck
from crossfade.loop.drift import ColumnDrift, DriftReport
from crossfade.loop.inputs import Rows
from crossfade.loop.policy import Recommendation

LONGEST_VERSION_NOTE = 5000
"""Characters that MLflow's registry keeps of a description."""

_MOST_COLUMNS, _MOST_CLASSES, _MOST_ALGORITHMS, _MOST_GUARDRAILS = 8, 8, 7, 10
"""Rows of a table on a page; the files have them all."""

_SECTION = re.compile(r"\n\n(?=### )")
_LONGEST_CELL = 120
_LONGEST_STORY = 1200
_LOG_LINE = 100

_SCORES = {
    "accuracy": "accuracy",
    "macro precision": "precision_macro",
    "macro recall": "recall_macro",
    "macro F1": "f1_macro",
}

_LEADERBOARD = {
    "Model": "algorithm",
    "F1 macro": "macro F1",
    "Accuracy": "accuracy",
    "MCC": "Matthews",
    "TT (Sec)": "seconds",
}
"""PyCaret's columns, and how they are shown; its AUC is 0 where it knows none."""


def told(story: str) -> list[str]:
    """Break a story into lines that a log shows whole: pages that show logs do not."""
    return wrap(story, _LOG_LINE, break_long_words=False, break_on_hyphens=False)


def drift_story(check: TrafficCheck, decision: Recommendation) -> str:
    """Tell what was compared, what came of it, and what follows."""
    report, because = check.report, _sentences(decision.reasons)
    if check.prod is None or check.reference is None or check.live is None:
        return f"Nothing was compared. Decision: {decision.decision}, because {because}."
    window, learnt = check.live.newest, len(check.reference.snapshot)
    when = f", {_minute(window.first_ts)} to {_minute(window.last_ts)} UTC," if window.last_ts else ""
    return (
        f"The newest {report.rows:,} live rows{when} were held against the {learnt:,} rows that version "
        f"{check.prod.number} learnt: {_said(report.verdict)}. The quality of its answers is "
        f"{_said(check.quality.verdict)}. Decision: {decision.decision}, because {because}."
    )


def drift_note(story: str, report: DriftReport) -> str:
    """Put the columns that moved most under the story of a check."""
    columns = sorted(report.columns, key=lambda column: (column.verdict != "drift", -(column.psi or 0)))
    shown = columns[:_MOST_COLUMNS]
    more = len(columns) - len(shown)
    rest = f"\n\n...and {more} more columns: drift_report.csv has them all." if more > 0 else ""
    head = ("column", "PSI", "KS or distance", "shift in sd", "verdict")
    return f"{_plain(story)}\n\n{_table(head, map(_drift_cells, shown))}{rest}" if shown else _plain(story)


def training_story(outcome: Mapping[str, Any], algorithms: int, learnt: int, new: int) -> str:
    """Tell what was trained on what, and how it did against the champion.

    Parameters
    ----------
    outcome : mapping
        What the retrain step returns.
    algorithms, learnt, new : int
        Algorithms compared, rows that the winner remembers, and rows that no version had learnt.
    """
    champion, gate = outcome["champion_version"], "passed" if outcome["passed"] else "failed"
    of_which = f", of which {min(new, learnt):,} are new" if new else ""
    judged = f"Held against version {champion}, it {gate} the champion gate" if champion else "It is the first version"
    return (
        f"{outcome['algorithm']}, the best of {algorithms} algorithms in cross-validation, learnt {learnt:,} rows"
        f"{of_which}. It answers {outcome['holdout_accuracy']:.1%} of {outcome['holdout_rows']:,} held-out rows "
        f"rightly (macro F1 {outcome['holdout_f1_macro']:.3f}). {judged}: {_sentences(outcome['reasons'])}."
    )


def training_note(
    story: str,
    why: str,
    gate: GateResult,
    leaderboard: pd.DataFrame,
    seen: Sequence[Rows],
    pictures: Sequence[str],
    run_id: str,
) -> str:
    """Say everything about a version that its training knows.

    Parameters
    ----------
    story : str
        From `training_story`.
    why : str
        Note of the check that asked for it; empty: nobody did.
    gate : GateResult
        Against the champion.
    leaderboard : DataFrame
        Every algorithm that was compared, best first.
    seen : sequence of Rows
        What it learnt and was judged by.
    pictures : sequence of str
        Image files among the run's artifacts.
    run_id : str
        The training's MLflow run.
    """
    shown = "\n\n".join(f"![{path}](get-artifact?path={quote(path, safe='')}&run_uuid={run_id})" for path in pictures)
    return sections(
        _plain(story),
        ("Why it was trained", why or "Asked for by hand."),
        ("Against the champion, on the held-out rows", _scores_table(gate)),
        ("Leaderboard", _leaderboard(leaderboard)),
        ("Data", _table(("rows", "number", "digest", "where"), map(astuple, seen)) if seen else ""),
        ("Pictures", shown),
    )


def look_story(report: Mapping[str, Any]) -> str:
    """Tell what a look at an experiment found, and its verdict."""
    because = _sentences(report["reasons"])
    if report["experiment_id"] is None:
        return f"Nothing is compared: {because}."
    arms = " ".join(f"{_arm(variant, arm)}." for variant, arm in report["arms"].items())
    return (
        f"Look {report['look']} at experiment {report['experiment_id']}. {arms} The gate that decides is "
        f"{report['test']}, at {report['alpha']:g}. Verdict: {report['verdict']}, because {because}."
    )


def look_note(story: str, report: Mapping[str, Any]) -> str:
    """Put what each gate and guardrail says under the story of a look."""
    gates = [(name, gate["says"], gate["p_value"], gate["reason"]) for name, gate in report["gates"].items()]
    rails = [
        (rail["name"], "breached" if rail["breached"] else "kept", rail["reason"])
        for rail in sorted(report["guardrails"], key=lambda rail: not rail["breached"])[:_MOST_GUARDRAILS]
    ]
    return "\n\n".join(
        [
            _plain(story),
            *([_table(("gate", "B is", "p", "why"), gates)] if gates else []),
            *([_table(("guardrail", "", "numbers"), rails)] if rails else []),
        ]
    )


def version_note(look: str, training: str) -> str:
    """Write a version's page: its newest look at traffic, then its training; sections that do not fit are left out."""
    whole = sections(f"### A/B test\n\n{look}", ("Training", training)) if look else training
    note, left_out = "", "\n\n*The training run has the rest.*"
    for part in _SECTION.split(whole):
        if len(note) + 2 + len(part) + len(left_out) > LONGEST_VERSION_NOTE:
            return note + left_out
        note = f"{note}\n\n{part}" if note else part
    return note


def sections(first: str, *titled: tuple[str, str]) -> str:
    """Join paragraphs under their titles; who has nothing to say has no title."""
    return "\n\n".join([first, *(f"### {title}\n\n{text}" for title, text in titled if text)])


def _drift_cells(column: ColumnDrift) -> tuple[object, ...]:
    distance = column.ks_statistic if column.ks_statistic is not None else column.category_distance
    return (column.feature, column.psi, distance, column.shift, _said(column.verdict))


def _scores_table(gate: GateResult) -> str:
    new, old = gate.challenger, gate.champion
    lines: list[tuple[object, ...]] = [("rows", new.rows, old.rows if old else None)]
    lines += [(name, getattr(new, key), getattr(old, key, None)) for name, key in _SCORES.items()]
    classes = sorted(new.recall, key=lambda name: -new.class_rows[name])[:_MOST_CLASSES]
    lines += [(f"recall of {name}", new.recall[name], _recall(old, name)) for name in classes]
    return _table(("", "this version", "champion"), lines)


def _recall(scores: Scores | None, name: str) -> float | None:
    return scores.recall.get(name) if scores else None


def _leaderboard(board: pd.DataFrame) -> str:
    shown = {name: title for name, title in _LEADERBOARD.items() if name in board}
    return _table(list(shown.values()), board[list(shown)].head(_MOST_ALGORITHMS).itertuples(index=False))


def _arm(variant: str, arm: Mapping[str, Any]) -> str:
    named = f"{variant} (version {arm['version']})"
    if not arm["labeled"]:
        return f"{named} answered {arm['rows']:,} rows, none with a label"
    low, high = arm["accuracy_interval"]
    return (
        f"{named} was right on {arm['correct']:,} of {arm['labeled']:,} labelled rows of {arm['users']:,} users: "
        f"{arm['scores']['accuracy']:.3f} (95 % interval {low:.3f} to {high:.3f})"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    # MLflow's pages draw tables without any space between the columns.
    lines = [" | &emsp;".join(map(_cell, cells)) for cells in (head, *rows)]
    return "\n".join(f"| {line} |" for line in (lines[0], " | ".join("---" for _ in head), *lines[1:]))


def _cell(value: object) -> str:
    """Write a value so that no text of somebody's table ends the cell."""
    if value is None or value != value:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 0.001 else f"{value:.3f}"
    text = " ".join(str(value).split())
    short = text if len(text) <= _LONGEST_CELL else f"{text[:_LONGEST_CELL]}..."
    return short.replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def _sentences(reasons: Sequence[str]) -> str:
    said = " ".join("; ".join(reasons).split())
    return said if len(said) <= _LONGEST_STORY else f"{said[:_LONGEST_STORY]}..."


def _plain(story: str) -> str:
    """Keep a story from being read as HTML: it may name somebody's columns."""
    return story.replace("<", "&lt;")


def _said(verdict: str) -> str:
    return verdict.replace("_", " ")


def _minute(timestamp: str) -> str:
    return timestamp[:16].replace("T", " ")
