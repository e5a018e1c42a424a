"""The learning loop, one function per step: what the DAG runs, and what cron or a CI job may run without Airflow.

The steps themselves are `crossfade.loop.steps`; here they get the installation that the settings name, and the router
is told when an alias may have moved.

    python src/pipeline.py run                                  all of it, as the DAG does
    python src/pipeline.py check-drift | retrain | evaluate     one step
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Annotated, Any

import typer

from crossfade.errors import CrossfadeError
from crossfade.loop import steps
from crossfade.loop.installation import Installation
from crossfade.loop.tracking import BY_HAND
from crossfade.settings import load_settings


def check_drift(
    *,
    current_source: str = "requests",
    psi_threshold: float | None = None,
    drift_strength: float | None = None,
    force_retrain: bool = False,
    trigger: str = BY_HAND,
) -> dict[str, Any]:
    """Compare live traffic with what prod learnt, and decide whether to retrain.

    `psi_threshold` and `drift_strength` stand in place of the settings of the same name.
    """
    here = _installation(psi_threshold=psi_threshold, drift_strength=drift_strength)
    checked = steps.check_drift(here, current_source, force_retrain, trigger)
    if checked["rolled_back"]:
        _tell_router(here)
    return checked


def retrain(
    *,
    current_source: str = "requests",
    drift_strength: float | None = None,
    trigger: str = BY_HAND,
    drift_run_id: str = "",
) -> dict[str, Any]:
    """Train a challenger on what prod learnt and what was seen since, and hold it against prod.

    `drift_run_id` is the MLflow run of the check that asked for it: the new version's page tells what it found.
    """
    return steps.retrain(_installation(drift_strength=drift_strength), current_source, trigger, drift_run_id)


def register_staging(trained: dict[str, Any]) -> dict[str, Any]:
    """Register a trained challenger: as `staging` when it passed the champion gate, else as `rejected`."""
    here = _installation()
    registered = steps.register_staging(here, trained)
    if registered["status"] in ("staging", "prod"):
        _tell_router(here)
    return registered


def evaluate_and_promote(
    *, ab_alpha: float | None = None, ab_test: str | None = None, trigger: str = BY_HAND
) -> dict[str, Any]:
    """Look at the running experiment and move `prod` when the evidence is good; return the report."""
    here = _installation(ab_alpha=ab_alpha, ab_test=ab_test)
    report = steps.evaluate_and_promote(here, trigger)
    if report["verdict"] in ("promote", "reject"):
        _tell_router(here)
    return report


def run(*, current_source: str = "requests", force_retrain: bool = False, trigger: str = BY_HAND) -> dict[str, Any]:
    """Check drift, retrain when it pays, evaluate the A/B test: the DAG's steps in its order.

    Returns
    -------
    dict
        What `check_drift`, `register_staging` and `evaluate_and_promote` return, as `drift`, `registered` (None where
        nothing was trained) and `evaluation`.
    """
    checked, registered = check_drift(current_source=current_source, force_retrain=force_retrain, trigger=trigger), None
    if checked["decision"] == "retrain":
        trained = retrain(current_source=current_source, trigger=trigger, drift_run_id=checked["run_id"])
        registered = register_staging(trained)
    return {"drift": checked, "registered": registered, "evaluation": evaluate_and_promote(trigger=trigger)}


def standing() -> dict[str, dict[str, str]]:
    """Say which version each of the aliases `prod` and `staging` points at, and the run that trained it.

    Returns
    -------
    dict
        By `prod` and `staging`, whatever the settings call them, as far as they are set: `model`, `version`, `run_id`.
    """
    here = _installation()
    found = {"prod": here.registry.at(here.aliases.prod), "staging": here.registry.at(here.aliases.staging)}
    return {
        name: {"model": here.registry.name, "version": version.number, "run_id": version.run_id}
        for name, version in found.items()
        if version is not None
    }


def roll_back() -> tuple[str, str]:
    """Put `previous` back into production; return the version taken out and the one put back."""
    here = _installation()
    swapped = steps.roll_back(here)
    _tell_router(here)
    return swapped


def _tell_router(here: Installation) -> None:
    """Make the router look at the registry now; it would find out by itself within its polling interval."""
    if here.router is not None:
        here.router.reload()


def _installation(**given: Any) -> Installation:
    return Installation.of(load_settings(**{name: value for name, value in given.items() if value is not None}))


cli = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)

Source = Annotated[str, typer.Option("--source", help="requests, simulated, or a CSV or Parquet file")]


Force = Annotated[bool, typer.Option(help="retrain whatever the check finds")]


@cli.command("run")
def _run(
    source: Source = "requests",
    force: Force = False,
    trigger: Annotated[str, typer.Option(help="what asks for it; asked again, it trains nothing twice")] = BY_HAND,
) -> None:
    """Check drift, retrain when it pays, evaluate. Exit code 0: all was decided; 2: too little data for a verdict."""
    result = run(current_source=source, force_retrain=force, trigger=trigger)
    print(json.dumps(result, indent=2))
    raise typer.Exit(2 if result["drift"]["verdict"] == "insufficient_data" else 0)


@cli.command("check-drift")
def _check_drift(source: Source = "requests", force: Force = False) -> None:
    """Check live traffic for drift. Exit code 0: a verdict; 2: too little data for one."""
    result = check_drift(current_source=source, force_retrain=force)
    print(json.dumps(result, indent=2))
    raise typer.Exit(2 if result["verdict"] == "insufficient_data" else 0)


@cli.command("retrain")
def _retrain(source: Source = "requests") -> None:
    """Train a challenger now and register it (as staging if it beats prod)."""
    trained = retrain(current_source=source)
    print(json.dumps({**trained, **register_staging(trained)}, indent=2))


@cli.command("evaluate")
def _evaluate() -> None:
    """Evaluate the running experiment and move `prod` if the evidence is good."""
    print(json.dumps(evaluate_and_promote(), indent=2))


def main() -> None:
    """Run the command line; a failure Crossfade knows is one line and exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    try:
        cli()
    except CrossfadeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
