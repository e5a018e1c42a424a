"""The command line: run the stack, play with it, and work the loop by hand."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.table import Table as Grid

from crossfade.errors import CrossfadeError, ServiceError
from crossfade.planning.command import plan, selftest
from crossfade.replay.command import replay
from crossfade.settings import Settings, load_settings, settings_table
from crossfade.stack import processes
from crossfade.stack.services import Service, embedded_services, prepare, router_service

if TYPE_CHECKING:
    from crossfade.stack.airflow import DagRun

cli = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)
for command in (replay, plan, selftest):
    cli.command()(command)
console = Console()

_START_SECONDS = 600
"""A service that ends is noticed at once; one that lives may take minutes to start where many others are at work."""


@cli.command()
def up() -> None:
    """Start what is not running and wait until everything is healthy."""
    settings = load_settings()
    _up(settings)
    status()


@cli.command()
def down() -> None:
    """Stop everything that `up` started."""
    settings = load_settings()
    for service in reversed(embedded_services(settings)):
        with console.status(f"stopping {service.name}"):
            stopped = processes.stop(service, settings.crossfade_home)
        console.print(f"{service.name}: " + (f"stopped ({stopped} processes)" if stopped else "was not running"))


@cli.command()
def status() -> None:
    """Show what runs, where, and how much memory it takes."""
    settings = load_settings()
    grid = Grid("service", "state", "processes", "memory", "url", box=None, header_style="bold")
    for service in embedded_services(settings):
        state = processes.state_of(service, settings.crossfade_home)
        word = "[green]healthy[/]" if state.healthy else "[red]not healthy[/]" if state.processes else "[dim]stopped[/]"
        memory = f"{state.memory_mb:.0f} MB" if state.processes else ""
        grid.add_row(service.name, word, str(state.processes or ""), memory, service.url)
    console.print(grid)
    console.print(f"[dim]logs: {settings.service_log_folder}/<service>_YYYYMMDD.log[/]")


@cli.command()
def run() -> None:
    """Trigger the DAG, as Airflow's UI does, and wait for its end."""
    from crossfade.stack.airflow import Airflow

    airflow = Airflow(load_settings())
    with console.status("the DAG runs") as shown:
        airflow.wait_for_dag()
        run_id = airflow.trigger()

        def show(run: DagRun) -> None:
            shown.update(f"the DAG runs: {', '.join(t for t, s in run.tasks.items() if s == 'running') or run.state}")

        airflow.wait(run_id, show)
    checked, evaluated = airflow.result(run_id, "check_drift"), airflow.result(run_id, "ab_evaluate_and_promote")
    console.print(f"drift: {checked['verdict']}; decision {checked['decision']}: {'; '.join(checked['reasons'])}")
    console.print(f"A/B: {evaluated['verdict']}: {'; '.join(evaluated['reasons'])}")


@cli.command()
def serve() -> None:
    """Run the router alone, in the foreground; its server is started again when it is killed."""
    command = router_service(load_settings()).command
    os.execv(command[0], command)  # noqa: S606 - its own command line; signals reach the supervisor itself


@cli.command()
def demo(
    rows: Annotated[int, typer.Option(min=1, help="requests in each of the two rounds of traffic")] = 1000,
    users: Annotated[int, typer.Option(min=1, help="users they are shared out over")] = 400,
    start: Annotated[bool, typer.Option(help="start the services first; else play on what runs")] = True,
) -> None:
    """Play the whole loop: drift, retrain, A/B, promotion."""
    from crossfade.stack.demo import tell  # pandas and friends: not for `crossfade status`

    settings = load_settings()
    if start:
        _up(settings)
    tell(settings, console, rows, users)
    if start:
        console.print("The services stay up. Stop them with `make down`.")


