"""Clocks: of this machine against its neighbours', and of the log's rows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import requests

from crossfade.doctor.finding import Finding, NotLooked, Site

_SECONDS = 5

_MOST_SKEW_SECONDS = 30.0
"""A `Date` header has whole seconds, and an answer may take some."""


def look_at_clocks(site: Site) -> Iterator[Finding]:
    """Compare this machine's clock with what MLflow and the router say the time is."""
    settings = site.settings
    urls = {"MLflow": settings.mlflow_tracking_uri, "the router": settings.router_url}
    answered = False
    for who, url in urls.items():
        if not url.startswith("http"):
            continue
        try:
            skew = _skew(url)
        except (requests.RequestException, ValueError, KeyError):
            continue
        answered = True
        if abs(skew) > _MOST_SKEW_SECONDS:
            yield Finding(
                f"the clock of {who} at {url}",
                f"it is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's",
                "keep both by NTP (timedatectl set-ntp true): windows and daily parts go by the clock",
            )
    if not answered:
        raise NotLooked("nobody who tells the time answers")


def _skew(url: str) -> float:
    """Return by how many seconds the clock there is ahead. Raises RequestException, KeyError or ValueError."""
    before = datetime.now(UTC)
    answer = requests.get(f"{url}/health", timeout=_SECONDS)
    after = datetime.now(UTC)
    there = parsedate_to_datetime(answer.headers["Date"])
    if there < before:
        return min(0.0, (there - before).total_seconds() + 1)  # it was cut to the second
    return max(0.0, (there - after).total_seconds())
