"""Logs as a router writes them, with times of one's own choosing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from crossfade.requestlog import CsvRequestLog, LateLabel, LogRow

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)

EXPERIMENT = "IrisClassifier-v1-v2"


def ms(time: datetime) -> int:
    """Milliseconds since the epoch."""
    return round(time.timestamp() * 1000)


@pytest.fixture
def log(tmp_path: Path) -> CsvRequestLog:
    """An empty log."""
    return CsvRequestLog(tmp_path / "requests.csv", tmp_path / "labels.csv")


@pytest.fixture
def answer(log: CsvRequestLog) -> Callable[..., None]:
    """Log answers; `said` and `truth` are one class each."""

    def write(
        *ids: str,
        variant: str = "A",
        minutes: float = 0,
        said: str = "0",
        truth: str = "",
        status: int = 200,
        latency_ms: float = 1.0,
        experiment: str = EXPERIMENT,
        model: str = "IrisClassifier",
    ) -> None:
        when = (NOON + timedelta(minutes=minutes)).isoformat(timespec="microseconds")
        alias, version = ("staging", "2") if variant == "B" else ("prod", "1")
        head = [
            (when, name, f"user-{name}", experiment, variant, alias, model, version, 0.5, '{"x":1.5}') for name in ids
        ]
        failed = status != 200
        tail = (truth, "" if failed else said, None if failed else 0.9, latency_ms, status)
        log.append([LogRow(*each, *tail) for each in head])

    return write


@pytest.fixture
def label(log: CsvRequestLog) -> Callable[[str, str], None]:
    """Log a late label."""

    def write(request_id: str, truth: str) -> None:
        log.append_labels([LateLabel(NOON.isoformat(timespec="microseconds"), request_id, truth)])

    return write
