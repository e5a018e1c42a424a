"""What people find at Airflow and MLflow after the loop has run: links, logs, assets, a version's page."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import pytest
import requests
from mlflow import MlflowClient

from crossfade.stack.airflow import DAG_ID

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

LINKS = {
    "check_drift": {"Drift report", "MLflow run"},
    "retrain": {"Leaderboard", "MLflow run"},
    "register_staging": {"Model version"},
    "ab_evaluate_and_promote": {"Evaluation", "MLflow run", "Model version"},
}


@pytest.fixture(scope="module")
def ask(stack):
    """GET a path of Airflow's REST API."""
    login = {"username": stack.settings.airflow_user, "password": stack.settings.airflow_password.get_secret_value()}
    token = requests.post(f"{stack.settings.airflow_url}/auth/token", json=login, timeout=30).json()["access_token"]

    def get(path: str) -> dict[str, Any]:
        answer = requests.get(
            f"{stack.settings.airflow_url}/api/v2/{path}", headers={"Authorization": f"Bearer {token}"}, timeout=30
        )
        assert answer.ok, answer.text
        return dict(answer.json())

    return get


@pytest.fixture(scope="module")
def retrained(stack, ask) -> str:
    """DAG run that trained the challenger of `crossfade demo`: the second one with a training."""
    for run in ask(f"dags/{DAG_ID}/dagRuns?order_by=run_after")["dag_runs"]:
        registered = stack.airflow.result(run["dag_run_id"], "register_staging")
        if registered and registered["version"] == "2":
            return str(run["dag_run_id"])
    pytest.skip("no DAG run has trained a challenger: run tests/e2e/test_stack.py with it")


def _task(run_id: str, task_id: str) -> str:
    return f"dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/{task_id}"


@pytest.mark.parametrize("task_id", LINKS)
def test_a_task_links_to_its_pages(stack, ask, retrained, task_id):
    """Each task's links lead to its own MLflow run, to a file that is there, and to the version."""
    links = ask(f"{_task(retrained, task_id)}/links")["extra_links"]
    result = stack.airflow.result(retrained, task_id)
    assert links == {name: result["links"].get(name) for name in LINKS[task_id]}
    client = MlflowClient(stack.settings.mlflow_tracking_uri)
    for address in filter(None, links.values()):
        assert address.startswith(f"{stack.settings.mlflow_ui_url}/#/")
        if found := re.search(r"experiments/(\d+)/runs/(\w+)(?:/artifacts/(.+))?$", address):
            assert client.get_run(found[2]).info.experiment_id == found[1]
            assert result["run_id"] == found[2]
            assert not found[3] or found[3] in {file.path for file in client.list_artifacts(found[2])}
        else:
            model, number = re.search(r"models/(\w+)/versions/(\d+)$", address).groups()
            assert client.get_model_version(model, number).run_id


@pytest.mark.parametrize(
    ("task_id", "said"),
    [
        (
            "check_drift",
            r"1,000 live rows, .* UTC, .* the \d+ rows that version 1 learnt: drift\..*Decision: retrain, because",
        ),
        ("retrain", r"best of \d algorithms .* held-out rows .* it passed the champion gate: macro F1"),
        ("register_staging", r"Version 2 of IrisClassifier: the challenger, .* experiment IrisClassifier-v1-v2"),
        ("ab_evaluate_and_promote", r"Look 1 at experiment IrisClassifier-v1-v2\. .*Verdict: keep, because"),
    ],
)
def test_a_tasks_log_tells_its_story(ask, retrained, task_id, said):
    """The log of each task holds a paragraph with what it found, in numbers, and what follows."""
    content = ask(f"{_task(retrained, task_id)}/logs/1")["content"]
    assert re.search(said, " ".join(str(entry.get("event", "")) for entry in content)), content


def test_the_dag_shows_the_loop(ask):
    """The DAG's page has the picture of the loop, and every task says what it does."""
    shown = ask(f"dags/{DAG_ID}/details")["doc_md"]
    tasks = {task["task_id"]: task["doc_md"] for task in ask(f"dags/{DAG_ID}/tasks")["tasks"]}
    assert "REQUEST\N{NO-BREAK SPACE}LOG" in shown
    assert all(f"`{task_id}`" in shown for task_id in LINKS)
    assert all(tasks.values()), tasks


def _events(ask, name: str) -> list[dict[str, Any]]:
    (number,) = (asset["id"] for asset in ask("assets")["assets"] if asset["name"] == name)
    return list(ask(f"assets/events?asset_id={number}&order_by=timestamp")["asset_events"])


@pytest.mark.parametrize("name", ["prod", "staging", "request_log"])
def test_an_asset_has_an_event_only_for_a_change(ask, name):
    """No two events in a row say the same: a run that changed nothing makes none."""
    told = [event["extra"] for event in _events(ask, name)]
    assert len(told) > 1
    assert all(before != after for before, after in pairwise(told)), told


def test_assets_say_which_version_came(stack, ask, retrained):
    """The first model and its successor were told as `prod`, the challenger as `staging` by the run that made it."""
    versions = [event["extra"]["version"] for event in _events(ask, "prod")]
    assert versions[:2] == ["1", "2"]
    (event,) = [event for event in _events(ask, "staging") if event["source_run_id"] == retrained]
    assert event["source_task_id"] == "register_staging"
    trained = stack.airflow.result(retrained, "retrain")["run_id"]
    assert event["extra"] == {"model": "IrisClassifier", "version": "2", "run_id": trained}


def test_a_versions_page_needs_no_file(stack):
    """The page of the promoted version tells everything in words, and its pictures are there for a browser."""
    version = MlflowClient(stack.settings.mlflow_tracking_uri).get_model_version("IrisClassifier", "2")
    page = version.description
    assert "Verdict: promote, because " in page
    assert "Decision: retrain, because " in page
    assert "### Leaderboard" in page
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", page)
    assert len(pictures) == 2
    for picture in pictures:
        answer = requests.get(f"{stack.settings.mlflow_tracking_uri}/{picture}", timeout=30)
        assert (answer.status_code, answer.content[1:4]) == (200, b"PNG")


def test_runs_name_their_rows(stack, retrained):
    """The challenger's training lists the rows it learnt, was judged by and had not seen before."""
    client = MlflowClient(stack.settings.mlflow_tracking_uri)
    inputs = client.get_run(stack.airflow.result(retrained, "retrain")["run_id"]).inputs.dataset_inputs
    rows = {seen.tags[0].value: json.loads(seen.dataset.profile)["num_rows"] for seen in inputs}
    assert rows == {"training": 1150, "validation": 500, "live": 1000}
