"""The loop in containers: the demo's story, kills under load, and what survives `down` and `up`."""

from __future__ import annotations

import csv
import io
import json
import shlex
import time
from pathlib import Path

import pytest
import requests

from crossfade.registry import Registry
from crossfade.stack.airflow import DagRun

SERVICES = ("postgres", "mlflow", "router", "airflow-api", "airflow-scheduler", "airflow-dag-processor", "dashboard")
LOG, LABELS = "/usr/src/app/logs/requests.csv", "/usr/src/app/logs/labels.csv"

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1200)]


def _log_ids(containers) -> list[str]:
    return [row["request_id"] for row in csv.DictReader(io.StringIO(containers.read("router", LOG)))]


def _registry(containers) -> Registry:
    return Registry(containers.settings.mlflow_tracking_uri, containers.settings.reg_model_name)


def test_nobody_is_root(containers):
    """Every container runs as a user, on a root file system that cannot be written."""
    for service in SERVICES:
        assert containers.compose("exec", "-T", service, "id", "-u").strip() != "0", service
        container = containers.compose("ps", "--quiet", service).strip()
        assert containers.docker("inspect", "--format", "{{.HostConfig.ReadonlyRootfs}}", container).strip() == "true"


def test_everything_is_published_on_the_loopback_only(containers):
    """No port is open to the network."""
    published = containers.compose("ps", "--format", "{{.Ports}}")
    assert published.count("127.0.0.1:") == 4
    assert "0.0.0.0" not in published


def test_dag_has_no_import_errors(containers):
    """Airflow reads the DAG in its container."""
    containers.airflow.wait_for_dag()
    assert containers.airflow.import_errors() == []


def test_demo_replaces_the_model(containers):
    """`crossfade demo --no-start` plays the whole story against the containers."""
    told = containers.crossfade("demo", "--no-start")
    prod = _registry(containers).at("prod")
    assert prod is not None
    assert f"version 1 -> version {prod.number}" in told


def test_readme_curls_work(containers):
    """Every `curl` of the README is answered with 200."""
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text().replace("\\\n", " ")
    calls = [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("curl ")]
    assert len(calls) >= 4
    for call in calls:
        (place,) = (word for word in call if "127.0.0.1:8080" in word)
        url = containers.settings.router_url + place.split("127.0.0.1:8080", 1)[1]
        body = call[call.index("-d") + 1] if "-d" in call else None
        answer = requests.post(url, json=json.loads(body), timeout=30) if body else requests.get(url, timeout=30)
        assert answer.status_code == 200, (call, answer.text)


def test_volumes_hold_the_contracts_files(containers):
    """Log, split and reports lie where the documentation says, and the DAG's side sees the log."""
    assert len(_log_ids(containers)) >= 2001
    assert json.loads(containers.read("router", "/usr/src/app/logs/router_config.json")) == {"ab_split_b": 0.2}
    assert containers.read("airflow-scheduler", LOG).count("\n") == len(_log_ids(containers)) + 1
    assert "verdict" in json.loads(
        containers.read("airflow-scheduler", "/opt/airflow/logs/drift_reports/drift_status.json")
    )
    report = json.loads(containers.read("airflow-scheduler", "/opt/airflow/logs/ab_reports/ab_eval_latest.json"))
    assert report["verdict"] == "promote"


def test_crashes_under_load_lose_no_answer(containers):
    """Each container crashes once at 50 requests a second: no answered request is lost, and all come back."""
    run_id = containers.airflow.trigger({"force_retrain": True})
    with containers.load(per_second=50) as answered:
        for service in SERVICES:
            before = len(answered())
            containers.crash(service)
            containers.wait_until_healthy(service)
            deadline = time.monotonic() + 60
            while len(answered()) < before + 100:
                assert time.monotonic() < deadline, f"the router does not answer after {service} crashed"
                time.sleep(0.2)
    logged = _log_ids(containers)
    assert len(answered()) > 600
    assert set(answered()) <= set(logged)
    assert len(logged) == len(set(logged))
    states: list[DagRun] = []
    assert containers.airflow.wait(run_id, states.append, seconds=600).state == "success"


def _kept(containers) -> dict[str, object]:
    """What must outlive the containers: aliases, log, labels, split and reports."""
    registry = _registry(containers)
    return {
        "aliases": [registry.at(alias) for alias in ("prod", "staging", "previous")],
        "log": containers.read("router", LOG),
        "labels": containers.read("router", LABELS),
        "split": requests.get(f"{containers.settings.router_url}/config", timeout=30).json(),
        "report": containers.read("airflow-scheduler", "/opt/airflow/logs/ab_reports/ab_eval_latest.json"),
    }


def _prod_served(containers) -> str:
    return str(requests.get(f"{containers.settings.router_url}/ready", timeout=30).json()["prod"])


def test_down_and_up_keep_everything(containers):
    """After `down` and `up`: aliases, log, split and reports are all there, and prod is served."""
    before, served = _kept(containers), _prod_served(containers)
    containers.compose("down")
    containers.compose("up", "--detach", "--wait")
    assert (_kept(containers), _prod_served(containers)) == (before, served)


def test_a_backup_brings_everything_back(containers, tmp_path):
    """Saved while it runs, restored where the volumes are gone: all is as it was; a damaged file changes nothing."""
    before, served, file = _kept(containers), _prod_served(containers), tmp_path / "all.tar.gz"
    containers.back_up("save", file)
    damaged = tmp_path / "damaged.tar.gz"
    damaged.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(AssertionError, match=r"ended with \d"):
        containers.back_up("restore", damaged)
    assert _prod_served(containers) == served
    containers.compose("down", "--volumes")
    containers.back_up("restore", file)
    assert (_kept(containers), _prod_served(containers)) == (before, served)
