"""The page of a replay: one picture over time, and every event with its reasons. No script, no network."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from crossfade.page import FONT, document, finish, svg, table
from crossfade.replay.summary import Summary

# Okabe and Ito's colours, which colour-blind readers tell apart; each line has a dash pattern of its own as well.
_LINES = {"static model": ("#999999", ":"), "retrain always": ("#0072B2", "--"), "Crossfade": ("#D55E00", "-")}
_EVENTS = {
    "drift": ("drift alarm", "#CC79A7", "|"),
    "quality": ("quality alarm", "#E69F00", "|"),
    "retrain": ("retrain", "#0072B2", "o"),
    "rejection": ("rejection", "#000000", "x"),
    "promotion": ("promotion", "#009E73", "^"),
    "rollback": ("rollback", "#56B4E9", "v"),
}


def write_report(folder: Path, summaries: list[Summary]) -> tuple[Path, Path]:
    """Write ``report.html`` and ``summary.json`` of one replay, or of several that varied settings.

    Returns
    -------
    tuple of Path
        The page and the summary. The summary is the first replay's; `sweep` lists all of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page, summary = folder / "report.html", folder / "summary.json"
    found = summaries[0].to_dict()
    if len(summaries) > 1:
        found["sweep"] = [each.to_dict() for each in summaries]
    summary.write_text(json.dumps(found, indent=2) + "\n")
    page.write_text(_page(summaries))
    return page, summary


def _page(summaries: list[Summary]) -> str:
    first = summaries[0]
    title = f"Replay of {Path(first.table).name}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="note">{len(first.history.truth):,} rows in {first.history.windows} windows, after the first '
        f"{first.history.first:,} rows gave the first model. {_refused(first)}{_delay(first)}</p>",
    ]
    if len(summaries) > 1:
        parts.append(_sweep(summaries))
    parts += [_one(each, several=len(summaries) > 1) for each in summaries]
    return document(title, parts)


def _refused(summary: Summary) -> str:
    refused = summary.history.refused
    why = "they lack a value that the first rows always had, so a router would refuse them"
    return f"{refused:,} rows are left out: {why}. " if refused else ""


def _delay(summary: Summary) -> str:
    delay = summary.history.delay
    return f"Labels come {delay} window{'s' if delay > 1 else ''} late." if delay else ""


def _one(summary: Summary, several: bool) -> str:
    heading = f"<h2>{escape(_varied(summary))}</h2>" if several else ""
    rows = [
        (way.name, f"{way.accuracy:.4f}", f"{way.f1_macro:.4f}", str(way.retrains), f"{way.cpu_seconds:.0f} s")
        for way in summary.ways
    ]
    counts = summary.counts
    did = (
        f"{counts['drift']} drift alarms, {counts['quality']} quality alarms, {counts['retrain']} retrainings, "
        f"{counts['rejection']} rejections, {counts['promotion']} promotions."
    )
    events = [(str(event.window + 1), _EVENTS[event.kind][0], event.detail) for event in summary.events]
    return (
        f'{heading}<p class="verdict">{escape(summary.verdict)}</p>'
        + table(("", "accuracy", "macro F1", "retrainings", "CPU for training"), rows, numbers=4)
        + f"<p>{did}</p>"
        + _picture(summary)
        + "<details><summary>Every event, with its reasons</summary>"
        + table(("window", "what", "why"), events)
        + "</details>"
    )


def _sweep(summaries: list[Summary]) -> str:
    rows = [
        (
            _varied(each),
            f"{each.crossfade.accuracy:.4f}",
            f"{each.crossfade.f1_macro:.4f}",
            *(str(each.counts[kind]) for kind in ("retrain", "rejection", "promotion", "rollback")),
        )
        for each in sorted(summaries, key=lambda each: -each.crossfade.accuracy)
    ]
    header = ("settings", "accuracy", "macro F1", "retrainings", "rejections", "promotions", "rollbacks")
    return "<h2>Settings compared, best first</h2>" + table(header, rows, numbers=6)


def _varied(summary: Summary) -> str:
    return ", ".join(f"{name}={value}" for name, value in summary.varied.items()) or "your settings"


def _picture(summary: Summary) -> str:
    """Draw accuracy, macro F1 and the events over one time axis, as SVG."""
    windows = range(1, summary.history.windows + 1)
    with rc_context(FONT):
        figure = Figure(figsize=(11, 8), layout="constrained")
        accuracy, f1, events = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.6))
        for way in summary.ways:
            colour, dashes = _LINES[way.name]
            style: dict[str, Any] = {"color": colour, "linestyle": dashes, "linewidth": 1.8}
            accuracy.plot(windows, way.window_accuracy, label=f"{way.name} ({way.accuracy:.3f})", **style)
            f1.plot(windows, way.window_f1_macro, label=f"{way.name} ({way.f1_macro:.3f})", **style)
        finish(accuracy, "accuracy per window")
        finish(f1, "macro F1 per window")
        for place, (kind, (_, colour, marker)) in enumerate(reversed(_EVENTS.items())):
            at = [event.window + 1 for event in summary.events if event.kind == kind]
            events.plot(at, [place] * len(at), marker, color=colour, markersize=8, markeredgewidth=2)
        events.set_yticks(range(len(_EVENTS)), [name for name, _, _ in reversed(_EVENTS.values())])
        events.set_ylim(-0.6, len(_EVENTS) - 0.4)
        events.set_xlabel("window")
        events.grid(axis="x", alpha=0.25)
        return svg(figure, f"Accuracy and macro F1 per window. {summary.verdict}")
