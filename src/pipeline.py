"""The learning loop, one function per step: what the DAG runs, and what cron or a CI job may run without Airflow.

Every function takes and returns plain JSON-able values, reads its state from the registry and the request log, and is
safe to run twice.

    python src/pipeline.py check-drift | retrain | evaluate
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Annotated, Any

import pandas as pd
import requests
import typer

from crossfade.data import load_table
from crossfade.errors import CrossfadeError, ModelUnusable
from crossfade.loop import promote
from crossfade.loop.automl import PyCaretTrainer
from crossfade.loop.drift import DriftReport, DriftRule
from crossfade.loop.drift import check_drift as compare_with_reference
from crossfade.loop.evaluate import EvaluationRule, Experiment
from crossfade.loop.evaluate import evaluate as evaluate_experiment
from crossfade.loop.evidence import DriftCheck, log_evaluation, record_drift, record_evaluation, record_training
from crossfade.loop.live import REQUEST_ID, read_live
from crossfade.loop.policy import Situation, recommend
from crossfade.loop.reports import ReportPaths
from crossfade.loop.retrain import log_training, share_out, train_challenger
from crossfade.loop.tracking import find_run, log_json, read_json, read_profile, read_snapshot, start_run
from crossfade.model import Model
from crossfade.registry import STATUS, Registry, Version
from crossfade.requestlog import CsvRequestLog, utc_now
from crossfade.settings import Settings, load_settings

_log = logging.getLogger("crossfade.pipeline")

BY_HAND = "by hand"
"""Trigger of a step that no DAG run asked for; it is never taken for a repetition."""


def check_drift(
    *,
    current_source: str = "requests",
    psi_threshold: float | None = None,
    drift_strength: float | None = None,
    force_retrain: bool = False,
    trigger: str = BY_HAND,
) -> dict[str, Any]:
    """Compare live traffic with what prod learnt, and decide whether to retrain.

    Parameters
    ----------
    current_source : str
        `requests`, `simulated`, or the path of a CSV or Parquet file.
    psi_threshold, drift_strength : float or None
        In place of the settings of the same name.
    force_retrain : bool
        Retrain whatever is found.
    trigger : str
        What asked for it (a DAG run id); written into the MLflow run.

    Returns
    -------
    dict
        `verdict`, `decision`, `reasons`, `run_id`, `rows`, `drifted`, and the source that a retraining has to read.
    """
    settings = _settings(psi_threshold=psi_threshold, drift_strength=drift_strength)
    registry = Registry(settings.mlflow_tracking_uri, settings.reg_model_name)
    prod, staging = registry.at(settings.prod_alias), registry.at(settings.staging_alias)
    check = _look_at_traffic(settings, prod, current_source)
    report = check.report
    prod_number, staging_number = (version.number if version else None for version in (prod, staging))
    situation = Situation(report, prod_number, staging_number, check.new_labeled, force_retrain)
    decision = recommend(situation, settings.retrain_min_labeled)
    with start_run(settings.mlflow_experiment, settings.reg_model_name, "drift", trigger) as run:
        record_drift(settings, check, decision, run.info.run_id, trigger)
    _log.info(
        "drift: %s (%s). Decision: %s, because %s",
        report.verdict,
        report.reason,
        decision.decision,
        "; ".join(decision.reasons),
    )
    return _plain(
        {
            "verdict": report.verdict,
            "rows": report.rows,
            "drifted": report.drifted,
            "decision": decision.decision,
            "reasons": list(decision.reasons),
            "run_id": run.info.run_id,
            "prod_version": prod_number,
            "current_source": current_source,
            "drift_strength": settings.drift_strength,
        }
    )


def retrain(
    *, current_source: str = "requests", drift_strength: float | None = None, trigger: str = BY_HAND
) -> dict[str, Any]:
    """Train a challenger on what prod learnt and what was seen since, and hold it against prod.

    Run again with the same `trigger` (other than the default), it finds its finished run and trains nothing.

    Returns
    -------
    dict
        `run_id`, `model_uri`, `algorithm`, `passed` (the champion gate), `reasons`, and both models' holdout scores.
    """
    settings = _settings(drift_strength=drift_strength)
    registry = Registry(settings.mlflow_tracking_uri, settings.reg_model_name)
    earlier = (
        find_run(settings.mlflow_experiment, settings.reg_model_name, "retrain", trigger)
        if trigger != BY_HAND
        else None
    )
    if earlier is not None:
        _log.info("run %s has trained for %s already", earlier, trigger)
        outcome = read_json(earlier, "outcome.json")
        record_training(settings, outcome, trigger)
        return outcome
    prod = registry.at(settings.prod_alias)
    known = _known_rows(settings, prod)
    features = [name for name in known.columns if name not in (settings.target, REQUEST_ID)]
    live = read_live(current_source, settings, features, prod.number if prod else "", settings.drift_strength)
    rows = share_out(
        known, live.labeled, settings.target, settings.retrain_min_labeled, settings.holdout_share, settings.automl_seed
    )
    if rows.left_out:
        _log.warning(
            "%d labelled rows left out: their label is no class of %s, or a new and rare one",
            rows.left_out,
            settings.target,
        )
    trainer = PyCaretTrainer(settings.automl_model_ids, settings.automl_folds, settings.automl_seed)
    champion = _champion(registry, prod)
    candidate, gate = train_challenger(rows, settings.target, trainer, champion, settings.gate_max_recall_drop)
    with start_run(settings.mlflow_experiment, settings.reg_model_name, "retrain", trigger) as run:
        params = {
            "dataset": settings.dataset,
            "current_source": current_source,
            "automl_models": settings.automl_models,
            "automl_folds": settings.automl_folds,
            "automl_seed": settings.automl_seed,
            "champion_version": prod.number if prod else "none",
        }
        outcome = {
            "run_id": run.info.run_id,
            "model_uri": log_training(rows, settings.target, candidate, gate, params),
            "champion_version": prod.number if prod else None,
            "algorithm": candidate.algorithm,
            "train_rows": len(rows.train),
            "holdout_rows": gate.challenger.rows,
            "passed": gate.passed,
            "reasons": list(gate.reasons),
            "holdout_accuracy": gate.challenger.accuracy,
            "holdout_f1_macro": gate.challenger.f1_macro,
            "champion_accuracy": gate.champion and gate.champion.accuracy,
            "champion_f1_macro": gate.champion and gate.champion.f1_macro,
        }
        log_json(outcome, "outcome.json")
    _log.info("%s: %s; %s", candidate.algorithm, "passed" if gate.passed else "rejected", "; ".join(gate.reasons))
    record_training(settings, outcome, trigger)
    return outcome


def register_staging(trained: dict[str, Any]) -> dict[str, Any]:
    """Register a trained challenger: as `staging` when it passed the champion gate, else as `rejected`.

    The very first version becomes `prod` too.

    Returns
    -------
    dict
        `version`, `status`, and whether `prod` was bootstrapped.
    """
    settings = load_settings()
    registry, aliases = Registry(settings.mlflow_tracking_uri, settings.reg_model_name), _aliases(settings)
    version = registry.register(trained["run_id"], trained["model_uri"], {STATUS: "candidate"})
    if not trained["passed"]:
        registry.tag(version.number, {STATUS: "rejected", "crossfade.decided_by": "champion gate"})
        _log.info("version %s is registered as rejected: %s", version.number, "; ".join(trained["reasons"]))
        return {"version": version.number, "status": "rejected", "bootstrapped": False}
    if version.status not in ("candidate", "staging"):
        _log.info("version %s is %s already: decided since", version.number, version.status)
        return {"version": version.number, "status": version.status, "bootstrapped": False}
    prod, staging = promote.number_at(registry, aliases.prod), promote.number_at(registry, aliases.staging)
    if prod not in (trained["champion_version"], version.number):
        _log.warning(
            "version %s beat version %s, but prod is %s now", version.number, trained["champion_version"], prod
        )
        registry.tag(version.number, {"crossfade.decided_by": f"nobody: prod moved to {prod} during the training"})
        return {"version": version.number, "status": "candidate", "bootstrapped": False}
    if staging != version.number:
        registry.move(aliases.staging, version.number, expected=staging)
        if staging not in (None, prod):
            registry.tag(str(staging), {STATUS: "rejected", "crossfade.decided_by": f"superseded by {version.number}"})
    if prod is None:
        promote.bootstrap(registry, aliases, version)
    experiment = Experiment.between(settings.reg_model_name, prod, version.number)
    if experiment is not None:
        registry.tag(version.number, {STATUS: "staging", "crossfade.experiment": experiment.id})
    _notify_router(settings)
    status = "staging" if experiment is not None else "prod"
    _log.info(
        "version %s is %s", version.number, "in production, the first one" if status == "prod" else "the challenger"
    )
    return {"version": version.number, "status": status, "bootstrapped": prod is None}


def evaluate_and_promote(
    *, ab_alpha: float | None = None, ab_test: str | None = None, trigger: str = BY_HAND
) -> dict[str, Any]:
    """Look at the running experiment and move `prod` when the evidence is good.

    Returns
    -------
    dict
        The report that is written to AB_EVAL_REPORT.
    """
    settings = _settings(ab_alpha=ab_alpha, ab_test=ab_test)
    registry, aliases = Registry(settings.mlflow_tracking_uri, settings.reg_model_name), _aliases(settings)
    prod, staging = promote.number_at(registry, aliases.prod), promote.number_at(registry, aliases.staging)
    experiment = Experiment.between(settings.reg_model_name, prod, staging)
    if experiment is None and (done := _finished_promotion(settings, registry, aliases, trigger)):
        return done
    rule = EvaluationRule(settings.ab_test, settings.ab_alpha, settings.ab_min_labeled, settings.ab_min_delta_acc)
    contents = CsvRequestLog(settings.request_log, settings.labels_log).read()
    evaluation = evaluate_experiment(contents, experiment, rule)
    with start_run(settings.mlflow_experiment, settings.reg_model_name, "evaluation", trigger) as run:
        report = _plain({"ts_utc": utc_now(), **evaluation.to_dict(), "run_id": run.info.run_id, "trigger": trigger})
        log_evaluation(evaluation, report)
        record_evaluation(settings, report, trigger)  # before anything moves: a report without a move can be repeated
        moved = promote.apply(registry, aliases, evaluation, run.info.run_id)
    if moved:
        _notify_router(settings)
    _log.info(
        "experiment %s: %s, because %s", report["experiment_id"], evaluation.verdict, "; ".join(evaluation.reasons)
    )
    return report


def roll_back() -> tuple[str, str]:
    """Put `previous` back into production; return the version taken out and the one put back."""
    settings = load_settings()
    swapped = promote.roll_back(Registry(settings.mlflow_tracking_uri, settings.reg_model_name), _aliases(settings))
    _notify_router(settings)
    return swapped


def _plain(result: dict[str, Any]) -> dict[str, Any]:
    """Reduce a result to what JSON knows: Airflow would keep a tuple as a tuple."""
    return dict(json.loads(json.dumps(result)))


def _settings(**given: Any) -> Settings:
    return load_settings(**{name: value for name, value in given.items() if value is not None})


def _finished_promotion(
    settings: Settings, registry: Registry, aliases: promote.Aliases, trigger: str
) -> dict[str, Any] | None:
    """Finish a promotion that was cut short after prod moved; return its report if this very trigger made it."""
    promote.finish(registry, aliases)
    report = ReportPaths.of(settings).evaluation
    if trigger == BY_HAND or not report.is_file():
        return None
    found: dict[str, Any] = json.loads(report.read_text())
    mine = found["trigger"] == trigger and found["verdict"] == "promote"
    return found if mine and found["model_version_b"] == promote.number_at(registry, aliases.prod) else None


def _aliases(settings: Settings) -> promote.Aliases:
    return promote.Aliases(settings.prod_alias, settings.staging_alias, settings.previous_alias)


def _known_rows(settings: Settings, prod: Version | None) -> pd.DataFrame:
    """Return what prod learnt; the dataset when there is no prod, or somebody else trained it."""
    if prod is not None:
        try:
            return read_snapshot(prod.run_id)
        except ModelUnusable as error:
            _log.warning("starting from the dataset: %s", error)
    return load_table(settings.dataset, settings.target).frame.assign(**{REQUEST_ID: ""})


def _champion(registry: Registry, prod: Version | None) -> Model | None:
    """Load what a challenger has to beat; None when there is nothing, or nothing that could answer."""
    if prod is None:
        return None
    try:
        return registry.load(prod).model
    except ModelUnusable as error:
        _log.warning("there is no champion to beat: %s", error)
        return None


def _drift_rule(settings: Settings) -> DriftRule:
    return DriftRule(
        psi_threshold=settings.psi_threshold,
        ks_threshold=settings.ks_threshold,
        alpha=settings.drift_alpha,
        share=settings.drift_share,
        min_rows=settings.drift_min_rows,
    )


def _look_at_traffic(settings: Settings, prod: Version | None, current_source: str) -> DriftCheck:
    if prod is None:
        nothing = DriftReport("no_reference", 0, "no version is in production: nothing to compare with")
        return DriftCheck(None, None, nothing, 0)
    try:
        reference, snapshot = read_profile(prod.run_id), read_snapshot(prod.run_id)
    except ModelUnusable as error:  # somebody made a foreign version prod
        return DriftCheck(prod, None, DriftReport("no_reference", 0, str(error)), 0)
    live = read_live(current_source, settings, reference.features, prod.number, settings.drift_strength)
    report = compare_with_reference(reference, live.window, _drift_rule(settings))
    new_labeled = int((~live.labeled[REQUEST_ID].isin(snapshot[REQUEST_ID])).sum())
    return DriftCheck(prod, live, report, new_labeled, snapshot)


def _notify_router(settings: Settings) -> None:
    """Ask the router to look at the registry now; it would find out by itself within its polling interval."""
    token = settings.router_admin_token
    headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
    try:
        requests.post(f"{settings.router_url}/reload", headers=headers, timeout=60).raise_for_status()
    except requests.RequestException as error:
        _log.warning("the router was not told (%s); it polls the registry itself", error)


cli = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)

Source = Annotated[str, typer.Option("--source", help="requests, simulated, or a CSV or Parquet file")]


@cli.command("check-drift")
def _check_drift(
    source: Source = "requests", force: Annotated[bool, typer.Option(help="recommend a retraining anyhow")] = False
) -> None:
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
