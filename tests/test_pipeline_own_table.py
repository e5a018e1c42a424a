"""The whole loop on a table of one's own: text labels, categories, booleans, gaps; router and pipeline, in process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

import pipeline
from app import create_app
from crossfade.data import draw_traffic, load_dataset
from crossfade.logreader import read_log
from crossfade.loop.promote import number_at
from crossfade.loop.reports import ReportPaths, verify_manifest
from crossfade.registry import Registry
from crossfade.requestlog import CsvRequestLog
from crossfade.schema import Feature, FeatureSchema
from crossfade.settings import Settings, load_settings

STRENGTH = 2.0
SCHEMA = FeatureSchema(
    (
        Feature("spent", nullable=True),
        Feature("months"),
        Feature("plan", "categorical", nullable=True),
        Feature("news letter", "boolean"),
    )
)


def _customers(rows: int = 900) -> pd.DataFrame:
    """Customers who stay or go, by what they spent and by their plan; with an id, a date, a note and gaps."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "customer": [f"c-{i:05}" for i in range(rows)],
            "spent": rng.normal(100, 20, rows).round(2),
            "months": rng.integers(1, 60, rows),
            "plan": rng.choice(["basic", "plus", "pro"], rows),
            "news letter": rng.random(rows) < 0.4,
            "since": [f"2026-{i % 12 + 1:02}-03" for i in range(rows)],
            "note": [f"{'called, asked for a discount; ' * 10}{i}" for i in range(rows)],
        }
    )
    plan = frame["plan"].map({"basic": -15, "plus": 0, "pro": 15}) + 10 * frame["news letter"]
    frame["churned"] = np.where(frame["spent"] + plan + rng.normal(0, 3, rows) > 104, "stays", "goes")
    frame.loc[rng.random(rows) < 0.04, "spent"] = np.nan
    frame.loc[rng.random(rows) < 0.04, "plan"] = None
    frame.loc[:4, "churned"] = None
    return frame


@dataclass(frozen=True)
class Story:
    """What every step of the pass gave, and where it left its files."""

    settings: Settings
    first: dict[str, Any]
    calm: dict[str, Any]
    drift: dict[str, Any]
    trained: dict[str, Any]
    registered: dict[str, Any]
    waiting: dict[str, Any]
    answers: list[dict[str, Any]]
    evaluation: dict[str, Any]
    after: dict[str, Any]

    @property
    def registry(self) -> Registry:
        return Registry(self.settings.mlflow_tracking_uri, self.settings.reg_model_name)


def _plain(value: object) -> object:
    """Write a cell as a caller would: a gap is null."""
    return None if value is None or value != value else value


