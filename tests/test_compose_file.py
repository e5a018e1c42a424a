"""What the compose file says of its own: nothing is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from crossfade.settings import Settings

_FILE = Path(__file__).parents[1] / "infra" / "docker-compose.yml"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(_FILE.read_text())["services"]


def _running(profile: str) -> set[str]:
    return {name for name, service in SERVICES.items() if profile in service.get("profiles", [profile])}


def test_the_profile_replaces_what_it_does_not_keep() -> None:
    """Without a profile one router and one scheduler run, and nothing of the profile scale; with it two routers."""
    alone, scaled = _running(""), _running("scale")
    assert {"router", "airflow-scheduler", "dashboard"} == alone - scaled
    assert {"router-1", "router-2", "nginx", "redis", "airflow-worker-1", "airflow-worker-2"} <= scaled - alone


@pytest.mark.parametrize(("profile", "beginning"), [("", "/usr/src/app/logs/"), ("scale", "postgresql://")])
def test_all_who_use_the_log_use_the_same(profile: str, beginning: str) -> None:
    """Routers, those who run tasks, and the dashboard name one request log."""
    users = _running(profile) & {
        *("router", "airflow-scheduler", "dashboard"),
        *("router-1", "router-2", "airflow-worker-1", "airflow-worker-2", "dashboard-scale"),
    }
    (log,) = {SERVICES[name]["environment"]["REQUEST_LOG"] for name in users}
    assert log.startswith(beginning)


def test_the_proxys_limit_is_the_settings() -> None:
    """Compose cannot ask for a setting's default, so it repeats it."""
    default = Settings.model_fields["router_max_body_bytes"].default
    assert SERVICES["nginx"]["environment"]["ROUTER_MAX_BODY_BYTES"] == f"${{ROUTER_MAX_BODY_BYTES:-{default}}}"


def test_every_service_is_hardened() -> None:
    """All run without privileges on a read-only root, with a memory limit and, unless they end, a health check."""
    for name, service in SERVICES.items():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "mem_limit" in service, name
        assert name == "airflow-init" or "healthcheck" in service, name


def test_ports_are_published_on_the_loopback_only() -> None:
    """No service is open to the network."""
    assert all(port.startswith("127.0.0.1:") for service in SERVICES.values() for port in service.get("ports", []))
