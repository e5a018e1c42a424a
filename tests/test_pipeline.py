"""The learning loop's steps on real PyCaret and a real MLflow database, without Airflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import pytest

import pipeline
from crossfade.loop.promote import number_at
from crossfade.loop.reports import ReportPaths, verify_manifest
from crossfade.registry import Registry
from crossfade.requestlog import CsvRequestLog, LogRow, utc_now
from crossfade.settings import Settings, load_settings


@pytest.fixture
def installed(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A new installation that trains two quick models."""
    monkeypatch.setenv("AUTOML_MODELS", "lr,nb")
    monkeypatch.setenv("AUTOML_FOLDS", "3")
    monkeypatch.chdir(tmp_path)
    return load_settings()


def _registry(settings: Settings) -> Registry:
    return Registry(settings.mlflow_tracking_uri, settings.reg_model_name)


def _aliases(settings: Settings) -> dict[str, str | None]:
    registry = _registry(settings)
    return {alias: number_at(registry, alias) for alias in ("prod", "staging", "previous")}


def _bootstrap(settings: Settings) -> dict[str, Any]:
    return pipeline.register_staging(pipeline.retrain(trigger="bootstrap"))


@pytest.fixture
def serving(installed: Settings) -> Settings:
    """The same with a first version in production."""
    _bootstrap(installed)
    return installed


def _retrain_runs(settings: Settings) -> int:
    return len(
        mlflow.search_runs(
            experiment_names=[settings.mlflow_experiment],
            filter_string="tags.`crossfade.kind` = 'retrain'",
            output_format="list",
        )
    )


def test_an_empty_installation_asks_for_the_first_model(installed: Settings) -> None:
    """Without a model there is no reference, and the advice is to train the first one."""
    found = pipeline.check_drift()
    assert (found["verdict"], found["decision"], found["prod_version"]) == ("no_reference", "retrain", None)
    assert json.loads(json.dumps(found)) == found


def test_the_first_model_goes_to_production(installed: Settings) -> None:
    """The first version is bootstrapped: staging and prod point at it, and there is no experiment."""
    assert _bootstrap(installed) == {"version": "1", "status": "prod", "bootstrapped": True, "links": {}}
    assert _aliases(installed) == {"prod": "1", "staging": "1", "previous": None}
    assert _registry(installed).get("1").status == "prod"
    assert pipeline.evaluate_and_promote()["verdict"] == "keep"


def test_the_loop_from_drift_to_staging(serving: Settings) -> None:
    """Drifted traffic is noticed, learnt, and the challenger stands against prod; every step may be run twice."""
    drift = pipeline.check_drift(current_source="simulated", drift_strength=2.0)
    assert (drift["verdict"], drift["decision"]) == ("drift", "retrain")
    trained = pipeline.retrain(current_source="simulated", drift_strength=2.0, trigger="run-1")
    assert trained["passed"], trained["reasons"]
    runs = _retrain_runs(serving)
    assert pipeline.retrain(current_source="simulated", drift_strength=2.0, trigger="run-1") == trained
    assert _retrain_runs(serving) == runs
    registered = pipeline.register_staging(trained)
    assert registered == {"version": "2", "status": "staging", "bootstrapped": False, "links": {}}
    assert pipeline.register_staging(trained) == registered
    assert _aliases(serving) == {"prod": "1", "staging": "2", "previous": None}
    assert len(_registry(serving).versions()) == 2
    assert _registry(serving).get("2").tags["crossfade.experiment"] == "IrisClassifier-v1-v2"
    again = pipeline.check_drift(current_source="simulated", drift_strength=2.0)
    assert (again["verdict"], again["decision"]) == ("drift", "monitor")
    evaluation = pipeline.evaluate_and_promote()
    assert (evaluation["verdict"], evaluation["experiment_id"]) == ("keep", "IrisClassifier-v1-v2")
    assert json.loads(serving.ab_eval_report.read_text()) == evaluation
    assert verify_manifest(ReportPaths.of(serving)) == []


def test_drift_stops_once_prod_has_learnt_the_new_data(serving: Settings) -> None:
    """After the challenger is in production the same traffic, and its labels, are known: nothing to retrain for."""
    source = {"current_source": "simulated", "drift_strength": 2.0}
    pipeline.register_staging(pipeline.retrain(**source))
    _registry(serving).move("prod", "2", expected="1")
    found = pipeline.check_drift(**source)
    assert found["prod_version"] == "2"
    assert found["decision"] == "monitor"


