"""How the workers of a gunicorn share connections out: real workers, which say who answered."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossfade.serving.siblings import ABLE_SECONDS, Place, Siblings

SECONDS = 60.0
"""For what takes one: the machine may be busy."""

APP = """
import os

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""


class Client:
    """Connections that are kept, and opened anew when they were cut."""

    def __init__(self, port: int, connections: int) -> None:
        self._connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS) for _ in range(connections)]

    def workers(self) -> Counter[int]:
        """Ask once on each connection; count who answered by process id."""
        return Counter(self._ask(connection) for connection in self._connections)

    def until_shared(self) -> Counter[int]:
        """Ask until no worker has more than three quarters, or the time is up."""
        deadline = time.monotonic() + SECONDS
        while max((found := self.workers()).values()) > 0.75 * len(self._connections) and time.monotonic() < deadline:
            pass
        return found

    def close(self) -> None:
        """Let go of all."""
        for connection in self._connections:
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> int:
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                connection.request("GET", "/")
                return int(connection.getresponse().read())
            except (OSError, http.client.HTTPException):  # not listening yet, or its worker died
                connection.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """Ask a gunicorn of two workers over 32 connections."""
    (tmp_path / "whoami.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "whoami:app", "--bind", f"127.0.0.1:{port}", "--workers", "2"]
    command += ["--worker-class", "crossfade.serving.gunicornworker.PatientWorker", "--threads", "2"]
    command += ["--keep-alive", "600", "--graceful-timeout", "1", "--no-control-socket"]
    with (tmp_path / "out").open("wb") as out:
        server = subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=out)
    asking = Client(port, 32)
    try:
        yield asking
    finally:
        asking.close()
        server.terminate()
        server.wait(SECONDS)


def test_workers_hold_equal_shares_also_after_one_died(client: Client) -> None:
    """Whoever was up first: no worker keeps more than 3/4 of the connections, nor of those of one that was killed."""
    before = client.until_shared()
    assert max(before.values()) <= 24, before
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    after = client.until_shared()
    assert max(after.values()) <= 24, after
    assert victim not in after


@pytest.fixture
def places() -> tuple[Place, Place]:
    """Two places, of which the second is still empty."""
    siblings = Siblings(2)
    return Place(siblings, 0), Place(siblings, 1)


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection."""
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


def test_a_connection_goes_through_a_mailbox(
    places: tuple[Place, Place], connection: tuple[socket.socket, socket.socket]
) -> None:
    """What lies there counts as its owner's; the bytes that came meanwhile are still to be read."""
    mine, other = places
    other.tell(3)
    assert mine.lightest() == (1, 3)
    near, far = connection
    far.sendall(b"hello")
    assert mine.pass_on(near, 1, kept=True)
    assert mine.lightest() == (1, 4)
    ((taken, kept),) = other.take()
    with taken:
        assert (taken.recv(10), kept) == (b"hello", True)
    assert mine.lightest() == (1, 3)


@pytest.mark.parametrize("end", ["dead", "stuck", "gone"])
def test_what_lies_in_the_mailbox_of_a_worker_that_cannot_is_taken_over(
    places: tuple[Place, Place],
    connection: tuple[socket.socket, socket.socket],
    end: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker that was killed, that gives no sign of life, or that ended: it gets nothing, and keeps nothing."""
    mine, other = places
    other.tell(0)
    assert mine.pass_on(connection[0], 1, kept=False)
    assert not list(mine.take_orphans())
    if end == "dead":
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        with monkeypatch.context() as patched:
            patched.setattr(os, "getpid", lambda: process.pid)
            other.tell(0)
    elif end == "stuck":
        now = time.monotonic() + ABLE_SECONDS + 1
        monkeypatch.setattr(time, "monotonic", lambda: now)
    else:
        other.leave()
    assert mine.lightest() is None
    ((taken, kept),) = mine.take_orphans()
    taken.close()
    assert not kept
