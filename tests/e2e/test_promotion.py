"""Promotions killed, raced and meddled with: real processes, a real MLflow server, and a proxy between them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import mlflow
import pandas as pd
import psutil
import pytest
from mlflow import MlflowClient
from sklearn.tree import DecisionTreeClassifier

from crossfade.experiment import experiment_id
from crossfade.loop import promote
from crossfade.loop.audit import BEGUN, BY_OTHERS, LOOK, REFUSED, TAGGED, Event
from crossfade.loop.installation import Installation
from crossfade.loop.moves import DECIDED_BY, EVIDENCE_RUN, EXPERIMENT, number_at
from crossfade.loop.tracking import read_json
from crossfade.registry import connect
from crossfade.requestlog import LogRow, utc_now
from crossfade.schema import Feature, FeatureSchema
from crossfade.signature import signature_of
from crossfade.stack.services import PROJECT
from crossfade.version import STATUS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

EVALUATE = [str(PROJECT / "src" / "pipeline.py"), "evaluate"]
KILLED = -signal.SIGKILL

PROMOTION = [
    "previous = 1",
    f"{EXPERIMENT} of 2",
    f"{DECIDED_BY} of 2",
    f"{EVIDENCE_RUN} of 2",
    "prod = 2",
    f"{STATUS} of 1",
    f"{STATUS} of 2",
]
"""What a promotion writes to the registry, in this order."""

REJECTION = ["staging = none", f"{EXPERIMENT} of 2", f"{DECIDED_BY} of 2", f"{EVIDENCE_RUN} of 2", f"{STATUS} of 2"]

RUN_BEGINS = "POST runs/create"
"""Of an evaluation: it has its verdict, and nothing has moved."""

SCHEMA = FeatureSchema((Feature("size"),))
SIZES = pd.DataFrame({"size": [number / 200 for number in range(-200, 200)]})
TRUE, POOR = 0.0, 0.5
"""Sizes above which a row is of class 1: in truth, and as the poor model has it."""

When = Literal["before", "after"]
StepIn = Callable[[psutil.Process], object]
Move = tuple[str, str, str | None, str | None]
"""Event, alias, from, to."""


class Proxy(ThreadingHTTPServer):
    """Passes requests on to MLflow; a test may step in before one reaches it, and before its answer goes back."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(target).netloc
        self.written: list[str] = []
        """What MLflow was told to change in the registry, as `_write` names it."""
        self._step_in: dict[tuple[When, str], StepIn] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def step_in(self, when: When, asked: str, do: StepIn) -> None:
        """Do something, once, at a request; it is given the process that asks."""
        self._step_in[when, asked] = do

    def may_go_on(self, when: When, asked: str, port: int) -> bool:
        """Let the test step in, if it wants to; tell whether the process that asks, from a port, still lives."""
        do = self._step_in.pop((when, asked), None)
        if do is None:
            return True
        process = self._process_at(port)
        do(process)
        return _lives(process)

    def _process_at(self, port: int) -> psutil.Process:
        ends = (port, self.server_port)
        pids = [
            found.pid
            for found in psutil.net_connections("tcp4")
            if found.pid and found.laddr and found.raddr and (found.laddr.port, found.raddr.port) == ends
        ]
        assert len(pids) == 1
        return psutil.Process(pids[0])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer takes 40 ms
    server: Proxy

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        write = _write(self.command, self.path, body)
        asked, port = write or f"{self.command} {_endpoint(self.path)}", self.client_address[1]
        self.close_connection = True  # whoever was killed gets no answer
        if not self.server.may_go_on("before", asked, port):
            return
        with contextlib.closing(HTTPConnection(self.server.target, timeout=30)) as upstream:
            headers = {name: value for name, value in self.headers.items() if name not in ("Host", "Connection")}
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            content = answer.read()
        if write:
            self.server.written.append(write)
        if not self.server.may_go_on("after", asked, port):
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = False

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - http.server looks for these names

    def log_message(self, *args: Any) -> None:
        pass


def _endpoint(path: str) -> str:
    return urlsplit(path).path.partition("/mlflow/")[2]


