"""The experiment panel."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10
from typing import Any

from dash import html

from crossfade.dashboard.accuracy import AccuracyPoint
from crossfade.dashboard.experiment import ExperimentView, LookPoint, Need
from crossfade.dashboard.lookout import Look
from crossfade.dashboard.panels.palette import Palette
from crossfade.dashboard.panels.parts import (
    Component,
    Links,
    axis_time,
    boundary,
    chart,
    empty,
    iso,
    line,
    link,
    minute,
    percent,
    stale,
    table,
)

_GATES = {"chi2": "chi-square", "anytime": "anytime", "paired": "paired"}


def experiment_panel(
    view: ExperimentView, looks: tuple[tuple[str, Look[Any]], ...], links: Links, palette: Palette
) -> list[Component]:
    """Show which arm is better, how sure that is, and what else must hold."""
    shown = stale(*looks)
    if not view.id:
        then = "One begins when a challenger is trained: send labelled traffic, then trigger the DAG below."
        return [*shown, empty("No experiment yet.", then)]
    shown.append(_verdict(view, links))
    if view.accuracy is not None:
        shown.append(_accuracy(view, palette))
    elif view.running:
        shown.append(empty("No labels yet.", "Send each with its request, or later to POST /feedback."))
    if any(arm.labeled for arm in view.arms):
        shown.append(_arms(view))
    if any(point.p_chi2 is not None or point.e_anytime is not None for point in view.looks):
        shown += [_chi_square(view, palette), _evidence(view, palette)]
    if view.pairs is not None and view.pairs.rows:
        shown.append(_pairs(view))
    if view.checks:
        shown.append(_checks(view))
    if view.running:
        shown.append(_needs(view))
    return shown


def _verdict(view: ExperimentView, links: Links) -> Component:
    state = "running" if view.running else "over"
    said: list[Component] = [html.Strong(["Experiment ", html.Code(view.id), f", {state}. "])]
    if view.looks:
        newest = view.looks[-1]
        run = link("MLflow run of this look", links.run(newest.run_id))
        said += [f"Verdict of the newest look of {len(view.looks)}, {minute(newest.when)} UTC: "]
        said += [html.Strong(newest.verdict), "; ", run]
    else:
        said.append("Nobody has looked at it yet: the DAG does, daily, or when it is triggered below.")
    return html.Div([html.P(said), html.Ul([html.Li(reason) for reason in view.reasons])], id="experiment-verdict")


def _accuracy(view: ExperimentView, palette: Palette) -> Component:
    assert view.accuracy is not None, "the caller has looked"
    traces = [trace for variant, points in view.accuracy.items() for trace in _band(variant, points, palette)]
    said = "; ".join(
        f"{variant} {points[-1].accuracy:.1%} ({points[-1].low:.1%} to {points[-1].high:.1%}) of {points[-1].labeled:,}"
        for variant, points in view.accuracy.items()
        if points
    )
    return chart(
        "experiment-accuracy",
        "Accuracy by arm so far, with 95 % intervals",
        said,
        traces,
        palette,
        height=300,
        xaxis={"type": "date"},
        yaxis={"tickformat": ".0%"},
    )


def _band(variant: str, points: Sequence[AccuracyPoint], palette: Palette) -> list[dict[str, Any]]:
    if not points:
        return []
    times = [iso(point.at) for point in points]
    if len(points) == 1:
        bars = {"type": "data", "symmetric": False, "color": palette.arm(variant)}
        error = bars | {
            "array": [points[0].high - points[0].accuracy],
            "arrayminus": [points[0].accuracy - points[0].low],
        }
        return [line(palette, variant, times, [points[0].accuracy], mode="markers", error_y=error)]
    outline = {"type": "scatter", "x": [*times, *times[::-1]], "hoverinfo": "skip", "showlegend": False}
    around = [*(point.high for point in points), *(point.low for point in reversed(points))]
    band = outline | {"y": around, "fill": "toself", "fillcolor": palette.band(variant), "line": {"width": 0}}
    said = [f"{point.accuracy:.1%} ({point.low:.1%} to {point.high:.1%}), {point.labeled:,} labels" for point in points]
    middle = line(
        palette,
        variant,
        times,
        [point.accuracy for point in points],
        text=said,
        hovertemplate="%{text}",
    )
    return [band | {"mode": "lines"}, middle]


def _arms(view: ExperimentView) -> Component:
    rows = [
        (
            f"{arm.variant}, version {arm.version}",
            percent(arm.accuracy),
            f"{arm.interval[0]:.1%} to {arm.interval[1]:.1%}" if arm.interval else "none",
            "none" if arm.f1_macro is None else f"{arm.f1_macro:.3f}",
            f"{arm.labeled:,}",
            f"{arm.users:,}",
        )
        for arm in view.arms
    ]
    header = ("arm", "accuracy", "95 % interval", "macro F1", "labels", "users")
    return table("The arms at the newest look", header, rows, numbers=5, name="experiment-arms")


def _decides(view: ExperimentView, gate: str) -> str:
    return ", which decides" if view.test == gate else ""


def _chi_square(view: ExperimentView, palette: Palette) -> Component:
    points = [(look.when, look.p_chi2) for look in view.looks if look.p_chi2 is not None]
    trace = _dots("chi-square p", points, palette.a, "circle", "solid")
    said = f"newest p = {points[-1][1]:.3g}" if points else "nothing to tell apart yet"
    return chart(
        "experiment-chi2",
        f"Chi-square p at each look{_decides(view, 'chi2')}; B differs below {view.alpha:g}",
        said,
        [trace],
        palette,
        xaxis={"type": "date", "range": _around(view.looks)},
        yaxis=_powers([view.alpha, 1, *(value for _, value in points)]),
        showlegend=False,
        **boundary(palette, view.alpha, f"{view.alpha:g}"),
    )


def _evidence(view: ExperimentView, palette: Palette) -> Component:
    anytime = [(look.when, look.e_anytime) for look in view.looks if look.e_anytime is not None]
    paired = [(look.when, look.e_paired) for look in view.looks if look.e_paired is not None]
    traces = [
        _dots("anytime", anytime, palette.a, "circle", "solid"),
        _dots("paired", paired, palette.b, "diamond", "dash"),
    ]
    needed = 1 / view.alpha
    told = [f"{name} {points[-1][1]:.3g}" for name, points in (("anytime", anytime), ("paired", paired)) if points]
    decides = f", {view.test} decides" if view.test in ("anytime", "paired") else ""
    return chart(
        "experiment-evidence",
        f"Evidence E that B is better, at each look{decides}; enough at {needed:g}",
        f"newest: {', '.join(told)}",
        traces,
        palette,
        xaxis={"type": "date", "range": _around(view.looks)},
        yaxis=_powers([1, needed, *(value for _, value in (*anytime, *paired))]),
        **boundary(palette, needed, f"{needed:g}"),
    )


def _powers(shown: Sequence[float]) -> dict[str, Any]:
    """Make a logarithmic axis on which all of these have room."""
    powers = [log10(max(value, 1e-300)) for value in shown]
    room = 0.08 * (max(powers) - min(powers)) + 0.2
    return {"type": "log", "exponentformat": "power", "range": [min(powers) - room, max(powers) + room]}


def _dots(name: str, points: Sequence[tuple[str, float | None]], colour: str, symbol: str, dash: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": [axis_time(when) for when, _ in points],
        "y": [value for _, value in points],
        "line": {"color": colour, "width": 2, "dash": dash},
        "marker": {"symbol": symbol, "size": 10, "color": colour},
        "hovertemplate": "%{y:.3g}",
    }


def _around(looks: Sequence[LookPoint]) -> list[str] | None:
    """Leave room around a single look, where Plotly would show microseconds."""
    if len(looks) > 1:
        return None
    day = looks[0].when[:10]
    return [f"{day}T00:00:00", f"{day}T23:59:59"]


def _pairs(view: ExperimentView) -> Component:
    assert view.pairs is not None, "the caller has looked"
    pairs = view.pairs
    alike = pairs.rows - pairs.only_a - pairs.only_b
    rows = [
        ("only B is right", f"{pairs.only_b:,}"),
        ("only A is right", f"{pairs.only_a:,}"),
        ("both right, or both wrong", f"{alike:,}"),
        ("labelled rows that both answered", f"{pairs.rows:,}"),
    ]
    if pairs.skipped:
        rows.append(("left out: one could not answer", f"{pairs.skipped:,}"))
    caption = f"The same rows answered by both versions{_decides(view, 'paired')}"
    return table(caption, ("outcome", "rows"), rows, numbers=1, name="experiment-pairs")


def _checks(view: ExperimentView) -> Component:
    rows = [
        (
            check.name,
            html.Span("passed" if check.passed else "failed", className="passed" if check.passed else "failed"),
            check.said,
        )
        for check in view.checks
    ]
    return table("Sample ratio and guardrails", ("what", "result", "numbers"), rows, name="experiment-checks")


def _needs(view: ExperimentView) -> Component:
    said: list[Component] = []
    short = [f"{n:,} of {variant}" for variant, n in view.missing.items() if n]
    said.append(
        html.P(f"Until the first test: {' and '.join(short)}." if short else "Both arms have enough for a test.")
    )
    if view.needs:
        said.append(html.Ul([html.Li(_need(need)) for need in view.needs]))
    return html.Div([html.H3("Labels still needed"), *said], id="experiment-needs")


def _need(need: Need) -> str:
    lead = f"to see a lead of {need.difference * 100:.0f} points ({_GATES.get(need.gate, need.gate)})"
    if need.rows is None:
        return f"{lead}: never, {need.note}"
    left = f"{need.left:,} more" if need.left else "enough"
    return f"{lead}: {left} of {need.rows:,}" + (f" ({need.note})" if need.note else "")
