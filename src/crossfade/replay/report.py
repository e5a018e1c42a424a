"""The page of a replay: one picture over time, and every event with its reasons. No script, no network."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossfade.replay.summary import Summary

# Okabe and Ito's colours, which colour-blind readers tell apart; each line has a dash pattern of its own as well.
_LINES = {"static model": ("#999999", ":"), "retrain always": ("#0072B2", "--"), "Crossfade": ("#D55E00", "-")}
_EVENTS = {
    "drift": ("drift alarm", "#CC79A7", "|"),
    "quality": ("quality alarm", "#E69F00", "|"),
    "retrain": ("retrain", "#0072B2", "o"),
    "rejection": ("rejection", "#000000", "x"),
    "promotion": ("promotion", "#009E73", "^"),
}
_FONT = {"font.family": "DejaVu Sans", "svg.fonttype": "none", "svg.hashsalt": "crossfade"}

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 66rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .25rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p.verdict { font-size: 1.15rem; } p.note { color: #555; font-size: .9rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } .wide { overflow-x: auto; }
th, td { text-align: left; padding: .3rem 1rem .3rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }
td.number, th.number { text-align: right; } svg { width: 100%; height: auto; }
"""


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
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


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
        + _table(("", "accuracy", "macro F1", "retrainings", "CPU for training"), rows, numbers=4)
        + f"<p>{did}</p>"
        + _picture(summary)
        + "<details><summary>Every event, with its reasons</summary>"
        + _table(("window", "what", "why"), events)
        + "</details>"
    )


def _sweep(summaries: list[Summary]) -> str:
    rows = [
        (
            _varied(each),
            f"{each.crossfade.accuracy:.4f}",
            f"{each.crossfade.f1_macro:.4f}",
            *(str(each.counts[kind]) for kind in ("retrain", "rejection", "promotion")),
        )
        for each in sorted(summaries, key=lambda each: -each.crossfade.accuracy)
    ]
    header = ("settings", "accuracy", "macro F1", "retrainings", "rejections", "promotions")
    return "<h2>Settings compared, best first</h2>" + _table(header, rows, numbers=5)


def _varied(summary: Summary) -> str:
    return ", ".join(f"{name}={value}" for name, value in summary.varied.items()) or "your settings"


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]], numbers: int = 0) -> str:
    """Write a table; the last `numbers` columns are set to the right."""
    marks = ["" if i < len(header) - numbers else ' class="number"' for i in range(len(header))]
    head = "".join(f'<th scope="col"{mark}>{escape(cell)}</th>' for cell, mark in zip(header, marks, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{mark}>{escape(cell)}</td>" for cell, mark in zip(row, marks, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _picture(summary: Summary) -> str:
    """Draw accuracy, macro F1 and the events over one time axis, as SVG."""
    windows = range(1, summary.history.windows + 1)
    with rc_context(_FONT):
        figure = Figure(figsize=(11, 8), layout="constrained")
        accuracy, f1, events = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.6))
        for way in summary.ways:
            colour, dashes = _LINES[way.name]
            style: dict[str, Any] = {"color": colour, "linestyle": dashes, "linewidth": 1.8}
            accuracy.plot(windows, way.window_accuracy, label=f"{way.name} ({way.accuracy:.3f})", **style)
            f1.plot(windows, way.window_f1_macro, label=f"{way.name} ({way.f1_macro:.3f})", **style)
        _finish(accuracy, "accuracy per window")
        _finish(f1, "macro F1 per window")
        for place, (kind, (_, colour, marker)) in enumerate(reversed(_EVENTS.items())):
            at = [event.window + 1 for event in summary.events if event.kind == kind]
            events.plot(at, [place] * len(at), marker, color=colour, markersize=8, markeredgewidth=2)
        events.set_yticks(range(len(_EVENTS)), [name for name, _, _ in reversed(_EVENTS.values())])
        events.set_ylim(-0.6, len(_EVENTS) - 0.4)
        events.set_xlabel("window")
        events.grid(axis="x", alpha=0.25)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    svg = drawn.getvalue()
    label = escape(f"Accuracy and macro F1 per window. {summary.verdict}", quote=True)
    return svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.legend(loc="lower left", fontsize=9, ncols=3, frameon=False)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
