"""The traffic panel."""

from __future__ import annotations

from typing import Any

from dash import html

from crossfade.dashboard.logtail import Tail
from crossfade.dashboard.lookout import Look
from crossfade.dashboard.panels.palette import Palette
from crossfade.dashboard.panels.parts import Component, chart, empty, iso, line, percent, stale, table
from crossfade.dashboard.traffic import Traffic


def traffic_panel(traffic: Traffic, look: Look[Tail], palette: Palette, log: object) -> list[Component]:
    """Show requests per minute, latency, failures and labels, by arm."""
    shown = stale(("request log", look))
    if traffic.newest is None:
        if not traffic.complete:
            return [*shown, empty("The request log is being read.", "")]
        then = f"Nothing is in {log}. Send some: crossfade simulate --rows 1000, or POST /predict to the router."
        return [*shown, empty("No traffic yet.", then)]
    return [*shown, _rates(traffic, palette), _latencies(traffic, palette), _table(traffic), *_remarks(traffic)]


def _rates(traffic: Traffic, palette: Palette) -> Component:
    times = [iso(at) for at in traffic.times]
    traces = [_steps(line(palette, name, times, arm.per_minute, fill="tozeroy")) for name, arm in traffic.arms.items()]
    peaks = ", ".join(f"{name} at most {max(arm.per_minute):.0f}" for name, arm in traffic.arms.items())
    said = f"over {traffic.span.words}; {peaks}"
    return chart(
        "traffic-rate",
        f"Answers per minute, {traffic.span.words}",
        said,
        traces,
        palette,
        yaxis={"rangemode": "tozero"},
        xaxis={"type": "date", "range": [times[0], iso(traffic.times[-1] + traffic.span.bucket * 60_000)]},
    )


def _steps(trace: dict[str, Any]) -> dict[str, Any]:
    """Draw a count for as long as it was counted, and not a slope."""
    return trace | {"line": {**trace["line"], "shape": "hv"}}


def _latencies(traffic: Traffic, palette: Palette) -> Component:
    times = [iso(at) for at in traffic.times]
    traces = []
    for name, arm in traffic.arms.items():
        for which, values, width in (("p50", arm.p50, 2.5), ("p95", arm.p95, 1.2)):
            drawn = line(palette, name, times, values, mode="lines+markers", marker={"size": 5})
            drawn["line"]["width"] = width
            traces.append(drawn | {"name": f"{name} {which}"})
    newest = "; ".join(f"{name} {_newest(arm.p50)} and {_newest(arm.p95)}" for name, arm in traffic.arms.items())
    return chart(
        "traffic-latency",
        "Latency, median and 95th percentile (ms)",
        f"newest median and 95th percentile: {newest}",
        traces,
        palette,
        yaxis={"rangemode": "tozero"},
        xaxis={"type": "date", "range": [times[0], iso(traffic.times[-1] + traffic.span.bucket * 60_000)]},
    )


def _newest(values: tuple[float | None, ...]) -> str:
    known = [value for value in values if value is not None]
    return f"{known[-1]:.2f} ms" if known else "none"


def _table(traffic: Traffic) -> Component:
    rows = [
        (
            name,
            f"{arm.rows:,}",
            f"{arm.failed:,}",
            f"{arm.labeled:,}",
            percent(arm.label_share),
            _newest(arm.p50),
            _newest(arm.p95),
        )
        for name, arm in traffic.arms.items()
    ]
    header = ("arm", "answers", "errors", "labelled", "label share", "p50", "p95")
    return table(f"Traffic by arm, {traffic.span.words}", header, rows, numbers=6, name="traffic-table")


def _remarks(traffic: Traffic) -> list[Component]:
    said = []
    if not traffic.rows and traffic.newest is not None:
        said.append(f"Nothing in this time; the newest answer is of {iso(traffic.newest)[:16].replace('T', ' ')} UTC.")
    if not traffic.complete:
        said.append(f"The log is still being read: {traffic.kept_rows:,} answers so far, the newest first.")
    elif traffic.oldest is not None:
        since = iso(traffic.oldest)[:16].replace("T", " ")
        said.append(f"{traffic.kept_rows:,} answers are kept here, since {since} UTC.")
    if traffic.set_aside:
        said.append(f"{traffic.set_aside} lines of the log are torn or broken: set aside, and counted here.")
    return [html.P(" ".join(said), className="note")] if said else []
