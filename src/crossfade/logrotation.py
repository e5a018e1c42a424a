"""Keep the log's file to a day's rows: move earlier ones to parts, pack those, delete the oldest. While serving.

Any number of routers may do this on one log. Each step is one rename or one unlink, taken by one process at a time,
and what a killed one has not done the next one does.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from crossfade.errors import CrossfadeError
from crossfade.logparts import day_parts_of, first_day, is_at_rest, only_one, part_of
from crossfade.requestlog import CsvRequestLog

_log = logging.getLogger(__name__)

_SECONDS = 60.0
"""Between two looks, and after midnight until the day's rows are taken for complete."""

_PACKING_SECONDS = 3600.0


def _now() -> datetime:
    return datetime.now(UTC)


class PackingFailed(CrossfadeError):
    """The process that packs parts did not succeed; they are read as CSV meanwhile."""


class LogKeeper:
    """Looks after the files of a log from a background thread.

    Parameters
    ----------
    log : CsvRequestLog
        The log, as this process writes it.
    retention_days : int
        For how many days after its own a day's rows are kept; 0: for ever.
    clock : callable
        What time it is.
    """

    def __init__(self, log: CsvRequestLog, retention_days: int, clock: Callable[[], datetime] = _now) -> None:
        self._log = log
        self._retention_days = retention_days
        self._clock = clock
        self._stopped = threading.Event()

    def start(self) -> None:
        """Look once a minute until `stop`."""
        threading.Thread(target=self._run, name="crossfade-log-keeper", daemon=True).start()

    def stop(self) -> None:
        """End the background thread."""
        self._stopped.set()

    def look(self) -> None:
        """Do what is due, and tell the log what is wrong."""
        try:
            self._move()
            self._log.let_go()
            self._pack()
            problem = None
        except (CrossfadeError, OSError, subprocess.SubprocessError) as error:
            problem = f"the log's older rows cannot be moved, packed or deleted: {error}"
        if problem and problem != self._log.upkeep_problem:
            _log.warning("%s", problem)
        self._log.upkeep_problem = problem

    def _run(self) -> None:
        pause = 1 + os.getpid() % _SECONDS  # workers start together: they need not look together
        while not self._stopped.wait(pause):
            self.look()
            pause = _SECONDS

    def _move(self) -> None:
        today = (self._clock() - timedelta(seconds=_SECONDS)).date()
        for path in self._log.paths:
            if not path.parent.is_dir():
                continue
            with only_one(path) as mine:
                if mine:
                    rotate(path, today)
                    clear(path, today, self._retention_days)

    def _pack(self) -> None:
        """Pack in a process of its own, so that this one does not grow by what Arrow takes."""
        waiting = [parts for path in self._log.paths for parts in day_parts_of(path, ".csv").values()]
        if not any(is_at_rest(part) for parts in waiting for part in parts):
            return
        command = (sys.executable, "-m", "crossfade.logpacking", *map(str, self._log.paths))
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PACKING_SECONDS, check=False)
        if done.returncode:
            raise PackingFailed(done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}")


def rotate(log: Path, today: date) -> Path | None:
    """Move a log's file to a part, if it was begun before today. To be called by one process at a time.

    A row that a writer is about to write goes to the part, which is read like the file: no row is missed or seen
    twice (csvslices.py), and none is written to a part that is being packed (appendfile.py).

    Returns
    -------
    Path or None
        The part; None where nothing was due.

    Raises
    ------
    OSError
        The file cannot be read or moved.
    """
    day = first_day(log)
    if day is None:
        return None
    earlier = [other for other in day_parts_of(log, "") if other < today]
    if earlier:  # a row of the day before may be late, or another machine's clock: still one part per day, in order
        day = max(day, max(earlier) + timedelta(days=1))
    if day >= today:
        return None
    part = part_of(log, day, ".csv")
    log.rename(part)
    _log.info("%s is now %s", log, part.name)
    return part


def clear(log: Path, today: date, retention_days: int) -> list[Path]:
    """Delete the parts whose days of retention are over, and return them; one with newer rows than its name says stays.

    Raises
    ------
    OSError
        A part cannot be deleted.
    """
    if retention_days == 0:
        return []
    oldest = today - timedelta(days=retention_days)
    over = [path for day, paths in day_parts_of(log, "").items() if day < oldest for path in paths]
    over = [path for path in over if datetime.fromtimestamp(path.stat().st_mtime, UTC).date() <= oldest]
    for path in over:
        path.unlink()
        _log.info("%s is deleted: LOG_RETENTION_DAYS=%s", path, retention_days)
    return over
