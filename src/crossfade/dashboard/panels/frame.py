"""The page's frame: what stands while the panels in it are brought up to date."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import dcc, html

from crossfade.dashboard.panels.parts import Component, aria
from crossfade.dashboard.traffic import SPANS


def page(model: str, refresh_seconds: float, asks_for_token: bool) -> Component:
    """Lay the page out."""
    spans = [("auto", "Automatic"), *((span.name, span.words) for span in SPANS)]
    return html.Div(
        [
            dcc.Interval(id="tick", interval=int(refresh_seconds * 1000)),
            dcc.Store(id="theme"),
            dcc.Store(id="keys", data={}),
            dcc.Store(id="span", data="auto"),
            dcc.Store(id="feature"),
            html.A("Skip to the panels", href="#panels", className="skip"),
            html.Header(
                [
                    html.H1(["Crossfade ", html.Span(model, className="faint")]),
                    html.Ul(id="services", role="list", **aria(label="State of the services")),
                ]
            ),
            html.Main(
                [
                    html.Div(id="cards"),
                    _panel("traffic", "Traffic", _choice("span", "Time shown", spans)),
                    _panel("experiment", "Experiment"),
                    _panel("drift", "Drift", below=_feature()),
                    _panel("history", "History"),
                    _controls(asks_for_token),
                ],
                id="panels",
            ),
        ],
        id="page",
    )


def options(choices: Sequence[tuple[str, str]]) -> list[Component]:
    """Make the options of a choice out of values and what they are called."""
    return [html.Option(words, value=value) for value, words in choices]


def _choice(name: str, title: str, choices: Sequence[tuple[str, str]] = ()) -> Component:
    """Let the person choose; a browser's own list, for Dash's has no names that a screen reader could say.

    page.js puts what was chosen into the store of that name.
    """
    store: dict[str, Any] = {"data-store": name}
    select = html.Select(options(choices), id=f"{name}-choice", **store)
    return html.P([html.Label(title, htmlFor=f"{name}-choice"), select], className="field")


def _panel(name: str, title: str, choice: Component = None, below: Component = None) -> Component:
    looking = html.Div(html.P("Looking ...", className="empty"), id=name, className="charts")
    inside = [html.H2(title, id=f"{name}-title"), choice, looking, below]
    return html.Section(
        [part for part in inside if part is not None], className=f"panel {name}", **aria(labelledby=f"{name}-title")
    )


def _feature() -> Component:
    choose = _choice("feature", "Feature to compare with what was learnt")
    return html.Div([choose, html.Div(id="distribution")], className="distribution")


def _controls(asks_for_token: bool) -> Component:
    token = html.P(
        [
            html.Label("ROUTER_ADMIN_TOKEN", htmlFor="token"),
            dcc.Input(id="token", type="password", autoComplete="off", placeholder="needed for each of these"),
        ],
        className="field",
        hidden=not asks_for_token,
    )
    return html.Section(
        [
            html.H2("Controls", id="controls-title"),
            html.P("Each asks before it acts.", className="note"),
            token,
            html.Div(
                [
                    _control(
                        "split",
                        "Share of the users on B",
                        "Change the split",
                        dcc.Input(id="share", type="text", inputMode="numeric", autoComplete="off"),
                        "Percent, 0 to 100",
                    ),
                    _control("rollback", "Put the previous version back", "Roll back"),
                    _control("dag", "Check drift, retrain when it pays, evaluate", "Trigger the DAG"),
                ],
                className="controls",
            ),
            html.Div(id="result", role="status", className="result", **aria(live="polite")),
            html.Div(id="run", role="status", className="result", **aria(live="polite")),
        ],
        className="panel",
        **aria(labelledby="controls-title"),
    )


def _control(name: str, title: str, button: str, field: Component = None, unit: str = "") -> Component:
    inside: list[Component] = [html.H3(title)]
    if field is not None:
        inside.append(html.P([html.Label(unit, htmlFor=field.id), field], className="field"))
    inside += [html.Button(button, id=f"{name}-button", type="button"), dcc.ConfirmDialog(id=f"{name}-ask")]
    return html.Div(inside, className="control")
