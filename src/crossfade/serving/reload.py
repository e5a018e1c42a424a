"""9. Hot swap: follow the aliases without interrupting a request.

A new version is loaded and tried off to the side; then the deployment is replaced in one assignment. Whatever fails,
the old one stays in service and `/health` says why.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from crossfade.errors import CrossfadeError, ModelUnusable, NoModel, RegistryUnavailable
from crossfade.schema import Kind
from crossfade.serving.catalog import Catalog
from crossfade.serving.deployment import Arm, Deployment
from crossfade.version import LoadedModel, Version

_log = logging.getLogger(__name__)

_SIGNAL_SECONDS = 0.25
"""How often a worker looks whether another one was told to reload."""


@dataclass(frozen=True)
class Look:
    """The last look at the registry."""

    at: float
    """Seconds since the epoch of the last look that succeeded; 0 before the first."""
    problem: str | None
    """What went wrong at the newest look; None when nothing did."""


class Reloader:
    """Keeps a worker's deployment in step with the registry.

    Parameters
    ----------
    catalog : Catalog
        The versions, and where the aliases stand.
    prod_alias, staging_alias : str
        Names of the two aliases.
    signal : Path
        File that a worker touches to make all workers on this machine look now.
    poll_seconds : float
        How often to look without being told.
    """

    def __init__(
        self, catalog: Catalog, prod_alias: str, staging_alias: str, signal: Path, poll_seconds: float
    ) -> None:
        self._catalog = catalog
        self._prod_alias = prod_alias
        self._staging_alias = staging_alias
        self._signal = signal
        self._poll_seconds = poll_seconds
        self._refreshing = threading.Lock()
        self._stopped = threading.Event()
        self._wanted = threading.Event()
        self._current: Deployment | None = None
        self._unusable: dict[tuple[str, str], str] = {}
        self._remembered: dict[str, Version | None] = {}
        self.last_look = Look(0.0, None)
        self.on_look: Callable[[Reloader], None] = lambda _reloader: None
        self.tell_other_machines: Callable[[], None] = lambda: None
        """What makes routers elsewhere look; replicas.py sets it."""

    @property
    def current(self) -> Deployment:
        """The deployment in service.

        Raises
        ------
        NoModel
            No version stands under the prod alias, or it could not be loaded yet.
        """
        deployment = self._current
        if deployment is None:
            why = self.last_look.problem or f"no version of {self._catalog.name} has the alias {self._prod_alias}"
            raise NoModel(
                f"no model to serve yet: {why}. Trigger the DAG drift_retrain_ab_pipeline, or run `make retrain`."
            )
        return deployment

    def refresh(self, try_again: bool = False) -> None:
        """Look at the registry and swap if an alias moved; failures keep what is in service.

        Parameters
        ----------
        try_again : bool
            Load versions anew that could not be used before; else they are left alone until their alias moves.
        """
        with self._refreshing:
            if try_again:
                self._unusable.clear()
            try:
                found = {alias: self._catalog.at(alias) for alias in (self._prod_alias, self._staging_alias)}
                problem = self._swap(found)
            except (CrossfadeError, OSError) as error:
                if self._current is None and isinstance(error, RegistryUnavailable):
                    self._serve_remembered()
                self._note(str(error), at=self.last_look.at)
            else:
                self._note(problem, at=time.time())
                self._remember(found)

    def tell_other_workers(self) -> None:
        """Make every worker on this machine look within a fraction of a second."""
        try:
            self._signal.parent.mkdir(parents=True, exist_ok=True)
            self._signal.touch()
        except OSError as error:
            _log.warning(
                "%s cannot be touched (%s): other workers follow within their polling interval", self._signal, error
            )

    def look_soon(self) -> None:
        """Have the background thread look within a fraction of a second."""
        self._wanted.set()

    def start(self) -> None:
        """Follow the registry from a background thread until `stop`."""
        threading.Thread(target=self._follow, name="crossfade-reload", daemon=True).start()

    def stop(self) -> None:
        """End the background thread."""
        self._stopped.set()

    def _follow(self) -> None:
        seen, due = self._signal_time(), 0.0
        while not self._stopped.wait(min(_SIGNAL_SECONDS, self._poll_seconds)):
            signalled = self._signal_time()
            told = signalled != seen or self._wanted.is_set()
            if told or time.monotonic() >= due:
                self._wanted.clear()
                seen, due = signalled, time.monotonic() + self._poll_seconds
                self.refresh(try_again=told)

    def _signal_time(self) -> int:
        try:
            return self._signal.stat().st_mtime_ns
        except OSError:
            return 0

    def _remember(self, found: dict[str, Version | None]) -> None:
        """Keep in mind what is served, for a start without MLflow."""
        if found != self._remembered and self._current is not None:
            self._catalog.remember(found)
            self._remembered = found

    def _serve_remembered(self) -> None:
        """Serve what was served when MLflow last answered, if there are copies of it."""
        aliases = (self._prod_alias, self._staging_alias)
        try:
            self._swap({alias: self._catalog.remembered(alias) for alias in aliases})
        except CrossfadeError as error:
            _log.warning("what was served before is not at hand either: %s", error)

    def _swap(self, found: dict[str, Version | None]) -> str | None:
        """Bring the deployment up to date; return what is wrong with staging, if anything is."""
        prod_version, staging_version = found[self._prod_alias], found[self._staging_alias]
        if prod_version is None:
            return f"no version of {self._catalog.name} has the alias {self._prod_alias}"
        prod = self._load(prod_version)
        staging, problem = None, None
        if staging_version is not None and staging_version.number != prod_version.number:
            try:
                staging = self._load_challenger(staging_version, prod)
            except CrossfadeError as error:  # whatever is wrong with it, prod must not wait
                problem = f"staging is left out, prod serves everybody: {error}"
        fresh = Deployment(
            self._catalog.name,
            Arm("A", self._prod_alias, prod),
            Arm("B", self._staging_alias, staging) if staging else None,
        )
        if fresh != self._current:
            self._current = fresh
            _log.info(
                "serving prod v%s, staging v%s", prod_version.number, fresh.staging.version if fresh.staging else "none"
            )
        return problem

    def _load(self, version: Version) -> LoadedModel:
        """Return a version's model, from memory if an arm has it already."""
        arms = (self._current.prod, self._current.staging) if self._current else ()
        for arm in arms:
            if arm is not None and arm.version == version.number and arm.loaded.version.run_id == version.run_id:
                return arm.loaded
        key = (version.number, version.run_id)
        if key in self._unusable:
            raise ModelUnusable(self._unusable[key])
        try:
            loaded = self._catalog.load(version)
            _try_out(loaded)
        except ModelUnusable as error:
            self._unusable[key] = str(error)  # not fetched again at every look
            raise
        return loaded

    def _load_challenger(self, version: Version, prod: LoadedModel) -> LoadedModel:
        loaded = self._load(version)
        mine, prods = loaded.model.schema.kinds, prod.model.schema.kinds
        if mine != prods:
            raise ModelUnusable(f"version {version.number} takes {_listed(mine)}, but prod takes {_listed(prods)}")
        return loaded

    def _note(self, problem: str | None, at: float) -> None:
        if problem and problem != self.last_look.problem:
            _log.warning("%s", problem)
        self.last_look = Look(at, problem)
        self.on_look(self)


def _listed(kinds: dict[str, Kind]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in kinds.items())


def _try_out(loaded: LoadedModel) -> None:
    """Answer one row before any user does: it warms the model up and proves that it works here."""
    try:
        loaded.model.predict([loaded.model.schema.example()])
    except Exception as error:
        raise ModelUnusable(f"version {loaded.version.number} fails on a trial row: {error}") from error
