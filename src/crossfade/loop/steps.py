"""The steps of the learning loop, on one installation: what `pipeline` runs for the DAG, and a replay in process.

Every step takes and returns plain JSON-able values, reads its state from the registry and the request log, and is safe
to run twice.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from typing import Any

import mlflow

from crossfade.logreader import read_log
from crossfade.loop import promote
from crossfade.loop.audit import LOOK, SPLIT
from crossfade.loop.automl import PyCaretTrainer
from crossfade.loop.check import look_at_traffic
from crossfade.loop.evaluate import EvaluationRule, Experiment
from crossfade.loop.evaluate import evaluate as evaluate_experiment
from crossfade.loop.evidence import (
    record_drift,
    record_evaluation,
    record_plan,
    record_training,
    source_of,
    tell_training,
)
from crossfade.loop.holdout import SharingRule, share_out
from crossfade.loop.incumbent import champion_of, known_rows
from crossfade.loop.installation import Installation
from crossfade.loop.live import LiveSource, read_labeled
from crossfade.loop.looks import log_look, look_number
from crossfade.loop.notes import told, version_note
from crossfade.loop.pairing import score_pairs
from crossfade.loop.policy import PolicyRule, Situation, recommend
from crossfade.loop.quality import QualityReport
from crossfade.loop.ramp import Step, next_step
from crossfade.loop.reports import ReportPaths
from crossfade.loop.retrain import log_training, train_challenger
from crossfade.loop.tracking import (
    BY_HAND,
    find_run,
    group_run,
    log_json,
    read_json,
    read_metrics,
    read_note,
    share_of,
    start_run,
)
from crossfade.loop.watch import watch
from crossfade.mlflowpages import MlflowPages
from crossfade.planning.observe import OBSERVED_COLUMNS, observe
from crossfade.planning.power import plan
from crossfade.version import DIGEST, FEATURES, RUNTIME, RUNTIME_REASON, STATUS, TRAINED_AT, Version

_log = logging.getLogger(__name__)

EVALUATED_COLUMNS = ("user_id", "experiment_id", "variant", "ab_split_b", "prediction", "latency_ms")
"""Of the request log, beside those that every reader gets."""

_LONGEST_TAG = 1000


def check_drift(
    here: Installation, current_source: str = "requests", force_retrain: bool = False, trigger: str = BY_HAND
) -> dict[str, Any]:
    """Compare live traffic with what prod learnt, and decide whether to retrain.

    Parameters
    ----------
    here : Installation
        Whose traffic.
    current_source : str
        `requests`, `simulated`, or the path of a CSV or Parquet file.
    force_retrain : bool
        Retrain whatever is found.
    trigger : str
        What asked for it (a DAG run id); written into the MLflow run.

    Returns
    -------
    dict
        `verdict`, `decision`, `reasons`, `run_id`, `rows`, `drifted`, the source that a retraining has to read,
        `rolled_back` (the version taken out of production and the one put back; None as a rule), `window` (rows and
        times of what was looked at), and `links` (name to address of pages in MLflow).
    """
    settings, registry = here.settings, here.registry
    promote.finish(registry, here.aliases, here.audit)
    watched, rolled_back = _watch_promotion(here)
    prod, staging = registry.at(settings.prod_alias), registry.at(settings.staging_alias)
    check = look_at_traffic(here, prod, current_source)
    situation = Situation(
        check.report,
        check.quality,
        check.attempts,
        prod_version=prod.number if prod else None,
        staging_version=staging.number if staging else None,
        new_labeled=check.new_labeled,
        trained_hours_ago=check.trained_hours_ago,
        is_first=len(check.versions) == 1,
        watched=_said(watched, rolled_back),
        rolled_back=rolled_back is not None,
        force=force_retrain,
    )
    rule = PolicyRule(
        settings.retrain_min_labeled,
        settings.retrain_on.split(","),
        settings.retrain_cooldown_hours,
        settings.retrain_max_age_days,
    )
    decision = recommend(situation, rule)
    with start_run(settings.mlflow_experiment, settings.reg_model_name, "drift", trigger) as run:
        story = record_drift(here, check, decision, watched, run.info.run_id, trigger, current_source)
    _tell(story)
    window = check.live.newest if check.live else None
    return _plain(
        {
            "verdict": check.report.verdict,
            "quality": check.quality.verdict,
            "rows": check.report.rows,
            "drifted": check.report.drifted,
            "decision": decision.decision,
            "reasons": list(decision.reasons),
            "run_id": run.info.run_id,
            "prod_version": situation.prod_version,
            "current_source": current_source,
            "drift_strength": settings.drift_strength,
            "rolled_back": rolled_back,
            "window": {"rows": window.rows, "first_ts": window.first_ts, "last_ts": window.last_ts} if window else None,
            "links": _links(here, run, **{"Drift report": "drift_report.html"}),
        }
    )


def _watch_promotion(here: Installation) -> tuple[QualityReport | None, promote.Swap | None]:
    """Look at what was promoted last, and put `previous` back when it is worse and AB_AUTO_ROLLBACK says so."""
    found = watch(here)
    if found is None or found.verdict != "worse" or not here.settings.ab_auto_rollback:
        return found, None
    return found, promote.roll_back(here.registry, here.aliases, here.audit, f"AB_AUTO_ROLLBACK: {found.reason}")


def _said(watched: QualityReport | None, rolled_back: promote.Swap | None) -> str:
    """Say what the watch found wrong, and what was, or can be, done; nothing when all is well."""
    if watched is None or watched.verdict != "worse":
        return ""
    if rolled_back is None:
        return f"{watched.reason}: `crossfade rollback` puts it back"
    return f"{watched.reason}: version {rolled_back[0]} was rolled back to {rolled_back[1]}"


def retrain(
    here: Installation, current_source: str = "requests", trigger: str = BY_HAND, drift_run_id: str = ""
) -> dict[str, Any]:
    """Train a challenger on what prod learnt and what was seen since, and hold it against prod.

    `drift_run_id` is the MLflow run of the check that asked for it; empty: none. Run again with the same
    `trigger` (other than the default), it finds its finished run and trains nothing.

    Returns
    -------
    dict
        `run_id`, `model_uri`, `algorithm`, `passed` (the champion gate), `reasons`, and both models' holdout scores.
    """
    settings = here.settings
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
    prod = here.registry.at(settings.prod_alias)
    known = known_rows(here, prod)
    live = read_labeled(LiveSource(here, current_source, known.schema, prod.number if prod else ""))
    sharing = SharingRule(
        settings.retrain_min_labeled, settings.holdout_share, settings.holdout_max_rows, settings.automl_seed
    )
    rows = share_out(known, live.labeled, settings.target, sharing)
    if rows.left_out:
        _log.warning(
            "%d labelled rows left out: their label is no class of %s, or a new and rare one",
            rows.left_out,
            settings.target,
        )
    trainer = PyCaretTrainer(
        settings.automl_model_ids,
        settings.automl_folds,
        settings.automl_seed,
        settings.automl_budget_seconds,
        settings.engine,
        settings.engine_address,
    )
    champion = champion_of(here, prod)
    candidate, gate = train_challenger(rows, settings.target, trainer, champion, settings.gate_max_recall_drop)
    with start_run(settings.mlflow_experiment, settings.reg_model_name, "retrain", trigger) as run:
        params = {
            "dataset": settings.dataset_shown,
            "current_source": current_source,
            "automl_models": settings.automl_models,
            "automl_folds": settings.automl_folds,
            "automl_seed": settings.automl_seed,
            "champion_version": prod.number if prod else "none",
        }
        model_uri, compiled = log_training(rows, settings.target, candidate, gate, params, here.for_use)
        outcome = {
            "run_id": run.info.run_id,
            "model_uri": model_uri,
            "runtime": compiled and compiled.tier,
            "runtime_reason": compiled and "; ".join(f"{tier}: {why}" for tier, why in compiled.refused.items()),
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
            "drift_run_id": drift_run_id,
            "links": _links(here, run, Leaderboard="leaderboard.csv"),
        }
        story = tell_training(here, rows, candidate, gate, outcome, source_of(here, current_source))
        mlflow.log_metric("champion_answers", len(live.answers))
        log_json(outcome, "outcome.json")
    _tell(story)
    record_training(settings, outcome, trigger)
    return outcome


def register_staging(here: Installation, trained: dict[str, Any]) -> dict[str, Any]:
    """Register a trained challenger: as `staging` when it passed the champion gate, else as `rejected`.

    The very first version becomes `prod` too.

    Returns
    -------
    dict
        `version`, `status`, whether `prod` was bootstrapped, and `links` as in `check_drift`.
    """
    registry = here.registry
    version = registry.register(trained["run_id"], trained["model_uri"], {STATUS: "candidate"})
    if TRAINED_AT not in version.tags:
        known = {DIGEST: registry.digest(version), FEATURES: registry.schema(version).digest}
        if trained.get("runtime"):
            known |= {RUNTIME: trained["runtime"], RUNTIME_REASON: trained["runtime_reason"][:_LONGEST_TAG]}
        registry.describe(version.number, version_note("", read_note(trained["run_id"])))
        registry.tag(version.number, {TRAINED_AT: here.clock(), **known})
    placed = _place(here, version, trained)
    _tell(f"Version {version.number} of {registry.name}: {placed.story}.")
    if placed.opens_experiment:
        _plan(here, trained["run_id"])
    page = MlflowPages(here.settings.mlflow_ui_url).version(registry.name, version.number)
    return {
        "version": version.number,
        "status": placed.status,
        "bootstrapped": placed.bootstrapped,
        "links": {"Model version": page} if page else {},
    }


@dataclass(frozen=True)
class _Placed:
    """Where a registered version came to stand."""

    status: str
    story: str
    bootstrapped: bool = False
    opens_experiment: bool = False


def _place(here: Installation, version: Version, trained: dict[str, Any]) -> _Placed:
    registry, aliases = here.registry, here.aliases
    if not trained["passed"]:
        registry.tag(version.number, {STATUS: "rejected", "crossfade.decided_by": "champion gate"})
        return _Placed("rejected", f"rejected, and gets no traffic, because {'; '.join(trained['reasons'])}")
    if version.status not in ("candidate", "staging"):
        return _Placed(version.status, f"it is {version.status} already, which was decided since")
    prod = promote.number_at(registry, aliases.prod)
    if prod not in (trained["champion_version"], version.number):
        registry.tag(version.number, {"crossfade.decided_by": f"nobody: prod moved to {prod} during the training"})
        beaten = f"it beat version {trained['champion_version']}, but prod is {prod} now"
        return _Placed("candidate", f"{beaten}: it stays a candidate and gets no traffic")
    if prod is not None:
        _begin_ramp(here, version.number)
    experiment = promote.stage(registry, aliases, version.number, here.audit, trained["run_id"])
    if prod is None:
        promote.bootstrap(registry, aliases, version, here.audit)
    if experiment is None:
        return _Placed("prod", "in production, as the first one", bootstrapped=prod is None)
    against = f"it is tested against version {prod} from now on, in experiment {experiment.id}"
    return _Placed("staging", f"the challenger, for it passed the champion gate; {against}", opens_experiment=True)


def _begin_ramp(here: Installation, challenger: str) -> None:
    """Give B the ramp's first share, before the challenger meets anybody."""
    ramp = here.settings.ab_ramp_shares
    if ramp and here.router and promote.number_at(here.registry, here.aliases.staging) != challenger:
        before = here.router.split_b()
        _change_split(here, Step(before, ramp[0], f"version {challenger} is the new challenger"), {})


