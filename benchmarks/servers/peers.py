"""Other servers, each with a plain scikit-learn model, no split and no log, in an environment of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from servers.ours import APPS, Rows
from servers.processes import Question, Server, free_ports

# The model's file is made by these very versions.
_MODEL_PACKAGES = tuple(f"{name}=={version(name)}" for name in ("scikit-learn", "numpy", "scipy", "joblib"))


@dataclass(frozen=True)
class Peer:
    """A server to be faster than."""

    name: str
    what: str
    packages: tuple[str, ...]
    """What is installed, beside scikit-learn."""
    command: Callable[[Path, Path, int], list[str]]
    """From the environment's `bin`, the folder to run in, and the port."""
    single: Question
    batch: Question | None = None
    contends: bool = True
    """Whether it is among those of which the best counts: FastAPI is a framework, and what is written in it varies."""


def _features(rows: Rows) -> str:
    return json.dumps({"features": list(rows[0])})


def _dataframe_split(rows: Rows) -> str:
    """Write rows in the form in which MLflow reads a model without a signature fastest; `inputs` takes longer."""
    return json.dumps({"dataframe_split": {"columns": list("abcd"), "data": [list(row) for row in rows]}})


def _v2(rows: Rows) -> str:
    data = [value for row in rows for value in row]
    return json.dumps({"inputs": [{"name": "predict", "shape": [len(rows), 4], "datatype": "FP64", "data": data}]})


def _mlflow(programs: Path, folder: Path, port: int) -> list[str]:
    served = ["models", "serve", "--model-uri", str(folder / "model"), "--env-manager", "local"]
    return [str(programs / "mlflow"), *served, "--host", "127.0.0.1", "--port", str(port), "--workers", "2"]


def _mlserver(programs: Path, folder: Path, port: int) -> list[str]:
    """Write MLServer's two files of settings, and start it on them."""
    grpc, metrics = free_ports(2)
    # No parallel workers: with one or two it answered less than half as much.
    ports = {"http_port": port, "grpc_port": grpc, "metrics_port": metrics}
    own = folder / "mlserver"
    own.mkdir(exist_ok=True)
    settings = {"host": "127.0.0.1", **ports, "parallel_workers": 0, "debug": False}
    model = {
        "name": "iris",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": str(folder / "model.joblib")},
    }
    (own / "settings.json").write_text(json.dumps(settings))
    (own / "model-settings.json").write_text(json.dumps(model))
    return [str(programs / "mlserver"), "start", str(own)]


def _litserve(programs: Path, _folder: Path, port: int) -> list[str]:
    return [str(programs / "python"), str(APPS / "peer_litserve.py"), str(port)]


def _bentoml(programs: Path, _folder: Path, port: int) -> list[str]:
    served = ["serve", "peer_bentoml:Iris", "--working-dir", str(APPS)]
    return [str(programs / "bentoml"), *served, "--host", "127.0.0.1", "--port", str(port)]


def _fastapi(programs: Path, _folder: Path, port: int) -> list[str]:
    served = ["peer_fastapi:app", "--app-dir", str(APPS), "--workers", "2", "--no-access-log"]
    return [str(programs / "uvicorn"), *served, "--host", "127.0.0.1", "--port", str(port)]


def _prediction(answer: Any) -> list[int]:
    return [int(answer["prediction"])]


_INVOCATIONS = Question(
    "/invocations", _dataframe_split, lambda answer: [int(label) for label in answer["predictions"]]
)

PEERS = (
    Peer(
        "mlflow",
        "`mlflow models serve`, env-manager local, 2 workers, no signature to check, `dataframe_split`",
        ("mlflow==3.17.2", "pandas==2.1.4"),
        _mlflow,
        _INVOCATIONS,
        _INVOCATIONS,
    ),
    Peer(
        "mlserver",
        "MLServer with mlserver-sklearn, parallel_workers 0: one process",
        # Its workers ask uvloop for an event loop that later releases no longer make by themselves.
        ("mlserver==1.7.1", "mlserver-sklearn==1.7.1", "uvloop==0.21.0"),
        _mlserver,
        Question("/v2/models/iris/infer", _v2, lambda answer: [int(label) for label in answer["outputs"][0]["data"]]),
    ),
    Peer(
        "litserve",
        "LitServe, 2 workers, 1 API server",
        ("litserve==0.2.19",),
        _litserve,
        Question("/predict", _features, _prediction),
    ),
    Peer(
        "bentoml",
        "BentoML, 2 workers, `async def`",
        ("bentoml==1.4.39",),
        _bentoml,
        Question("/predict", _features, lambda answer: [int(answer)]),
    ),
    Peer(
        "fastapi",
        "written by hand: FastAPI, uvicorn with uvloop and httptools, 2 workers, `async def`",
        ("fastapi==0.165.0", "uvicorn[standard]==0.54.0"),
        _fastapi,
        Question("/predict", _features, _prediction),
        contends=False,
    ),
)


class NotInstalled(Exception):
    """A peer's environment could not be made; the message says why in a line."""


def install(peer: Peer, environments: Path) -> Path:
    """Make a peer's environment, unless it is there; return the folder of its programs.

    Raises
    ------
    NotInstalled
        uv is missing, or could not install it.
    """
    folder, packages = environments / peer.name, [*_MODEL_PACKAGES, *peer.packages]
    installed, wanted = folder / "installed.txt", "\n".join(packages)
    if installed.is_file() and installed.read_text() == wanted:
        return folder / "bin"
    uv = shutil.which("uv")
    if uv is None:
        raise NotInstalled("uv is not there: pip install uv")
    environments.mkdir(parents=True, exist_ok=True)
    _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
    _run([uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), *packages])
    installed.write_text(wanted)
    return folder / "bin"


def _run(command: Sequence[str]) -> None:
    ran = subprocess.run(command, check=False, text=True, capture_output=True, timeout=900)
    if ran.returncode:
        lines = ran.stderr.strip().splitlines() or ["it said nothing"]
        raise NotInstalled(" ".join(line.strip() for line in lines)[:300])


def peer_server(peer: Peer, programs: Path, folder: Path) -> Server:
    """Give a peer a port; `folder` has the model's files."""
    (port,) = free_ports(1)
    environment = {
        "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
        "MODEL": str(folder / "model.joblib"),
        "BENTOML_DO_NOT_TRACK": "True",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = peer.command(programs, folder, port)
    return Server(peer.name, peer.what, command, environment, folder, port, peer.single, peer.batch)
