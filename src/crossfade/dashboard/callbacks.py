"""What the server answers when the page asks: panels that have changed, and how an act went."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from dash import ClientsideFunction, Dash, Input, Output, State, ctx, html, no_update
from dash.exceptions import PreventUpdate
from flask import request

from crossfade.dashboard.board import PANELS, Board, Wish
from crossfade.dashboard.controls import Controls
from crossfade.dashboard.door import Door
from crossfade.dashboard.panels.parts import Component
from crossfade.dashboard.traffic import SpanName
from crossfade.dashboard.watch import Watch
from crossfade.errors import CrossfadeError
from crossfade.settings import Settings
from crossfade.stack.airflow import DAG_ID


def install(app: Dash, watch: Watch, controls: Controls, door: Door, settings: Settings) -> None:
    """Put the callbacks into an app."""
    in_browser = cast(Callable[..., None], app.clientside_callback)  # Dash gives it no type
    in_browser(ClientsideFunction("crossfade", "theme"), Output("theme", "data"), Input("page", "id"))
    in_browser(
        ClientsideFunction("crossfade", "open"), Output("history-title", "title"), Input("history-axis", "clickData")
    )
    board = Board(watch, settings)

    @app.callback(
        *(Output(name, "children") for name in PANELS),
        Output("keys", "data"),
        Input("tick", "n_intervals"),
        Input("theme", "data"),
        Input("span", "data"),
        Input("feature", "data"),
        State("keys", "data"),
    )
    def refresh(
        _: int | None, theme: str | None, span: SpanName, feature: str | None, keys: dict[str, str] | None
    ) -> list[Any]:
        if theme is None:
            raise PreventUpdate  # the page has not said yet which one it has
        children, fresh = board.update(Wish(theme, span, feature), keys or {})
        return [*children, fresh]

    _install_controls(app, watch, controls, door)


def _install_controls(app: Dash, watch: Watch, controls: Controls, door: Door) -> None:
    @app.callback(
        Output("split-ask", "displayed"),
        Output("split-ask", "message"),
        Output("result", "children", allow_duplicate=True),
        Input("split-button", "n_clicks"),
        State("share", "value"),
        prevent_initial_call=True,
    )
    def ask_split(_: int, typed: str | None) -> tuple[Any, ...]:
        percent = _percent(typed)
        if percent is None:
            return no_update, no_update, _told("Give a number from 0 to 100.", failed=True)
        now = watch.router.look.value.split_b
        had = "" if now is None else f" It has {now:.0%} now."
        return True, f"Give B {percent:g} % of the users?{had}", no_update

    @app.callback(
        Output("rollback-ask", "displayed"),
        Output("rollback-ask", "message"),
        Output("result", "children", allow_duplicate=True),
        Input("rollback-button", "n_clicks"),
        prevent_initial_call=True,
    )
    def ask_rollback(_: int) -> tuple[Any, ...]:
        registry = watch.mlflow.look_now().value
        if registry.previous is None:
            return no_update, no_update, _told("There is no previous version to go back to.", failed=True)
        out = registry.prod.number if registry.prod else "none"
        said = f"Put version {registry.previous.number} back into production? Version {out} then gets no traffic."
        return True, said, no_update

    @app.callback(
        Output("dag-ask", "displayed"),
        Output("dag-ask", "message"),
        Input("dag-button", "n_clicks"),
        prevent_initial_call=True,
    )
    def ask_dag(_: int) -> tuple[bool, str]:
        return True, f"Run {DAG_ID} now? It may train a challenger, and promote or reject the one that is tested."

    @app.callback(
        Output("result", "children"),
        Input("split-ask", "submit_n_clicks"),
        Input("rollback-ask", "submit_n_clicks"),
        Input("dag-ask", "submit_n_clicks"),
        State("share", "value"),
        State("token", "value"),
        prevent_initial_call=True,
    )
    def act(_split: int, _rollback: int, _dag: int, typed: str | None, token: str | None) -> Component:
        try:
            door.may_act(request, token)
            said = _do(str(ctx.triggered_id), watch, controls, _percent(typed))
        except CrossfadeError as error:
            return _told(f"Not done: {error}", failed=True)
        watch.look_soon()
        return _told(said)


def _do(asked: str, watch: Watch, controls: Controls, percent: float | None) -> str:
    if asked == "split-ask" and percent is not None:
        return controls.change_split(percent)
    if asked == "rollback-ask":
        return controls.roll_back()
    watch.run_id, said = controls.trigger()
    return said


def _percent(typed: str | None) -> float | None:
    """Read what was typed; None unless it is a number from 0 to 100.

    Examples
    --------
    >>> _percent("12,5 %"), _percent("101"), _percent("nan")
    (12.5, None, None)
    """
    try:
        found = float((typed or "").replace(",", ".").strip(" %"))
    except ValueError:
        return None
    return found if 0 <= found <= 100 else None


def _told(said: str, failed: bool = False) -> Component:
    return html.P(said, className="failed" if failed else "passed")
