"""The log's rows: whole lines, and times that run forwards and not beyond now."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pandas as pd

from crossfade.doctor.finding import Finding, NotLooked, Site
from crossfade.errors import LogUnavailable
from crossfade.openlog import open_log
from crossfade.requestlog import RequestLog

_MOST_SLICES = 60
"""The newest, some 18,000 rows each on four features."""

_TORN_SHARE = 0.01
"""A killed process leaves a line; more than this share of them is no accident."""

_FUTURE_SECONDS, _BACK_SECONDS = 60.0, 60.0
"""Workers write side by side, so times of neighbouring rows may be a moment out of order."""


def look_at_rows(site: Site) -> Iterator[Finding]:
    """Read the times of the newest rows, and count the lines that are none."""
    settings = site.settings
    log = open_log(settings)
    try:
        times, torn = _times(log)
    except LogUnavailable as error:
        raise NotLooked(f"it cannot be read (see log files): {error}") from error
    if not len(times) and not torn:
        raise NotLooked("no row was logged yet")
    looked_at = f"the newest {len(times):,} rows of {settings.request_log}"
    if torn:
        much = torn > _TORN_SHARE * (len(times) + torn)
        yield Finding(
            looked_at,
            f"{torn} lines are torn or broken; they are set aside",
            "find out what else writes to the file"
            if much
            else "nothing: a process or the disk ended in the middle of a line",
            level="wrong" if much else "note",
        )
    known = times.dropna()
    if len(known) < len(times):
        yield Finding(
            looked_at,
            f"{len(times) - len(known)} rows have no time that can be read",
            "find out what else writes to the file",
        )
    if len(known):
        yield from _clock(looked_at, known)


def _clock(looked_at: str, times: pd.Series[pd.Timestamp]) -> Iterator[Finding]:
    now = datetime.now(UTC)
    ahead = (times - now).dt.total_seconds()
    future = int((ahead > _FUTURE_SECONDS).sum())
    if future:
        yield Finding(
            looked_at,
            f"{future} are from the future, by up to {ahead.max():.0f} s: a router's clock is, or was, ahead",
            "keep the clocks by NTP (timedatectl set-ntp true); until then such rows stay the newest of every window",
        )
    back = -times.diff().dt.total_seconds()
    leaps = int((back > _BACK_SECONDS).sum())
    if leaps:
        yield Finding(
            looked_at,
            f"time runs backwards {leaps} times, by up to {back.max():.0f} s: a clock was set back, or two differ",
            "keep the clocks by NTP (timedatectl set-ntp true)",
        )


def _times(log: RequestLog) -> tuple[pd.Series[pd.Timestamp], int]:
    """Read the times of the newest rows in the file's order, and count the lines that are no rows."""
    texts, torn = [], 0
    for one in log.slices()[-_MOST_SLICES:]:
        table, set_aside = one.read(("ts_utc",))
        texts.extend(table["ts_utc"].to_pylist())
        torn += set_aside
    for one in log.label_slices()[-_MOST_SLICES:]:
        torn += one.read(("ts_utc",))[1]
    return pd.Series(pd.to_datetime(pd.Series(texts, dtype=object), utc=True, errors="coerce", format="ISO8601")), torn
