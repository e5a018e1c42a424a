"""OpenTelemetry: real routers send their spans to a real receiver of OTLP over HTTP."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

trace_service_pb2 = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status  # noqa: E402 - after the look for the extra

from crossfade.settings import Settings  # noqa: E402
from crossfade.version import Version  # noqa: E402

ROW = [5.1, 3.5, 1.4, 0.2]

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """Keeps every span that it is sent, with what its resource says."""

    def __init__(self) -> None:
        spans = self.spans = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                sent = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
                for of_resource in sent.resource_spans:
                    for of_scope in of_resource.scope_spans:
                        spans.extend((span, _plain(of_resource.resource.attributes)) for span in of_scope.spans)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def named(self, name: str) -> list[tuple[Span, dict[str, Any]]]:
        """Return the spans of a name, with the resource's attributes."""
        return [(span, resource) for span, resource in list(self.spans) if span.name == name]

    def one(self, name: str) -> tuple[Span, dict[str, Any]]:
        """Wait for the one span of a name."""
        _until(lambda: self.named(name), name)
        (found,) = self.named(name)
        return found


def _plain(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


def _until(holds: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.02)


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector."""
    running = Collector()
    yield running
    running.close()


@pytest.fixture(scope="module")
def model(register_served: Callable[..., Version]) -> str:
    """Two versions of a model, of which the second serves everybody who is in B."""
    register_served("Traced", "prod")
    register_served("Traced", "staging", strength=0.1)
    return "Traced"


@pytest.fixture
def router(
    tmp_path: Path, isolate: Any, serve_router: Any, mlflow_server: Settings, model: str
) -> Callable[..., AbstractContextManager[str]]:
    """Serve, and tell spans to a collector; the log is in `router.log`."""

    @contextmanager
    def serve(endpoint: str, **given: str) -> Iterator[str]:
        wanted = {"MLFLOW_TRACKING_URI": mlflow_server.mlflow_tracking_uri, "REG_MODEL_NAME": model, "AB_SPLIT_B": "1"}
        settings, environment = isolate(tmp_path, **wanted, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, **given)
        with serve_router(settings, environment):
            yield f"http://127.0.0.1:{settings.router_port}"

    return serve


@pytest.mark.parametrize("server", ["gunicorn", "granian"])
def test_spans_of_requests_arrive(
    server: str, router: Callable[..., AbstractContextManager[str]], model: str, collector: Collector
) -> None:
    """By route, below the caller's trace, with the arm that answered; the last ones when the router ends."""
    given = {"ROUTER_SERVER": server, "OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_RESOURCE_ATTRIBUTES": "team=irises"}
    with router(collector.endpoint, **given) as url:
        asked = {"request_id": "order-1", "user_id": "user-7", "features": ROW}
        sent = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        assert requests.post(f"{url}/predict", json=asked, headers=sent, timeout=30).ok
        span, resource = collector.one("POST /predict")
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
        assert span.kind == Span.SPAN_KIND_SERVER
        assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 30e9
        assert _plain(span.attributes) == {
            "http.request.method": "POST",
            "http.route": "/predict",
            "http.response.status_code": 200,
            "url.path": "/predict",
            "url.scheme": "http",
            "server.address": "127.0.0.1",
            "server.port": int(url.rpartition(":")[2]),
            "crossfade.variant": "B",
            "crossfade.model": model,
            "crossfade.model_version": "2",
            "crossfade.experiment_id": f"{model}-v1-v2",
            "crossfade.request_id": "order-1",
            "crossfade.rows": 1,
        }
        assert (resource["service.name"], resource["team"]) == ("crossfade-router", "irises")

        assert requests.post(f"{url}/invocations", json={"instances": [ROW, ROW]}, timeout=30).ok
        span, _ = collector.one("POST /invocations")
        assert (_plain(span.attributes)["crossfade.rows"], span.parent_span_id) == (2, b"")
        requests.get(f"{url}/config", timeout=30)
        assert _plain(collector.one("GET /config")[0].attributes)["http.response.status_code"] == 200
        requests.post(f"{url}/reload", timeout=30)
        collector.one("POST /reload")
        requests.post(f"{url}/v2/models/{model}/infer", json={}, timeout=30)
        refused, _ = collector.one("POST /v2/models/<model>/infer")
        assert _plain(refused.attributes)["http.response.status_code"] in (400, 422)
        assert refused.status.code == Status.STATUS_CODE_UNSET  # the caller's fault
        requests.get(f"{url}/some/secret", timeout=30)
        assert "http.route" not in _plain(collector.one("GET")[0].attributes)

        for number in range(20):  # both workers
            assert requests.post(f"{url}/predict", json={**asked, "request_id": f"last-{number}"}, timeout=30).ok
    _until(lambda: len(collector.named("POST /predict")) == 21, "the last spans", 10)


@pytest.mark.parametrize("server", ["gunicorn", "granian"])
def test_a_dead_collector_delays_nobody(
    server: str, tmp_path: Path, router: Callable[..., AbstractContextManager[str]]
) -> None:
    """One that takes connections and never answers: requests are answered, the log says so once a worker."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as deaf:
        given = {
            "ROUTER_SERVER": server,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_BSP_MAX_QUEUE_SIZE": "16",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "300",  # who waited for it would wait longer than this test
        }
        endpoint = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with router(endpoint, **given) as url, requests.Session() as client:
            began = time.monotonic()
            for _ in range(100):
                assert client.post(f"{url}/predict", json={"features": ROW}, timeout=60).ok
            ended = time.monotonic()
        stopped = time.monotonic()
    assert ended - began < 60
    assert stopped - ended < 25  # gunicorn and Granian kill after 10 s
    assert "Queue full" not in (tmp_path / "router.log").read_text()


def test_an_unreachable_collector_is_told_once(
    tmp_path: Path, router: Callable[..., AbstractContextManager[str]]
) -> None:
    """A line per worker, whatever the SDK says at every try."""
    with socket.create_server(("127.0.0.1", 0)) as port:
        endpoint = f"http://127.0.0.1:{port.getsockname()[1]}"
    given = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    log = tmp_path / "router.log"
    with router(endpoint, **given) as url:

        def told() -> int:
            requests.post(f"{url}/predict", json={"features": ROW}, timeout=30)
            return log.read_text().count("takes no spans")

        _until(lambda: told() == 2, "both workers say that the collector is not there")
        began = time.monotonic()
        while time.monotonic() < began + 3:  # some tries more
            told()
    lines = log.read_text()
    assert lines.count("takes no spans") == 2
    assert "Transient error" not in lines


def _python(code: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "CROSSFADE_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9", **environment}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=given, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)


def test_without_a_collector_nothing_is_imported(tmp_path: Path) -> None:
    """Off, tracing costs nothing."""
    code = """
import sys
from app import create_app
create_app(follow=False).test_client().post("/predict", json={"features": [1]})
print([name for name in sys.modules if name.startswith("opentelemetry") or name.endswith("tracing")])
"""
    done = _python(code, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="")
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_a_collector_without_the_extra_is_one_line(tmp_path: Path) -> None:
    """It says what to install."""
    code = "import sys; sys.modules['opentelemetry'] = None; from app import create_app; create_app(follow=False)"
    done = _python(code, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1
    assert "install crossfade[otel], or unset it" in done.stderr
    assert "Traceback" not in done.stderr
