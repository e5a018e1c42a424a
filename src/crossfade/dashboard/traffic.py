"""Traffic over time, by arm: requests per minute, latency, failures, labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from crossfade.dashboard.answers import LATENCY_BINS, Answers, Ints, milliseconds
from crossfade.dashboard.logtail import Tail

SpanName = Literal["auto", "1h", "6h", "24h", "7d", "30d"]

_MINUTE = 60_000

ARMS = ("A", "B")


@dataclass(frozen=True)
class Span:
    """How far back a picture goes."""

    name: SpanName
    words: str
    minutes: int
    bucket: int
    """Minutes that one point stands for."""


SPANS = (
    Span("1h", "1 hour", 60, 1),
    Span("6h", "6 hours", 360, 5),
    Span("24h", "24 hours", 1440, 15),
    Span("7d", "7 days", 10_080, 120),
    Span("30d", "30 days", 43_200, 480),
)


@dataclass(frozen=True)
class ArmTraffic:
    """What one arm answered in a span."""

    rows: int
    """A batch is a row per item."""
    failed: int
    """Rows to which the model raised."""
    labeled: int
    """Answered rows whose label is known."""
    per_minute: tuple[float, ...]
    """Rows per minute, by bucket."""
    p50: tuple[float | None, ...]
    """Median latency in milliseconds, by bucket; None without rows."""
    p95: tuple[float | None, ...]
    """The 95th percentile likewise."""

    @property
    def label_share(self) -> float | None:
        """Of the answered rows; None without any."""
        answered = self.rows - self.failed
        return self.labeled / answered if answered else None


@dataclass(frozen=True)
class Traffic:
    """A span of traffic."""

    span: Span
    times: tuple[int, ...]
    """Where the buckets begin, in milliseconds since the epoch."""
    arms: Mapping[str, ArmTraffic]
    newest: int | None
    """When the newest row of all was answered; None when there is none."""
    set_aside: int
    """Lines of the log that are no rows."""
    complete: bool
    """Whether the log has been read to the end of what is kept."""
    oldest: int | None
    """When the oldest row that is kept was answered."""
    kept_rows: int

    @property
    def rows(self) -> int:
        """Of both arms in the span."""
        return sum(arm.rows for arm in self.arms.values())


def traffic_of(tail: Tail, name: SpanName, now: int) -> Traffic:
    """Count a span of the log.

    Parameters
    ----------
    tail : Tail
        The log.
    name : str
        The span; `auto` is the shortest in which there was traffic at two times at least.
    now : int
        Where it ends: milliseconds since the epoch.
    """
    span = next((one for one in SPANS if one.name == name), None) or _span_with_traffic(tail, now)
    width = span.bucket * _MINUTE
    buckets = span.minutes // span.bucket
    start = (now // width + 1) * width - buckets * width
    arm_of = np.array([ARMS.index(group.variant) if group.variant in ARMS else 0 for group in tail.groups], np.int64)
    latency = np.zeros(len(ARMS) * buckets * LATENCY_BINS, np.int64)
    failed, labeled = np.zeros((2, len(ARMS)), np.int64)
    for part in tail.parts:
        inside = _inside(part, start, start + buckets * width)
        if inside is None:
            continue
        arm = arm_of[part.group[inside]]
        place = (arm * buckets + (part.at[inside] - start) // width) * LATENCY_BINS + part.latency[inside]
        latency += np.bincount(place, minlength=len(latency))
        failed += np.bincount(arm[~part.answered[inside]], minlength=len(ARMS))
        labeled += np.bincount(arm[part.known[inside]], minlength=len(ARMS))
    histograms = latency.reshape(len(ARMS), buckets, LATENCY_BINS)
    arms = {
        variant: _arm(histograms[i], int(failed[i]), int(labeled[i]), span.bucket) for i, variant in enumerate(ARMS)
    }
    times = tuple(int(at) for at in start + width * np.arange(buckets))
    return Traffic(span, times, arms, tail.newest, tail.set_aside, tail.complete, tail.oldest, tail.rows)


def _inside(part: Answers, start: int, stop: int) -> Ints | slice | None:
    """Choose the rows of a time; None where there are none."""
    if not len(part) or part.at.max() < start:
        return None
    chosen = (part.at >= start) & (part.at < stop)
    if chosen.all():
        return slice(None)
    return np.flatnonzero(chosen) if chosen.any() else None


def _span_with_traffic(tail: Tail, now: int) -> Span:
    for span in SPANS:
        start, seen = now - span.minutes * _MINUTE, set[int]()
        for part in reversed(tail.parts):
            if len(part) and part.at.max() >= start:
                inside = part.at[part.at >= start]
                seen |= {int(inside.min()) // (span.bucket * _MINUTE), int(inside.max()) // (span.bucket * _MINUTE)}
        if len(seen) > 1:
            return span
    return next((span for span in SPANS if tail.newest and tail.newest >= now - span.minutes * _MINUTE), SPANS[0])


def _arm(histograms: Ints, failed: int, labeled: int, bucket: int) -> ArmTraffic:
    rows = histograms.sum(axis=1)
    return ArmTraffic(
        rows=int(rows.sum()),
        failed=failed,
        labeled=labeled,
        per_minute=tuple((rows / bucket).tolist()),
        p50=_percentile(histograms, rows, 0.5),
        p95=_percentile(histograms, rows, 0.95),
    )


def _percentile(histograms: Ints, rows: Ints, share: float) -> tuple[float | None, ...]:
    reached = np.cumsum(histograms, axis=1) >= np.maximum(np.ceil(share * rows), 1)[:, None]
    found = milliseconds(reached.argmax(axis=1))
    return tuple(float(value) if n else None for value, n in zip(found, rows, strict=True))
