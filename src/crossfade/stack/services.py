"""What runs on one machine: MLflow, Airflow, the router and the dashboard, each with its command and health check."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from crossfade.logformat import server_config
from crossfade.settings import Settings

PROJECT = Path(__file__).resolve().parents[3]
"""Root of the checkout: the folder of `dags/`."""


@dataclass(frozen=True)
class Service:
    """One service."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    """Added to the environment of `crossfade up`."""
    url: str
    """Where people find it."""
    host: str
    port: int
    port_setting: str
    """Setting to change when the port is taken."""
    log_folder: Path
    """What it prints is kept there, in `<name>_<day>.log`."""
    log_days: int
    """Days that such a file is kept; 0: for ever."""
    is_healthy: Callable[[], bool]


def embedded_services(settings: Settings) -> list[Service]:
    """Return the services in the order in which they start."""
    return [_mlflow(settings), _airflow(settings), router_service(settings), dashboard_service(settings)]


def prepare(settings: Settings) -> None:
    """Make the folders and files that the services need."""
    for folder in (settings.service_log_folder, settings.var / "mlflow", settings.var / "airflow"):
        folder.mkdir(parents=True, exist_ok=True)
    passwords = _passwords(settings)
    passwords.touch(mode=0o600)
    passwords.write_text(json.dumps({settings.airflow_user: settings.airflow_password.get_secret_value()}))


def _mlflow(settings: Settings) -> Service:
    state = settings.var / "mlflow"
    command = (
        *_python("mlflow", "server"),
        *("--backend-store-uri", f"sqlite:///{state / 'mlflow.db'}"),
        *("--artifacts-destination", str(state / "artifacts")),
        *("--host", settings.bind_host, "--port", str(settings.mlflow_port), "--workers", "1"),
    )
    environment = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # halves its memory; nothing here submits jobs
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    url = f"http://{settings.reachable_host}:{settings.mlflow_port}"
    return _service(
        settings, "mlflow", command, environment, url, settings.mlflow_port, lambda: _answers(f"{url}/health")
    )


def _airflow(settings: Settings) -> Service:
    url = f"http://{settings.reachable_host}:{settings.airflow_port}"
    environment = {
        "AIRFLOW_HOME": str(settings.var / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        # Named, so that an Airflow that the shell is set up for is never touched.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{settings.var / 'airflow' / 'airflow.db'}",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",  # each slot is a resident process
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{settings.airflow_user}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(_passwords(settings)),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__API__HOST": settings.bind_host,
        "AIRFLOW__API__PORT": str(settings.airflow_port),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # The pipeline's own tools, python among them, come first for whatever a task starts.
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
    }
    command = _python("airflow", "standalone")
    return _service(settings, "airflow", command, environment, url, settings.airflow_port, lambda: _airflow_works(url))


def router_service(settings: Settings) -> Service:
    """Return the router under ROUTER_SERVER, started again whenever its server is killed."""
    server = _granian(settings) if settings.router_server == "granian" else _gunicorn(settings)
    command = (sys.executable, "-m", "crossfade.stack.supervisor", f"--log-format={settings.log_format}", *server)
    url = f"http://{settings.reachable_host}:{settings.router_port}"
    return _service(settings, "router", command, {}, url, settings.router_port, lambda: _answers(f"{url}/health"))


def dashboard_service(settings: Settings) -> Service:
    """Return the dashboard."""
    command = (
        *_python("gunicorn", "crossfade.dashboard.app:create_app()"),
        *("--bind", f"{settings.bind_host}:{settings.dashboard_port}", "--worker-class", "gthread"),
        *("--workers", "1", "--threads", "8"),  # one: what it knows is kept in memory
        *("--timeout", "120", "--graceful-timeout", "5", "--no-control-socket"),
        *("--log-config-json", str(server_config(settings.log_format))),
    )
    url = f"http://{settings.reachable_host}:{settings.dashboard_port}"
    return _service(settings, "dashboard", command, {}, url, settings.dashboard_port, lambda: _answers(f"{url}/health"))


def _gunicorn(settings: Settings) -> tuple[str, ...]:
    return (
        *_python("gunicorn", "app:create_app()"),
        *("--bind", f"{settings.bind_host}:{settings.router_port}"),
        *("--worker-class", "crossfade.serving.gunicornworker.PatientWorker"),
        *("--workers", str(settings.router_workers), "--threads", str(settings.router_threads)),
        *("--timeout", "120", "--graceful-timeout", "10", "--no-control-socket"),
        *("--log-config-json", str(server_config(settings.log_format))),
    )


def _granian(settings: Settings) -> tuple[str, ...]:
    return (
        *_python("granian", "app:create_app", "--factory", "--interface", "wsgi"),
        *("--host", settings.bind_host, "--port", str(settings.router_port), "--http", "1", "--no-ws"),
        *("--workers", str(settings.router_workers), "--blocking-threads", str(settings.router_threads)),
        *("--respawn-failed-workers", "--respawn-interval", "0.2", "--workers-kill-timeout", "10"),
        *("--log-config", str(server_config(settings.log_format))),
    )


def _service(
    settings: Settings,
    name: str,
    command: tuple[str, ...],
    environment: Mapping[str, str],
    url: str,
    port: int,
    is_healthy: Callable[[], bool],
) -> Service:
    return Service(
        name=name,
        command=command,
        environment=environment,
        url=url,
        host=settings.bind_host,
        port=port,
        port_setting=f"{name.upper()}_PORT",
        log_folder=settings.service_log_folder,
        log_days=settings.service_log_days,
        is_healthy=is_healthy,
    )


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    """Run a module's console script with this very interpreter."""
    return (sys.executable, str(Path(sys.executable).with_name(module)), *arguments)


def _passwords(settings: Settings) -> Path:
    return settings.var / "airflow" / "passwords.json"


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False


def _airflow_works(url: str) -> bool:
    """Whether every part that a DAG run needs has a fresh heartbeat."""
    try:
        health: dict[str, Any] = requests.get(f"{url}/api/v2/monitor/health", timeout=5).json()
    except requests.RequestException:
        return False
    return all(
        health.get(part, {}).get("status") == "healthy" for part in ("metadatabase", "scheduler", "dag_processor")
    )
