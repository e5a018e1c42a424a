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
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from crossfade.errors import ServiceError
from crossfade.stack.servicelog import newest_log
from crossfade.stack.services import Service

_SERVICE, _HOME = "CROSSFADE_SERVICE", "CROSSFADE_HOME"

_TAIL_BYTES = 65_536
"""Of a log's end, for its last lines."""

_LOG_SECONDS = 5.0
"""Time that what writes a service's log has to finish, after the service."""


@dataclass(frozen=True)
class State:
    """A service as it is now."""

    service: Service
    processes: int
    healthy: bool
    memory_mb: float
    """Proportional set size of its processes, and of those that write its log: shared pages are counted once."""


def state_of(service: Service, home: Path) -> State:
    """Look at a service."""
    found = find(service, home)
    memory = sum(map(_memory_mb, [*found, *_marked(_log_mark(service), home)]))
    return State(service, len(found), bool(found) and service.is_healthy(), memory)


def start(service: Service, home: Path) -> bool:
    """Start a service unless it runs and is healthy; tell whether it had to be started.

    Raises
    ------
    ServiceError
        Its port is taken by somebody else.
    """
    found = find(service, home)
    if any(map(_is_main, found)) and service.is_healthy():
        return False
    stop(service, home)  # what is left of it, if anything
    if is_taken(service.host, service.port):
        raise ServiceError(
            f"port {service.port} for {service.name} is taken by {owner_of(service.port)}: "
            f"stop it, or set {service.port_setting} to a free port"
        )
    marks = {
        _SERVICE: service.name,
        _HOME: str(home),
        "SPT_NOENV": "1",
    }  # SPT_NOENV: a new title must not hide the marks
    with _log_of(service, {**os.environ, **marks, _SERVICE: _log_mark(service)}) as log:
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


@contextlib.contextmanager
def _log_of(service: Service, environment: Mapping[str, str]) -> Iterator[int]:
    """Start what writes a service's log, under a mark of its own, and lend the pipe's end that the service gets."""
    read_end, write_end = os.pipe()
    try:
        subprocess.Popen(
            [
                *(sys.executable, "-m", "crossfade.stack.servicelog"),
                *(service.name, str(service.log_folder), str(service.log_days)),
            ],
            env=environment,
            stdin=read_end,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        yield write_end
    finally:
        os.close(read_end)
        os.close(write_end)


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
            _let_log_end(service, home)
            raise ServiceError(f"{service.name} ended while starting.{_last_lines(service)}")
        if waited > seconds:
            raise ServiceError(f"{service.name} is not healthy after {seconds:.0f} s.{_last_lines(service)}")
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
    _let_log_end(service, home)
    return len(found)


def find(service: Service, home: Path) -> list[psutil.Process]:
    """Return the live processes that carry the service's marks."""
    return _marked(service.name, home)


def _marked(name: str, home: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue  # gone meanwhile, or another user's
        if environment.get(_SERVICE) == name and environment.get(_HOME) == str(home):
            found.append(process)
    return found


def _log_mark(service: Service) -> str:
    return f"{service.name} log"


def _let_log_end(service: Service, home: Path) -> None:
    """Wait until the last words of a service that is gone are written; by force, should anybody else hold its pipe."""
    deadline = time.monotonic() + _LOG_SECONDS
    while (left := _marked(_log_mark(service), home)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=5)


def _is_main(process: psutil.Process) -> bool:
    """Whether this is the process that `start` started, and not one below it."""
    try:
        return os.getsid(process.pid) == process.pid
    except ProcessLookupError:
        return False


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


def owner_of(port: int) -> str:
    """Say who listens on a port."""
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


def _last_lines(service: Service, lines: int = 15) -> str:
    log = newest_log(service.log_folder, service.name)
    if log is None:
        return f" It wrote nothing into {service.log_folder}."
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        text = file.read().decode(errors="replace").splitlines()[-lines:]
    return f" The end of {log}:\n  " + "\n  ".join(text)
