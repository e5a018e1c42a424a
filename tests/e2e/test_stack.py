"""The whole loop on real processes, in the order in which a newcomer meets it; the tests share one stack."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import psutil
import pytest
import requests
from mlflow import MlflowClient
from scipy import stats

from crossfade.data import draw_traffic, load_dataset
from crossfade.registry import Registry
from crossfade.requestlog import COLUMNS
from crossfade.serving.split import assign
from crossfade.settings import Settings
from crossfade.stack import processes
from crossfade.stack.services import Service, embedded_services

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROW = [5.1, 3.5, 1.4, 0.2]


def _registry(stack) -> Registry:
    return Registry(stack.settings.mlflow_tracking_uri, stack.settings.reg_model_name)


def _service(stack, name: str) -> Service:
    return next(service for service in embedded_services(stack.settings) if service.name == name)


def _eventually(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _log(stack) -> pd.DataFrame:
    return pd.read_csv(stack.settings.request_log, dtype=str, keep_default_na=False)


def _workers(stack) -> list[psutil.Process]:
    found = processes.find(_service(stack, "router"), stack.settings.crossfade_home)
    masters = {process.pid for process in found}
    return [process for process in found if process.ppid() in masters]


def _is_ready(stack) -> bool:
    with contextlib.suppress(requests.RequestException):
        return all(requests.get(f"{stack.settings.router_url}/ready", timeout=60).ok for _ in range(8))
    return False


def _rows(count: int, seed: int) -> list[tuple[list[float], int]]:
    frame = draw_traffic(load_dataset(Settings()), count, 0.5, seed)
    return list(zip(frame.drop(columns="target").to_numpy().tolist(), frame["target"].tolist(), strict=True))


def test_without_a_model_the_router_says_what_to_do(stack):
    """Before the first training, /predict is 503 and names the way out."""
    answer = requests.post(f"{stack.settings.router_url}/predict", json={"features": ROW}, timeout=30)
    assert answer.status_code == 503
    assert "drift_retrain_ab_pipeline" in answer.json()["detail"]
    assert not stack.settings.request_log.exists()


def test_dag_has_no_import_errors(stack):
    """Airflow reads the DAG without a complaint."""
    stack.airflow.wait_for_dag()
    assert stack.airflow.import_errors() == []


@pytest.mark.timeout(1500)  # three runs of the DAG take minutes each where many others are at work
def test_demo_replaces_the_model(stack):
    """`crossfade demo` ends with prod on a newer version than the bootstrap, and its story has the evidence."""
    told = stack.crossfade("demo").stdout
    prod = _registry(stack).at("prod")
    assert prod is not None, told
    assert int(prod.number) > 1, told
    assert f"version 1 -> version {prod.number}" in told
    assert stack.health()["prod"] == prod.number


def test_promotion_leaves_aliases_and_tags_that_explain_it(stack):
    """After the promotion, `previous` is the bootstrap and the tags name experiment, rule and evidence."""
    registry = _registry(stack)
    prod, previous = registry.at("prod"), registry.at("previous")
    assert prod is not None
    assert previous is not None
    assert previous.number == "1"
    assert (prod.status, registry.get("1").status) == ("prod", "retired")
    assert prod.tags["crossfade.experiment"] == f"IrisClassifier-v1-v{prod.number}"
    assert prod.tags["crossfade.decided_by"] == "chi2"
    report = json.loads(stack.settings.ab_eval_report.read_text())
    assert prod.tags["crossfade.evidence_run"] == report["run_id"]


def test_p_value_is_scipys_on_the_log(stack):
    """The p-value of the report is scipy's, on counts read from the CSV with pandas alone."""
    report = json.loads(stack.settings.ab_eval_report.read_text())
    rows = _log(stack)
    rows = rows[(rows["experiment_id"] == report["experiment_id"]) & (rows["label"] != "")]
    table = pd.crosstab(rows["variant"], rows["label"] == rows["prediction"])
    assert table.loc["A"].sum() + table.loc["B"].sum() == 1000
    assert report["p_value"] == pytest.approx(stats.chi2_contingency(table).pvalue, rel=1e-9)


def test_reports_are_as_the_manifest_lists_them(stack):
    """Every report file of the contract exists, and `crossfade verify` finds it unchanged."""
    root = stack.settings.report_dir
    for name in (
        "drift_reports/drift_report.csv",
        "drift_reports/drift_status.json",
        "drift_reports/drift_report.html",
        "policy/retrain_recommendation.json",
        "ab_reports/ab_eval_latest.json",
        "metrics/train_eval_summary.csv",
        "tracking/runs.csv",
        "manifest.json",
    ):
        assert (root / name).stat().st_size > 0, name
    stack.crossfade("verify")