def _ask(settings: Settings, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Send rows to a router, one user each, with the label."""
    client = create_app(settings, follow=False).test_client()
    answers = []
    for i, row in enumerate(rows.to_dict("records")):
        features = {f.name: _plain(row[f.name]) for f in SCHEMA.features}
        body = {"user_id": f"user-{i}", "features": features, "label": row["churned"]}
        reply = client.post("/predict", json=body)
        assert reply.status_code == 200, reply.json
        answers.append(reply.json)
    return answers


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Story]:
    """Bootstrap, drift, retrain, serve both, evaluate, promote; once for all tests."""
    home = tmp_path_factory.mktemp("own")
    shutil.copy(empty_database, home / "mlflow.db")
    _customers().to_csv(home / "customers.csv.gz", index=False)
    given = {
        "CROSSFADE_HOME": home,
        "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db",
        "ROUTER_URL": "http://127.0.0.1:9",
        "DATASET": "customers.csv.gz",
        "TARGET": "churned",
        "DATASET_ID_COLUMN": "customer",
        "REG_MODEL_NAME": "Churn",
        "AUTOML_MODELS": "lr,dt",
        "AUTOML_FOLDS": "3",
    }
    source: dict[str, Any] = {"current_source": "simulated", "drift_strength": STRENGTH}
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields:
            patch.delenv(name.upper(), raising=False)
        for name, value in given.items():
            patch.setenv(name, str(value))
        patch.chdir(home)
        settings = load_settings()
        first = pipeline.register_staging(pipeline.retrain(trigger="bootstrap"))
        calm = pipeline.check_drift(current_source="simulated", drift_strength=0.0)
        drift = pipeline.check_drift(**source)
        trained = pipeline.retrain(**source, trigger="run-1")
        registered = pipeline.register_staging(trained)
        waiting = pipeline.evaluate_and_promote()
        answers = _ask(settings, draw_traffic(load_dataset(settings), 500, STRENGTH, seed=7))
        evaluation = pipeline.evaluate_and_promote(trigger="run-1")
        after = pipeline.check_drift()
        yield Story(settings, first, calm, drift, trained, registered, waiting, answers, evaluation, after)


def test_the_table_is_understood(story: Story) -> None:
    """Id, date and note are no features; kinds and gaps are those of the table; the first version serves with them."""
    assert load_dataset(story.settings).schema == SCHEMA
    assert story.first == {"version": "1", "status": "prod", "bootstrapped": True, "links": {}}
    assert story.registry.schema(story.registry.get("1")) == SCHEMA
    assert story.registry.load(story.registry.get("1")).model.classes == ("goes", "stays")


def test_calm_traffic_is_stable(story: Story) -> None:
    """Rows drawn from the table as it is are stable, and nothing is retrained."""
    assert (story.calm["verdict"], story.calm["decision"]) == ("stable", "monitor")


def test_drift_is_found_in_numbers_and_categories(story: Story) -> None:
    """An instrument that reads too high, and plans recorded as the next one, are drift; the boolean stayed."""
    assert (story.drift["verdict"], story.drift["decision"]) == ("drift", "retrain")
    assert {"spent", "months"} <= set(story.drift["drifted"]) <= {"spent", "months", "plan"}


def test_the_challenger_beats_prod(story: Story) -> None:
    """The challenger that learnt the drifted rows passes the gate and stands against prod."""
    assert story.trained["passed"], story.trained["reasons"]
    assert story.trained["holdout_accuracy"] > story.trained["champion_accuracy"]
    assert story.registered == {"version": "2", "status": "staging", "bootstrapped": False, "links": {}}
    assert story.registry.get("2").tags["crossfade.experiment"] == "Churn-v1-v2"
    assert story.waiting["verdict"] == "keep"


def test_both_arms_answer_with_text(story: Story) -> None:
    """Both versions answer rows with gaps by the table's own labels, and the log holds them as they were sent."""
    assert {answer["variant"] for answer in story.answers} == {"A", "B"}
    assert {answer["prediction"] for answer in story.answers} == {"goes", "stays"}
    rows = read_log(CsvRequestLog(story.settings.request_log, story.settings.labels_log)).rows
    assert len(rows) == 500
    assert set(rows["label"]) == {"goes", "stays"}
    sent = [json.loads(text) for text in rows["features_json"]]
    assert all(set(row) == set(SCHEMA.names) for row in sent)
    assert any(row["spent"] is None for row in sent)
    assert any(row["plan"] is None for row in sent)


def test_the_challenger_is_promoted(story: Story) -> None:
    """Users found the challenger better: prod moves, and the old version can be put back."""
    assert story.evaluation["verdict"] == "promote", story.evaluation["reasons"]
    aliases = {alias: number_at(story.registry, alias) for alias in ("prod", "staging", "previous")}
    assert aliases == {"prod": "2", "staging": "2", "previous": "1"}
    assert set(story.evaluation["arms"]["B"]["scores"]["recall"]) == {"goes", "stays"}


def test_the_new_prod_knows_the_new_traffic(story: Story) -> None:
    """Afterwards the same traffic, from the request log, is nothing to retrain for: prod has learnt it."""
    assert story.after["prod_version"] == "2"
    assert story.after["rows"] == 500
    assert story.after["quality"] == "as_good"


def test_the_reports_hold_the_tables_own_names(story: Story) -> None:
    """Drift table, evaluation and manifest are written with text labels and every kind of column."""
    paths = ReportPaths.of(story.settings)
    assert json.loads(paths.evaluation.read_text()) == story.evaluation
    table = pd.read_csv(paths.drift / "drift_report.csv").set_index("feature")
    assert table.index.tolist() == [*SCHEMA.names, "prediction", "probability"]
    assert table["category_distance"].notna().tolist() == [False, False, True, False, True, False]
    assert json.loads((paths.drift / "drift_status.json").read_text())["model_version"] == "2"
    assert json.loads(paths.recommendation.read_text())["quality"]["verdict"] == "as_good"
    assert (paths.drift / "drift_report.html").stat().st_size > 1000
    assert verify_manifest(paths) == []


def test_the_model_is_asked_through_mlflow_too(story: Story) -> None:
    """The promoted version loads as any MLflow model does and answers a table with gaps and an unseen plan."""
    mlflow.set_tracking_uri(story.settings.mlflow_tracking_uri)
    model = mlflow.pyfunc.load_model("models:/Churn@prod")
    asked = pd.DataFrame(
        {
            "spent": [150.0, None],
            "months": [10.0, 20.0],
            "plan": ["pro", "never seen"],
            "news letter": [True, False],
        }
    )
    assert set(model.predict(asked)) <= {"goes", "stays"}


def test_nothing_is_left_in_the_working_directory(story: Story) -> None:
    """Training, serving and reporting leave nothing beside `var/` and MLflow's own."""
    left = {path.name for path in story.settings.crossfade_home.iterdir()}
    assert left <= {"customers.csv.gz", "mlflow.db", "mlruns", "mlartifacts", "var"}


def test_a_bundled_table_of_thirty_columns(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """breast_cancer is bootstrapped, drawn from as it is it is stable, and shifted it drifted."""
    monkeypatch.setenv("DATASET", "breast_cancer")
    monkeypatch.setenv("REG_MODEL_NAME", "Tumour")
    monkeypatch.setenv("AUTOML_MODELS", "lr")
    monkeypatch.chdir(tmp_path)
    trained = pipeline.retrain(trigger="bootstrap")
    assert trained["holdout_accuracy"] > 0.9
    assert pipeline.register_staging(trained)["status"] == "prod"
    assert pipeline.check_drift(current_source="simulated", drift_strength=0.0)["verdict"] == "stable"
    found = pipeline.check_drift(current_source="simulated", drift_strength=1.0)
    assert (found["verdict"], len(found["drifted"])) == ("drift", 30)
