"""Routers on several machines: a split that is set at one, and an alias that moved, reach all of them within a second.

The database of the request log says what is in force. Each machine keeps the last known split in ROUTER_CONFIG, where
its workers read it (config.py) and where it is found again while the database is away.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crossfade.errors import LogUnavailable
from crossfade.postgres.shared import SharedState, State
from crossfade.serving.config import SplitConfig
from crossfade.serving.reload import Reloader

_log = logging.getLogger(__name__)

Stamp = tuple[int, int, int] | None


class SharedSplitConfig(SplitConfig):
    """The split that all replicas share.

    Parameters
    ----------
    path : Path
        File of the last known split.
    default : float
        In force while nobody has set one.
    shared : SharedState
        Where it is set.
    """

    def __init__(self, path: Path, default: float, shared: SharedState) -> None:
        super().__init__(path, default)
        self._shared = shared

    @property
    def problem(self) -> str | None:
        """Why the file is not followed, or the database; None when all is well."""
        return self._files_problem or self._shared.problem

    @problem.setter
    def problem(self, problem: str | None) -> None:
        self._files_problem = problem

    @property
    def split_b(self) -> float:
        """The share in force now."""
        return super().split_b

    @split_b.setter
    def split_b(self, share: float) -> None:
        """Put a new share in force in every worker of every replica.

        Raises
        ------
        LogUnavailable
            The database cannot be reached, or the file cannot be written.
        """
        self._shared.set_split_b(share)
        with self._only_one():
            SplitConfig.split_b.fset(self, share)  # type: ignore[attr-defined]  # mypy knows no `fset`

    def take_over(self, share: float | None, seen: Stamp) -> None:
        """Follow what was set elsewhere, unless something was set here since the file was seen."""
        if share is None:
            if seen is not None:  # this machine has had a split before the database was new
                self._shared.offer_split_b(super().split_b)
            return
        with self._only_one():
            if self.stamp == seen and (seen is None or super().split_b != share):
                SplitConfig.split_b.fset(self, share)  # type: ignore[attr-defined]

    @contextmanager
    def _only_one(self) -> Iterator[None]:
        """Keep this machine's other workers from writing the file; they do so in no time."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._path.with_name(f".{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise LogUnavailable(f"{self._path} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


class Replicas:
    """Follows from a background thread what is set and announced elsewhere, and announces what happens here.

    Parameters
    ----------
    shared : SharedState
        What replicas share.
    config : SharedSplitConfig
        The split of this machine.
    reloader : Reloader
        This worker's deployment.
    """

    def __init__(self, shared: SharedState, config: SharedSplitConfig, reloader: Reloader) -> None:
        self._shared = shared
        self._config = config
        self._reloader = reloader
        self._reloads: int | None = None
        reloader.tell_other_machines = self._announce

    def start(self) -> None:
        """Follow until `stop`."""
        follow = self._shared.follow
        arguments = (lambda: self._config.stamp, self._after)
        threading.Thread(target=follow, args=arguments, name="crossfade-replicas", daemon=True).start()

    def stop(self) -> None:
        """End the background thread."""
        self._shared.stop()

    def _after(self, state: State, seen: object) -> None:
        self._config.take_over(state.split_b, seen)  # type: ignore[arg-type]  # it is what `stamp` returned
        if self._reloads is not None and state.reloads != self._reloads:
            self._reloader.look_soon()
        self._reloads = state.reloads

    def _announce(self) -> None:
        try:
            self._shared.announce()
        except LogUnavailable as error:
            _log.warning("other routers were not told, and follow within their polling interval: %s", error)
