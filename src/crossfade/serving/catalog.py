"""The models that a router may serve: which version stands where, and each in the form that MODEL_RUNTIME allows."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from crossfade.compiled.model import load_compiled
from crossfade.errors import ModelUnusable
from crossfade.mlflowserver import MlflowServer, can_ask
from crossfade.modelcache import ModelCache
from crossfade.version import COMPILED_FOLDER, DIGEST, LoadedModel, Runtime, Version, digest_of

_log = logging.getLogger(__name__)


class Source(Protocol):
    """Where versions come from: MLflow, by its server's REST API or by its own client."""

    @property
    def name(self) -> str:
        """Name of the registered model."""

    def at(self, alias: str) -> Version | None:
        """Return the version an alias points at. Raises RegistryUnavailable."""

    def fetch_compiled(self, version: Version, folder: Path) -> Path:
        """Fetch a version's compiled form. Raises RegistryUnavailable, or ModelUnusable where it has none."""

    def load_trained(self, version: Version, folder: Path) -> LoadedModel:
        """Load a version as it was trained, its files kept in a folder. Raises as `fetch_compiled` does."""


def open_source(tracking_uri: str, name: str) -> Source:
    """Return where the versions of a registered model come from: the lightest way that this address allows."""
    if can_ask(tracking_uri):
        return MlflowServer(tracking_uri, name)
    from crossfade.registry import Registry  # here: it takes MLflow along

    return Registry(tracking_uri, name)


class Catalog:
    """The versions of one registered model, with copies of those that were served.

    Parameters
    ----------
    source : Source
        Where they come from.
    runtime : str
        What `load` gives: `pipeline`, the model as it was trained; `auto`, its compiled form where it has one; `onnx`,
        that and nothing else, and none that would have to be unpickled.
    cache : ModelCache
        Where loaded versions are kept for when MLflow does not answer.
    """

    def __init__(self, source: Source, runtime: Runtime, cache: ModelCache) -> None:
        self.name = source.name
        self._source = source
        self._runtime = runtime
        self._cache = cache

    def at(self, alias: str) -> Version | None:
        """Return the version an alias points at; None when the alias, or the model, does not exist.

        Raises
        ------
        RegistryUnavailable
            MLflow does not answer.
        """
        return self._source.at(alias)

    def load(self, version: Version) -> LoadedModel:
        """Load a version, from its copy or from MLflow.

        Raises
        ------
        RegistryUnavailable
            MLflow does not answer, and there is no copy.
        ModelUnusable
            The artifact is missing or broken, says nothing about its features or classes, or is not what the runtime
            allows.
        """
        name = self._copy_name(version)
        try:
            with self._cache.folder_of(name) as copy:
                return self._load(version, copy)
        except ModelUnusable:
            if not self._cache.discard(name):
                raise
        with self._cache.folder_of(name) as copy:  # it was the copy that was broken
            return self._load(version, copy)

    def remember(self, seen: Mapping[str, Version | None]) -> None:
        """Keep in mind which version stands under which alias, for when MLflow does not answer."""
        there = {alias: version for alias, version in seen.items() if version}
        known = {alias: asdict(version) for alias, version in there.items()}
        self._cache.remember(known, {self._copy_name(version) for version in there.values()})

    def remembered(self, alias: str) -> Version | None:
        """Return the version that stood under an alias when MLflow last answered; None when nobody knows."""
        found = self._cache.remembered().get(alias)
        try:
            return Version(**found) if found else None
        except TypeError:  # written by another release
            return None

    def _copy_name(self, version: Version) -> str:
        return f"{version.number}-{version.run_id}-{self._runtime}"

    def _load(self, version: Version, folder: Path) -> LoadedModel:
        if self._runtime != "pipeline" and (compiled := self._load_compiled(version, folder)):
            return compiled
        return self._source.load_trained(version, folder)

    def _load_compiled(self, version: Version, folder: Path) -> LoadedModel | None:
        """Load a version's compiled form; None where it has none and its pipeline may stand in."""
        kept = (folder / COMPILED_FOLDER).is_dir()
        try:
            path = self._fetch_compiled(version, folder)
            model = load_compiled(path, unpickle=self._runtime == "auto")
        except ModelUnusable as error:
            if self._runtime == "onnx":
                raise ModelUnusable(
                    f"version {version.number}: {error}. MODEL_RUNTIME=onnx serves nothing else; `auto` would"
                ) from error
            if kept:  # it was loaded from this copy before
                raise
            shutil.rmtree(folder / COMPILED_FOLDER, ignore_errors=True)
            _log.info("version %s is served as it was trained: %s", version.number, error)
            return None
        return LoadedModel(version, model, version.tags.get(DIGEST) or digest_of(path, "*"))

    def _fetch_compiled(self, version: Version, folder: Path) -> Path:
        copy = folder / COMPILED_FOLDER
        if copy.is_dir():
            return copy
        if any(folder.iterdir()):
            raise ModelUnusable("it has no compiled form")
        return self._source.fetch_compiled(version, folder)
