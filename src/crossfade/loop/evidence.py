"""What every check, training and evaluation leaves behind: report files, and the same in its MLflow run."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict
from typing import Any

import mlflow
import pandas as pd

from crossfade.loop.automl import Candidate
from crossfade.loop.champion import GateResult
from crossfade.loop.check import TREND_WINDOWS, TrafficCheck
from crossfade.loop.driftpage import write_drift_page
from crossfade.loop.holdout import TrainingRows
from crossfade.loop.inputs import Rows, columns_of, digest_of_facts, log_labeled, log_rows, log_snapshot
from crossfade.loop.installation import Installation
from crossfade.loop.notes import drift_note, drift_story, training_note, training_story
from crossfade.loop.plots import CONFUSION, IMPORTANCE
from crossfade.loop.policy import Recommendation
from crossfade.loop.quality import QualityReport
from crossfade.loop.reports import (
    RUNS_COLUMNS,
    TRAIN_SUMMARY_COLUMNS,
    ReportPaths,
    append_line,
    write_csv,
    write_json,
    write_manifest,
)
from crossfade.loop.tracking import log_frame, log_json, read_note, write_note
from crossfade.loop.trend import COLUMNS as TREND_COLUMNS
from crossfade.loop.trend import continued, trend_of
from crossfade.settings import Settings
from crossfade.version import DIGEST

_NOT_IN_METRIC_NAMES = re.compile(r"[^\w. -]")  # MLflow refuses them, or takes them for folders
_LONGEST_METRIC_NAME = 200


def record_drift(
    here: Installation,
    check: TrafficCheck,
    decision: Recommendation,
    watched: QualityReport | None,
    run_id: str,
    trigger: str,
    current_source: str,
) -> str:
    """Write the drift and policy files, and log them to the open run; return the story for people."""
    settings, report, now = here.settings, check.report, here.clock()
    paths = ReportPaths.of(settings)
    judged = check.live.newest if check.live else None
    looked_at = {
        "rows": report.rows,
        "first_ts": judged.first_ts if judged else "",
        "last_ts": judged.last_ts if judged else "",
        "model_version": check.prod.number if check.prod else None,
        "model_digest": check.prod.tags.get(DIGEST) if check.prod else None,
    }
    status = {
        "ts_utc": now,
        **report.to_dict(),
        **looked_at,
        "log_lines_set_aside": check.set_aside,
        "psi_threshold": settings.psi_threshold,
        "ks_threshold": settings.ks_threshold,
        "alpha": settings.drift_alpha,
        "engine": settings.engine,
        "run_id": run_id,
    }
    advice = {
        "ts_utc": now,
        **decision.to_dict(),
        "drift_verdict": report.verdict,
        "quality": check.quality.to_dict(),
        "since_promotion": watched and watched.to_dict(),
        "rejected_challengers": check.attempts.rejected,
        "new_labeled_rows": check.new_labeled,
        "hours_since_training": check.trained_hours_ago,
        "run_id": run_id,
    }
    write_json(paths.drift / "drift_status.json", status)
    write_csv(paths.drift / "drift_report.csv", report.to_frame())
    write_json(paths.recommendation, advice)
    log_json(status, "drift_status.json")
    log_json(advice, "retrain_recommendation.json")
    log_frame(report.to_frame(), "drift_report.csv")
    if here.for_use:
        _record_pictures(here, paths, check, decision)
    mlflow.log_params({name: value for name, value in looked_at.items() if value not in (None, "")})
    mlflow.log_metric("rows", report.rows)
    mlflow.log_metric("drifted_columns", len(report.drifted))
    mlflow.log_metric("new_labeled_rows", check.new_labeled)
    if check.quality.accuracy is not None:
        mlflow.log_metric("accuracy", check.quality.accuracy)
    mlflow.log_metrics({metric_name(c.feature): c.psi for c in report.columns if c.psi is not None})
    mlflow.set_tags({"crossfade.verdict": report.verdict, "crossfade.decision": decision.decision})
    story = drift_story(check, decision)
    write_note(drift_note(story, report))
    if here.for_use:
        _log_drift_inputs(here, check, current_source)
    _record_run(paths, "drift", run_id, trigger, decision.decision, decision.reasons)
    return story


def _log_drift_inputs(here: Installation, check: TrafficCheck, current_source: str) -> None:
    """Log what was compared: the rows that prod learnt, and the live ones, which were counted and not kept."""
    if check.prod is None or check.reference is None or check.live is None:
        return
    log_snapshot(check.prod.run_id, "reference", check.reference.schema, check.reference.snapshot)
    window, columns = check.live.newest, [asdict(column) for column in check.report.columns]
    digest = digest_of_facts(rows=window.rows, first=window.first_ts, last=window.last_ts, columns=columns)
    live = Rows("live rows", window.rows, digest, source_of(here, current_source))
    log_rows("live", live, columns_of(check.reference.schema))


def source_of(here: Installation, current_source: str) -> str:
    """Return where live rows come from, for people: a path, or the name of the dataset."""
    named = {"requests": str(here.settings.request_log), "simulated": here.settings.dataset_shown}
    return named.get(current_source) or str(here.settings.below_home(current_source))


def metric_name(feature: str) -> str:
    """Name the PSI of a feature so that MLflow takes it; what had to be changed is told apart by a digest."""
    name = _NOT_IN_METRIC_NAMES.sub(" ", feature)[:_LONGEST_METRIC_NAME].strip(". ")
    return (
        f"psi/{name}" if name == feature else f"psi/{name} {hashlib.sha256(feature.encode()).hexdigest()[:6]}".strip()
    )


def _record_pictures(here: Installation, paths: ReportPaths, check: TrafficCheck, decision: Recommendation) -> None:
    """Write the trend, and the page for people: this check, the trend, and Evidently's plots of a sample."""
    trend = pd.DataFrame(columns=list(TREND_COLUMNS))
    sample = None
    if check.live is not None and check.reference is not None and check.prod is not None:
        profile, windows = check.reference.profile, check.live.windows
        model = here.settings.reg_model_name
        trend = trend_of(profile, windows, model, check.prod.number, here.settings.drift_min_rows)
        if check.live.newest.last_ts:  # rows of the log; a file, or simulated rows, are no part of its history
            kept = paths.drift / "drift_trend.csv"
            trend = continued(kept, trend, model, TREND_WINDOWS)
            write_csv(kept, trend)
        log_frame(trend, "drift_trend.csv")
        sample = (check.reference.snapshot, check.live.sample()) if check.report.columns else None
    page = paths.drift / "drift_report.html"
    write_drift_page(page, check.report, decision, trend, here.settings.psi_threshold, sample)
    mlflow.log_artifact(str(page))


