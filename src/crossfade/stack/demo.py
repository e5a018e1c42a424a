"""`crossfade demo`: the whole loop on real parts, told as it happens.

Nothing is staged: the traffic goes through the router, the DAG is triggered through Airflow's REST API as its UI
does, and every figure of the closing screen is read from the reports and the registry.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import requests
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table as Grid

from crossfade.data import load_dataset
from crossfade.errors import ServiceError
from crossfade.settings import Settings
from crossfade.stack.airflow import DAG_ID, Airflow, DagRun
from crossfade.stack.processes import is_taken
from crossfade.stack.traffic import Outcome, Plan, send


@dataclass(frozen=True)
class Learning:
    """How the challenger came to be."""

    traffic: Outcome
    checked: dict[str, Any]
    trained: dict[str, Any]


@dataclass(frozen=True)
class Story:
    """What the demo found, for its closing screen."""

    prod_before: str
    prod_after: str
    learning: Learning | None
    """None when the demo went on with an experiment that was open already."""
    evaluation: dict[str, Any]

    @property
    def promoted(self) -> bool:
        """Whether the challenger won; on Iris it does, a table of your own may know better."""
        return bool(self.evaluation["verdict"] == "promote")


def tell(settings: Settings, console: Console, rows: int, users: int) -> Story:
    """Play the loop once, from whatever state the installation is in.

    Parameters
    ----------
    settings : Settings
        The running installation.
    console : Console
        Where to tell it.
    rows : int
        Requests in each of the two rounds of traffic.
    users : int
        Users they are shared out over.

    Raises
    ------
    ServiceError
        A step did not end as the story goes; the message says what was found instead.
    """
    airflow = Airflow(settings)
    with _step(console, "Airflow reads the DAG"):
        airflow.wait_for_dag()
    if _serving(settings) is None:
        _run_dag(airflow, console, "1  no model yet: the DAG trains the first one and puts it into production")
    else:
        console.print("[dim]1  a model is in production already: the story starts with it[/]")
    before = _await_serving(settings)
    # Each version has learnt its predecessors' traffic, so the instrument drifts on from there.
    plan = Plan(
        rows, users, settings.drift_strength * int(before["prod"]), "now", rate=0, clients=16, seed=int(before["prod"])
    )
    learning = None
    if before["staging"]:
        console.print(f"[dim]2  version {before['staging']} is being tested already: the story goes on with it[/]")
    else:
        learning = _learn(settings, airflow, console, plan)
    _send(
        settings,
        console,
        replace(plan, seed=plan.seed + 1000),
        f"4  {rows} labelled requests, shared out over both versions",
    )
    run_id = _run_dag(airflow, console, "5  the DAG again: the A/B test is evaluated")
    evaluation = airflow.result(run_id, "ab_evaluate_and_promote")
    promoted = evaluation["verdict"] == "promote"
    after = _await_serving(settings, prod=evaluation["model_version_b"] if promoted else before["prod"])
    story = Story(before["prod"], after["prod"], learning, evaluation)
    console.print(_screen(story, settings))
    return story


def _learn(settings: Settings, airflow: Airflow, console: Console, plan: Plan) -> Learning:
    """Send drifted traffic and let the DAG find it and train a challenger."""
    drift = f"every feature reads {plan.drift:g} standard deviations too high"
    traffic = _send(settings, console, plan, f"2  {plan.rows} labelled requests, {drift}")
    run_id = _run_dag(airflow, console, "3  the DAG again: drift is found, a challenger is trained")
    checked, trained = airflow.result(run_id, "check_drift"), airflow.result(run_id, "retrain")
    registered = airflow.result(run_id, "register_staging")
    if not registered or registered["status"] != "staging":
        raise ServiceError(f"no challenger came of it: {'; '.join((trained or checked)['reasons'])}")
    _await_serving(settings, staging=registered["version"])
    return Learning(traffic, checked, trained)


def _screen(story: Story, settings: Settings) -> Panel:
    """Draw the closing screen."""
    arms = story.evaluation["arms"]
    lines = Grid.grid(padding=(0, 2))
    lines.add_column(style="bold")
    lines.add_column()
    if story.learning is not None:
        trained = story.learning.trained
        lines.add_row("drift", story.learning.checked["reasons"][0])
        lines.add_row("before", f"version {story.prod_before} was right {_share(story.learning.traffic)} of the time")
        lines.add_row("champion gate", f"{trained['algorithm']}: {trained['reasons'][0]}")
    for variant, arm in arms.items():
        if arm["accuracy_interval"] is None:
            lines.add_row(f"A/B, arm {variant}", f"version {arm['version']}: no labelled rows")
            continue
        low, high = arm["accuracy_interval"]
        lines.add_row(
            f"A/B, arm {variant}",
            f"version {arm['version']}: {arm['correct']} of {arm['labeled']} right = {arm['scores']['accuracy']:.3f} "
            f"(95 % interval {low:.3f} to {high:.3f}), {arm['users']} users",
        )
    if story.evaluation["p_value"] is not None:
        lines.add_row("chi-square", f"{story.evaluation['chi2']:.1f}, p = {story.evaluation['p_value']:.3g}")
    if story.promoted:
        lines.add_row("prod", f"version {story.prod_before} -> version {story.prod_after}, without a restart")
    else:
        because = "; ".join(story.evaluation["reasons"])
        lines.add_row("prod", f"version {story.prod_before} stays ({story.evaluation['verdict']}): {because}")
    lines.add_row("MLflow", settings.mlflow_tracking_uri)
    lines.add_row("Airflow", f"{settings.airflow_url}/dags/{DAG_ID}  (login {settings.airflow_user})")
    lines.add_row("router", f"{settings.router_url}/health")
    if is_taken(settings.bind_host, settings.dashboard_port):  # not in the containers
        lines.add_row("dashboard", f"http://{settings.reachable_host}:{settings.dashboard_port}")
    if settings.report_dir.is_dir():  # with containers it is a volume
        lines.add_row("reports", str(settings.report_dir))
    title = "A model was replaced because the evidence said so" if story.promoted else "The evidence was not enough"
    return Panel(lines, title=title, expand=False)


def _share(outcome: Outcome) -> str:
    rows = sum(outcome.answered.values())
    return f"{100 * sum(outcome.correct.values()) / rows:.1f} %" if rows else "none"


def _run_dag(airflow: Airflow, console: Console, title: str) -> str:
    with _step(console, title) as say:
        run_id = airflow.trigger()

        def show(run: DagRun) -> None:
            say(", ".join(task for task, state in run.tasks.items() if state == "running") or run.state)

        airflow.wait(run_id, show)
    return run_id


def _send(settings: Settings, console: Console, plan: Plan, title: str) -> Outcome:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=plan.rows)
        table = load_dataset(settings)
        outcome = send(table, plan, settings.router_url, settings.api_token, lambda done: progress.advance(task, done))
    if outcome.failed:
        raise ServiceError(f"{sum(outcome.failed.values())} requests failed: {json.dumps(outcome.failed)}")
    console.print(f"[green]✓[/] {title}: {_share(outcome)} right, {plan.rows / outcome.seconds:.0f} requests/s")
    return outcome


@contextmanager
def _step(console: Console, title: str) -> Iterator[Any]:
    with console.status(title) as status:
        yield lambda detail: status.update(f"{title} [dim]{detail}[/]")
    console.print(f"[green]✓[/] {title}")


def _serving(settings: Settings) -> dict[str, Any] | None:
    """Return the router's health when it serves a model, else None."""
    try:
        health: dict[str, Any] = requests.get(f"{settings.router_url}/health", timeout=10).json()
    except requests.RequestException as error:
        raise ServiceError(f"the router at {settings.router_url} does not answer: {error}") from error
    return health if health["prod"] else None


def _await_serving(settings: Settings, seconds: float = 180, **expected: str) -> dict[str, Any]:
    """Wait until every worker serves these versions, behind a proxy too: several answers in a row have to agree."""
    deadline, agreed = time.monotonic() + seconds, 0
    while True:
        health = _serving(settings)
        agreed = agreed + 1 if health and _serves(health, expected) else 0
        if health and agreed >= 4 * settings.router_workers:
            return health
        if time.monotonic() > deadline:
            raise ServiceError(f"the router does not serve {expected or 'a model'} after {seconds:.0f} s: {health}")
        time.sleep(0.05)


def _serves(health: dict[str, Any], expected: dict[str, str]) -> bool:
    """Tell whether the worker that answered, and each of its siblings, serve these versions: one prod at least."""
    wanted = expected or {"prod": health["prod"]}
    return all(worker[arm] == version for worker in (health, *health["workers"]) for arm, version in wanted.items())