@cli.command()
def simulate(
    rows: Annotated[int, typer.Option(min=1, help="requests to send")] = 1000,
    users: Annotated[int, typer.Option(min=1, help="users they are shared out over")] = 400,
    drift: Annotated[float, typer.Option(help="shift of every feature, in standard deviations")] = 0.0,
    labels: Annotated[str, typer.Option(help="now (with the request), later (to /feedback), none")] = "now",
    rate: Annotated[float, typer.Option(min=0, help="requests per second; 0: as fast as they are answered")] = 0.0,
    clients: Annotated[int, typer.Option(min=1, max=256, help="requests under way at once")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="same seed, same requests")] = 0,
) -> None:
    """Send real traffic, drawn from the dataset, to the router."""
    from crossfade.data import load_dataset
    from crossfade.stack.traffic import Plan, send

    if labels not in ("now", "later", "none"):
        raise ServiceError(f"--labels {labels}: allowed are now, later and none")
    settings = load_settings()
    plan = Plan(rows, users, drift, labels, rate, clients, seed)  # type: ignore[arg-type]  # checked above
    columns = (SpinnerColumn(), TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("sending", total=rows)
        table = load_dataset(settings)
        outcome = send(table, plan, settings.router_url, settings.api_token, lambda done: progress.advance(task, done))
    grid = Grid("arm", "version", "answered", "right", box=None, header_style="bold")
    for (variant, version), answered in sorted(outcome.answered.items()):
        right = outcome.correct[variant, version]
        grid.add_row(variant, version, str(answered), f"{100 * right / answered:.1f} %")
    console.print(grid)
    latencies = sorted(outcome.latencies_ms)
    if latencies:
        p50, p95 = latencies[len(latencies) // 2], latencies[int(len(latencies) * 0.95)]
        speed = len(latencies) / outcome.seconds
        console.print(f"{speed:.0f} answers/s; latency p50 {p50:.1f} ms, p95 {p95:.1f} ms ({clients} clients)")
    if outcome.failed:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in outcome.failed.most_common(5))
        raise ServiceError(f"{sum(outcome.failed.values())} of {rows} requests failed: {reasons}")


@cli.command()
def drift(
    source: Annotated[str, typer.Option(help="requests, simulated, or a CSV or Parquet file")] = "requests",
) -> None:
    """Check live traffic for drift. Exit code 0: a verdict; 2: too little data for one."""
    import pipeline

    result = pipeline.check_drift(current_source=source)
    console.print(
        f"{result['verdict']}: decision [bold]{result['decision']}[/], because {'; '.join(result['reasons'])}"
    )
    raise typer.Exit(2 if result["verdict"] == "insufficient_data" else 0)


@cli.command()
def retrain(
    source: Annotated[str, typer.Option(help="requests, simulated, or a CSV or Parquet file")] = "requests",
) -> None:
    """Train a challenger now; it becomes staging if it beats prod."""
    import pipeline

    trained = pipeline.retrain(current_source=source)
    registered = pipeline.register_staging(trained)
    console.print(f"version {registered['version']} is {registered['status']}: {'; '.join(trained['reasons'])}")


@cli.command()
def evaluate() -> None:
    """Evaluate the running experiment; `prod` moves if the evidence is good."""
    import pipeline

    report = pipeline.evaluate_and_promote()
    console.print(
        f"{report['experiment_id'] or 'no experiment'}: [bold]{report['verdict']}[/], "
        f"because {'; '.join(report['reasons'])}"
    )


@cli.command()
def rollback() -> None:
    """Put the version that was in production before back, now."""
    import pipeline

    taken_out, put_back = pipeline.roll_back()
    console.print(f"prod: version {taken_out} -> version {put_back}. Version {taken_out} gets no traffic any more.")


@cli.command()
def history(
    last: Annotated[int, typer.Option(min=1, help="how many events, the newest")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="everything that was written, counts included")] = False,
) -> None:
    """Show what was decided and why: every look at an experiment, and every move of an alias, newest last."""
    from crossfade.loop.audit import Audit, headline, without_ended

    audit = Audit.under(load_settings().report_dir)
    trail = audit.read()
    if as_json:
        print(json.dumps(trail.events[-last:], indent=2))
    elif not trail.events:
        console.print("nothing was decided yet: `crossfade evaluate` looks at the running experiment")
    else:
        names = ("when (UTC)", "what", "decision", "experiment", "because", "run")
        grid = Grid(*(Column(name, overflow="fold") for name in names), box=None, header_style="bold")
        for event in without_ended(trail.events)[-last:]:
            said = headline(event)
            grid.add_row(said.when, said.what, said.decision, said.experiment, escape(said.reason), said.run_id[:8])
        console.print(grid)
    if trail.set_aside:
        print(f"{trail.set_aside} lines of {audit.path} are torn or broken: set aside", file=sys.stderr)


@cli.command()
def verify() -> None:
    """Check every report against the manifest's digests."""
    from crossfade.loop.reports import ReportPaths, verify_manifest

    paths = ReportPaths.of(load_settings())
    differences = verify_manifest(paths)
    if differences:
        raise ServiceError("the reports differ from the manifest:\n  " + "\n  ".join(differences))
    console.print(f"all {len(paths.all())} reports are as {paths.manifest} lists them")


@cli.command()
def settings() -> None:
    """Print every setting as a Markdown table (the README's)."""
    print(settings_table())


def main() -> None:
    """Run the command line; a failure Crossfade knows is one line and exit code 1."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("crossfade").setLevel(logging.INFO)
    try:
        cli()
    except CrossfadeError as error:
        sys.exit(f"error: {error}")


def _up(settings: Settings) -> None:
    prepare(settings)
    home = settings.crossfade_home
    started = [service for service in embedded_services(settings) if processes.start(service, home)]
    for service in started:
        _wait(service, home)


def _wait(service: Service, home: Path) -> None:
    with console.status(f"{service.name} starts") as shown:
        took = processes.wait_until_healthy(
            service, home, _START_SECONDS, lambda waited: shown.update(f"{service.name} starts: {waited:.0f} s")
        )
    console.print(f"[green]✓[/] {service.name} is healthy at {service.url} [dim](waited {took:.0f} s)[/]")


if __name__ == "__main__":
    main()