def _change_split(here: Installation, step: Step, told: dict[str, Any]) -> None:
    assert here.router is not None, "only who splits traffic has a share to change"
    here.router.change_split_b(step.to)
    here.audit.append(
        {"event": SPLIT, "model": here.registry.name, "from": step.origin, "to": step.to, "reason": step.reason, **told}
    )
    _log.info("B's share: %s -> %s, because %s", step.origin, step.to, step.reason)


def _plan(here: Installation, run_id: str) -> None:
    """Say what the new experiment needs, on the traffic of now."""
    settings = here.settings
    contents = read_log(here.log, OBSERVED_COLUMNS, model=settings.reg_model_name)
    split = here.router.split_b() if here.router and settings.ab_ramp else settings.ab_split_b
    needed = plan(observe(contents, split), EvaluationRule.of(settings))
    record_plan(settings, {"ts_utc": here.clock(), "run_id": run_id, **needed.to_dict()})
    for line in needed.lines():
        _log.info("%s", line)


def evaluate_and_promote(here: Installation, trigger: str = BY_HAND) -> dict[str, Any]:
    """Look at the running experiment and move `prod` when the evidence is good.

    Returns
    -------
    dict
        The report that is written to AB_EVAL_REPORT.
    """
    settings, registry, aliases = here.settings, here.registry, here.aliases
    promote.finish(registry, aliases, here.audit)
    prod, staging = promote.number_at(registry, aliases.prod), registry.at(aliases.staging)
    experiment = Experiment.between(settings.reg_model_name, prod, staging.number if staging else None)
    if experiment is None and (done := _finished_promotion(here, trigger)):
        return done
    promise = share_of(read_metrics(staging.run_id), "holdout") if staging else None
    contents = read_log(here.log, EVALUATED_COLUMNS, experiment_id=experiment.id if experiment else "")
    pairs = score_pairs(here, experiment, settings.ab_one_per_user) if experiment else None
    evaluation = evaluate_experiment(contents, experiment, EvaluationRule.of(settings), promise, pairs)
    ramp = settings.ab_ramp_shares
    step = next_step(ramp, here.router.split_b(), evaluation) if ramp and here.router and experiment else None
    look = look_number(here.audit.read(), experiment.id) if experiment else 0
    names = settings.mlflow_experiment, settings.reg_model_name
    group = group_run(*names, experiment.id) if experiment and here.for_use else ""
    with start_run(*names, "evaluation", trigger, f"look {look}" if look else "", group) as run:
        report = _plain(
            {
                "ts_utc": here.clock(),
                **evaluation.to_dict(),
                "split_change": step and asdict(step),
                "run_id": run.info.run_id,
                "trigger": trigger,
                "look": look,
                "links": _links(here, run, experiment.version_b if experiment else "", Evaluation="ab_eval.json"),
            }
        )
        story = log_look(here, evaluation, report, contents, group)
        record_evaluation(settings, report, trigger)  # before anything moves: a report without a move can be repeated
        here.audit.append({"event": LOOK, **report})
        try:
            promote.apply(registry, aliases, evaluation, run.info.run_id, here.audit)
            if step is not None:
                _change_split(here, step, {"experiment_id": report["experiment_id"], "run_id": run.info.run_id})
        finally:
            log_json({"events": here.audit.read().of_run(run.info.run_id)}, "decisions.json")
    _tell(story)
    return report


