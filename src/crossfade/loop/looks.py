"""What a look at an A/B experiment leaves in MLflow: a run beside those of the other looks, to be compared with them.

The looks at one experiment are listed under a run that is named after it, whose charts show accuracies and p-values
over the looks. Every look has the same metrics and parameters, so that MLflow's compare view lines them up.
"""

from __future__ import annotations

from typing import Any

import mlflow
from mlflow.types import ColSpec, DataType, Schema

from crossfade.logreader import LogContents
from crossfade.loop.audit import LOOK, Trail
from crossfade.loop.evaluate import Evaluation
from crossfade.loop.inputs import Rows, digest_of_facts, log_rows
from crossfade.loop.installation import Installation
from crossfade.loop.notes import look_note, look_story, version_note
from crossfade.loop.tracking import GROUP, log_json, read_note, write_note

_JUDGED = ("request_id", "variant", "prediction", "label")
"""Columns of the log that a look is about."""


def look_number(trail: Trail, experiment_id: str) -> int:
    """Count the looks at an experiment, the next one included."""
    looks = [event for event in trail.events if event["event"] == LOOK]
    return 1 + sum(1 for look in looks if look.get("experiment_id") == experiment_id)


def log_look(
    here: Installation, evaluation: Evaluation, report: dict[str, Any], contents: LogContents, group: str
) -> str:
    """Log a look to the open run, and write it on the page of the version that it judges; return its story.

    Parameters
    ----------
    here : Installation
        Whose experiment.
    evaluation, report : Evaluation, dict
        What was found, and its report.
    contents : LogContents
        The rows of the experiment.
    group : str
        Run that the looks are listed under; empty: none.
    """
    story = look_story(report)
    log_json(report, "ab_eval.json")
    metrics = _metrics(evaluation)
    mlflow.log_metrics(metrics)
    mlflow.set_tags({"crossfade.verdict": evaluation.verdict, GROUP: report["experiment_id"] or ""})
    experiment = evaluation.experiment
    if experiment is None or not here.for_use:
        write_note(story)
        return story
    mlflow.log_params(_params(evaluation))
    mlflow.log_metrics(metrics, step=report["look"], run_id=group)
    _log_input(here, contents)
    note = look_note(story, report)
    write_note(note)
    challenger = here.registry.get(experiment.version_b)
    here.registry.describe(challenger.number, version_note(note, read_note(challenger.run_id)))
    return story


def _log_input(here: Installation, contents: LogContents) -> None:
    """Log the labelled rows that were judged."""
    labeled = contents.labeled()
    judged = labeled[list(_JUDGED)].astype(str)
    digest = digest_of_facts(rows=judged.to_numpy().tolist())
    columns = Schema([ColSpec(DataType.string, name) for name in _JUDGED])
    log_rows("live", Rows("labelled rows", len(judged), digest, str(here.settings.request_log)), columns)


def _params(evaluation: Evaluation) -> dict[str, object]:
    experiment, rule = evaluation.experiment, evaluation.rule
    assert experiment is not None, "only a look at an experiment has versions"
    return {
        "version_a": experiment.version_a,
        "version_b": experiment.version_b,
        "ab_test": rule.test,
        "ab_alpha": rule.alpha,
        "ab_min_labeled": rule.min_labeled,
        "ab_min_delta_acc": rule.min_delta_accuracy,
        "ab_one_per_user": rule.one_per_user,
    }


def _metrics(evaluation: Evaluation) -> dict[str, float]:
    """Return what is known; a look that cannot tell a number lacks it."""
    test, ratio = evaluation.chi_square, evaluation.sample_ratio
    found: dict[str, float | None] = {
        "chi2": test.statistic if test else None,
        "p_value": test.p_value if test else None,
        "delta_accuracy": evaluation.delta_accuracy,
        "sample_ratio_p_value": ratio.p_value if ratio else None,
        "guardrails_breached": sum(guardrail.breached for guardrail in evaluation.guardrails),
    }
    found |= {f"p_value_{name}": gate.p_value for name, gate in evaluation.gates.items() if name != "chi2"}
    for variant, arm in evaluation.arms.items():
        found |= {f"rows_{variant}": arm.rows, f"labeled_{variant}": arm.labeled, f"users_{variant}": arm.users}
        if arm.scores is not None:
            found |= {f"accuracy_{variant}": arm.scores.accuracy, f"f1_macro_{variant}": arm.scores.f1_macro}
        if arm.accuracy_interval is not None:
            low, high = arm.accuracy_interval
            found |= {f"accuracy_{variant}_low": low, f"accuracy_{variant}_high": high}
    return {name: float(value) for name, value in found.items() if value is not None}
