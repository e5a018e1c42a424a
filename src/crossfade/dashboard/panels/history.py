"""The history panel."""

from __future__ import annotations

from typing import Any

from crossfade.dashboard.history import KINDS, Happening
from crossfade.dashboard.lookout import Look
from crossfade.dashboard.panels.palette import Palette
from crossfade.dashboard.panels.parts import Component, Links, axis_time, chart, empty, link, minute, stale, table

_SYMBOLS = {
    "alarm": "triangle-down",
    "retrain": "circle",
    "rejection": "x",
    "promotion": "triangle-up",
    "rollback": "triangle-left",
    "split": "diamond",
}
_MOST_LISTED = 50
_MOST_DRAWN = 1000


def history_panel(
    events: list[Happening], looks: tuple[tuple[str, Look[Any]], ...], links: Links, palette: Palette
) -> list[Component]:
    """Show everything that was decided on one time axis, and as a list; each entry opens its evidence."""
    shown = stale(*looks)
    if not events:
        return [*shown, empty("Nothing was decided yet.", "Trigger the DAG below: it trains the first version.")]
    return [*shown, _axis(events[-_MOST_DRAWN:], links, palette), _list(events, links)]


def _axis(events: list[Happening], links: Links, palette: Palette) -> Component:
    colours = dict(
        zip(KINDS, (palette.alarm, palette.a, palette.ink, palette.many[2], palette.b, palette.faint), strict=True)
    )
    traces = []
    for kind in KINDS:
        mine = [event for event in events if event.kind == kind]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": kind,
                "x": [axis_time(event.when) for event in mine],
                "y": [kind] * len(mine),
                "customdata": [_address(event, links) for event in mine],
                "text": [event.what for event in mine],
                "hovertemplate": "%{text}, %{x}<extra></extra>",
                "marker": {"symbol": _SYMBOLS[kind], "size": 13, "color": colours[kind]},
            }
        )
    counts = ", ".join(f"{n} {kind}s" for kind in KINDS if (n := sum(event.kind == kind for event in events)))
    return chart(
        "history-axis",
        "What happened when (UTC); a click opens its MLflow run",
        f"{counts}; listed below",
        traces,
        palette,
        height=260,
        hovermode="closest",
        showlegend=False,
        xaxis={"type": "date"},
        yaxis={"type": "category", "categoryorder": "array", "categoryarray": list(reversed(KINDS))},
    )


def _list(events: list[Happening], links: Links) -> Component:
    rows = [
        (
            minute(event.when),
            event.kind,
            link(event.what, _address(event, links), f"{event.what}: open in MLflow"),
            event.why,
        )
        for event in reversed(events[-_MOST_LISTED:])
    ]
    more = f", the newest {_MOST_LISTED} of {len(events)}" if len(events) > _MOST_LISTED else ""
    return table(f"Events, newest first{more}", ("when (UTC)", "kind", "what", "why"), rows, name="history-list")


def _address(event: Happening, links: Links) -> str:
    return links.run(event.run_id) or links.version(event.version)
