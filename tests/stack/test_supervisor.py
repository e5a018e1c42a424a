"""The supervisor, on real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

_SERVER = """
import os, pathlib, signal, subprocess, sys, time
with open("starts", "a") as file:
    file.write(f"{os.getpid()}\\n")
if sys.argv[1] == "with a stubborn worker":
    worker = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(0, flush=True); time.sleep(99)"
    child = subprocess.Popen([sys.executable, "-c", worker], stdout=subprocess.PIPE)
    child.stdout.readline()
    with open("workers", "a") as file:
        file.write(f"{child.pid}\\n")
if sys.argv[1] == "misconfigured":
    sys.exit("error: no such port")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
pathlib.Path("ready").touch()
time.sleep(99)
"""

Supervise = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Supervise]:
    """Run a server of a kind under a supervisor, in a folder of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(kind: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "crossfade.stack.supervisor", sys.executable, "-c", _SERVER, kind]
        started.append(subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=120)
    assert not [pid for pid in _numbers(tmp_path / "starts") + _numbers(tmp_path / "workers") if psutil.pid_exists(pid)]


def _numbers(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def _until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def test_a_killed_server_is_started_again(supervise: Supervise, tmp_path: Path) -> None:
    """Within a second, as often as it is killed, even right after its start."""
    supervise("plain")
    for times in (1, 2, 3):
        _until(lambda: (tmp_path / "ready").exists())
        (tmp_path / "ready").unlink()
        starts = _numbers(tmp_path / "starts")
        assert len(starts) == times
        os.kill(starts[-1], signal.SIGKILL)
    _until(lambda: len(_numbers(tmp_path / "starts")) == 4)


def test_what_a_killed_server_left_is_ended(supervise: Supervise, tmp_path: Path) -> None:
    """A worker that outlives its master, and ignores SIGTERM, is gone before the next server starts."""
    supervise("with a stubborn worker")
    _until(lambda: (tmp_path / "ready").exists())
    os.kill(_numbers(tmp_path / "starts")[0], signal.SIGKILL)
    _until(lambda: len(_numbers(tmp_path / "starts")) == 2)
    assert not psutil.pid_exists(_numbers(tmp_path / "workers")[0])


def test_a_server_that_cannot_start_is_left_alone(supervise: Supervise, tmp_path: Path) -> None:
    """A bad setting ends both, with the server's own words and code."""
    process = supervise("misconfigured")
    assert process.wait(timeout=120) == 1
    assert process.stderr is not None
    assert process.stderr.read() == "error: no such port\n"
    assert len(_numbers(tmp_path / "starts")) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_asks_for_the_end_gets_it(supervise: Supervise, tmp_path: Path, number: int) -> None:
    """The server ends in its own way, and is not started again."""
    process = supervise("plain")
    _until(lambda: (tmp_path / "ready").exists())
    process.send_signal(number)
    assert process.wait(timeout=120) == 0
    assert len(_numbers(tmp_path / "starts")) == 1
