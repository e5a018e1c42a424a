"""The audit: every look at an experiment and every move of an alias, in one file (or table) that only grows.

An event is a JSON object with `ts_utc` and `event`, a line of the file. A `look` is a whole evaluation report:
verdict, reasons, and the counts from which its p-values can be computed again. A `move` is written before an alias
moves, and `moved` (or `refused`) after it: a run that was killed shows what it had begun, and the next one writes how
that ended (`finished`, `not moved`, and `tagged` for each version whose tags it set). `seen` and `moved by somebody
else` are moves that no run of ours made. `split` tells that B's share of the users was changed by the ramp.
"""

from __future__ import annotations

import fcntl
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crossfade.errors import LogUnavailable
from crossfade.requestlog import utc_now

Event = Mapping[str, Any]

LOOK, SPLIT = "look", "split"
BEGUN, REFUSED, NOT_MOVED, TAGGED = "move", "refused", "not moved", "tagged"
MOVED, FINISHED, SEEN, BY_OTHERS = "moved", "finished", "seen", "moved by somebody else"
_ARRIVED = (MOVED, FINISHED, SEEN, BY_OTHERS)
"""Events after which an alias is where they say."""


@dataclass(frozen=True)
class Trail:
    """What the audit holds."""

    events: tuple[Event, ...]
    """Oldest first."""
    set_aside: int = 0
    """Lines that are torn or broken."""

    def of_run(self, run_id: str) -> list[Event]:
        """Pick what one MLflow run decided and moved."""
        return [event for event in self.events if event.get("run_id") == run_id]

    def whereabouts(self, model: str) -> dict[str, Whereabouts]:
        """Follow the aliases of a model to where they were left."""
        found: dict[str, Whereabouts] = {}
        for event in self.events:
            if event.get("model") == model and "alias" in event:
                alias = str(event["alias"])
                found[alias] = found.get(alias, Whereabouts()).after(event)
        return found


@dataclass(frozen=True)
class Whereabouts:
    """What the audit knows of one alias."""

    last: Event | None = None
    """How it got where it was left; None when no event says so."""
    begun: Event | None = None
    """A move whose end no event tells: its run was killed."""

    @property
    def at(self) -> str | None:
        """Number of the version it was left at; None when it was taken away, or nothing is known."""
        return self.last["to"] if self.last else None

    def after(self, event: Event) -> Whereabouts:
        """Take the next event in."""
        if event["event"] == BEGUN:
            return replace(self, begun=event)
        if event["event"] == TAGGED:
            return self
        return Whereabouts(event if event["event"] in _ARRIVED else self.last)


