"""One thread of a worker leads: threads beside a WSGI app that waits when it is told to, and real Granian workers."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from tests.load import ROW, Load

from crossfade.serving.leader import Leader
from crossfade.settings import Settings
from crossfade.version import Version

PREDICT = {"PATH_INFO": "/predict", "SERVER_SOFTWARE": "Granian"}
HEAD = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


class Threads:
    """A leader over an app that answers `/wait` when it may, and threads that ask it as Granian's do."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()
        self.leader = Leader(self._answer)
        self.pool = ThreadPoolExecutor(8)

    def ask(self, **environ: Any) -> bool:
        """Answer a request in this thread, and end it as a server does; tell whether this thread stood by."""
        answer = self.leader({**PREDICT, **environ}, lambda *_: lambda _: None)
        assert b"".join(answer) == b"answer"
        close = getattr(answer, "close", None)
        if close:
            close()
        return close is not None

    def keep_busy(self, stop: threading.Event) -> Future[None]:
        """Have a thread that leads answer one request after another."""
        begun = threading.Event()

        def lead() -> None:
            while not stop.is_set():
                assert not self.ask()
                begun.set()
                time.sleep(0.001)

        leading = self.pool.submit(lead)
        assert begun.wait(60)
        return leading

    def _answer(self, environ: dict[str, Any], _start: Any) -> list[bytes]:
        if "waits" in environ:
            assert self.may_go_on.wait(60)
        return [b"answer"]


@pytest.fixture
def threads() -> Iterator[Threads]:
    """Threads; none is left waiting."""
    found = Threads()
    yield found
    found.may_go_on.set()
    found.pool.shutdown()


def test_who_meets_a_leader_stands_by_until_it_is_quiet(threads: Threads) -> None:
    """The second thread answers what it has, and comes back when there is no leader at work any more."""
    quiet = threading.Event()
    leading = threads.keep_busy(quiet)
    other = threads.pool.submit(threads.ask)
    time.sleep(0.3)
    assert not other.done()
    quiet.set()
    assert other.result(60)
    leading.result(60)
    assert not threads.ask()  # nobody leads, so this thread may


def test_a_leader_that_waits_is_followed(threads: Threads) -> None:
    """A thread that is held in its request silences nobody: another one leads at once."""
    quiet = threading.Event()
    leading = threads.keep_busy(quiet)
    other = threads.pool.submit(threads.ask)
    quiet.set()
    leading.result(60)
    held = threads.pool.submit(threads.ask, waits=True)
    assert other.result(60)
    while held.running() and threads.ask():
        pass
    assert not held.done()
    threads.may_go_on.set()
    held.result(60)


@pytest.mark.parametrize("environ", [{"PATH_INFO": "/metrics"}, {"SERVER_SOFTWARE": "gunicorn/23.0.0"}])
def test_nobody_stands_by_after_anything_else(threads: Threads, environ: dict[str, str]) -> None:
    """Other paths run beside the leader, and so does everything on other servers."""
    quiet = threading.Event()
    leading = threads.keep_busy(quiet)
    assert not threads.pool.submit(lambda: threads.ask(**environ)).result(60)
    quiet.set()
    leading.result(60)


def test_a_leader_that_turns_to_something_else_calls_another(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who stands by comes back when the leader resigns, and not only when it has been quiet."""
    monkeypatch.setattr("crossfade.serving.leader._PATIENCE_SECONDS", 600)
    assert not threads.ask()  # this thread leads
    other = threads.pool.submit(threads.ask)
    time.sleep(0.3)
    assert not other.done()
    assert not threads.ask(PATH_INFO="/metrics")
    assert other.result(60)


@pytest.fixture(scope="module")
def worker(
    tmp_path_factory: pytest.TempPathFactory,
    isolate: Any,
    serve_router: Any,
    mlflow_server: Settings,
    register_served: Callable[..., Version],
) -> Iterator[Settings]:
    """One Granian worker of four threads."""
    register_served("Led", "prod")
    home = tmp_path_factory.mktemp("led")
    given = {"MLFLOW_TRACKING_URI": mlflow_server.mlflow_tracking_uri, "REG_MODEL_NAME": "Led"}
    settings, environment = isolate(home, ROUTER_SERVER="granian", ROUTER_WORKERS="1", ROUTER_THREADS="4", **given)
    with serve_router(settings, environment):
        yield settings


def _begin(settings: Settings, request: str) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", settings.router_port), timeout=60)
    client.sendall(request.encode())
    return client


def test_three_of_four_threads_may_be_held(worker: Settings) -> None:
    """Under load three clients stop in the middle of a body, each in turn in the thread that leads; the rest go on."""
    with Load(worker.router_port) as load:
        load.next_answer(after=time.monotonic())
        held = []
        for _ in range(3):
            held.append(_begin(worker, f"{HEAD}Content-Length: 34\r\n\r\n{{"))
            time.sleep(0.5)
            load.next_answer(after=time.monotonic())
        for client in held:
            client.close()
        load.next_answer(after=time.monotonic())
    assert load.refused == {}
    assert load.longest_silence() < 5


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_client_that_waits_for_the_end_of_the_connection_has_it(worker: Settings, version: str) -> None:
    """Whoever is answered by a thread that stands by afterwards does not wait for that thread."""
    body = json.dumps({"features": ROW})
    head = HEAD.replace("1.1", version) + f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    with Load(worker.router_port) as load:
        load.next_answer(after=time.monotonic())
        for _ in range(20):
            with closing(_begin(worker, head + body)) as client:
                started = time.monotonic()
                answer = b"".join(iter(lambda: client.recv(65536), b""))
                assert time.monotonic() - started < 5
            assert answer.startswith(b"HTTP/1."), answer
            assert b'"prediction":' in answer
            time.sleep(0.03)
    assert load.refused == {}
