"""An MLflow server asked without MLflow's client: on a real server, beside that client."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from crossfade.compiled.model import DESCRIPTION
from crossfade.errors import ModelUnusable, RegistryUnavailable
from crossfade.mlflowserver import MlflowServer
from crossfade.modelcache import ModelCache
from crossfade.registry import Registry
from crossfade.serving.catalog import Catalog, open_source
from crossfade.settings import Settings
from crossfade.version import Version

NAME = "Compiled"
ROW = [5.1, 3.5, 1.4, 0.2]


@dataclass(frozen=True)
class Running:
    """A server with two versions: 1 (prod) has a compiled form, 2 (staging) has none."""

    uri: str
    prod: Version
    staging: Version

    @property
    def server(self) -> MlflowServer:
        return MlflowServer(self.uri, NAME)

    @property
    def registry(self) -> Registry:
        return Registry(self.uri, NAME)


@pytest.fixture(scope="module")
def running(mlflow_server: Settings, register_served: Callable[..., Version]) -> Running:
    """The server with both versions."""
    prod = register_served(NAME, "prod")
    staging = register_served(NAME, "staging", compiled=False)
    found = Running(mlflow_server.mlflow_tracking_uri, prod, staging)
    found.registry.tag(prod.number, {"crossfade.status": "prod"})
    return found


def test_an_alias_is_what_mlflows_client_says(running: Running) -> None:
    """Number, run, tags and time of a version are the same either way."""
    found = running.server.at("prod")
    assert found == running.registry.at("prod")
    assert found is not None
    assert (found.number, found.status, found.tags["team"]) == (running.prod.number, "prod", "irises")


def test_what_is_not_there_is_none(running: Running) -> None:
    """No such alias, no such model."""
    assert running.server.at("previous") is None
    assert MlflowServer(running.uri, "Nobody").at("prod") is None


def test_the_compiled_form_is_fetched(running: Running, tmp_path: Path) -> None:
    """Its files are those that the client fetches; a version that has none is said to."""
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    mine.mkdir()
    copy = running.server.fetch_compiled(running.prod, mine)
    other = running.registry.fetch_compiled(running.prod, theirs)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == {
        path.name: path.read_bytes() for path in other.iterdir()
    }
    assert json.loads((copy / DESCRIPTION).read_text())["tier"] == "plain"
    for source in (running.server, running.registry):
        with pytest.raises(ModelUnusable, match="no compiled form"):
            source.fetch_compiled(running.staging, tmp_path)


def test_without_a_compiled_form_the_pipeline_is_loaded(running: Running, tmp_path: Path) -> None:
    """A version that was not compiled is served as it was trained."""
    catalog = Catalog(open_source(running.uri, NAME), "auto", ModelCache(tmp_path))
    tiers = [catalog.load(version).model.tier for version in (running.prod, running.staging)]
    assert tiers == ["plain", "pipeline"]


_ROUTER = """
import sys
from app import create_app
client = create_app(follow=False).test_client()
answer = client.post("/predict", json={"features": [5.1, 3.5, 1.4, 0.2]})
heavy = {"airflow", "mlflow", "pandas", "pyarrow", "pycaret", "scipy", "sklearn", "sqlalchemy"}
print(answer.status_code, answer.json["prediction"], sorted(heavy & set(sys.modules)))
"""


def test_a_router_of_compiled_models_takes_no_training_library_along(
    running: Running, tmp_path: Path, isolate: Any
) -> None:
    """With `onnx` nothing is unpickled, so that MLflow, pandas and PyCaret stay out; staging is left out."""
    given = {"MODEL_RUNTIME": "onnx", "MLFLOW_TRACKING_URI": running.uri, "REG_MODEL_NAME": NAME}
    _, environment = isolate(tmp_path, **given)
    done = subprocess.run(
        [sys.executable, "-c", _ROUTER], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    *logged, said = done.stdout.splitlines() or [done.stderr]
    assert said == "200 0 []"
    assert any("MODEL_RUNTIME=onnx serves nothing else" in line for line in logged)


def test_a_server_that_does_not_answer_is_named_without_its_login(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says where nobody answered and what to do."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryUnavailable, match=r"127\.0\.0\.1:9 does not answer; start it") as refused:
        MlflowServer("http://bob:s3cret@127.0.0.1:9", NAME).at("prod")
    assert "s3cret" not in str(refused.value)


class _Asked(BaseHTTPRequestHandler):
    """Something else that listens on MLflow's port: it remembers who asked, and answers what is no registry's."""

    logins: list[str | None] = []  # noqa: RUF012 - shared by the handlers of a request each
    status = 200

    def do_GET(self) -> None:
        self.logins.append(self.headers.get("Authorization"))
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    def log_message(self, *message: object) -> None: ...


@pytest.fixture
def somebody_else() -> Iterator[str]:
    """Address of it."""
    with HTTPServer(("127.0.0.1", 0), _Asked) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        _Asked.logins.clear()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("status", [200, 404, 500])
def test_an_answer_that_is_no_registrys_is_unavailable(
    somebody_else: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page where JSON should be is never taken for `no such alias`."""
    monkeypatch.setattr(_Asked, "status", status)
    with pytest.raises(RegistryUnavailable, match="failed"):
        MlflowServer(somebody_else, NAME).at("prod")


@pytest.mark.parametrize(
    ("environment", "header"),
    [
        ({}, None),
        ({"MLFLOW_TRACKING_USERNAME": "bob", "MLFLOW_TRACKING_PASSWORD": "x"}, "Basic Ym9iOng="),
        ({"MLFLOW_TRACKING_TOKEN": "abc"}, "Bearer abc"),
    ],
)
def test_the_login_is_sent_as_mlflows_client_does(
    somebody_else: str, environment: dict[str, str], header: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Name and password, or a token, from MLflow's own variables."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RegistryUnavailable):
        MlflowServer(somebody_else, NAME).at("prod")
    assert _Asked.logins == [header]


def test_a_login_that_only_mlflow_knows_is_left_to_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in for authentication, and a database, are asked by MLflow's own client."""
    assert isinstance(open_source("http://127.0.0.1:9", NAME), MlflowServer)
    monkeypatch.setenv("MLFLOW_TRACKING_AUTH", "some-plugin")
    assert isinstance(open_source("http://127.0.0.1:9", NAME), Registry)
