"""The head of the page: who serves whom, does the data drift, which arm is better, what was decided last."""

from __future__ import annotations

from typing import Any

from dash import html

from crossfade.dashboard.drift import DriftView
from crossfade.dashboard.experiment import ExperimentView
from crossfade.dashboard.history import Happening
from crossfade.dashboard.lookout import Look
from crossfade.dashboard.panels.parts import Component, Links, clock, link, minute
from crossfade.dashboard.watch import Picture


def cards(
    picture: Picture, drift: DriftView, experiment: ExperimentView, history: list[Happening], links: Links
) -> list[Component]:
    """Answer the four questions of who opens the page for the first time."""
    return [
        _serving(picture, links),
        _card("Data", drift.words, _drift_words(drift), "alarm" if drift.verdict in ("drift", "schema_broken") else ""),
        _card("Experiment", *_experiment_words(experiment)),
        _last(history, links),
    ]


def services(picture: Picture) -> list[Component]:
    """Tell the state of every source, with the time of the last successful look."""
    router, airflow = picture.router.value, picture.airflow.value
    told = (
        ("Router", picture.router, "; ".join(router.problems) or ("workers swap versions" if router.swapping else "")),
        ("MLflow", picture.mlflow, ""),
        ("Airflow", picture.airflow, f"not healthy: {', '.join(airflow.unwell)}" if airflow.unwell else ""),
        ("Request log", picture.log, ""),
        ("Reports", _worse(picture.drift, picture.decisions), ""),
    )
    return [_service(name, look, problem) for name, look, problem in told]


def _worse(one: Look[Any], other: Look[Any]) -> Look[Any]:
    return one if one.stale else other


def _service(name: str, look: Look[Any], problem: str) -> Component:
    state = "down" if look.stale else "waiting" if look.seen is None else "unwell" if problem else "up"
    words = {"down": "stale", "waiting": "not looked at yet", "unwell": "has a problem", "up": "up"}[state]
    said: list[Component] = [html.Strong(name), f" {words}"]
    if look.seen is not None or look.stale:
        said.append(html.Span(f", seen {clock(look.seen)}", className="faint"))
    if look.problem or problem:
        said.append(html.Span(f": {look.problem or problem}", className="why"))
    return html.Li(said, className=f"service {state}")


def _card(title: str, main: Component, detail: Component, kind: str = "") -> Component:
    return html.Div([html.H2(title), html.P(main, className="main"), html.P(detail)], className=f"card {kind}".strip())


def _serving(picture: Picture, links: Links) -> Component:
    router, registry = picture.router.value, picture.mlflow.value
    prod = router.prod or (registry.prod.number if registry.prod else None)
    staging = router.staging or (registry.staging.number if registry.staging else None)
    if prod is None:
        if picture.router.seen is None and picture.mlflow.seen is None:
            return _card("Serving", "Not known", "Neither the router nor MLflow has answered yet.")
        return _card("Serving", "No model yet", "Trigger the DAG below: it trains the first one.")
    split = router.split_b
    main = ["A: ", link(f"version {prod}", links.version(prod), f"version {prod} in MLflow"), " (prod)"]
    if staging is None or staging == prod:
        share = "" if split is None else f" B gets {split:.0%} of the users once there is a challenger."
        return _card("Serving", main, f"Everybody is on A; no challenger is being tested.{share}")
    main += [", B: ", link(f"version {staging}", links.version(staging), f"version {staging} in MLflow"), " (staging)"]
    shares = "" if split is None else f"A {1 - split:.0%} of the users, B {split:.0%}. "
    return _card("Serving", main, [shares, "Experiment ", html.Code(router.experiment_id or "not begun"), "."])


def _drift_words(drift: DriftView) -> str:
    if not drift.verdict:
        return "Trigger the DAG below, or run: crossfade drift."
    said = f"{drift.drifted} of {len(drift.columns)} columns drifted over {drift.rows:,} answers"
    against = f", against what version {drift.version} learnt" if drift.version else ""
    return f"{said}{against}. Decision: {drift.decision or 'none'} ({minute(drift.when)} UTC)."


def _experiment_words(view: ExperimentView) -> tuple[str, str]:
    if not view.id:
        return "No experiment yet", "One begins when a challenger is trained: at drift, or by force_retrain."
    state = "running" if view.running else "over"
    ahead = {"promote": "B is better: promoted", "reject": "B is rejected", "invalid": "The split is broken"}
    if view.verdict in ahead:
        return ahead[view.verdict], f"{view.id}, {state}: {view.leading}."
    return f"{view.ahead}, not decided yet", f"{view.id}, {state}. {_so_far(view)}Newest look: {view.leading}."


def _so_far(view: ExperimentView) -> str:
    """Tell the accuracies that the log shows now, with how surely they are known."""
    newest = {variant: points[-1] for variant, points in (view.accuracy or {}).items() if points}
    if not newest:
        return ""
    told = [f"{variant} {at.accuracy:.1%} ({at.low:.1%} to {at.high:.1%})" for variant, at in newest.items()]
    return f"Right so far: {', '.join(told)}. "


def _last(history: list[Happening], links: Links) -> Component:
    if not history:
        return _card("Last decision", "None yet", "The DAG decides; trigger it below.")
    newest = history[-1]
    address = links.run(newest.run_id) or links.version(newest.version)
    main = link(f"{newest.what[0].upper()}{newest.what[1:]}", address, f"{newest.what}, in MLflow")
    return _card("Last decision", main, f"{minute(newest.when)} UTC: {newest.why}")