def roll_back(here: Installation) -> tuple[str, str]:
    """Put `previous` back into production; return the version taken out and the one put back."""
    return promote.roll_back(here.registry, here.aliases, here.audit)


def _tell(story: str) -> None:
    for line in told(story):
        _log.info("%s", line)


def _links(here: Installation, run: mlflow.ActiveRun, version: str = "", **files: str) -> dict[str, str]:
    """Name the pages in MLflow that tell more; none where MLflow has no web address."""
    pages, info = MlflowPages(here.settings.mlflow_ui_url), run.info
    found = {"MLflow run": pages.run(info.experiment_id, info.run_id)}
    found |= {name: pages.run(info.experiment_id, info.run_id, file) for name, file in files.items()}
    found |= {"Model version": pages.version(here.registry.name, version)} if version else {}
    return {name: address for name, address in found.items() if address}


def _plain(result: dict[str, Any]) -> dict[str, Any]:
    """Reduce a result to what JSON knows: Airflow would keep a tuple as a tuple."""
    return dict(json.loads(json.dumps(result)))


def _finished_promotion(here: Installation, trigger: str) -> dict[str, Any] | None:
    """Return the report of the promotion that this very trigger has made already."""
    report = ReportPaths.of(here.settings).evaluation
    if trigger == BY_HAND or not report.is_file():
        return None
    found: dict[str, Any] = json.loads(report.read_text())
    mine = found["trigger"] == trigger and found["verdict"] == "promote"
    return found if mine and found["model_version_b"] == promote.number_at(here.registry, here.aliases.prod) else None
