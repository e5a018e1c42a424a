"""What is measured of our own: the routers, the straightforward one, and servers that do nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import requests

from crossfade.settings import load_settings
from crossfade.stack.services import embedded_services, prepare, router_service
from servers.processes import Question, Server, free_ports
from servers.wrk import USER

APPS = Path(__file__).with_name("apps")
"""Folder of the applications that are written by hand."""

FEATURES = ("sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)")

Family = Literal["linear", "forest"]
ALGORITHMS: dict[Family, tuple[str, str]] = {"linear": ("lr", "lda"), "forest": ("rf", "rf")}
"""PyCaret's ids of the versions under `prod` and `staging`."""

Rows = Sequence[Sequence[float]]


def _one(rows: Rows) -> str:
    return json.dumps({"user_id": USER, "features": dict(zip(FEATURES, rows[0], strict=True))})


def _many(rows: Rows) -> str:
    return json.dumps({"user_id": USER, "features": [list(row) for row in rows]})


SINGLE = Question("/predict", _one, lambda answer: [int(answer["prediction"])])
BATCH = Question("/predict", _many, lambda answer: [int(label) for label in answer["predictions"]])


@dataclass(frozen=True)
class Ours:
    """One of our own servers, before it has a place and a port."""

    name: str
    what: str
    server: Literal["granian", "gunicorn"]
    family: Family | None
    """None: it has no model."""
    app: Literal["router", "straightforward", "constant"] = "router"
    batch: bool = False
    threads: int | None = None
    """None: as many as ROUTER_THREADS has by itself."""


OURS = (
    Ours("granian", "Crossfade, ROUTER_SERVER=granian, linear models", "granian", "linear", batch=True),
    Ours("granian-1-thread", "the same, ROUTER_THREADS=1", "granian", "linear", batch=True, threads=1),
    Ours("granian-forest", "Crossfade, ROUTER_SERVER=granian, random forests", "granian", "forest"),
    Ours("gunicorn", "Crossfade, ROUTER_SERVER=gunicorn, linear models", "gunicorn", "linear", batch=True),
    Ours("gunicorn-forest", "Crossfade, ROUTER_SERVER=gunicorn, random forests", "gunicorn", "forest"),
    Ours(
        "straightforward",
        "written by hand: Flask, sha256 split, mlflow.pyfunc, csv append; gunicorn sync x 2; the same linear models",
        "gunicorn",
        "linear",
        app="straightforward",
    ),
    Ours("constant-granian", "no work at all, granian as ours", "granian", None, app="constant"),
    Ours("constant-gunicorn", "no work at all, gunicorn as ours", "gunicorn", None, app="constant"),
)


def mlflow_server(home: Path) -> Server:
    """Return the MLflow server of an installation in a folder of its own, as `crossfade up` starts it."""
    (port,) = free_ports(1)
    settings = load_settings(crossfade_home=home, mlflow_port=port)
    prepare(settings)
    service = embedded_services(settings)[0]
    nothing = Question("/health", str, list)
    return Server("registry", "", service.command, service.environment, home, port, nothing)


def registry_is_up(server: Server) -> bool:
    """Tell whether MLflow answers."""
    return requests.get(server.url("/health"), timeout=5).ok


def run_models(home: Path, tracking_uri: str, name: str, *arguments: str) -> None:
    """Run servers/models.py in an installation."""
    given = {"CROSSFADE_HOME": str(home), "MLFLOW_TRACKING_URI": tracking_uri, "REG_MODEL_NAME": name}
    given |= {"ROUTER_URL": "http://127.0.0.1:9", "PYCARET_CUSTOM_LOGGING_PATH": os.devnull}  # discard: nobody is there
    script = str(Path(__file__).with_name("models.py"))
    with (home / f"{name}.out").open("wb") as said:
        ran = subprocess.run(
            [sys.executable, script, *arguments],
            check=False,
            env={**os.environ, **given},
            cwd=home,
            stdout=said,
            stderr=said,
        )
    if ran.returncode:
        raise SystemExit(f"error: {name} could not be trained:\n{(home / f'{name}.out').read_text()}")


def our_server(one: Ours, folder: Path, tracking_uri: str, **changes: Any) -> Server:
    """Give one of ours a folder and a port, and settings that differ from the defaults."""
    (port,) = free_ports(1)
    given: dict[str, Any] = {
        "crossfade_home": folder,
        "router_port": port,
        "router_server": one.server,
        "mlflow_tracking_uri": tracking_uri,
        "reg_model_name": one.family or "none",
        **changes,
    }
    if one.threads:
        given["router_threads"] = one.threads
    folder.mkdir(parents=True, exist_ok=True)
    settings = load_settings(**given)
    environment = {name.upper(): str(value) for name, value in given.items()}
    command: Sequence[str] = router_service(settings).command
    log = settings.request_log if isinstance(settings.request_log, Path) else None
    if one.app == "constant":
        command, log = _constant(command), None
        environment["PYTHONPATH"] = _with_apps()
    if one.app == "straightforward":
        command, log = _by_hand(port), folder / "requests.csv"
        environment |= {"PYTHONPATH": _with_apps(), "MODEL": str(one.family), "REQUEST_LOG": str(log)}
    return Server(
        one.name,
        one.what,
        command,
        environment,
        folder,
        port,
        SINGLE,
        batch=BATCH if one.batch else None,
        request_log=log,
        has_version=one.app == "router",
        is_constant=one.app == "constant",
    )


def _constant(command: Sequence[str]) -> list[str]:
    """Put the application that does nothing in the router's place, all else the same."""
    return [part.replace("app:create_app", "constant:create_app") for part in command]


def _by_hand(port: int) -> list[str]:
    gunicorn = str(Path(sys.executable).with_name("gunicorn"))
    options = ["--bind", f"127.0.0.1:{port}", "--workers", "2", "--timeout", "120"]
    return [sys.executable, gunicorn, "straightforward:app", *options]


def _with_apps() -> str:
    return os.pathsep.join(filter(None, [str(APPS), os.environ.get("PYTHONPATH", "")]))
