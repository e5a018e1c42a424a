"""Shared fixtures: settings in a temporary home, and a real MLflow registry with small real models."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import count
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import requests
from mlflow import MlflowClient
from mlflow.models import infer_signature
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression

from crossfade.compiled.compiler import compile_model
from crossfade.data import load_dataset
from crossfade.model import SklearnModel
from crossfade.postgres.address import DatabaseUrl
from crossfade.postgres.private import PrivateServer, programs
from crossfade.registry import Registry, connect
from crossfade.settings import Settings, load_settings
from crossfade.stack import processes
from crossfade.stack.services import embedded_services, prepare
from crossfade.version import COMPILED_FOLDER, Version

os.environ.setdefault("PYCARET_CUSTOM_LOGGING_PATH", os.devnull)
os.environ["COLUMNS"] = "1000"  # sentences are looked for in what is printed: none is to be broken at an edge


def pytest_sessionfinish() -> None:
    """Let pytest's own summary be as wide as it is elsewhere."""
    os.environ.pop("COLUMNS", None)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables made: making them anew for every test costs seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_registered_models()
    return path


@pytest.fixture
def settings(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a new installation in an empty folder, MLflow in a database of its own, nobody at the router."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("CROSSFADE_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("ROUTER_URL", "http://127.0.0.1:9")  # discard: nobody answers
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return load_settings()


@pytest.fixture
def registry(settings: Settings) -> Registry:
    """An empty registry in that installation."""
    registry = Registry(settings.mlflow_tracking_uri, settings.reg_model_name)
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("tests", f"file://{settings.crossfade_home}/mlruns"))
    return registry


@pytest.fixture
def register(registry: Registry) -> Callable[..., Version]:
    """Train a small real model on Iris and register it; `aliases` are put on it."""

    def make(*aliases: str, model: BaseEstimator | None = None, columns: list[str] | None = None) -> Version:
        frame = load_dataset(Settings()).frame
        features, target = frame.drop(columns="target"), frame["target"]
        if columns is not None:
            features = features.set_axis(columns, axis=1)
        fitted = (model or LogisticRegression(max_iter=500)).fit(features, target)
        with mlflow.start_run() as run:
            info = mlflow.sklearn.log_model(
                fitted,
                name="model",
                serialization_format="cloudpickle",
                pip_requirements=["scikit-learn"],
                signature=infer_signature(features, pd.Series(target)),
                metadata={"classes": [0, 1, 2]},
            )
        version = registry.register(run.info.run_id, info.model_uri, {})
        for alias in aliases:
            found = registry.at(alias)
            registry.move(alias, version.number, expected=found.number if found else None)
        return version

    return make


Isolate = Callable[..., tuple[Settings, dict[str, str]]]


@pytest.fixture(scope="session")
def isolate() -> Isolate:
    """Make settings, and the environment to match, of an installation in a folder of its own, on free ports."""

    def make(home: Path, **given: str) -> tuple[Settings, dict[str, str]]:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
        ports = [str(s.getsockname()[1]) for s in sockets]
        for s in sockets:
            s.close()
        names = ("ROUTER_PORT", "MLFLOW_PORT", "AIRFLOW_PORT", "DASHBOARD_PORT")
        named = dict(zip(names, ports, strict=True))
        mine = {"CROSSFADE_HOME": str(home), **named, **given}
        known = {name.upper() for name in Settings.model_fields}
        environment = {name: value for name, value in os.environ.items() if name not in known} | mine
        with pytest.MonkeyPatch.context() as patch:
            for name in known:
                patch.delenv(name, raising=False)
            for name, value in mine.items():
                patch.setenv(name, value)
            return load_settings(), environment

    return make


@pytest.fixture(scope="session")
def serve_mlflow() -> Callable[[Settings], AbstractContextManager[None]]:
    """Run a real MLflow server, as `crossfade up` starts it."""

    @contextmanager
    def serve(settings: Settings) -> Iterator[None]:
        service = embedded_services(settings)[0]
        prepare(settings)
        try:
            processes.start(service, settings.crossfade_home)
            processes.wait_until_healthy(service, settings.crossfade_home, 300, lambda waited: None)
            yield
        finally:
            processes.stop(service, settings.crossfade_home)

    return serve