class Audit(ABC):
    """A store of events; any number of processes and threads may append.

    Parameters
    ----------
    clock : callable
        Says what time it is, as the request log does.
    """

    def __init__(self, clock: Callable[[], str] = utc_now) -> None:
        self._clock = clock

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the events are, for people."""

    @abstractmethod
    def append(self, event: Event) -> None:
        """Add an event, `ts_utc` filled in where it has none; it is on the disk when this returns.

        Raises
        ------
        LogUnavailable
            It cannot be stored: nothing may be moved.
        """

    @abstractmethod
    def read(self) -> Trail:
        """Return all events, torn and broken ones set aside. Raises LogUnavailable."""

    @abstractmethod
    def mark(self) -> Hashable:
        """Return what differs when there are other events, None while there is none. Raises LogUnavailable."""

    @abstractmethod
    def turn(self) -> AbstractContextManager[None]:
        """Let one process or thread at a time move aliases; the lock of one that dies is free at once.

        MLflow has no compare-and-set: without this, two runs might both see an alias in place before either moves it.
        """

    def _stamped(self, event: Event) -> tuple[str, str]:
        """Return when an event happened, and all of it as JSON."""
        stamped = {"ts_utc": self._clock(), **event}
        return str(stamped["ts_utc"]), json.dumps(stamped, allow_nan=False)


class FileAudit(Audit):
    """One file of events.

    Parameters
    ----------
    path : Path
        The file; made at the first append.
    clock : callable
        Says what time it is, as the request log does.
    """

    def __init__(self, path: Path, clock: Callable[[], str] = utc_now) -> None:
        super().__init__(clock)
        self.path = path

    @classmethod
    def under(cls, report_dir: Path, clock: Callable[[], str] = utc_now) -> FileAudit:
        """Take the file's place among the reports."""
        return cls(report_dir / "audit" / "decisions.jsonl", clock)

    @property
    def place(self) -> str:
        """The file."""
        return str(self.path)

    def append(self, event: Event) -> None:
        """Add a line, on the disk when this returns."""
        line = self._stamped(event)[1].encode() + b"\n"
        try:
            self._make_folder()
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    line = b"\n" + line  # some process died in the middle of the last line; an empty one harms nobody
                written = os.write(descriptor, line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if not size:
                self._keep_name()
        except OSError as error:
            raise LogUnavailable(
                f"the audit {self.path} cannot be written: {error.strerror}. Free space or fix its rights; "
                "nothing is moved without it."
            ) from error
        if written != len(line):
            raise LogUnavailable(f"{self.path} took {written} of {len(line)} bytes: the disk is full. Free space.")

    def read(self) -> Trail:
        """Return all events, torn and broken lines set aside."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return Trail(())
        except OSError as error:
            raise LogUnavailable(f"{self.path} cannot be read: {error.strerror}. Fix its rights.") from error
        found = [parsed(line) for line in data.split(b"\n") if line]
        events = tuple(event for event in found if event is not None)
        return Trail(events, len(found) - len(events))

    def mark(self) -> Hashable:
        """Return which file it is, how long, and when it was written to."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Lock the folder."""
        try:
            self._make_folder()
            handle = os.open(self.path.parent, os.O_RDONLY)
        except OSError as error:
            raise LogUnavailable(
                f"{self.path.parent} cannot be used: {error.strerror}. Free space or fix its rights."
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _make_folder(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def _keep_name(self) -> None:
        """Have the new file's name on the disk too."""
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def without_ended(events: Sequence[Event]) -> list[Event]:
    """Leave out the beginning of every move whose end is told: it says nothing that its end does not."""
    kept: list[Event | None] = list(events)
    begun: dict[tuple[object, object], int] = {}
    for place, event in enumerate(events):
        alias = (event.get("model"), event.get("alias"))
        if event["event"] == BEGUN:
            begun[alias] = place
        elif "alias" in event and alias in begun:
            kept[begun.pop(alias)] = None
    return [event for event in kept if event is not None]


@dataclass(frozen=True)
class Headline:
    """An event for people to read."""

    when: str
    """UTC, to the second."""
    what: str
    decision: str
    """Verdict, or the alias and where it went."""
    experiment: str
    reason: str
    """The first one."""
    run_id: str


def headline(event: Event) -> Headline:
    """Tell an event in a few words.

    Examples
    --------
    >>> headline({"ts_utc": "2026-01-02T03:04:05.000006+00:00", "event": "moved", "action": "promote",
    ...           "alias": "prod", "from": "1", "to": "2"}).decision
    'promote: prod 1 -> 2'
    """
    decision = str(event.get("verdict", ""))
    if "alias" in event:
        action = f"{event['action']}: " if event.get("action") else ""
        decision = f"{action}{event['alias']} {event.get('from') or 'none'} -> {event.get('to') or 'none'}"
    elif event["event"] == SPLIT:
        decision = f"B {event['from']:.0%} -> {event['to']:.0%}"
    reasons = event.get("reasons") or [event.get("reason", "")]
    when = str(event["ts_utc"])[:19].replace("T", " ")
    experiment, run_id = str(event.get("experiment_id") or ""), str(event.get("run_id") or "")
    return Headline(when, str(event["event"]), decision, experiment, str(reasons[0]), run_id)


def parsed(line: bytes) -> Event | None:
    """Read an event; None where it is none."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(event, dict) and isinstance(event.get("event"), str) and isinstance(event.get("ts_utc"), str)
    return event if whole else None
