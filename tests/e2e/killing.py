"""A Python that has imported the pipeline once, and runs programs in forks of itself.

Importing takes seconds, and every step at which a process is killed needs a process. It reads commands from its input,
one JSON array per line, and answers each with one JSON value: ``["start", environment, program, output]`` with the
process id, ``["wait", pid]`` with the exit code (negative: the signal that ended it).
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import sys
import traceback
from pathlib import Path

_IMPORTED = ("pipeline", "mlflow.sklearn", "sklearn.tree", "git", "IPython")
"""The pipeline, what the models under test are made of, and what MLflow imports when a run begins."""

_LONGEST_LIFE = 60
"""Seconds after which a program is ended, by a signal that no test expects."""


def main() -> None:
    """Serve until the input ends."""
    for name in _IMPORTED:
        importlib.import_module(name)
    running: set[int] = set()
    for line in sys.stdin:
        match json.loads(line):
            case ["start", environment, program, output]:
                pid = os.fork()
                if not pid:
                    _become(environment, Path(output))
                    code = _run(program)
                    sys.stdout.flush()
                    os._exit(code)  # taking all that was imported down takes a second
                running.add(pid)
                answer = pid
            case ["wait", pid]:
                answer = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                running.remove(pid)
        print(json.dumps(answer), flush=True)  # noqa: T201 - to whoever asked
    for pid in running:  # a test failed before it waited
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _become(environment: dict[str, str], output: Path) -> None:
    """Be a process of its own, in the folder of its output."""
    signal.alarm(_LONGEST_LIFE)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(output.parent)
    written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(written, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


def _run(program: list[str]) -> int:
    """Do what `python program...` does; return its exit code."""
    sys.argv = program
    try:
        runpy.run_path(program[0], run_name="__main__")
    except SystemExit as ended:
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
            return 1
        return ended.code or 0
    except BaseException:  # noqa: BLE001 - as Python itself does
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main()
