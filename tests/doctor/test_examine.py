"""The command as a whole: side by side, in time, changing nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from werkzeug.serving import make_server

from app import create_app
from crossfade.doctor.examine import Examined, examine
from crossfade.doctor.finding import Check, Finding, NotLooked, Site
from crossfade.registry import Registry
from crossfade.settings import Settings
from crossfade.version import Version


def _doctor(home: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from crossfade.cli import main; main()"
    command = [sys.executable, "-c", code, "doctor", *arguments]
    return subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=300, check=False)


def _tree(home: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in home.rglob("*")}


def test_nothing_is_wrong_with_an_installation_that_is_stopped(
    used: Settings, isolate: Callable[..., tuple[Settings, dict[str, str]]]
) -> None:
    """Exit code 0, nothing wrong, every check named with what it came to; and not a file was changed."""
    home = used.crossfade_home
    _, environment = isolate(home)
    before = _tree(home)
    done = _doctor(home, environment, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["ok"]
    states = {check["check"]: check["state"] for check in said["checks"]}
    assert {name for name, state in states.items() if state == "ok"} >= {
        "libraries", "packages", "disks", "rights", "locks", "drafts", "ports", "access", "log files", "rows",
    }  # fmt: skip
    assert _tree(home) == before


def test_people_get_a_table(used: Settings, isolate: Callable[..., tuple[Settings, dict[str, str]]]) -> None:
    """What is wrong is on the page with what to do, and the exit code is 1."""
    used.request_log.write_text("a,b\n")
    _, environment = isolate(used.crossfade_home, BIND_HOST="0.0.0.0", ROUTER_API_TOKEN="t", AIRFLOW_PASSWORD="p")
    shown = _doctor(used.crossfade_home, {**environment, "COLUMNS": "250"})
    assert shown.returncode == 1
    assert "set ROUTER_ADMIN_TOKEN" in shown.stdout
    assert "does not start with the columns" in shown.stdout
    assert "2 things are wrong" in shown.stdout


def test_bad_settings_are_findings(tmp_path: Path, isolate: Callable[..., tuple[Settings, dict[str, str]]]) -> None:
    """A setting that is not allowed is said like everything else."""
    _, environment = isolate(tmp_path)
    done = _doctor(tmp_path, {**environment, "PSI_THRESHOLD": "much"}, "--json")
    assert done.returncode == 1
    assert "PSI_THRESHOLD='much' is not allowed" in json.loads(done.stdout)["checks"][0]["findings"][0]["found"]


def test_a_check_that_fails_or_hangs_is_a_finding(used: Settings) -> None:
    """The others look all the same, and nobody waits for longer than the check may take."""
    forever = threading.Event()

    def fail(_: Site) -> list[Finding]:
        raise ZeroDivisionError("by zero")

    def hang(_: Site) -> list[Finding]:
        forever.wait(60)
        return []

    def skip(_: Site) -> list[Finding]:
        raise NotLooked("it is stopped")

    checks = [Check("a", "a", hang, 0.2), Check("b", "b", fail), Check("c", "c", lambda _: []), Check("d", "d", skip)]
    started = time.monotonic()
    examined = examine(checks, Site(used))
    assert time.monotonic() - started < 30
    forever.set()
    assert [one.state for one in examined] == ["findings", "findings", "ok", "not looked at"]
    assert examined[0].findings[0].found == "the check has not finished within 0.2 s"
    assert examined[1].findings[0].found == "the check failed: ZeroDivisionError: by zero"


def test_a_router_that_serves_other_versions(
    used: Settings, mlflow_server: Settings, register_served: Callable[..., Version], look: Callable[..., Examined]
) -> None:
    """A router that has not followed its aliases is found, whatever the reason; one that has is not."""
    name = "DoctorRouter"
    register_served(name, "prod")
    changed = {"mlflow_tracking_uri": mlflow_server.mlflow_tracking_uri, "reg_model_name": name}
    settings = used.model_copy(update={**changed, "router_poll_seconds": 0.1})
    app = create_app(settings, follow=False)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        settings = settings.model_copy(update={"router_url": f"http://127.0.0.1:{server.port}"})
        assert look("router", settings).state == "ok", look("router", settings)
        second = register_served(name, strength=0.1)
        Registry(settings.mlflow_tracking_uri, name).move("prod", second.number, expected="1")
        (finding,) = look("router", settings).findings
    finally:
        server.shutdown()
    assert finding.found == "it serves prod 1, staging none; the aliases say prod 2, staging none"
