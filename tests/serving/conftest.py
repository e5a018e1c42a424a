"""Fixtures of the serving tests: quick MLflow databases, and one app that tests share when they do not change it."""

from __future__ import annotations

import csv
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import mlflow
import pytest
from flask import Flask
from flask.testing import FlaskClient
from mlflow.models import infer_signature
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from app import create_app
from crossfade.data import load_dataset
from crossfade.modelcache import ModelCache
from crossfade.registry import Registry
from crossfade.serving.catalog import Catalog, Source
from crossfade.serving.reload import Reloader
from crossfade.serving.split import assign
from crossfade.settings import Settings, load_settings


@dataclass(frozen=True)
class Served:
    """A running app that is shared: prod is logistic regression, staging a stump that never answers class 2."""

    app: Flask
    settings: Settings
    models: dict[str, Any]
    """By variant, fitted like the registered ones."""
    experiment_id: str

    @property
    def client(self) -> FlaskClient:
        """A new client (one per thread)."""
        return self.app.test_client()

    def user_on(self, variant: str) -> str:
        """Return a user whom the present split puts on an arm."""
        return next(
            f"user-{i}" for i in count() if assign(self.experiment_id, f"user-{i}", self.settings.ab_split_b) == variant
        )

    def logged(self, request_id: str) -> list[dict[str, str]]:
        """Return the log's rows of a request, as plain text cells."""
        with self.settings.request_log.open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [
            row for row in rows if row["request_id"] == request_id or row["request_id"].startswith(request_id + ".")
        ]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Served:
    """One app for all tests of a module that leave it as it was; batches of at most five rows."""
    home = tmp_path_factory.mktemp("served")
    shutil.copy(empty_database, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as environment:
        for name in Settings.model_fields:
            environment.delenv(name.upper(), raising=False)
        settings = load_settings(
            crossfade_home=home,
            mlflow_tracking_uri=f"sqlite:///{home}/mlflow.db",
            router_url="http://127.0.0.1:9",
            router_max_batch_rows=5,
        )
    registry = Registry(settings.mlflow_tracking_uri, settings.reg_model_name)
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("served", f"file://{home}/mlruns"))
    frame = load_dataset(Settings()).frame
    features, target = frame.drop(columns="target"), frame["target"]
    models = {
        "A": LogisticRegression(max_iter=500).fit(features, target),
        "B": DecisionTreeClassifier(max_depth=1, random_state=0).fit(features, target),
    }
    for alias, model in zip(("prod", "staging"), models.values(), strict=True):
        with mlflow.start_run() as run:
            info = mlflow.sklearn.log_model(
                model,
                name="model",
                serialization_format="cloudpickle",
                pip_requirements=["scikit-learn"],
                signature=infer_signature(features, target),
                metadata={"classes": [0, 1, 2]},
            )
        registry.move(alias, registry.register(run.info.run_id, info.model_uri, {}).number, expected=None)
    app = create_app(settings, registry=registry, follow=False)
    return Served(app, settings, models, "IrisClassifier-v1-v2")


@pytest.fixture
def make_reloader(settings: Settings) -> Iterator[Callable[..., Reloader]]:
    """Make reloaders of that installation; their threads end with the test."""
    made: list[Reloader] = []

    def make(source: Source | Catalog, poll_seconds: float = 3600) -> Reloader:
        signal = settings.router_config.with_name(".reload")
        copies = ModelCache(settings.crossfade_home / f"copies-{len(made)}")
        catalog = source if isinstance(source, Catalog) else Catalog(source, "pipeline", copies)
        made.append(Reloader(catalog, settings.prod_alias, settings.staging_alias, signal, poll_seconds))
        return made[-1]

    yield make
    for reloader in made:
        reloader.stop()


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], bool]:
    """Wait until something holds, two minutes at most; tell whether it does."""

    def wait(holds: Callable[[], bool]) -> bool:
        deadline, tick = time.monotonic() + 120, threading.Event()
        while not holds():
            if time.monotonic() > deadline:
                return False
            tick.wait(0.01)
        return True

    return wait