def test_a_challenger_that_fails_the_gate_gets_no_traffic(serving: Settings) -> None:
    """A challenger that does not beat prod is registered as rejected and no alias points at it."""
    trained = pipeline.retrain(trigger="no news")  # the same rows: it cannot be better
    assert not trained["passed"]
    assert pipeline.register_staging(trained) == {
        "version": "2",
        "status": "rejected",
        "bootstrapped": False,
        "links": {},
    }
    version = _registry(serving).get("2")
    assert (version.status, version.tags["crossfade.decided_by"]) == ("rejected", "champion gate")
    assert _aliases(serving) == {"prod": "1", "staging": "1", "previous": None}


def test_a_challenger_rejected_by_users_stays_out(serving: Settings) -> None:
    """Registering a challenger again after its experiment took it out of traffic does not bring it back."""
    trained = pipeline.retrain(current_source="simulated", drift_strength=2.0)
    pipeline.register_staging(trained)
    registry = _registry(serving)
    registry.drop("staging", expected="2")  # what a reject does
    registry.tag("2", {"crossfade.status": "rejected"})
    pipeline.register_staging(trained)
    assert number_at(registry, "staging") is None
    assert registry.get("2").status == "rejected"


def test_too_few_rows_are_insufficient_data(serving: Settings) -> None:
    """With less traffic than DRIFT_MIN_ROWS there is no verdict and no retraining."""
    row = LogRow(
        ts_utc=utc_now(),
        request_id="r1",
        user_id="u",
        experiment_id="",
        variant="A",
        alias="prod",
        model=serving.reg_model_name,
        model_version="1",
        ab_split_b=0.5,
        features_json="{}",
        label="",
        prediction="0",
        probability=0.9,
        latency_ms=1.0,
        status=200,
    )
    CsvRequestLog(serving.request_log, serving.labels_log).append([row])
    found = pipeline.check_drift()
    assert (found["verdict"], found["decision"], found["rows"]) == ("insufficient_data", "monitor", 1)


def test_the_psi_threshold_is_the_arguments(serving: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The threshold of the trigger form is the one in force, over the setting."""
    monkeypatch.setenv("KS_THRESHOLD", "1")
    source: dict[str, Any] = {"current_source": "simulated", "drift_strength": 1.0}
    assert pipeline.check_drift(**source, psi_threshold=1000.0)["verdict"] == "stable"
    assert pipeline.check_drift(**source, psi_threshold=0.2)["verdict"] == "drift"
    status = json.loads((serving.drift_report_dir / "drift_status.json").read_text())
    assert status["psi_threshold"] == 0.2


def test_a_challenger_of_another_champion_gets_no_traffic(serving: Settings) -> None:
    """A version whose gate compared it with a prod that is prod no more stays a candidate."""
    trained = pipeline.retrain(current_source="simulated", drift_strength=2.0)
    found = pipeline.register_staging({**trained, "champion_version": "7"})
    assert found["status"] == "candidate"
    assert _aliases(serving)["staging"] == "1"


def test_an_evaluation_tried_again_keeps_its_promotion(serving: Settings) -> None:
    """A task that is run again after prod moved returns the promotion's report, and finishes its tags."""
    pipeline.register_staging(pipeline.retrain(current_source="simulated", drift_strength=2.0))
    log = CsvRequestLog(serving.request_log, serving.labels_log)
    log.append([_answer(variant, i, right=i % 2 == 0 or variant == "B") for variant in "AB" for i in range(100)])
    promoted = pipeline.evaluate_and_promote(trigger="run-1")
    assert promoted["verdict"] == "promote"
    registry = _registry(serving)
    registry.tag("2", {"crossfade.status": "staging"})  # as if killed right after the move
    assert pipeline.evaluate_and_promote(trigger="run-1") == promoted
    assert (registry.get("2").status, registry.get("1").status) == ("prod", "retired")
    assert pipeline.evaluate_and_promote(trigger="run-2")["verdict"] == "keep"


def test_another_models_run_is_not_adopted(serving: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models that share an experiment, and the name of a trigger, train one each."""
    monkeypatch.setenv("REG_MODEL_NAME", "OtherClassifier")
    pipeline.retrain(trigger="bootstrap")
    assert _retrain_runs(serving) == 2


def _answer(variant: str, index: int, right: bool) -> LogRow:
    return LogRow(
        ts_utc=utc_now(),
        request_id=f"{variant}{index}",
        user_id=f"{variant}{index}",
        experiment_id="IrisClassifier-v1-v2",
        variant=variant,
        alias={"A": "prod", "B": "staging"}[variant],
        model="IrisClassifier",
        model_version={"A": "1", "B": "2"}[variant],
        ab_split_b=0.5,
        features_json="{}",
        label="0",
        prediction="0" if right else "1",
        probability=0.9,
        latency_ms=1.0,
        status=200,
    )
