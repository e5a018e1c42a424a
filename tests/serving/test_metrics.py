"""`GET /metrics`: what is counted, once each, over all workers of either server, also when one is killed."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app import create_app
from crossfade.errors import LogUnavailable
from crossfade.memorylog import MemoryRequestLog
from crossfade.registry import Registry, Version
from crossfade.serving.metrics import METRICS
from crossfade.settings import Settings
from crossfade.stack.services import router_service

ROW = [5.1, 3.5, 1.4, 0.2]
Sample = tuple[str, frozenset[tuple[str, str]]]


def _read(text: str) -> dict[Sample, float]:
    """Read metrics as Prometheus' own Python client does."""
    families = list(text_string_to_metric_families(text))
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def _value(metrics: dict[Sample, float], name: str, **labels: str) -> float:
    return metrics.get((f"crossfade_{name}", frozenset(labels.items())), 0.0)


@dataclass
class Counter:
    """Tells how a number of an app grew."""

    served: Any

    def __post_init__(self) -> None:
        self.before = self.now()

    def now(self) -> dict[Sample, float]:
        return _read(self.served.client.get("/metrics").text)

    def grown(self, name: str, **labels: str) -> float:
        return _value(self.now(), name, **labels) - _value(self.before, name, **labels)


@pytest.fixture
def counter(served: Any) -> Counter:
    return Counter(served)


PROTOCOLS: dict[str, tuple[str, Callable[[list[list[float]], str], dict[str, Any]]]] = {
    "predict": ("/predict", lambda rows, user: {"features": rows, "user_id": user}),
    "invocations": ("/invocations", lambda rows, user: {"instances": rows, "params": {"user_id": user}}),
    "infer": (
        "/v2/models/IrisClassifier/infer",
        lambda rows, user: {
            "inputs": [
                {"name": "x", "shape": [len(rows), 4], "datatype": "FP64", "data": [x for row in rows for x in row]}
            ],
            "parameters": {"user_id": user},
        },
    ),
}


@pytest.mark.parametrize(("path", "body"), PROTOCOLS.values(), ids=PROTOCOLS.keys())
@pytest.mark.parametrize(("variant", "version"), [("A", "1"), ("B", "2")])
def test_an_answer_is_counted_once(
    served: Any, counter: Counter, path: str, body: Callable[[list[list[float]], str], Any], variant: str, version: str
) -> None:
    """A request of three rows is one request, three predictions and one duration, under its arm and version."""
    assert served.client.post(path, json=body([ROW] * 3, served.user_on(variant))).status_code == 200
    arm = {"variant": variant, "model_version": version}
    assert counter.grown("requests_total", **arm, status="200") == 1
    assert counter.grown("predictions_total", **arm) == 3
    assert counter.grown("request_seconds_count", variant=variant) == 1
    assert counter.grown("request_seconds_bucket", variant=variant, le="+Inf") == 1
    assert 0 < counter.grown("request_seconds_sum", variant=variant) < 5


def test_a_request_that_flask_answers_is_counted_once(served: Any, counter: Counter) -> None:
    """/predict without a length goes past the hot path, and counts the same."""
    served.client.post(
        "/predict",
        data=json.dumps({"features": ROW, "user_id": served.user_on("A")}),
        content_type="application/json",
        environ_overrides={"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"},
    )
    assert counter.grown("requests_total", variant="A", model_version="1", status="200") == 1


@pytest.mark.parametrize(
    ("path", "data", "kind", "status"),
    [
        ("/predict", b"{", "application/json", "400"),
        ("/predict", b'{"features": [1]}', "application/json", "422"),
        ("/predict", b"x", "text/plain", "415"),
        ("/invocations", b"{}", "application/json", "400"),
        ("/invocations", b"x", "text/plain", "415"),
        ("/v2/models/IrisClassifier/infer", b'{"inputs": []}', "application/json", "400"),
        ("/v2/models/Other/infer", b'{"inputs": []}', "application/json", "404"),
    ],
)
def test_a_refusal_is_counted_once(
    served: Any, counter: Counter, path: str, data: bytes, kind: str, status: str
) -> None:
    """What was refused before an arm was chosen counts under its status, and under no arm."""
    assert served.client.post(path, data=data, content_type=kind).status_code == int(status)
    assert counter.grown("requests_total", variant="", model_version="", status=status) == 1


