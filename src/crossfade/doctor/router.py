"""Whether the router serves what the aliases say, and what it complains of itself."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import requests

from crossfade import __version__
from crossfade.doctor.finding import Finding, NotLooked, Site
from crossfade.doctor.models import open_registry
from crossfade.doctor.services import is_answering
from crossfade.settings import Settings

_SECONDS = 5


def look_at_router(site: Site) -> Iterator[Finding]:
    """Ask the router what it serves and what is wrong, and compare that with the registry."""
    settings = site.settings
    if not is_answering("router", settings.router_url):
        raise NotLooked(f"no router answers at {settings.router_url}")
    looked_at = f"the router at {settings.router_url}"
    for problem in _get(settings, "/health")["problems"]:
        yield Finding(looked_at, str(problem), "mend that; the router goes on by itself")
    release = _get(settings, "/version").get("router")
    if release not in (None, __version__):
        yield Finding(
            looked_at, f"it is release {release}, and this is {__version__}", "`crossfade down`, then `crossfade up`"
        )
    wanted = _aliases(site)
    if served_differently(settings, wanted):
        time.sleep(settings.router_poll_seconds + 1)  # an alias may just have moved
        wanted = _aliases(site)
        for worker, served in served_differently(settings, wanted).items():
            yield Finding(
                f"{looked_at}, {worker}",
                f"it serves {_named(served)}; the aliases say {_named(wanted)}",
                "look for its reason in var/logs/router_*.log; POST /reload makes it look again",
            )


Arms = tuple[str | None, str | None]
"""Versions of prod and staging."""


def served_differently(settings: Settings, wanted: Arms) -> dict[str, Arms]:
    """Return the workers that serve other versions than the aliases say, and what."""
    health = _get(settings, "/health")
    workers: list[Mapping[str, Any]] = health.get("workers") or [health]
    served = {f"worker {worker.get('pid', worker.get('worker', '?'))}": _arms(worker) for worker in workers}
    return {name: arms for name, arms in served.items() if arms != wanted}


def _aliases(site: Site) -> Arms:
    registry, settings = open_registry(site), site.settings
    prod, staging = (registry.at(alias) for alias in (settings.prod_alias, settings.staging_alias))
    number = staging.number if staging and (prod is None or staging.number != prod.number) else None
    return (prod.number if prod else None, number)


def _arms(worker: Mapping[str, Any]) -> Arms:
    return (worker.get("prod") or None, worker.get("staging") or None)


def _named(arms: Arms) -> str:
    return f"prod {arms[0] or 'none'}, staging {arms[1] or 'none'}"


def _get(settings: Settings, path: str) -> dict[str, Any]:
    answer = requests.get(f"{settings.router_url}{path}", timeout=_SECONDS)
    return dict(answer.json())
