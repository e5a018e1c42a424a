"""The profile `scale`: two routers behind nginx, Celery workers, Dask, and the request log in PostgreSQL."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
import requests

from crossfade.serving.split import bucket
from crossfade.stack.airflow import DAG_ID, DagRun

PROFILE = "scale"
ROUTERS, WORKERS = ("router-1", "router-2"), ("airflow-worker-1", "airflow-worker-2")
CLIENTS, USERS = 8, 300
FEATURES = [6.1, 3.0, 4.6, 1.5]

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1200)]


def _sql(containers, database: str, query: str) -> list[str]:
    """Return the lines that a query answers."""
    psql = ("psql", "-U", "postgres", "-d", database, "-Atc", query)
    return containers.compose("exec", "-T", "postgres", *psql).split("\n")[:-1]


def _python(containers, service: str, code: str) -> Any:
    """Run Python in a container, and read the JSON that it prints last."""
    return json.loads(containers.compose("exec", "-T", service, "python", "-c", code).splitlines()[-1])


def _wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.2)


def _predict(containers, user: int) -> dict[str, Any]:
    body = {"user_id": user, "features": FEATURES}
    answer = requests.post(f"{containers.settings.router_url}/predict", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


_ARMS_AT = """
import json, sys, requests
session = requests.Session()
ask = lambda user: session.post("http://{router}:8080/predict", json={{"user_id": user, "features": {features}}}).json()
print(json.dumps([ask(user)["variant"] for user in range({users})]))
"""


def _arms_at(containers, router: str) -> list[str]:
    """Ask one router itself, from inside the network, for every user's arm."""
    return list(_python(containers, router, _ARMS_AT.format(router=router, features=FEATURES, users=USERS)))


def test_the_dag_runs_on_both_celery_workers(containers):
    """`crossfade demo --no-start` plays the whole story; both workers had tasks, Dask's workers learnt."""
    containers.airflow.wait_for_dag()
    told = containers.crossfade("demo", "--no-start")
    assert "version 1 -> version" in told
    hosts = {containers.compose("exec", "-T", worker, "hostname").strip() for worker in WORKERS}
    query = f"select distinct hostname from task_instance where dag_id = '{DAG_ID}' and state = 'success'"
    ran = _sql(containers, "airflow", f"{query} and hostname <> ''")
    assert set(ran) == hosts
    modules = "import json; from distributed import Client; c = Client('tcp://dask-scheduler:8786'); "
    loaded = modules + "print(json.dumps(c.run(lambda: 'pycaret.classification' in __import__('sys').modules)))"
    assert any(_python(containers, WORKERS[0], loaded).values())


def test_everything_is_published_on_the_loopback_only(containers):
    """No port is open to the network, and neither Redis, Dask, PostgreSQL nor a single router is published at all."""
    published = containers.compose("ps", "--format", "{{.Service}} {{.Ports}}")
    assert "0.0.0.0" not in published
    open_ = {line.split()[0] for line in published.splitlines() if "127.0.0.1:" in line}
    assert open_ == {"nginx", "mlflow", "airflow-api", "dashboard-scale"}


def test_nobody_is_root(containers):
    """Every container runs as a user, on a root file system that cannot be written."""
    for service in containers.compose("ps", "--services").split():
        assert containers.compose("exec", "-T", service, "id", "-u").strip() != "0", service
        container = containers.compose("ps", "--quiet", service).strip()
        assert containers.docker("inspect", "--format", "{{.HostConfig.ReadonlyRootfs}}", container).strip() == "true"


_DRIFT = """
import json, sys
from dataclasses import asdict
from crossfade.engine import open_engine
from crossfade.loop.check import rule_of
from crossfade.loop.drift import check_drift
from crossfade.loop.incumbent import reference_of
from crossfade.loop.installation import Installation
from crossfade.loop.window import WindowCounter
from crossfade.settings import load_settings
here = Installation.of(load_settings())
prod = here.registry.at("prod")
reference = reference_of(here, prod)
counter = WindowCounter(reference.profile, reference.schema, here.settings.reg_model_name, prod.number)
found = []
for name, address in (("local", ""), ("dask", here.settings.engine_address)):
    with open_engine(name, address) as engine:
        windows = counter.windows(here.log, 500, 4, engine)
    reports = [check_drift(reference.profile, window, rule_of(here.settings)) for window in windows]
    found.append([repr(asdict(report)) for report in reports])
print(json.dumps(found))
"""


def test_drift_on_the_cluster_is_drift_here(containers):
    """Counted by Dask's workers and by threads, every window of the log has the same numbers to the last digit."""
    here, there = _python(containers, WORKERS[0], _DRIFT)
    assert len(here) >= 2
    assert here == there