def test_changed_report_is_found(stack):
    """A report that was changed by hand fails `crossfade verify`, which names it."""
    summary = stack.settings.report_dir / "metrics" / "train_eval_summary.csv"
    before = summary.read_bytes()
    try:
        summary.write_bytes(before + b"x\n")
        done = stack.crossfade("verify", check=False)
        assert done.returncode == 1
        assert "train_eval_summary.csv" in done.stderr
    finally:
        summary.write_bytes(before)


def test_dag_run_uses_a_changed_psi_threshold(stack):
    """A threshold given in the trigger form is the one the check uses."""
    stack.run_dag(psi_threshold=7.5)
    status = json.loads((stack.settings.drift_report_dir / "drift_status.json").read_text())
    assert status["psi_threshold"] == 7.5


def test_command_line_gives_the_dags_result(stack):
    """`python src/pipeline.py` on the same log comes to the same numbers as the DAG."""
    by_dag = pd.read_csv(stack.settings.drift_report_dir / "drift_report.csv")
    stack.crossfade("drift")
    pd.testing.assert_frame_equal(pd.read_csv(stack.settings.drift_report_dir / "drift_report.csv"), by_dag)


def test_rollback_puts_the_previous_version_back_without_a_restart(stack):
    """`crossfade rollback` serves version 1 again, and the version taken out gets no traffic."""
    workers = {worker.pid for worker in _workers(stack)}
    taken_out = stack.health()["prod"]
    stack.crossfade("rollback")
    assert _eventually(lambda: all(stack.health()["prod"] == "1" for _ in range(8)), 120)
    assert stack.health()["staging"] is None
    assert {worker.pid for worker in _workers(stack)} == workers
    assert _registry(stack).get(taken_out).status == "rejected"


def test_users_keep_their_arm_in_every_worker_and_over_a_restart(stack):
    """1,000 users: one arm each, as the public hash says, in every worker, before and after a restart."""
    registry = _registry(stack)
    challenger = registry.versions()[-1].number
    registry.move("staging", challenger, expected=None)
    stack.set_split(0.3)
    assert _eventually(lambda: all(stack.health()["staging"] == challenger for _ in range(8)), 120)
    experiment = f"IrisClassifier-v1-v{challenger}"
    expected = {user: assign(experiment, f"user-{user}", 0.3) for user in range(1000)}

    def arms() -> dict[int, str]:
        with ThreadPoolExecutor(16) as pool:
            answers = pool.map(lambda user: stack.predict(user_id=f"user-{user}", features=ROW), range(1000))
            return {user: answer["variant"] for user, answer in enumerate(answers)}

    before = [arms(), arms()]  # new connections each time: both workers answer
    os.kill(_workers(stack)[0].ppid(), signal.SIGKILL)
    stack.crossfade("up")
    assert _eventually(lambda: stack.health()["staging"] == challenger, 120)
    assert stack.health()["ab_split_b"] == 0.3
    assert [*before, arms()] == [expected] * 3
    share = sum(arm == "B" for arm in expected.values()) / 1000
    assert abs(share - 0.3) < 3 * (0.3 * 0.7 / 1000) ** 0.5


def test_every_worker_sees_a_new_split_at_once(stack):
    """After POST /config has answered, no worker answers with the old split."""
    for share in (0.9, 0.1, 0.5):
        stack.set_split(share)
        seen = [stack.health() for _ in range(40)]
        assert {health["ab_split_b"] for health in seen} == {share}
        assert len({health["worker"] for health in seen}) == 2


def test_log_has_every_answer_under_parallel_clients(stack):
    """16 parallel clients, 2 workers: rows logged = requests answered, each row parses and holds what was sent."""
    known = len(_log(stack))
    bodies = [(f"load-{i}", features, label) for i, (features, label) in enumerate(_rows(2000, seed=5))]

    def one(body: tuple[str, list[float], int]) -> dict[str, object]:
        return stack.predict(request_id=body[0], user_id=body[0], features=body[1], label=body[2])

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, bodies))
    rows = _log(stack).iloc[known:].set_index("request_id")
    assert list(rows.columns) == [name for name in COLUMNS if name != "request_id"]
    assert len(rows) == len(set(rows.index)) == 2000
    for answer, (request_id, features, label) in zip(answers, bodies, strict=True):
        row = rows.loc[request_id]
        assert list(json.loads(row["features_json"]).values()) == features
        assert (row["label"], row["prediction"]) == (str(label), str(answer["prediction"]))
        assert (row["variant"], row["model_version"]) == (answer["variant"], answer["model_version"])