def test_other_calls_are_no_requests(served: Any, counter: Counter) -> None:
    """Neither health checks, nor scrapes, nor a path that there is not, count as requests."""
    for path in ("/health", "/metrics", "/nothing", "/predict"):
        served.client.get(path)
    assert sum(value for (name, _), value in counter.now().items() if name.endswith("requests_total")) == sum(
        value for (name, _), value in counter.before.items() if name.endswith("requests_total")
    )


def test_labels_are_counted(served: Any, counter: Counter) -> None:
    """Each label that /feedback took counts."""
    served.client.post("/feedback", json=[{"request_id": "x", "label": 1}, {"request_id": "y", "label": 1}])
    served.client.post("/feedback", json={"request_id": "z"})
    assert counter.grown("labels_total") == 2


def test_the_state_is_shown(served: Any) -> None:
    """Split, versions that serve, when they were registered, when the registry was seen, and the workers."""
    told = Counter(served).before
    model = {"model": "IrisClassifier", "runtime": "pipeline"}
    assert _value(told, "ab_split_b") == 0.5
    assert _value(told, "model_info", **model, variant="A", alias="prod", model_version="1") == 1
    assert _value(told, "model_info", **model, variant="B", alias="staging", model_version="2") == 1
    assert _value(told, "workers") == 1
    registered = _value(told, "model_registered_seconds", variant="A", model_version="1")
    assert 1.7e9 < registered <= _value(told, "registry_seen_seconds")


def test_every_metric_is_declared_with_its_kind(served: Any) -> None:
    """Prometheus' own parser finds every metric, with its type and its meaning."""
    found = {family.name: family for family in text_string_to_metric_families(served.client.get("/metrics").text)}
    for metric in METRICS:
        family = found[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.meaning)


def test_every_metric_is_documented() -> None:
    """docs/api.md lists what /metrics tells, with its labels and kinds, and nothing else."""
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    told = re.findall(r"^\| `(crossfade_\w+)(?:\{(.*?)\})?` \| (\w+) \|", text, re.MULTILINE)
    assert told == [(metric.name, ", ".join(metric.labels), metric.kind) for metric in METRICS]


