"""Keep what a service prints: a file per UTC day, `<service>_YYYYMMDD.log`, the old ones deleted.

    python -m crossfade.stack.servicelog SERVICE FOLDER DAYS < output of the service

A service writes into a pipe: were it full, the service would stand still, and without a reader it might die of it. So
two processes hold the reading end, as under s6 or runit. One writes the files; the other waits for its death and starts
it again, at the price of the lines that it had in hand. What cannot be written is dropped, and counted, in place of
waiting. Both end with the last process that could still write, and import next to nothing, so that they cost next to
nothing.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

_CHUNK_BYTES = 65_536
"""As much as a pipe holds."""

_PAUSE_SECONDS = 0.1
"""Between a writer's death and the next one."""

_SECONDS_PER_DAY = 86_400


def newest_log(folder: Path, service: str) -> Path | None:
    """Return the file that a service wrote last; None before the first."""
    logs = _logs_by_day(folder, service)
    return logs[max(logs)] if logs else None


class DatedLog:
    """Appends to the file of the day.

    Parameters
    ----------
    folder : Path
        Where the files lie.
    service : str
        What their names begin with.
    days : int
        Days that a file is kept after its own; 0: for ever.
    clock : callable
        Seconds since the epoch.
    """

    def __init__(self, folder: Path, service: str, days: int, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._service = service
        self._days = days
        self._clock = clock
        self._day = ""
        self._within_line = False
        self._dropped = 0

    def write(self, data: bytes) -> None:
        """Append what a service printed; a line that midnight finds half written stays whole, in the old file."""
        day = _day_of(self._clock())
        if day != self._day and self._within_line:
            end = data.find(b"\n") + 1 or len(data)
            self._append(data[:end])
            data = data[end:]
        if data:
            if day != self._day:
                self._begin(day)
            self._append(data)

    def _begin(self, day: str) -> None:
        self._day = day
        if self._days:
            oldest = _day_of(self._clock() - self._days * _SECONDS_PER_DAY)
            for of_day, path in _logs_by_day(self._folder, self._service).items():
                if of_day < oldest:
                    _try(path.unlink)

    def _append(self, data: bytes) -> None:
        """Write, or drop and count: whoever waits for a full disk makes the service wait."""
        self._within_line = not data.endswith(b"\n")
        note = f"\n({self._dropped} bytes could not be written here)\n".encode() if self._dropped else b""
        if _try(lambda: self._append_all(note + data)):
            self._dropped = 0
        else:
            self._dropped += len(data)

    def _append_all(self, data: bytes) -> None:
        # Opened every time: a file that somebody deletes or moves is followed by a new one, not by silence.
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"{self._service}_{self._day}.log").open("ab", buffering=0) as file:
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]


def follow(log: DatedLog) -> None:
    """Write what comes in on standard input, until nobody can write any more."""
    while data := os.read(0, _CHUNK_BYTES):
        log.write(data)


def guard(work: Callable[[], None]) -> None:
    """Do something in a child, again and again until it ends in its own way."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the service, whose last lines matter most
    while True:
        child = os.fork()
        if child == 0:
            work()
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            return
        time.sleep(_PAUSE_SECONDS)


def _logs_by_day(folder: Path, service: str) -> dict[str, Path]:
    name = re.compile(rf"{re.escape(service)}_(\d{{8}})\.log", re.ASCII)
    paths = folder.iterdir() if folder.is_dir() else ()
    return {found[1]: path for path in paths if (found := name.fullmatch(path.name))}


def _day_of(seconds: float) -> str:
    return time.strftime("%Y%m%d", time.gmtime(seconds))


def _try(action: Callable[[], object]) -> bool:
    """Do something with a file; tell whether it worked."""
    try:
        action()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    _service, _folder, _days = sys.argv[1:]
    guard(lambda: follow(DatedLog(Path(_folder), _service, int(_days))))