Serve = Callable[[Settings, dict[str, str]], AbstractContextManager[subprocess.Popen[bytes]]]


@pytest.fixture(scope="session")
def serve_router() -> Serve:
    """Run `crossfade serve` with what `isolate` made; all its workers have a model when the block begins."""

    @contextmanager
    def serve(settings: Settings, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
        home = settings.crossfade_home
        command = [str(Path(sys.executable).with_name("crossfade")), "serve"]
        with (home / "router.log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, cwd=home, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 120
            while not _is_ready(settings):
                assert time.monotonic() < deadline, (home / "router.log").read_text()
                time.sleep(0.1)
            yield process
        finally:
            process.terminate()
            process.wait(120)

    return serve


def _is_ready(settings: Settings) -> bool:
    try:
        workers = requests.get(f"http://127.0.0.1:{settings.router_port}/health", timeout=30).json()["workers"]
    except requests.RequestException:
        return False
    return len(workers) == settings.router_workers and all(worker["prod"] for worker in workers)


@pytest.fixture(scope="session")
def mlflow_server(
    tmp_path_factory: pytest.TempPathFactory,
    isolate: Isolate,
    serve_mlflow: Callable[[Settings], AbstractContextManager[None]],
) -> Iterator[Settings]:
    """A running MLflow server; whoever uses it has a registered model of its own name."""
    settings, _ = isolate(tmp_path_factory.mktemp("mlflow-server"))
    with serve_mlflow(settings):
        yield settings


@pytest.fixture(scope="module")
def register_served(mlflow_server: Settings, register_on: Callable[..., Version]) -> Callable[..., Version]:
    """Register a linear model on that server under a name, its compiled form beside it unless told otherwise."""
    return partial(register_on, mlflow_server.mlflow_tracking_uri)


@pytest.fixture(scope="module")
def register_on() -> Iterator[Callable[..., Version]]:
    """Register a linear model on a server under a name, its compiled form beside it unless told otherwise."""
    before = mlflow.get_tracking_uri()
    dataset = load_dataset(Settings())
    features, target = dataset.frame[dataset.features], dataset.frame["target"]

    def make(uri: str, name: str, *aliases: str, strength: float = 1.0, compiled: bool = True) -> Version:
        registry = Registry(uri, name)
        mlflow.set_experiment("served")
        fitted = LogisticRegression(max_iter=500, C=strength).fit(features, target)
        with mlflow.start_run() as run:
            if compiled:
                files = compile_model(SklearnModel(fitted, dataset.schema, (0, 1, 2)), features).files
                for file, content in files.items():
                    mlflow.log_text(content.decode(), f"{COMPILED_FOLDER}/{file}")  # this tier's are text
            info = mlflow.sklearn.log_model(
                fitted,
                name="model",
                serialization_format="cloudpickle",
                pip_requirements=["scikit-learn"],
                signature=infer_signature(features, target),
                metadata={"classes": [0, 1, 2]},
            )
        version = registry.register(run.info.run_id, info.model_uri, {"team": "irises"})
        for alias in aliases:
            registry.move(alias, version.number, expected=None)
        return version

    yield make
    connect(before)


_numbers = count(1)


@pytest.fixture(scope="session")
def server() -> Iterator[PrivateServer]:
    """A server that no test kills or stops: it is shared."""
    if programs() is None:
        pytest.skip("needs the package postgresql (apt-get install -y postgresql)")
    with PrivateServer() as running:
        yield running


@pytest.fixture
def database(server: PrivateServer) -> Iterator[DatabaseUrl]:
    """An empty database for one test."""
    name = f"test_{next(_numbers)}"
    yield server.create(name)
    server.drop(name)


@pytest.fixture(scope="module")
def module_database(server: PrivateServer) -> Iterator[DatabaseUrl]:
    """An empty database for the tests of a module."""
    name = f"module_{next(_numbers)}"
    yield server.create(name)
    server.drop(name)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
