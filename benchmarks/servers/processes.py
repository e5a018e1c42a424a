"""Servers as processes: started once, asleep while others are measured, and what they take of the memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests

from crossfade.settings import Settings

START_SECONDS = 180


@dataclass(frozen=True)
class Question:
    """How a server is asked, and how its answer is read."""

    path: str
    body: Callable[[Sequence[Sequence[float]]], str]
    """From rows to what is sent."""
    labels: Callable[[Any], list[int]]
    """From what came back, parsed, to a label per row."""


@dataclass(frozen=True)
class Server:
    """One row of the table."""

    name: str
    what: str
    """What answers, in a line."""
    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    """It runs there, and writes its output to a file there."""
    port: int
    single: Question
    batch: Question | None = None
    """None: it is not asked for batches."""
    request_log: Path | None = None
    """Where it writes a row per answer."""
    has_version: bool = False
    """Whether GET /version says how its models are evaluated."""
    is_constant: bool = False
    """Whether its answer does not depend on the question."""

    def url(self, path: str) -> str:
        """Return an address on it."""
        return f"http://127.0.0.1:{self.port}{path}"


class StartFailed(Exception):
    """A server ended, or did not answer, while it was started; the message says why in a line."""


@dataclass
class Memory:
    """Of a server's processes, in MB: proportional set size, as if no other program used the same libraries."""

    root: float
    """The process that was started."""
    others: list[float]
    """Those below it, largest first; a server's workers are among them."""

    @property
    def total(self) -> float:
        """All of them."""
        return self.root + sum(self.others)

    @property
    def two_workers(self) -> float:
        """The two largest below the root."""
        return sum(self.others[:2])


@dataclass
class Process:
    """A server that runs."""

    server: Server
    popen: subprocess.Popen[bytes]
    seconds: float = 0.0
    """How long it took to start."""
    memory: Memory = field(default_factory=lambda: Memory(0.0, []))

    @property
    def output(self) -> Path:
        """What it said."""
        return self.server.folder / f"{self.server.name}.out"

    def tree(self) -> list[psutil.Process]:
        """Return its processes, the root first."""
        root = psutil.Process(self.popen.pid)
        return [root, *root.children(recursive=True)]

    def pause(self) -> None:
        """Have it cost nothing while others are measured: routers ask the registry, event loops tick."""
        for process in self.tree():
            process.suspend()

    def resume(self) -> None:
        """Wake it, the workers first: their master looks how long ago they last gave a sign of life."""
        tree = self.tree()
        masters = [process for process in tree if process.children()]
        for process in tree:
            if process not in masters:
                process.resume()
        time.sleep(0.3)
        for process in masters:
            process.resume()

    def weigh(self) -> Memory:
        """Keep what its processes take, and return it."""
        root, *others = _closed_pss(self.tree())
        self.memory = Memory(root, sorted(others, reverse=True))
        return self.memory


def prepare_to_measure() -> None:
    """Forget the installation that the shell is set up for, and see to it that servers are stopped with this program.

    Raises SystemExit where wrk is not installed.
    """
    if shutil.which("wrk") is None:
        sys.exit("error: wrk is not there: apt-get install wrk")
    for name in Settings.model_fields:
        os.environ.pop(name.upper(), None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(s.getsockname()[1]) for s in sockets]
    finally:
        for s in sockets:
            s.close()


@contextlib.contextmanager
def running(server: Server, is_right: Callable[[Server], bool]) -> Iterator[Process]:
    """Start a server, wait until it answers rightly, and stop all of it at the end.

    Raises
    ------
    StartFailed
        It ended, or gave no right answer in time.
    """
    server.folder.mkdir(parents=True, exist_ok=True)
    output, started = server.folder / f"{server.name}.out", time.monotonic()
    with output.open("wb") as said:
        popen = subprocess.Popen(
            server.command,
            cwd=server.folder,
            env={**os.environ, **server.environment},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    process = Process(server, popen)
    try:
        while not _answers(server, is_right):
            if popen.poll() is not None:
                raise StartFailed(f"it ended while starting: {_last_line(output)}")
            if time.monotonic() - started > START_SECONDS:
                raise StartFailed(f"no right answer within {START_SECONDS} s: {_last_line(output)}")
            time.sleep(0.3)
        process.seconds = time.monotonic() - started
        yield process
    finally:
        _stop(process)


def _answers(server: Server, is_right: Callable[[Server], bool]) -> bool:
    try:
        return is_right(server)
    except (requests.RequestException, ValueError, LookupError, TypeError):
        return False  # it is not listening yet, or says that it is not ready


def _last_line(output: Path) -> str:
    lines = [line.strip() for line in output.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"


def _stop(process: Process) -> None:
    """Ask all of its processes to end, and end those that do not."""
    tree: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        tree = process.tree()
        process.resume()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.popen.pid, signal.SIGTERM)
    _, left = psutil.wait_procs(tree, timeout=15)
    for each in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    with contextlib.suppress(ProcessLookupError):  # what was orphaned before it was seen
        os.killpg(process.popen.pid, signal.SIGKILL)
    process.popen.wait()


def _closed_pss(tree: Sequence[psutil.Process]) -> list[float]:
    """Return each process's memory in MB; pages of a library are shared out among these processes only.

    The system's own proportional set size shares a library's pages out among all that have it loaded. With several
    servers of one environment up, each would look smaller than it is alone.
    """
    maps = [process.memory_maps(grouped=False) for process in tree]
    users = Counter(path for found in maps for path in {m.path for m in found})
    return [sum(_share(m, users) for m in found) / 2**20 for found in maps]


def _share(found: Any, users: Counter[str]) -> float:
    if not found.path.startswith("/"):  # heap and stack: shared by nobody but forks of the same server
        return float(found.pss)
    private = found.private_clean + found.private_dirty
    return float(private + (found.rss - private) / users[found.path])
