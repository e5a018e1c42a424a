"""Keep a server running: when it dies, end what it left behind and start it again.

    python -m crossfade.stack.supervisor [--log-format=text|json] COMMAND [ARGUMENT...]

A process of its own that imports next to nothing else, so that it costs next to nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from crossfade.logformat import log_to_stdout

_log = logging.getLogger("crossfade.supervisor")

_STARTED_SECONDS = 10
"""A server that fails before it ever lived so long is not fit to run here: its message says why."""

_LEFT_SECONDS = 0.5
"""Time that the workers of a dead server have to finish their requests."""

_PAUSE_SECONDS = 0.2


class Supervisor:
    """Runs one command until it ends by itself or somebody asks for the end.

    Parameters
    ----------
    command : sequence of str
        The server; it runs in a process group of its own.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._stopped = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Run in the foreground; SIGTERM and SIGINT end the server. Return its exit code.

        A server that fails at its first start is not started again, and neither is one that ends with 0.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        has_lived = False
        while True:
            started = time.monotonic()
            self._child = child = subprocess.Popen(self._command, process_group=0)
            if self._stopped.is_set():  # asked while it started
                _signal_group(child.pid, signal.SIGTERM)
            code = child.wait()
            has_lived = has_lived or code < 0 or time.monotonic() - started > _STARTED_SECONDS
            _end_group(child.pid)
            if code == 0 or self._stopped.is_set() or not has_lived:
                return max(code, 0)
            _log.warning("the server ended (%s); it is started again", _said(code))
            if self._stopped.wait(_PAUSE_SECONDS):
                return 0

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopped.set()
        if self._child is not None:
            _signal_group(self._child.pid, signal.SIGTERM)


def _end_group(group: int) -> None:
    """End the processes that a dead server left behind: they would hold its port."""
    deadline = time.monotonic() + _LEFT_SECONDS
    _signal_group(group, signal.SIGTERM)
    while _is_there(group):
        if time.monotonic() > deadline:
            _signal_group(group, signal.SIGKILL)
        time.sleep(0.02)


def _is_there(group: int) -> bool:
    with contextlib.suppress(ChildProcessError):  # as the first process of a container, their end is ours to notice
        os.waitpid(-group, os.WNOHANG)
    return _signal_group(group, 0)


def _signal_group(group: int, number: int) -> bool:
    """Signal all of a group; tell whether there is one."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def _said(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


if __name__ == "__main__":
    _option, _, _form = sys.argv[1].partition("=")
    _has_form = _option == "--log-format"
    log_to_stdout("json" if _has_form and _form == "json" else "text")
    sys.exit(Supervisor(sys.argv[2 if _has_form else 1 :]).run())