def tell_training(
    here: Installation, rows: TrainingRows, candidate: Candidate, gate: GateResult, outcome: dict[str, Any], source: str
) -> str:
    """Write on the open run's page why it was made, of what, and how good it is; return the story."""
    run_id, asked_by = outcome["run_id"], outcome["drift_run_id"]
    story = training_story(outcome, len(candidate.leaderboard), candidate.learnt, rows.new)
    pictures = (CONFUSION, IMPORTANCE) if here.for_use else ()
    seen = _log_training_inputs(run_id, rows, source) if here.for_use else []
    write_note(training_note(story, read_note(asked_by), gate, candidate.leaderboard, seen, pictures, run_id))
    return story


def _log_training_inputs(run_id: str, rows: TrainingRows, source: str) -> list[Rows]:
    learnt, new = log_snapshot(run_id, "training", rows.schema, rows.snapshot), rows.snapshot.tail(rows.new)
    held_out = log_labeled("held-out rows", "validation", learnt.source, rows.schema, rows.holdout)
    return [
        learnt,
        held_out,
        *([log_labeled("new labelled rows", "live", source, rows.schema, new)] if len(new) else []),
    ]


def record_training(settings: Settings, outcome: dict[str, Any], trigger: str) -> None:
    """Add a training to the summaries, once."""
    paths = ReportPaths.of(settings)
    if paths.train_summary.is_file() and outcome["run_id"] in paths.train_summary.read_text():
        return
    line = {name: outcome[name] for name in TRAIN_SUMMARY_COLUMNS if name in outcome}
    append_line(paths.train_summary, TRAIN_SUMMARY_COLUMNS, line)
    result = "passed" if outcome["passed"] else "rejected"
    _record_run(paths, "retrain", outcome["run_id"], trigger, result, outcome["reasons"])


def record_plan(settings: Settings, needed: dict[str, Any]) -> None:
    """Write what a new experiment needs, and log it to the run that trained its challenger."""
    paths = ReportPaths.of(settings)
    write_json(paths.plan, needed)
    mlflow.log_dict(needed, "ab_plan.json", run_id=needed["run_id"])
    write_manifest(paths)


def record_evaluation(settings: Settings, report: dict[str, Any], trigger: str) -> None:
    """Write the report file of an evaluation."""
    paths = ReportPaths.of(settings)
    write_json(paths.evaluation, report)
    _record_run(paths, "evaluation", report["run_id"], trigger, report["verdict"], report["reasons"])


def _record_run(
    paths: ReportPaths, kind: str, run_id: str, trigger: str, outcome: str, reasons: tuple[str, ...] | list[str]
) -> None:
    """Add a line to `tracking/runs.csv`, and take stock of all reports."""
    line = {"kind": kind, "run_id": run_id, "trigger": trigger, "outcome": outcome, "reason": "; ".join(reasons)}
    append_line(paths.runs, RUNS_COLUMNS, line)
    write_manifest(paths)
