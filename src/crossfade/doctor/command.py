"""`crossfade doctor`."""

from __future__ import annotations

import importlib
import json
import logging
import os
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column
from rich.table import Table as Grid

from crossfade.doctor.examine import Examined, examine
from crossfade.doctor.finding import Check, Finding, Site
from crossfade.errors import SettingsError
from crossfade.settings import Settings, load_settings

_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
"""MLflow's client, unless the environment says otherwise."""

_CHECKS: tuple[tuple[str, str, str, str] | tuple[str, str, str, str, float], ...] = (
    ("libraries", "system libraries", "machine", "look_at_libraries"),
    ("packages", "Python and its packages", "machine", "look_at_packages"),
    ("disks", "room on the disks", "space", "look_at_disks"),
    ("rights", "rights on the folders", "space", "look_at_rights"),
    ("locks", "locks that are held", "locks", "look_at_locks"),
    ("drafts", "what killed processes left", "locks", "look_at_drafts"),
    ("ports", "ports of the services", "services", "look_at_ports"),
    ("addresses", "addresses in the settings", "services", "look_at_addresses"),
    ("health", "health of the services", "services", "look_at_health"),
    ("access", "who may come in", "access", "look_at_access"),
    ("log files", "the log's files and columns", "schemas", "look_at_log"),
    ("rows", "the log's rows and times", "rows", "look_at_rows", 60.0),
    ("databases", "revisions of the databases", "schemas", "look_at_databases"),
    ("mlflow", "MLflow", "services", "look_at_mlflow"),
    ("aliases", "aliases of the model", "models", "look_at_aliases", 60.0),
    ("models", "models that are served", "models", "look_at_models", 120.0),
    ("router", "what the router serves", "router", "look_at_router", 60.0),
    ("clocks", "clocks of the neighbours", "clocks", "look_at_clocks"),
    ("dag", "the DAG in Airflow", "dag", "look_at_dag", 60.0),
)
"""Name, what it looks at, where it is, and the seconds it may take, in the order in which people mend things."""


def doctor(as_json: Annotated[bool, typer.Option("--json", help="every check, for machines")] = False) -> None:
    """Say what is wrong with this installation, running or stopped. Exit code 0: nothing; 1: something is."""
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    logging.disable(logging.WARNING)  # what a failed look has to say, its finding does
    try:
        settings = load_settings()
    except SettingsError as error:
        examined = [_bad_settings(error)]
    else:
        with Console(stderr=True).status("looking"):
            examined = examine(all_checks(), site_of(settings))
    is_wrong = any(one.is_wrong for one in examined)
    if as_json:
        typer.echo(json.dumps({"ok": not is_wrong, "checks": [one.to_dict() for one in examined]}, indent=2))
    else:
        _show(examined)
    raise typer.Exit(int(is_wrong))


def site_of(settings: Settings) -> Site:
    """Look which services of this machine run."""
    from crossfade.stack import processes
    from crossfade.stack.services import embedded_services

    home = settings.crossfade_home
    running = {service.name for service in embedded_services(settings) if processes.find(service, home)}
    return Site(settings, frozenset(running))


def all_checks() -> list[Check]:
    """Return every check; one that cannot be imported, for want of a library, says so when it looks."""
    return [_check(*named) for named in _CHECKS]


def _check(name: str, looks_at: str, module: str, function: str, seconds: float = 30.0) -> Check:
    try:
        return Check(name, looks_at, getattr(importlib.import_module(f"crossfade.doctor.{module}"), function), seconds)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other checks are to look
        reason = error

    def fail(_site: Site) -> list[Finding]:
        raise reason

    return Check(name, looks_at, fail)


def _bad_settings(error: SettingsError) -> Examined:
    findings = tuple(
        Finding(
            "the settings",
            line.removesuffix(" Change it in the environment or in .env."),
            "change it in the environment or in .env",
        )
        for line in str(error).splitlines()
    )
    return Examined("settings", "the settings", "findings", findings, "", 0.0)


def _show(examined: list[Examined]) -> None:
    console = Console()
    grid = Grid(
        "",
        *(Column(name, overflow="fold") for name in ("looked at", "found", "what to do")),
        box=None,
        header_style="bold",
    )
    for one in examined:
        if one.state == "ok":
            grid.add_row("[green]ok[/]", one.looks_at, "", "")
        elif one.state == "not looked at":
            grid.add_row("[dim]-[/]", f"[dim]{escape(one.looks_at)}[/]", f"[dim]{escape(one.why)}[/]", "")
        for finding in one.findings:
            mark = "[red]wrong[/]" if finding.level == "wrong" else "[yellow]note[/]"
            grid.add_row(mark, *map(escape, (finding.looked_at, finding.found, finding.next_step)))
    console.print(grid)
    wrong = sum(finding.level == "wrong" for one in examined for finding in one.findings)
    console.print(
        f"[red]{wrong} things are wrong[/]"
        if wrong > 1
        else "[red]one thing is wrong[/]"
        if wrong
        else "[green]nothing is wrong[/]"
    )
