"""What the aliases stand on: versions that exist, and files that load."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from crossfade.doctor.finding import Finding, NotLooked, Site
from crossfade.doctor.services import is_answering
from crossfade.errors import ModelUnusable
from crossfade.modelcache import ModelCache
from crossfade.serving.catalog import Catalog
from crossfade.settings import Settings
from crossfade.version import DIGEST, Version

if TYPE_CHECKING:
    from crossfade.registry import Registry


def look_at_aliases(site: Site) -> Iterator[Finding]:
    """Look whether each alias points at a version that exists."""
    settings, registry = site.settings, open_registry(site)
    aliases, numbers = registry.aliases(), {version.number for version in registry.versions()}
    for alias in (settings.prod_alias, settings.staging_alias, settings.previous_alias):
        number = aliases.get(alias)
        if number is None and alias == settings.prod_alias:
            yield Finding(
                f"alias {alias} of {registry.name}",
                "no version has it: the router has nothing to serve",
                "trigger the DAG, or `make retrain`",
                level="note",
            )
        elif number is not None and number not in numbers:
            yield Finding(
                f"alias {alias} of {registry.name}",
                f"it points at version {number}, which is deleted",
                f"set it on a version that exists, or delete it: {settings.mlflow_ui_url}/#/models/{registry.name}",
            )


def look_at_models(site: Site) -> Iterator[Finding]:
    """Load what prod and staging point at, as the router does, from a copy of its own, and answer a row with each."""
    settings, registry = site.settings, open_registry(site)
    found = {alias: registry.at(alias) for alias in (settings.prod_alias, settings.staging_alias)}
    if not any(found.values()):
        raise NotLooked("no version is served")
    for alias, version in found.items():
        if version is not None:
            yield from _look_at(settings, registry, alias, version)


def open_registry(site: Site) -> Registry:
    """Open the registry. Raises NotLooked where it is stopped with everything else."""
    settings = site.settings
    own = f"http://{settings.reachable_host}:{settings.mlflow_port}"
    is_stopped = settings.mlflow_tracking_uri == own and "mlflow" not in site.running
    if is_stopped and not is_answering("mlflow", own):  # one that somebody else started is as good
        raise NotLooked("MLflow is stopped")
    from crossfade.registry import Registry  # MLflow's client takes seconds: only where there is something to ask

    return Registry(settings.mlflow_tracking_uri, settings.reg_model_name)


def _look_at(settings: Settings, registry: Registry, alias: str, version: Version) -> Iterator[Finding]:
    looked_at = f"version {version.number} of {registry.name} (alias {alias})"
    other = "move the alias to a version that loads (`crossfade rollback`), or train anew (`make retrain`)"
    try:
        with tempfile.TemporaryDirectory(prefix="crossfade-doctor-") as folder:
            loaded = Catalog(registry, settings.model_runtime, ModelCache(Path(folder))).load(version)
            loaded.model.predict([loaded.model.schema.example()])
        digest = registry.digest(version)
    except ModelUnusable as error:
        yield Finding(looked_at, str(error).splitlines()[0][:300], other)
        return
    if version.tags.get(DIGEST, digest) != digest:
        yield Finding(
            looked_at, f"its files are not those that were registered ({DIGEST})", f"restore a backup, or {other}"
        )
