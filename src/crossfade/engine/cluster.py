"""Worker processes: how a function, its items and its results, good or bad, travel to them and back."""

from __future__ import annotations

import pickle
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle

from crossfade import __version__
from crossfade.engine.protocol import EngineError, EngineName, Item, Result


@dataclass(frozen=True)
class Cluster:
    """Worker processes, to which functions, items and results travel pickled."""

    name: EngineName
    workers: int
    spread: Callable[[bytes, list[bytes]], list[bytes]]
    """Runs :func:`run_pickled` with a function on each of the items; in their order."""

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Apply the function to every item, as :class:`crossfade.engine.Engine` says."""
        if not items:
            return []
        try:
            sent = cloudpickle.dumps(function), [cloudpickle.dumps(item) for item in items]
            outcomes = [pickle.loads(outcome) for outcome in self.spread(*sent)]  # noqa: S301 - our own workers'
        except Exception as error:  # noqa: BLE001 - many kinds, of Dask's, Spark's and pickle's own
            raise EngineError(
                f"ENGINE={self.name} lost the work: {in_a_line(error)}. The workers need this machine's Python and "
                "packages, crossfade among them, and enough memory for a slice"
            ) from None  # a failure in Java cannot be printed any more once Java has ended
        for outcome in outcomes:
            if isinstance(outcome, Failure):
                raise outcome.error()
        return outcomes

    def check(self) -> None:
        """Refuse workers of another Python or another Crossfade: they would fail later, and less clearly."""
        ours = _versions(None)
        for theirs in set(self.map(_versions, [None] * self.workers)) - {ours}:
            raise EngineError(f"ENGINE={self.name}: a worker runs {theirs}, but here it is {ours}; install the same")


def _versions(_: None) -> str:
    return f"Python {sys.version_info.major}.{sys.version_info.minor} with crossfade {__version__}"


def run_pickled(item: bytes, function: bytes) -> bytes:
    """Apply a function to an item on a worker.

    What it raises is a result too: neither engine then tries again what would fail again, nor reports it in its own
    words.
    """
    try:
        outcome = cloudpickle.dumps(pickle.loads(function)(pickle.loads(item)))  # noqa: S301 - from our own client
    except Exception as error:  # noqa: BLE001 - raised by the caller's side
        outcome = cloudpickle.dumps(Failure.of(error))
    return bytes(outcome)


@dataclass(frozen=True)
class Failure:
    """An exception on its way from a worker."""

    kind: type[Exception]
    args: tuple[Any, ...]
    state: dict[str, Any]
    trace: str
    """The worker's traceback, as text."""

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Take an exception apart; one that cannot be put together again becomes an EngineError of the same words."""
        trace = traceback.format_exc()
        failure = cls(type(error), tuple(error.__reduce__()[1]), dict(error.__dict__), trace)
        try:
            pickle.loads(cloudpickle.dumps(failure)).error()  # noqa: S301 - made in the line itself
        except Exception:  # noqa: BLE001 - exceptions may hold anything
            return cls(EngineError, (f"a worker failed: {in_a_line(error)}",), {}, trace)
        return failure

    def error(self) -> Exception:
        """Put the exception together again."""
        error = self.kind.__new__(self.kind, *self.args)  # not kind(*args): some __init__ take others than they keep
        error.__dict__.update(self.state)
        error.add_note(f"On a worker: {self.trace}")
        return error


def in_a_line(error: Exception) -> str:
    """Say what went wrong; of the hundred lines of a failure in Java, the worker's own words."""
    lines = [line.strip(": \t") for line in str(error).splitlines() if line.strip()] or [""]
    if not lines[0].startswith("An error occurred while calling"):
        return f"{type(error).__name__}: {lines[0]}".rstrip(": .")
    python = [line for line in lines if re.match(r"(?!org\.|java\.)[\w.]+(Error|Exception): ", line)]
    return (python or lines[1:])[0].rstrip(".")
