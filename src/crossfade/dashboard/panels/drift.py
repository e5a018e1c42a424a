"""The drift panel."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from dash import html

from crossfade.dashboard.distribution import Distribution
from crossfade.dashboard.drift import DriftView
from crossfade.dashboard.lookout import Look
from crossfade.dashboard.panels.palette import Palette
from crossfade.dashboard.panels.parts import (
    Component,
    Links,
    axis_time,
    boundary,
    chart,
    empty,
    link,
    minute,
    stale,
)

_MOST_BARS = 30
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")


def drift_panel(
    view: DriftView, looks: tuple[tuple[str, Look[Any]], ...], links: Links, palette: Palette
) -> list[Component]:
    """Show the newest check: the decision with its reasons, PSI against the threshold, and how it went."""
    shown = stale(*looks)
    if not view.verdict:
        then = "The DAG checks daily; trigger it below, or run: crossfade drift."
        return [*shown, empty("No drift check yet.", then)]
    shown.append(_decision(view, links))
    if view.columns:
        shown.append(_bars(view, palette))
    if view.trend:
        shown.append(_trend(view, palette))
    return shown


def distribution_chart(found: Distribution | None, palette: Palette) -> Component:
    """Show what was learnt of a feature beside the newest answers."""
    if found is None:
        return empty("Nothing to compare yet.", "It takes a version in production, and answers of it in the log.")
    x = found.middles if found.numeric else found.names
    widths = _widths(found.middles) if found.numeric else None
    traces = [
        {
            "type": "bar",
            "x": list(x),
            "y": [100 * share for share in shares],
            "name": name,
            "customdata": list(found.names),
            "hovertemplate": "%{customdata}: %{y:.1f} %",
            "marker": {"color": colour, "pattern": {"shape": pattern, "size": 6}},
            **({"width": [width / 2.4 for width in widths]} if widths else {}),
        }
        for name, shares, colour, pattern in (
            (f"learnt ({found.learnt_rows:,})", found.learnt, palette.a, ""),
            (f"live ({found.live_rows:,})", found.live, palette.b, "/"),
        )
    ]
    place = max(range(len(found.live)), key=lambda i: abs(found.live[i] - found.learnt[i]))
    said = (
        f"the largest difference is at {found.names[place]}: {found.learnt[place]:.1%} of what was learnt, "
        f"{found.live[place]:.1%} of the newest {found.live_rows:,} answers"
    )
    return chart(
        "drift-distribution",
        f"{found.feature}: learnt and live (% of rows)",
        said,
        traces,
        palette,
        barmode="group",
        hovermode="closest",
        yaxis={"rangemode": "tozero"},
    )


def _decision(view: DriftView, links: Links) -> Component:
    run = link("MLflow run of this check", links.run(view.run_id))
    head = html.P(
        [html.Strong(f"{view.words}. Decision: {view.decision or 'none'}. "), f"Checked {minute(view.when)} UTC; ", run]
    )
    return html.Div([head, html.Ul([html.Li(reason) for reason in view.reasons])], id="drift-decision")


def _bars(view: DriftView, palette: Palette) -> Component:
    columns = [column for column in view.columns[:_MOST_BARS] if column.psi is not None][::-1]
    drifted = [column.verdict not in ("stable", "insufficient_data") for column in columns]
    trace = {
        "type": "bar",
        "orientation": "h",
        "y": [column.name for column in columns],
        "x": [column.psi for column in columns],
        "text": [f"{column.psi:.2f} {column.verdict.replace('_', ' ')}" for column in columns],
        "textposition": "outside",
        "cliponaxis": False,
        "hoverinfo": "y+text",
        "marker": {
            "color": [palette.b if alarm else palette.a for alarm in drifted],
            "pattern": {"shape": ["/" if alarm else "" for alarm in drifted], "size": 6},
        },
    }
    said = "; ".join(f"{column.name} {column.psi:.2f}, {column.verdict}" for column in reversed(columns))
    more = f" (the largest {_MOST_BARS} of {len(view.columns)})" if len(view.columns) > _MOST_BARS else ""
    return chart(
        "drift-psi",
        f"PSI of each column against the threshold of {view.threshold:g}{more}",
        said,
        [trace],
        palette,
        height=max(160, 70 + 30 * len(columns)),
        hovermode="closest",
        xaxis={"range": [0, 1.35 * max([view.threshold, *(column.psi or 0 for column in columns)])]},
        **boundary(palette, view.threshold, across=False),
    )


def _trend(view: DriftView, palette: Palette) -> Component:
    traces = []
    for rank, feature in enumerate(view.trend):
        told = rank < len(palette.many)
        colour = palette.many[rank] if told else palette.grid
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": [axis_time(when) for when in feature.times],
                "y": list(feature.psi),
                "name": feature.name,
                "showlegend": told,
                "line": {"color": colour, "width": 2 if told else 1},
                "marker": {"symbol": _SYMBOLS[rank % len(_SYMBOLS)], "size": 8 if told else 3},
            }
        )
    windows = len(view.trend[0].times)
    said = f"{windows} windows; newest: " + "; ".join(f"{line.name} {line.psi[-1]:.2f}" for line in view.trend[:6])
    return chart(
        "drift-trend",
        "PSI over the last windows",
        said,
        traces[::-1],
        palette,
        height=300,
        xaxis={"type": "date"},
        yaxis={"rangemode": "tozero"},
        **boundary(palette, view.threshold, f"threshold {view.threshold:g}"),
    )


def _widths(middles: tuple[float, ...]) -> list[float]:
    gaps = [high - low for low, high in pairwise(middles)] or [1.0]
    return [min(gaps)] * len(middles)
