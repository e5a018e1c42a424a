"""What all routers of an installation share beside the log: the split, and that an alias moved.

One row holds both. Who changes it notifies the others, and they look by themselves twice a second, too.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from crossfade.errors import CrossfadeError
from crossfade.postgres.address import DatabaseUrl
from crossfade.postgres.link import Link, Wire, hurried, opened

_CHANNEL = "crossfade"
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class State:
    """What is shared at one moment."""

    split_b: float | None = None
    """Share of users on B; None: nobody has set one yet."""
    reloads: int = 0
    """How often routers were told to look at the registry."""


class SharedState:
    """The row that routers share, as one process sees it.

    Parameters
    ----------
    url : DatabaseUrl
        The database of the request log.
    seconds : float
        How long to wait for it.
    """

    def __init__(self, url: DatabaseUrl, seconds: float) -> None:
        self._url = url
        self._seconds = seconds
        self._stopped = threading.Event()
        self._changing = threading.Lock()
        self._wire: Wire | None = None
        self.problem: str | None = None
        """Why it cannot be followed now."""

    def set_split_b(self, share: float) -> None:
        """Put a share in force in every router, within a second. Raises LogUnavailable."""
        self._change("ab_split_b = %(share)s", share=share)

    def offer_split_b(self, share: float) -> None:
        """Put a share in force where nobody has set one. Raises LogUnavailable."""
        self._change("ab_split_b = coalesce(crossfade_config.ab_split_b, %(share)s)", share=share)

    def announce(self) -> None:
        """Make every router look at the registry, within a second. Raises LogUnavailable."""
        self._change("reloads = crossfade_config.reloads + 1")

    def follow(self, before: Callable[[], object], after: Callable[[State, object], None]) -> None:
        """Report the state at once and whenever it may have changed, until `stop`.

        Parameters
        ----------
        before : callable
            Called before each look.
        after : callable
            Called after each look with what was seen, and what `before` returned.
        """
        while not self._stopped.is_set():
            try:
                with opened(self._url, self._seconds) as link, self._cuttable(link):
                    link.execute(f"listen {_CHANNEL}")
                    while not self._stopped.is_set():
                        seen = before()
                        after(_state(link), seen)
                        self.problem = None
                        for _ in link.notifies(timeout=_LOOK_SECONDS, stop_after=1):
                            pass
            except CrossfadeError as error:
                self.problem = str(error)
            self._stopped.wait(_LOOK_SECONDS)

    def stop(self) -> None:
        """End `follow`."""
        self._stopped.set()
        with self._changing:
            if self._wire is not None:
                self._wire.cut()

    @contextlib.contextmanager
    def _cuttable(self, link: Link) -> Iterator[None]:
        wire = Wire(link)
        with self._changing:
            self._wire = wire
        try:
            yield
        finally:
            with self._changing:
                self._wire = None
            wire.close()

    def _change(self, assignment: str, **values: float) -> None:
        """Change the row in one statement, and notify the others when that is committed."""
        change = f"update crossfade_config set {assignment}, changed_at = clock_timestamp()"  # noqa: S608 - constants
        with opened(self._url, self._seconds) as link, hurried(link, self._seconds), link.transaction():
            link.execute("insert into crossfade_config default values on conflict do nothing")
            link.execute(change, values)
            link.execute(f"notify {_CHANNEL}")


def _state(link: Link) -> State:
    row = link.execute("select ab_split_b, reloads from crossfade_config").fetchone()
    return State(*row) if row else State()
