"""Start and stop services so that nothing is left behind.

There are no pid files to go stale: every process of a service carries two marks in its environment, inherited by its
children, and is found by them in the process table. Airflow and MLflow start children that outlive them; the marks
find those too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from crossfade.errors import ServiceError
from crossfade.stack.services import Service

_SERVICE, _HOME = "CROSSFADE_SERVICE", "CROSSFADE_HOME"


@dataclass(frozen=True)
class State:
    """A service as it is now."""

    service: Service
    processes: int
    healthy: bool
    memory_mb: float
    """Proportional set size of all its processes: shared pages are counted once."""


def state_of(service: Service, home: Path) -> State:
    """Look at a service."""
    found = find(service, home)
    return State(service, len(found), bool(found) and service.is_healthy(), sum(map(_memory_mb, found)))


def start(service: Service, home: Path) -> bool:
    """Start a service unless it runs and is healthy; tell whether it had to be started.

    Raises
    ------
    ServiceError
        Its port is taken by somebody else.
    """
    found = find(service, home)
    if any(p.pid in _groups(found) for p in found) and service.is_healthy():
        return False
    stop(service, home)  # what is left of it, if anything
    if is_taken(service.host, service.port):
        raise ServiceError(
            f"port {service.port} for {service.name} is taken by {_owner(service.port)}: "
            f"stop it, or set {service.port_setting} to a free port"
        )
    marks = {
        _SERVICE: service.name,
        _HOME: str(home),
        "SPT_NOENV": "1",
    }  # SPT_NOENV: a new title must not hide the marks
    with service.log.open("ab") as log:
        subprocess.Popen(
            service.command,
            cwd=home,
            env={**os.environ, **service.environment, **marks},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return True


def wait_until_healthy(service: Service, home: Path, seconds: float, progress: Callable[[float], None]) -> float:
    """Wait for a service that was started; return how long it took, in seconds.

    Raises
    ------
    ServiceError
        It ended, or was not healthy in time; the message ends with its last log lines.
    """
    started = time.monotonic()
    while not service.is_healthy():
        waited = time.monotonic() - started
        progress(waited)
        if not find(service, home):
            raise ServiceError(f"{service.name} ended while starting.{_last_lines(service.log)}")
        if waited > seconds:
            raise ServiceError(f"{service.name} is not healthy after {seconds:.0f} s.{_last_lines(service.log)}")
        time.sleep(0.5)
    return time.monotonic() - started


def stop(service: Service, home: Path, grace_seconds: float = 25) -> int:
    """Stop every process of a service, by force after the grace period; return how many there were."""
    found = find(service, home)
    for group in _groups(found):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while (left := find(service, home)) and time.monotonic() < deadline:
        time.sleep(0.2)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=5)
    return len(found)


def find(service: Service, home: Path) -> list[psutil.Process]:
    """Return the live processes that carry the service's marks."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue  # gone meanwhile, or another user's
        if environment.get(_SERVICE) == service.name and environment.get(_HOME) == str(home):
            found.append(process)
    return found


def _groups(processes: Iterable[psutil.Process]) -> set[int]:
    """Return the process groups of those that still live."""
    groups = set()
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            groups.add(os.getpgid(process.pid))
    return groups


def _memory_mb(process: psutil.Process) -> float:
    try:
        memory = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0
    return float(getattr(memory, "pss", memory.rss)) / 2**20


def is_taken(host: str, port: int) -> bool:
    """Tell whether somebody listens on a port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
            raise ServiceError(
                f"{host}:{port} cannot be listened on: {error.strerror}; see BIND_HOST and the ports"
            ) from error
    return False


def _owner(port: int) -> str:
    try:
        pids = [
            c.pid for c in psutil.net_connections("inet") if c.laddr and c.laddr.port == port and c.status == "LISTEN"
        ]
    except psutil.AccessDenied:
        pids = []
    known = [pid for pid in pids if pid]
    if not known:
        return "a process of another user"
    command = " ".join(psutil.Process(known[0]).cmdline())
    return f"process {known[0]} ({command[:80]})"


def _last_lines(log: Path, lines: int = 15) -> str:
    text = log.read_text(errors="replace").splitlines()[-lines:] if log.exists() else []
    return f" The end of {log}:\n  " + "\n  ".join(text)