def _write(method: str, path: str, body: bytes) -> str | None:
    """Name a change of the registry; None for any other request."""
    endpoint = _endpoint(path)
    if endpoint == "registered-models/alias" and method in ("POST", "DELETE"):
        told = json.loads(body)
        return f"{told['alias']} = {told.get('version', 'none')}"
    if endpoint == "model-versions/set-tag":
        told = json.loads(body)
        return f"{told['key']} of {told['version']}"
    return None


def _lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def kill(process: psutil.Process) -> None:
    """SIGKILL, and see it die."""
    process.kill()
    _wait_until(lambda: not _lives(process))


def _wait_until(holds: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


class Python:
    """The preloaded Python of killing.py."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("killing.py"))],
            env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, *command: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(command), file=self._process.stdin, flush=True)
        return int(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.communicate()


@dataclass(frozen=True)
class Ended:
    """A process that has ended."""

    code: int
    output: str


class Started:
    """A process that runs."""

    def __init__(self, python: Python, environment: dict[str, str], program: list[str], output: Path) -> None:
        self._python, self._output = python, output
        self._pid = python.ask("start", environment, program, str(output))

    def end(self) -> Ended:
        return Ended(self._python.ask("wait", self._pid), self._output.read_text())


@dataclass(frozen=True)
class Workshop:
    """What the tests share."""

    mlflow: str
    models: dict[float, tuple[str, str]]
    """Run and address of the model that puts rows above a size into class 1."""
    python: Python


@pytest.fixture(scope="module")
def workshop(stack: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """The stack's MLflow with two models in it, and a Python that waits."""
    uri = stack.settings.mlflow_tracking_uri
    python = Python(tmp_path_factory.mktemp("python"))
    try:
        yield Workshop(uri, _make_models(uri), python)
    finally:
        python.close()


def _make_models(uri: str) -> dict[float, tuple[str, str]]:
    connect(uri)

    def make(above: float) -> tuple[str, str]:
        with mlflow.start_run(experiment_id="0") as run:
            info = mlflow.sklearn.log_model(
                DecisionTreeClassifier().fit(SIZES, SIZES["size"] > above),
                name="model",
                serialization_format="cloudpickle",
                pip_requirements=["scikit-learn"],
                signature=signature_of(SCHEMA, text_labels=False),
                metadata={"classes": [0, 1]},
            )
        return run.info.run_id, info.model_uri

    return {above: make(above) for above in (TRUE, POOR)}


class World:
    """An installation with a registered model of its own: version 1 is prod, 2 its challenger."""

    def __init__(self, workshop: Workshop, home: Path, isolate: Any, a: float, b: float) -> None:
        name = f"Model-{uuid.uuid4().hex[:8]}"
        given = {"REG_MODEL_NAME": name, "MLFLOW_EXPERIMENT": name, "ROUTER_URL": "http://127.0.0.1:9"}
        settings, self._environment = isolate(home, **given, MLFLOW_TRACKING_URI=workshop.mlflow)
        self.here, self.name, self._workshop, self._started = Installation.of(settings), name, workshop, 0
        self.client = MlflowClient(workshop.mlflow, workshop.mlflow)
        self._above: dict[str, float] = {}
        promote.bootstrap(self.here.registry, self.here.aliases, self.here.registry.get(self.make(a)), self.here.audit)
        promote.stage(self.here.registry, self.here.aliases, self.make(b), self.here.audit)
        self._set_up = len(self.here.audit.read().events)
        self.log("1", "2")

    def make(self, above: float) -> str:
        """Register one of the two models as the next version."""
        if not self._above:
            self.client.create_registered_model(self.name)
        run, address = self._workshop.models[above]
        version = self.client.create_model_version(
            self.name, address, run, tags={STATUS: "candidate"}, model_id=address.removeprefix("models:/")
        )
        self._above[str(version.version)] = above
        return str(version.version)

    def log(self, a: str, b: str) -> None:
        """Log labelled answers of both arms of an experiment, each by what its version says."""
        rows = []
        for number, size in enumerate(SIZES["size"]):
            variant, version = ("A", a) if number % 2 else ("B", b)
            rows.append(
                LogRow(
                    ts_utc=utc_now(),
                    request_id=f"{a}-{b}-{number}",
                    user_id=f"user-{number}",
                    experiment_id=experiment_id(self.name, a, b),
                    variant=variant,
                    alias="",
                    model=self.name,
                    model_version=version,
                    ab_split_b=0.5,
                    features_json=json.dumps({"size": size}),
                    label=str(int(size > TRUE)),
                    prediction=str(int(size > self._above[version])),
                    probability=None,
                    latency_ms=1.0,
                    status=200,
                )
            )
        self.here.log.append(rows)

    def start(self, proxy: Proxy, program: list[str] = EVALUATE) -> Started:
        """Start a process whose MLflow is behind a proxy."""
        self._started += 1
        output = self.here.settings.crossfade_home / f"process-{self._started}.txt"
        return Started(self._workshop.python, self._environment | {"MLFLOW_TRACKING_URI": proxy.url}, program, output)

    def evaluate(self, proxy: Proxy) -> dict[str, Any]:
        """Let a run come to its end, and return its report."""
        ended = self.start(proxy).end()
        assert ended.code == 0, ended.output
        return self.report

    @property
    def report(self) -> dict[str, Any]:
        return dict(json.loads(self.here.settings.ab_eval_report.read_text()))

    def assert_decided_by(self, look: Event, number: str) -> None:
        """A version's tags name this evaluation, and MLflow keeps its whole report."""
        tags = self.here.registry.get(number).tags
        expected = {EXPERIMENT: look["experiment_id"], DECIDED_BY: "chi2", EVIDENCE_RUN: look["run_id"]}
        assert expected.items() <= tags.items()
        assert {"event": LOOK, **read_json(look["run_id"], "ab_eval.json")} == {**look}

    @property
    def aliases(self) -> tuple[str | None, str | None, str | None]:
        prod, staging, previous = (number_at(self.here.registry, alias) for alias in self.here.aliases.all())
        return prod, staging, previous

    @property
    def status(self) -> dict[str, str]:
        return {version.number: version.status for version in self.here.registry.versions()}

    def events(self, *kinds: str) -> list[Event]:
        """What the audit tells since the test began."""
        return [event for event in self.here.audit.read().events[self._set_up :] if event["event"] in kinds]

    def moves(self) -> list[Move]:
        """How every move of an alias ended, as the audit tells; what ended had begun, just before."""
        ended: list[Move] = []
        begun: Event | None = None
        for event in self.here.audit.read().events[self._set_up :]:
            if event["event"] in (LOOK, TAGGED):
                continue
            if event["event"] == BEGUN:
                assert begun is None
                begun = event
                continue
            if begun is None:
                assert event["event"] in (BY_OTHERS, REFUSED)
            else:
                assert all(event[name] == begun[name] for name in ("alias", "from", "to", "run_id"))
                begun = None
            ended.append((event["event"], event["alias"], event["from"], event["to"]))
        assert begun is None
        return ended


@pytest.fixture
def make_world(workshop: Workshop, tmp_path: Path, isolate: Any) -> Callable[[float, float], World]:
    """Make one, given what prod and what its challenger is."""
    return lambda a, b: World(workshop, tmp_path, isolate, a, b)


@pytest.fixture
def world(make_world: Callable[[float, float], World]) -> World:
    """B is the better one."""
    return make_world(POOR, TRUE)


@pytest.fixture
def proxy(workshop: Workshop) -> Iterator[Proxy]:
    """Between one process and MLflow."""
    with _listening(workshop) as proxy:
        yield proxy


@contextlib.contextmanager
def _listening(workshop: Workshop) -> Iterator[Proxy]:
    with Proxy(workshop.mlflow) as proxy:
        threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            yield proxy
        finally:
            proxy.shutdown()


PREVIOUS_MOVED, PROD_MOVED = ("moved", "previous", None, "1"), ("moved", "prod", "1", "2")
TAKEN_BACK = ("moved", "previous", "1", None)
PROMOTED = [PREVIOUS_MOVED, PROD_MOVED]


def test_a_promotion_writes_what_the_kills_below_stop(world: World, proxy: Proxy) -> None:
    """Undisturbed, a run writes to the registry what is listed, and moves `prod`: no step is left out below."""
    assert world.evaluate(proxy)["verdict"] == "promote"
    assert proxy.written == PROMOTION
    assert world.moves() == PROMOTED
    assert (world.aliases, world.status) == (("2", "2", "1"), {"1": "retired", "2": "prod"})


@pytest.mark.parametrize(
    ("when", "asked", "moves", "tagged"),
    [
        ("before", "previous = 1", [("not moved", "previous", None, "1"), *PROMOTED], []),
        ("after", "previous = 1", [("finished", "previous", None, "1"), TAKEN_BACK, *PROMOTED], []),
        ("before", f"{EXPERIMENT} of 2", [PREVIOUS_MOVED, TAKEN_BACK, *PROMOTED], []),
        ("before", f"{EVIDENCE_RUN} of 2", [PREVIOUS_MOVED, TAKEN_BACK, *PROMOTED], []),
        ("before", "prod = 2", [PREVIOUS_MOVED, ("not moved", "prod", "1", "2"), TAKEN_BACK, *PROMOTED], []),
        ("after", "prod = 2", [PREVIOUS_MOVED, ("finished", "prod", "1", "2")], ["1", "2"]),
        ("before", f"{STATUS} of 1", PROMOTED, ["1", "2"]),
        ("before", f"{STATUS} of 2", PROMOTED, ["2"]),
        ("after", f"{STATUS} of 2", PROMOTED, []),
    ],
)
def test_the_run_after_a_killed_promotion_ends_it(
    world: World, proxy: Proxy, when: When, asked: str, moves: list[Move], tagged: list[str]
) -> None:
    """SIGKILL at any write: `prod` is where it was or moved, and the next run brings all to where it belongs."""
    proxy.step_in(when, asked, kill)
    assert world.start(proxy).end().code == KILLED
    step = PROMOTION.index(asked)
    assert proxy.written == (PROMOTION[:step] if when == "before" else PROMOTION[: step + 1])
    moved = "prod = 2" in proxy.written
    assert world.aliases[0] == ("2" if moved else "1")

    assert world.evaluate(proxy)["verdict"] == ("keep" if moved else "promote")
    assert (world.aliases, world.status) == (("2", "2", "1"), {"1": "retired", "2": "prod"})
    killed, next_one = world.events(LOOK)
    assert killed["verdict"] == "promote"
    world.assert_decided_by(killed if moved else next_one, "2")
    assert world.moves() == moves
    assert [event["version"] for event in world.events(TAGGED)] == tagged


DROPPED = ("moved", "staging", "2", None)


@pytest.mark.parametrize(
    ("when", "asked", "moves", "tagged"),
    [
        ("before", "staging = none", [("not moved", "staging", "2", None), DROPPED], []),
        ("after", "staging = none", [("finished", "staging", "2", None)], ["2"]),
        ("before", f"{STATUS} of 2", [DROPPED], ["2"]),
        ("after", f"{STATUS} of 2", [DROPPED], []),
    ],
)
def test_the_run_after_a_killed_rejection_ends_it(
    make_world: Callable[[float, float], World],
    proxy: Proxy,
    when: When,
    asked: str,
    moves: list[Move],
    tagged: list[str],
) -> None:
    """SIGKILL at any write of a rejection: `prod` stays, and the next run has the challenger out, with the evidence."""
    world = make_world(TRUE, POOR)
    proxy.step_in(when, asked, kill)
    assert world.start(proxy).end().code == KILLED
    step = REJECTION.index(asked)
    assert proxy.written == (REJECTION[:step] if when == "before" else REJECTION[: step + 1])
    dropped = "staging = none" in proxy.written
    assert world.aliases == ("1", None if dropped else "2", None)

    assert world.evaluate(proxy)["verdict"] == ("keep" if dropped else "reject")
    assert (world.aliases, world.status) == (("1", None, None), {"1": "prod", "2": "rejected"})
    killed, next_one = world.events(LOOK)
    assert killed["verdict"] == "reject"
    world.assert_decided_by(killed if dropped else next_one, "2")
    assert world.moves() == moves
    assert [event["version"] for event in world.events(TAGGED)] == tagged


def test_a_task_that_is_repeated_after_a_kill_reports_the_promotion_it_made(world: World, proxy: Proxy) -> None:
    """Killed with `prod` moved, the same task of the same DAG run gives the report of then, and evaluates no more."""
    program = world.here.settings.crossfade_home / "task.py"
    program.write_text(
        "import json, pathlib, pipeline\n"
        "report = pipeline.evaluate_and_promote(trigger='scheduled__1')\n"
        "pathlib.Path('returned.json').write_text(json.dumps(report))\n"
    )
    returned = program.with_name("returned.json")
    proxy.step_in("after", "prod = 2", kill)
    assert world.start(proxy, [str(program)]).end().code == KILLED
    assert not returned.exists()
    repeated = world.start(proxy, [str(program)]).end()
    assert repeated.code == 0, repeated.output
    (look,) = world.events(LOOK)
    assert {"event": LOOK, **json.loads(returned.read_text())} == look
    assert look["verdict"] == "promote"
    world.assert_decided_by(look, "2")
    assert (world.aliases, world.status) == (("2", "2", "1"), {"1": "retired", "2": "prod"})


def test_two_runs_at_once_move_prod_once(world: World, workshop: Workshop) -> None:
    """Both saw the same and would promote: one does, the other is refused and leaves no trace, the next goes on."""
    both_have_a_verdict = threading.Barrier(2)
    with _listening(workshop) as one, _listening(workshop) as other:
        for proxy in (one, other):
            proxy.step_in("before", RUN_BEGINS, lambda _: both_have_a_verdict.wait(120))
        runs = [world.start(one), world.start(other)]
        done, refused = sorted((run.end() for run in runs), key=lambda ended: ended.code)
        assert (done.code, refused.code) == (0, 1)
        assert "error: alias prod points at version 2, not at 1 as seen before" in refused.output
        assert sorted([one.written, other.written]) == [[], PROMOTION]
        looks = {look["run_id"]: look for look in world.events(LOOK)}
        assert [look["verdict"] for look in looks.values()] == ["promote", "promote"]
        assert world.moves() == [*PROMOTED, (REFUSED, "prod", "1", "1")]
        (refusal,) = world.events(REFUSED)
        loser = looks.pop(refusal["run_id"])
        (winner,) = looks.values()
        states = [world.client.get_run(look["run_id"]).info.status for look in (winner, loser)]
        assert states == ["FINISHED", "FAILED"]

        assert world.evaluate(one)["verdict"] == "keep"
        world.assert_decided_by(winner, "2")
        assert (world.aliases, world.status) == (("2", "2", "1"), {"1": "retired", "2": "prod"})
        assert len(world.moves()) == 3


@pytest.mark.parametrize(
    ("asked", "alias", "new", "aliases", "moves"),
    [
        (RUN_BEGINS, "prod", POOR, ("3", "2", None), [(BY_OTHERS, "prod", "1", "3"), (REFUSED, "prod", "1", "1")]),
        ("previous = 1", "prod", POOR, ("3", "2", "1"), [PREVIOUS_MOVED, (REFUSED, "prod", "1", "2")]),
        (
            RUN_BEGINS,
            "staging",
            TRUE,
            ("1", "3", None),
            [(BY_OTHERS, "staging", "2", "3"), (REFUSED, "staging", "2", "2")],
        ),
    ],
)
def test_a_hand_in_between_wins(
    world: World,
    proxy: Proxy,
    asked: str,
    alias: str,
    new: float,
    aliases: tuple[str | None, ...],
    moves: list[Move],
) -> None:
    """An alias moved in MLflow between evaluation and move stays; the run says so, and the next tests what is there."""
    hand = world.make(new)
    proxy.step_in("before", asked, lambda _: world.client.set_registered_model_alias(world.name, alias, hand))
    stopped = world.start(proxy).end()
    seen = "1" if alias == "prod" else "2"
    assert stopped.code == 1
    assert f"error: alias {alias} points at version 3, not at {seen} as seen before" in stopped.output
    assert world.aliases == aliases
    assert world.moves() == moves
    (look,), (refusal,) = world.events(LOOK), world.events(REFUSED)
    assert (refusal["found"], refusal["run_id"]) == ("3", look["run_id"])
    assert world.client.get_run(look["run_id"]).info.status == "FAILED"

    a, b, _ = aliases
    world.log(str(a), str(b))
    assert world.evaluate(proxy)["verdict"] == "promote"
    assert world.aliases == (b, b, a)
    world.assert_decided_by(world.events(LOOK)[1], str(b))
    assert [(event["alias"], event["from"], event["to"]) for event in world.events(BY_OTHERS)] == [(alias, seen, hand)]
