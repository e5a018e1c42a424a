"""What an engine is, and what goes wrong with one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeVar

from crossfade.errors import CrossfadeError

Item = TypeVar("Item")
Result = TypeVar("Result")

EngineName = Literal["local", "dask", "spark"]

CONNECT_SECONDS = 10
WORKER_SECONDS = 60
"""How long a cluster may be without a worker for us; a busy one may have to start it first."""


class EngineError(CrossfadeError):
    """An engine cannot be started or reached, or it lost a piece of work."""


class Engine(Protocol):
    """Runs a function over items, wherever that is."""

    @property
    def workers(self) -> int:
        """How many items run at the same time."""

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Apply the function to every item; the results come in the order of the items.

        Raises
        ------
        Exception
            What the function raised, of the first of the items that failed.
        EngineError
            The engine lost the work, or a result that cannot be pickled.
        """
