"""The whole learning loop on a request log and an audit in PostgreSQL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import pipeline
from crossfade.cli import cli
from crossfade.data import draw_traffic, load_dataset
from crossfade.loop.openaudit import open_audit
from crossfade.loop.promote import number_at
from crossfade.openlog import open_log
from crossfade.postgres.address import DatabaseUrl
from crossfade.registry import Registry
from crossfade.requestlog import LogRow, utc_now
from crossfade.settings import Settings, load_settings


@pytest.fixture
def installed(settings: Settings, database: DatabaseUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A new installation whose log is a database, that trains two quick models."""
    monkeypatch.setenv("REQUEST_LOG", database.dsn)
    monkeypatch.setenv("AUTOML_MODELS", "lr,nb")
    monkeypatch.setenv("AUTOML_FOLDS", "3")
    monkeypatch.chdir(tmp_path)
    return load_settings()


def _row(request_id: str, features: str, label: str, **changes: str) -> LogRow:
    row = LogRow(
        utc_now(), request_id, request_id, "", "A", "prod", "IrisClassifier", "1", 0.5, features, label, "0", 0.9, 1.0,
        200,
    )  # fmt: skip
    return row._replace(**changes)  # type: ignore[arg-type]


def _drifted(settings: Settings, rows: int) -> list[LogRow]:
    """Labelled answers to drifted traffic."""
    dataset = load_dataset(settings)
    drawn = draw_traffic(dataset, rows, 2.0, 1)
    texts = drawn[dataset.features].to_dict("records")
    labels = drawn[settings.target].tolist()
    return [_row(f"d{i}", json.dumps(texts[i]), str(labels[i])) for i in range(rows)]


def _experiment(variant: str, number: int, right: bool) -> LogRow:
    alias, version = {"A": ("prod", "1"), "B": ("staging", "2")}[variant]
    return _row(
        f"{variant}{number}", "{}", "0", experiment_id="IrisClassifier-v1-v2", variant=variant, alias=alias,
        model_version=version, prediction="0" if right else "1",
    )  # fmt: skip


def test_the_loop_from_bootstrap_to_rollback(installed: Settings) -> None:
    """Bootstrap, drift, retraining, evaluation, promotion and rollback; the history tells all of it."""
    registry, log = Registry(installed.mlflow_tracking_uri, installed.reg_model_name), open_log(installed)
    try:
        assert pipeline.register_staging(pipeline.retrain(trigger="bootstrap"))["bootstrapped"]
        log.append(_drifted(installed, 1000))
        drift = pipeline.check_drift()
        assert (drift["verdict"], drift["decision"], drift["rows"]) == ("drift", "retrain", 1000)
        assert pipeline.register_staging(pipeline.retrain(trigger="run-1"))["status"] == "staging"
        log.append([_experiment(arm, i, right=i % 2 == 0 or arm == "B") for arm in "AB" for i in range(100)])
        promoted = pipeline.evaluate_and_promote(trigger="run-1")
        assert (promoted["verdict"], promoted["arms"]["A"]["labeled"]) == ("promote", 100)
        assert number_at(registry, "prod") == "2"
        assert pipeline.roll_back() == ("2", "1")
    finally:
        log.stop()  # type: ignore[attr-defined]
    assert number_at(registry, "prod") == "1"
    actions = [event.get("action") for event in open_audit(installed).read().events if event["event"] == "moved"]
    assert "promote" in actions
    assert actions[-1] == "rollback"
    done = CliRunner().invoke(cli, ["history"], env={"COLUMNS": "200"})
    assert "rollback: prod 2 -> 1" in done.output, done.output
    assert not (installed.report_dir / "audit").exists()