def test_a_model_that_fails_counts_under_its_arm(
    settings: Settings, registry: Registry, register: Callable[..., Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 500 names the version that failed, by whichever protocol it was asked."""
    register("prod")
    app = create_app(settings, registry=registry, follow=False)
    model = app.extensions["crossfade"].reloader.current.prod.loaded.model
    monkeypatch.setattr(type(model), "predict", lambda self, rows: 1 / 0)
    client = app.test_client()
    for path, body in PROTOCOLS.values():
        assert client.post(path, json=body([ROW], "u")).status_code == 500
    told = _read(client.get("/metrics").text)
    assert _value(told, "requests_total", variant="A", model_version="1", status="500") == 3


class FullDisk(MemoryRequestLog):
    """Takes nothing."""

    def append(self, rows: Any) -> None:
        raise LogUnavailable("the disk is full")

    def append_labels(self, labels: Any) -> None:
        raise LogUnavailable("the disk is full")


def test_log_failures_are_counted(settings: Settings, registry: Registry, register: Callable[..., Version]) -> None:
    """Rows and labels that could not be logged count, by every protocol; a row that answers anyway is lost."""
    register("prod")
    app = create_app(settings, registry=registry, log=FullDisk(), follow=False)
    client = app.test_client()
    for path, body in PROTOCOLS.values():
        assert client.post(path, json=body([ROW], "u")).status_code == 503
    assert client.post("/feedback", json={"request_id": "x", "label": 1}).status_code == 503
    told = _read(client.get("/metrics").text)
    assert (_value(told, "log_failures_total"), _value(told, "labels_total")) == (4, 0)
    app.extensions["crossfade"].metrics.lost(7, LogUnavailable("the disk is full"))
    assert _value(_read(client.get("/metrics").text), "log_rows_lost_total") == 7


def test_reload_failures_and_swaps_show(
    settings: Settings, registry: Registry, register: Callable[..., Version]
) -> None:
    """A look that finds no prod is a failure; after a promotion the new version is the one that serves."""
    client = create_app(settings, registry=registry, follow=False).test_client()
    assert _value(_read(client.get("/metrics").text), "reload_failures_total") == 1
    for number in ("1", "2"):
        register("prod")
        client.post("/reload")
        told = _read(client.get("/metrics").text)
        serving = {dict(labels)["model_version"] for name, labels in told if name == "crossfade_model_info"}
        assert serving == {number}


def test_label_values_are_escaped(served: Any) -> None:
    """A model's name may hold quotes and backslashes."""
    metrics = served.app.extensions["crossfade"].metrics
    nasty = 'a"b\\c\nd'
    metrics._tally.add(1, "crossfade_predictions_total", nasty, "1")
    assert _value(Counter(served).before, "predictions_total", variant=nasty, model_version="1") == 1


WORKER = """
import json
from pathlib import Path
from app import create_app
from crossfade.errors import ModelUnusable
from crossfade.model import Predictions
from crossfade.schema import FeatureSchema
from crossfade.version import LoadedModel, Version

class Model:
    schema, tier, classes = FeatureSchema.of_numbers("a"), "plain", (0, 1)
    def predict(self, rows):
        return Predictions([0] * len(rows), [None] * len(rows))

class OneVersion:
    name = "IrisClassifier"
    def at(self, alias):
        return Version("1", "run", {}) if alias == "prod" else None
    def fetch_compiled(self, version, folder):
        raise ModelUnusable("it has no compiled form")
    def load_trained(self, version, folder):
        return LoadedModel(version, Model(), "digest")

def create():
    return create_app(registry=OneVersion())
"""


@dataclass
class Running:
    """A router that runs under a real server with two workers."""

    process: subprocess.Popen[bytes]
    port: int

    def call(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json", "Connection": "close"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def send(self, requests: int) -> None:
        with ThreadPoolExecutor(8) as pool:
            answers = pool.map(lambda i: self.call("POST", "/predict", {"features": [i]})[0], range(requests))
            assert set(answers) == {200}

    def counted(self) -> list[float]:
        """Ask often enough that either worker answers."""
        totals = [_read(self.call("GET", "/metrics")[1]) for _ in range(10)]
        return [_value(told, "requests_total", variant="A", model_version="1", status="200") for told in totals]

    def workers(self) -> set[int]:
        """Ask who answers, often enough to meet either; a worker that is being killed resets its connections."""
        found = set()
        for _ in range(40):
            with contextlib.suppress(OSError, http.client.HTTPException):
                found.add(json.loads(self.call("GET", "/health")[1])["worker"])
        return found

    def answers(self) -> bool:
        try:
            return self.call("GET", "/ready")[0] == 200
        except (OSError, http.client.HTTPException):
            return False


@pytest.fixture(params=["gunicorn", "granian"])
def running(
    request: pytest.FixtureRequest, tmp_path: Path, isolate: Any, eventually: Callable[[Callable[[], bool]], bool]
) -> Iterator[Running]:
    """Run the command of `crossfade serve` on a registry of its own."""
    settings, environment = isolate(tmp_path, ROUTER_SERVER=request.param, ROUTER_WORKERS="2")
    (tmp_path / "worker.py").write_text(WORKER)
    command = [part.replace("app:create_app", "worker:create") for part in router_service(settings).command]
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    with (tmp_path / "out.txt").open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": path},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    router = Running(process, settings.router_port)
    try:
        assert eventually(router.answers), (tmp_path / "out.txt").read_text()
        yield router
    finally:
        started = psutil.Process(process.pid).children(recursive=True)
        process.kill()  # first, for it starts the server again
        process.wait()
        for child in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(started)


def test_two_workers_count_every_request_once(
    running: Running, eventually: Callable[[Callable[[], bool]], bool]
) -> None:
    """Either worker tells the sum over both, also after one was killed and another took its place."""
    assert eventually(lambda: len(running.workers()) == 2)
    running.send(100)
    assert set(running.counted()) == {100}
    killed = min(running.workers())
    os.kill(killed, signal.SIGKILL)
    assert eventually(lambda: len(running.workers() - {killed}) == 2)
    running.send(100)
    assert set(running.counted()) == {200}
    assert "crossfade_workers 2" in running.call("GET", "/metrics")[1]