@pytest.fixture(scope="module")
def experiment(containers) -> str:
    """A challenger that takes traffic; its experiment's name."""

    def open_now() -> str:
        return str(requests.get(f"{containers.settings.router_url}/health", timeout=30).json()["experiment_id"] or "")

    if not open_now():
        containers.crossfade("simulate", "--rows", "1000", "--drift", "2")
        run_id = containers.airflow.trigger({"force_retrain": True})
        containers.airflow.wait(run_id, lambda run: None, seconds=600)
        registered = containers.airflow.result(run_id, "register_staging")
        assert registered["status"] == "staging", registered
    _wait_for(lambda: bool(open_now()), 60, "an experiment")
    return open_now()


@pytest.mark.parametrize("split", [0.3, 0.7])
def test_users_keep_their_arm_wherever_they_are_answered(containers, experiment, split):
    """Each of 300 users has the arm of its hash at either router and through the proxy, a second after a new split."""
    answer = requests.post(f"{containers.settings.router_url}/config", json={"ab_split_b": split}, timeout=30)
    assert answer.status_code == 200
    time.sleep(1)  # the contract: in force everywhere within a second
    expected = ["B" if bucket(experiment, str(user)) < split else "A" for user in range(USERS)]
    assert 0 < expected.count("B") < USERS
    with ThreadPoolExecutor(CLIENTS) as pool:
        through = list(pool.map(lambda user: _predict(containers, user)["variant"], range(USERS)))
    assert through == expected
    for router in ROUTERS:
        assert _arms_at(containers, router) == expected


def _clients(
    url: str, name: str, stop: threading.Event
) -> tuple[list[threading.Thread], list[str], list[tuple[str, str]]]:
    """Make clients that ask as fast as they are answered; what was answered, and what was not, with the reason."""
    answered: list[str] = []
    failed: list[tuple[str, str]] = []

    def run(client: int) -> None:
        session = requests.Session()
        for i in itertools.count():
            if stop.is_set():
                return
            request_id = f"{name}-{client}-{i}"
            body = {"request_id": request_id, "user_id": i % USERS, "features": FEATURES}
            try:
                answer = session.post(f"{url}/predict", json=body, timeout=150)
            except requests.RequestException as error:
                failed.append((request_id, repr(error)))
                session = requests.Session()
            else:
                if answer.status_code == 200:
                    answered.append(request_id)
                else:
                    failed.append((request_id, answer.text))

    return [threading.Thread(target=run, args=(client,)) for client in range(CLIENTS)], answered, failed


def _more(answered: list[str], count: int) -> Callable[[], bool]:
    """Make a look whether so many more were answered since now."""
    goal = len(answered) + count
    return lambda: len(answered) >= goal


def test_a_killed_router_costs_the_requests_in_flight_only(containers):
    """Each router is killed once under 8 clients: they lose one request each at most, and no answer is missing."""
    stop, name = threading.Event(), f"kill-{uuid4().hex}"
    threads, answered, failed = _clients(containers.settings.router_url, name, stop)
    for thread in threads:
        thread.start()
    try:
        for router in ROUTERS:
            _wait_for(_more(answered, 200), 60, "answers")
            before = len(failed)
            containers.crash(router)
            _wait_for(_more(answered, 200), 60, f"answers without {router}")
            containers.wait_until_healthy(router)
            assert len(failed) - before <= CLIENTS, failed
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    logged = Counter(
        _sql(containers, "crossfade", f"select request_id from crossfade_rows where request_id like '{name}-%'")
    )
    assert len(answered) == len(set(answered))
    assert all(logged[request_id] == 1 for request_id in answered)
    assert set(logged) <= set(answered) | {request_id for request_id, _ in failed}


def test_a_celery_worker_that_dies_in_a_training_is_replaced(containers):
    """The worker that trains is killed: the task is tried again, and the run ends in success."""
    run_id = containers.airflow.trigger({"force_retrain": True, "current_source": "simulated"})
    query = (
        "select hostname from task_instance where state = 'running' and task_id = 'retrain' "
        f"and run_id = '{run_id}' and hostname <> ''"
    )
    _wait_for(lambda: bool(_sql(containers, "airflow", query)), 300, "the training runs")
    (host,) = _sql(containers, "airflow", query)
    trains = next(w for w in WORKERS if containers.compose("exec", "-T", w, "hostname").strip() == host)
    containers.crash(trains)
    states: list[DagRun] = []
    assert containers.airflow.wait(run_id, states.append, seconds=900).state == "success"
    containers.wait_until_healthy(trains)