def test_equal_models_leave_prod_alone(stack):
    """An A/A test, the same model registered twice, ends in `keep`: prod does not move."""
    registry = _registry(stack)
    prod = registry.at("prod")
    assert prod is not None
    client = MlflowClient(stack.settings.mlflow_tracking_uri)
    source = client.get_model_version(registry.name, prod.number).source
    twin = client.create_model_version(registry.name, source, prod.run_id, model_id=source.removeprefix("models:/"))
    staging = registry.at("staging")
    registry.move("staging", str(twin.version), expected=staging.number if staging else None)
    assert _eventually(lambda: all(stack.health()["staging"] == str(twin.version) for _ in range(8)), 120)
    stack.crossfade("simulate", "--rows", "800", "--seed", "77", "--labels", "later")
    report = _evaluate(stack)
    assert report["experiment_id"] == f"IrisClassifier-v{prod.number}-v{twin.version}"
    assert report["arms"]["A"]["labeled"] + report["arms"]["B"]["labeled"] == 800
    assert report["verdict"] == "keep"
    assert _registry(stack).at("prod") == prod


def test_router_answers_while_mlflow_is_down_and_then_follows(stack):
    """With MLflow stopped the router goes on, new workers included; started again, it follows the next alias move."""
    mlflow = _service(stack, "mlflow")
    before = {arm: known["model_version"] for arm, known in stack.version()["arms"].items()}
    processes.stop(mlflow, stack.settings.crossfade_home)
    answers = [stack.predict(user_id=str(i), features=ROW) for i in range(50)]
    assert {answer["variant"]: answer["model_version"] for answer in answers} == before
    assert _eventually(lambda: any("MLflow" in problem for problem in stack.health()["problems"]), 120)
    old = _workers(stack)
    for worker in old:
        worker.kill()
    assert _eventually(lambda: len(set(_workers(stack)) - set(old)) == len(old), 120)
    assert _eventually(lambda: _is_ready(stack), 60)  # from its copies of the models
    answers = [stack.predict(user_id=str(i), features=ROW) for i in range(50)]
    assert {answer["variant"]: answer["model_version"] for answer in answers} == before
    stack.crossfade("up")
    registry = _registry(stack)
    staging = registry.at("staging")
    assert staging is not None
    registry.drop("staging", expected=staging.number)
    assert _eventually(lambda: all(stack.health()["staging"] is None for _ in range(8)), 120)
    assert _eventually(lambda: all(not stack.health()["problems"] for _ in range(8)), 120)


@pytest.mark.parametrize("name", ["mlflow", "airflow", "router"])
def test_up_heals_a_killed_service(stack, name):
    """A service whose main process was killed, children left behind, is whole again after `crossfade up`."""
    service, home = _service(stack, name), stack.settings.crossfade_home
    (main,) = [p for p in processes.find(service, home) if p.pid == os.getsid(p.pid)]
    main.kill()
    psutil.wait_procs([main], timeout=120)
    stack.crossfade("up")
    state = processes.state_of(service, home)
    assert state.healthy
    assert state.processes > 1
    assert [p.pid == os.getsid(p.pid) for p in processes.find(service, home)].count(True) == 1


def test_taken_port_is_named_with_its_owner(stack):
    """`crossfade up` says which port is taken by whom and which setting changes it."""
    import http.server
    import threading

    router = _service(stack, "router")
    processes.stop(router, stack.settings.crossfade_home)
    with http.server.HTTPServer(("127.0.0.1", router.port), http.server.BaseHTTPRequestHandler) as squatter:
        thread = threading.Thread(target=squatter.serve_forever)
        thread.start()
        done = stack.crossfade("up", check=False)
        squatter.shutdown()
        thread.join()
    assert done.returncode == 1
    assert f"port {router.port}" in done.stderr
    assert f"process {os.getpid()}" in done.stderr
    assert "ROUTER_PORT" in done.stderr
    stack.crossfade("up")


def test_down_leaves_nothing_behind(stack):
    """After `crossfade down` no process of the installation lives, and its ports are free again."""
    services, home = embedded_services(stack.settings), stack.settings.crossfade_home
    before = [process for service in services for process in processes.find(service, home)]
    children = {child for process in before for child in process.children(recursive=True)}
    stack.crossfade("down")
    assert [process for process in {*before, *children} if _lives(process)] == []
    assert not any(processes.is_taken(service.host, service.port) for service in services)
    assert "stopped" in stack.crossfade("status").stdout
    assert [path.name for path in Path(home).iterdir()] == ["var"]


def _lives(process: psutil.Process) -> bool:
    """A zombie is dead: it only waits for its parent, here the machine's init, to read its exit code."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def _evaluate(stack) -> dict[str, object]:
    stack.crossfade("evaluate")
    return dict(json.loads(stack.settings.ab_eval_report.read_text()))
