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
from mlflow import MlflowClient

import pipeline
from app import create_app
from crossfade.data import draw_traffic, load_dataset
from crossfade.logreader import read_log
from crossfade.loop.notes import LONGEST_VERSION_NOTE
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
    def first_run(self) -> str:
        return self.registry.get("1").run_id

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
        "MLFLOW_UI_URL": "http://mlflow",
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
        trained = pipeline.retrain(**source, trigger="run-1", drift_run_id=drift["run_id"])
        registered = pipeline.register_staging(trained)
        waiting = pipeline.evaluate_and_promote()
        answers = _ask(settings, draw_traffic(load_dataset(settings), 500, STRENGTH, seed=7))
        evaluation = pipeline.evaluate_and_promote(trigger="run-1")
        after = pipeline.check_drift()
        yield Story(settings, first, calm, drift, trained, registered, waiting, answers, evaluation, after)


def test_the_table_is_understood(story: Story) -> None:
    """Id, date and note are no features; kinds and gaps are those of the table; the first version serves with them."""
    assert load_dataset(story.settings).schema == SCHEMA
    assert (story.first["version"], story.first["status"], story.first["bootstrapped"]) == ("1", "prod", True)
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
    assert (story.registered["version"], story.registered["status"]) == ("2", "staging")
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


def _run(story: Story, run_id: str) -> mlflow.entities.Run:
    mlflow.set_tracking_uri(story.settings.mlflow_tracking_uri)
    return mlflow.get_run(run_id)


def _page(story: Story, number: str) -> str:
    client = MlflowClient(story.settings.mlflow_tracking_uri, story.settings.mlflow_tracking_uri)
    return str(client.get_model_version("Churn", number).description)


def _inputs(run: mlflow.entities.Run) -> dict[str, Any]:
    """The datasets of a run by what they were used for."""
    return {seen.tags[0].value: seen.dataset for seen in run.inputs.dataset_inputs}


def test_a_versions_page_says_why_it_exists_and_how_it_did(story: Story) -> None:
    """The page of the challenger holds the check that asked for it, both gates' numbers, the leaderboard, pictures."""
    page, psi = _page(story, "2"), _run(story, story.drift["run_id"]).data.metrics["psi/spent"]
    assert len(page) <= LONGEST_VERSION_NOTE
    titles = [line for line in page.splitlines() if line.startswith("### ")]
    assert titles == [
        "### A/B test",
        "### Training",
        "### Why it was trained",
        "### Against the champion, on the held-out rows",
        "### Leaderboard",
        "### Data",
        "### Pictures",
    ]
    assert "Decision: retrain, because " in page
    assert f"| spent | &emsp;{psi:.3f} |" in page
    theirs, ours = (f"{story.trained[side]:.3f}" for side in ("champion_accuracy", "holdout_accuracy"))
    assert f"| accuracy | &emsp;{ours} | &emsp;{theirs} |" in page
    assert "| Logistic Regression | " in page
    arm = story.evaluation["arms"]["B"]
    assert f"B (version 2) was right on {arm['correct']} of {arm['labeled']} labelled rows" in page
    assert f"| chi2 | &emsp;better | &emsp;{story.evaluation['p_value']:.3g} |" in page
    assert "Verdict: promote, because " in page
    run_id = story.trained["run_id"]
    for name in ("confusion_matrix", "feature_importance"):
        assert f"(get-artifact?path=plots%2F{name}.png&run_uuid={run_id})" in page
        assert mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=f"plots/{name}.png")


def test_the_first_versions_page_has_no_champion(story: Story) -> None:
    """The page of the bootstrap says that nobody was there to beat, and was never tested on users."""
    page = _page(story, "1")
    assert "It is the first version: there is no champion to beat." in page
    assert "### A/B test" not in page


def test_runs_say_which_rows_they_saw(story: Story) -> None:
    """What a training learnt is, by name and digest, what the checks after it compare with; live rows are named too."""
    trained, checked = _run(story, story.first_run), _run(story, story.after["run_id"])
    challenger = _inputs(_run(story, story.trained["run_id"]))
    learnt = _inputs(trained)["training"]
    assert json.loads(learnt.profile)["num_rows"] == 895
    assert _inputs(_run(story, story.drift["run_id"]))["reference"].digest == learnt.digest
    assert _inputs(checked)["reference"].digest == challenger["training"].digest != learnt.digest
    assert set(challenger) == {"training", "validation", "live"}
    live = _inputs(checked)["live"]
    assert (json.loads(live.profile)["num_rows"], json.loads(live.source)) == (
        500,
        {"uri": str(story.settings.request_log)},
    )
    source = mlflow.data.get_source(_run(story, story.trained["run_id"]).inputs.dataset_inputs[0])
    assert Path(source.load()).read_bytes()


def test_looks_at_an_experiment_compare(story: Story) -> None:
    """Both looks stand under one run, with the same parameters; its charts have the numbers of each look."""
    looks = [_run(story, report["run_id"]) for report in (story.waiting, story.evaluation)]
    (group,) = {look.data.tags["mlflow.parentRunId"] for look in looks}
    assert _run(story, group).info.run_name == "Churn-v1-v2"
    assert [look.info.run_name for look in looks] == ["look 1", "look 2"]
    assert looks[0].data.params == looks[1].data.params
    assert looks[1].data.params["version_b"] == "2"
    p_values = {name: looks[1].data.metrics[name] for name in ("p_value", "p_value_anytime", "p_value_paired")}
    assert p_values["p_value"] == pytest.approx(story.evaluation["p_value"])
    for name, value in p_values.items():
        newest = MlflowClient(story.settings.mlflow_tracking_uri).get_metric_history(group, name)[-1]
        assert (newest.step, newest.value) == (2, value)


def test_every_step_names_its_pages(story: Story) -> None:
    """Steps return the addresses of their pages in MLflow."""
    assert story.registered["links"] == {"Model version": "http://mlflow/#/models/Churn/versions/2"}
    run = f"/runs/{story.drift['run_id']}"
    assert story.drift["links"]["MLflow run"].endswith(run)
    assert story.drift["links"]["Drift report"].endswith(f"{run}/artifacts/drift_report.html")
    assert set(story.evaluation["links"]) == {"MLflow run", "Evaluation", "Model version"}
