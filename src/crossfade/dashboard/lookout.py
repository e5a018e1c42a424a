"""Lookouts: each looks at one source again and again, and remembers what it saw, and since when it sees nothing."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

_log = logging.getLogger(__name__)

Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Look(Generic[Seen]):
    """What a source showed."""

    value: Seen
    """At the last successful look; before the first one, what stands for nothing."""
    seen: float | None = None
    """When that was, in seconds since the epoch; None: never."""
    problem: str = ""
    """Why the newest look failed; empty when it did not."""
    since: float | None = None
    """When looks began to fail; None while they do not."""
    revision: int = 0
    """Changes when the value, or whether there is a problem, does."""

    @property
    def stale(self) -> bool:
        """Whether the value is older than it should be."""
        return bool(self.problem)


class Lookout(Generic[Seen]):
    """Looks at one source from a thread of its own, so that one that hangs holds nobody else up.

    Parameters
    ----------
    name : str
        Of the source, for people.
    look : callable
        Looks, and returns what it sees; raises when it cannot.
    nothing : object
        What stands for it before the first look.
    seconds : float
        Between the end of a look and the next one.
    """

    def __init__(self, name: str, look: Callable[[], Seen], nothing: Seen, seconds: float) -> None:
        self.name = name
        self.look: Look[Seen] = Look(nothing)
        self._look = look
        self._seconds = seconds
        self._now = threading.Event()
        self._turn = threading.Lock()

    def look_now(self) -> Look[Seen]:
        """Look, and return what was seen."""
        with self._turn:
            try:
                seen = self._look()
            except Exception as error:  # noqa: BLE001 - whatever a source raises, the page stands and says so
                self._failed(error)
            else:
                before = self.look
                same = seen == before.value and not before.problem and before.seen is not None
                self.look = Look(seen, time.time(), revision=before.revision + (not same))
            return self.look

    def look_soon(self) -> None:
        """Have the thread look without waiting for its time."""
        self._now.set()

    def start(self) -> None:
        """Look from now on."""
        threading.Thread(target=self._run, name=f"crossfade-dashboard-{self.name}", daemon=True).start()

    def _run(self) -> None:
        while True:
            self.look_now()
            self._now.wait(self._seconds)
            self._now.clear()

    def _failed(self, error: Exception) -> None:
        before = self.look
        problem = (str(error) or type(error).__name__).splitlines()[0][:300]
        if problem != before.problem:
            _log.warning("%s: %s", self.name, problem)
        revision = before.revision + (problem != before.problem)
        self.look = replace(before, problem=problem, since=before.since or time.time(), revision=revision)
