"""Log lines: what stands in them, and that no text from outside makes a line of its own."""

from __future__ import annotations

import contextlib
import json
import logging
import logging.config
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from app import create_app
from crossfade.logformat import JsonLines, TextLines, server_config
from crossfade.registry import Registry
from crossfade.stack.services import router_service

FORGED = "2026-11-21 09:30:00.123Z [1] INFO crossfade.router: all is well"
HOSTILE = [
    f"a\n{FORGED}",
    f"a\r\n{FORGED}",
    f"a\v\f\x1c\x1d\x1e\x85\u2028\u2029{FORGED}",
    "\x1b[2J\x1b]0;title\x07\x9b31m\b\b\b\x00",
    "\u202etxet desrever\u200b\ufeff",
    "lone surrogate \udcff and \ud800",
    '", "level": "CRITICAL", "x": "\\',
    "\U0001f600 é ß 漢字",
]
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z \[\d+\] [A-Z]+ [\w.]+: .*")
LATER = re.compile(r"    .*")


def _record(message: str, *args: object, error: Exception | None = None, **extra: object) -> logging.LogRecord:
    exc_info = (type(error), error, error.__traceback__) if error else None
    logger = logging.getLogger("crossfade.router")
    return logger.makeRecord(logger.name, logging.WARNING, "x.py", 1, message, args, exc_info, extra=dict(extra))


def _raised(text: str) -> Exception:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


def test_a_text_line_reads_from_left_to_right() -> None:
    """Time in UTC, process, level, logger, message."""
    record = _record("version %s failed", 7)
    record.created, record.process = 1_795_262_400.125, 4711
    shown = TextLines().format(record)
    assert shown == "2026-11-21 12:00:00.125Z [4711] WARNING crossfade.router: version 7 failed"


def test_a_json_line_holds_the_same() -> None:
    """Under names, with the request's id where the caller gave one."""
    record = _record("version %s failed", 7, request_id="order-1")
    record.created, record.process = 1_795_262_400.125, 4711
    assert json.loads(JsonLines().format(record)) == {
        "time": "2026-11-21T12:00:00.125Z",
        "level": "WARNING",
        "logger": "crossfade.router",
        "process": 4711,
        "message": "version 7 failed",
        "request_id": "order-1",
    }
    assert "request_id" not in json.loads(JsonLines().format(_record("x")))


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_forges_no_text_line(hostile: str) -> None:
    """In a message it is escaped on the one line; in an error's text it is on lines that are indented."""
    (line,) = TextLines().format(_record("got %s", hostile)).splitlines()
    assert line.isprintable()
    assert LINE.fullmatch(line)
    first, *rest = TextLines().format(_record("failed", error=_raised(hostile))).splitlines()
    assert LINE.fullmatch(first)
    assert rest
    for line in rest:
        assert line.isprintable()
        assert LATER.fullmatch(line)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_forges_no_json_line(hostile: str) -> None:
    """It arrives as it was, in the field where it belongs, on one line of plain ASCII."""
    line = JsonLines().format(_record("%s", hostile, error=_raised(hostile), request_id=hostile))
    assert line.isascii()
    assert line.isprintable()
    told = json.loads(line)
    assert (told["message"], told["request_id"], told["level"]) == (hostile, hostile, "WARNING")
    assert told["exception"].endswith(f"ValueError: {hostile}")


def test_ordinary_letters_stay() -> None:
    """What a person can read is not escaped in text."""
    assert TextLines().format(_record("é ß 漢字 →")).endswith(": é ß 漢字 →")


def test_a_prediction_that_fails_names_its_request(
    settings: Any,
    registry: Registry,
    register: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In a field of its own, so that a line is found by the id that the caller was told."""
    register("prod")
    app = create_app(settings, registry=registry, follow=False)
    model = app.extensions["crossfade"].reloader.current.prod.loaded.model
    monkeypatch.setattr(type(model), "predict", lambda self, rows: 1 / 0)
    body = {"features": [5.1, 3.5, 1.4, 0.2], "request_id": "order-1"}
    assert app.test_client().post("/predict", json=body).status_code == 500
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    told = json.loads(JsonLines().format(record))
    assert told["request_id"] == "order-1"
    assert "ZeroDivisionError" in told["exception"]


def _until(holds: Callable[[], bool], output: Path) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.02)


@contextlib.contextmanager
def _router(home: Path, isolate: Any, **environment: str) -> Iterator[tuple[psutil.Process, Path]]:
    """Run the command of `crossfade serve` without any model."""
    settings, env = isolate(home, ROUTER_WORKERS="1", MLFLOW_TRACKING_URI="http://127.0.0.1:9", **environment)
    out, err = home / "stdout", home / "stderr"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            router_service(settings).command,
            cwd=home,
            env={**env, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )

    def answers() -> bool:
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"http://127.0.0.1:{settings.router_port}/health", timeout=60).ok
        return False

    try:
        _until(answers, err)
        yield psutil.Process(process.pid), out
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
    assert err.read_text() == ""


@pytest.mark.parametrize(("form", "lines"), [("text", TextLines), ("json", JsonLines)])
def test_servers_are_told_the_same_format(form: Any, lines: type[logging.Formatter]) -> None:
    """The files for gunicorn and Granian name our own formats."""
    told = json.loads(server_config(form).read_text())
    formatter = logging.config.DictConfigurator(told).configure_formatter(told["formatters"]["lines"])
    assert type(formatter) is lines


@pytest.mark.parametrize("server", ["gunicorn", "granian"])
def test_every_line_of_a_router_is_in_the_format(server: str, tmp_path: Path, isolate: Any) -> None:
    """The server's, the router's and the supervisor's, all on standard output, from the first to the last."""
    with _router(tmp_path, isolate, ROUTER_SERVER=server, LOG_FORMAT="json") as (supervisor, out):
        before = supervisor.children()[0]
        before.kill()  # so that the supervisor has something to say
        _until(lambda: "started again" in out.read_text(), out)
        _until(lambda: [p.pid for p in supervisor.children()] not in ([], [before.pid]), out)
    loggers = {json.loads(line)["logger"] for line in out.read_text().splitlines()}
    servers = {"gunicorn": "gunicorn.error", "granian": "_granian"}
    assert loggers >= {"crossfade.router", "crossfade.supervisor", servers[server]}
