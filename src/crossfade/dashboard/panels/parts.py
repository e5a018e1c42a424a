"""Pieces that every panel is made of: charts with their words, tables, notes, links."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from dash import dcc, html

from crossfade.dashboard.lookout import Look
from crossfade.dashboard.panels.palette import Palette

Component = Any
"""What Dash puts on a page: it types its components by none of their own."""

Traces = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Links:
    """Where a browser finds the evidence."""

    mlflow: str
    """Empty or no web address: there is nobody to link to."""
    airflow: str
    model: str
    experiment_number: str | None

    def run(self, run_id: str) -> str:
        """Return the address of an MLflow run; empty where there is none."""
        if not run_id or self.experiment_number is None or not self.mlflow.startswith("http"):
            return ""
        return f"{self.mlflow}/#/experiments/{self.experiment_number}/runs/{run_id}"

    def version(self, number: str) -> str:
        """Return the address of a version's page; empty where there is none."""
        return f"{self.mlflow}/#/models/{self.model}/versions/{number}" if number and self._has_mlflow else ""

    @property
    def _has_mlflow(self) -> bool:
        return self.mlflow.startswith("http")


def chart(
    name: str, title: str, said: str, traces: Traces, palette: Palette, height: int = 260, **layout: Any
) -> Component:
    """Draw a chart.

    Parameters
    ----------
    name : str
        Id of the element.
    title : str
        Above it.
    said : str
        What it shows, in words, for those who do not see it.
    traces : sequence of dict
        Plotly's.
    palette : Palette
        The colours.
    height : int
        In pixels.
    **layout
        Plotly's layout, beside what all charts share.
    """
    figure = {"data": list(traces), "layout": _layout(palette, height, layout)}
    graph = dcc.Graph(
        id=name, figure=figure, responsive=True, config={"displayModeBar": False}, style={"height": f"{height}px"}
    )
    return html.Figure(
        [html.Figcaption(title), html.Div(graph, role="img", **aria(label=f"{title}: {said}"))], className="chart"
    )


def _layout(palette: Palette, height: int, own: dict[str, Any]) -> dict[str, Any]:
    axis: dict[str, Any] = {
        "gridcolor": palette.grid,
        "zerolinecolor": palette.grid,
        "linecolor": palette.grid,
        "automargin": True,
        "tickfont": {"color": palette.faint},
        "title": {"font": {"color": palette.faint, "size": 12}},
    }
    shared: dict[str, Any] = {
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": palette.ink, "family": "system-ui, sans-serif", "size": 12},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "bgcolor": "rgba(0,0,0,0)"},
        "hovermode": "x unified",
        "hoverlabel": {"bgcolor": "#ffffff", "font": {"color": "#1b1f24"}},
        "uirevision": "kept",  # a zoom outlives a refresh
    }
    for name in ("xaxis", "yaxis"):
        given = own.pop(name, {})
        title = {**axis["title"], "text": given.pop("title", "")}
        shared[name] = {**axis, **given, "title": title}
    return shared | own


def line(palette: Palette, variant: str, x: Sequence[Any], y: Sequence[Any], **more: Any) -> dict[str, Any]:
    """Draw an arm's line: A's is solid, B's dashed."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": list(x),
        "y": list(y),
        "name": variant,
        "line": {"color": palette.arm(variant), "width": 2, "dash": "dash" if variant == "B" else "solid"},
        **more,
    }


def boundary(palette: Palette, at: float, said: str = "", across: bool = True) -> dict[str, Any]:
    """Draw a threshold over the whole width (or, not across, height) of a chart; give it to `layout`."""
    free, fixed = ("x", "y") if across else ("y", "x")
    shape = {
        "type": "line",
        f"{free}ref": "paper",
        f"{free}0": 0,
        f"{free}1": 1,
        f"{fixed}0": at,
        f"{fixed}1": at,
        "line": {"color": palette.alarm, "width": 1.5, "dash": "dot"},
    }
    if said:
        shape["label"] = {"text": said, "textposition": "end", "font": {"color": palette.alarm, "size": 11}}
    return {"shapes": [shape]}


def table(
    caption: str, header: Sequence[str], rows: Sequence[Sequence[Component]], numbers: int = 0, name: str = ""
) -> Component:
    """Write a table; the last `numbers` columns are set to the right."""
    first = len(header) - numbers
    kinds = ["number" if place >= first else "" for place in range(len(header))]
    head = html.Tr([html.Th(cell, scope="col", className=kind) for cell, kind in zip(header, kinds, strict=True)])
    body = [html.Tr([html.Td(cell, className=kind) for cell, kind in zip(row, kinds, strict=True)]) for row in rows]
    identity: dict[str, Any] = {"id": name} if name else {}
    return html.Div(
        html.Table([html.Caption(caption), html.Thead(head), html.Tbody(body)]),
        className="wide",
        tabIndex=0,
        role="region",
        **aria(label=caption),
        **identity,
    )


def empty(said: str, then: str) -> Component:
    """Say that there is nothing yet, and what to do."""
    return html.P([html.Strong(said), " ", then], className="empty")


def aria(**said: str) -> dict[str, Any]:
    """Name attributes for screen readers.

    Examples
    --------
    >>> aria(label="State")
    {'aria-label': 'State'}
    """
    return {f"aria-{name}": text for name, text in said.items()}


def stale(*looks: tuple[str, Look[Any]]) -> list[Component]:
    """Say which sources are not seen any more, and since when; nothing while all are."""
    return [
        html.P(
            [html.Strong(f"{name}: stale since {clock(look.since)}. "), f"{look.problem}."],
            className="stale",
            role="status",
        )
        for name, look in looks
        if look.stale
    ]


def link(text: str, address: str, said: str = "") -> Component:
    """Link to another place in a tab of its own; plain text where there is no address."""
    if not address:
        return text
    label = aria(label=said) if said else {}
    return html.A(text, href=address, target="_blank", rel="noopener noreferrer", **label)


def clock(seconds: float | None) -> str:
    """Write a time of day, with the date if that is another one than today's; `never` for none.

    Examples
    --------
    >>> clock(0), clock(None)
    ('1970-01-01 00:00:00 UTC', 'never')
    """
    if seconds is None:
        return "never"
    when = datetime.fromtimestamp(seconds, UTC)
    is_today = when.date() == datetime.now(UTC).date()
    return when.strftime("%H:%M:%S UTC" if is_today else "%Y-%m-%d %H:%M:%S UTC")


def iso(milliseconds: int) -> str:
    """Write a time as Plotly takes it.

    Examples
    --------
    >>> iso(1500)
    '1970-01-01T00:00:01.500'
    """
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]


def minute(stamp: str) -> str:
    """Shorten a time stamp of the log to the minute.

    Examples
    --------
    >>> minute("2026-01-02T03:04:05.000006+00:00")
    '2026-01-02 03:04'
    """
    return stamp[:16].replace("T", " ")


def axis_time(stamp: str) -> str:
    """Take the zone off a time stamp: Plotly draws it as it stands, and the page says UTC."""
    return stamp[:23]


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share.

    Examples
    --------
    >>> percent(0.5), percent(None)
    ('50.0 %', 'none')
    """
    return "none" if share is None else f"{share:.{digits}%}".replace("%", " %")
