"""What the doctor's tests look at: an installation that was used and is stopped, and single checks of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from crossfade.doctor.command import all_checks
from crossfade.doctor.examine import Examined, examine
from crossfade.doctor.finding import Site
from crossfade.loop.audit import FileAudit
from crossfade.requestlog import CsvRequestLog, LateLabel, LogRow
from crossfade.settings import Settings

LogRows = Callable[..., CsvRequestLog]
Look = Callable[..., Examined]


@pytest.fixture
def log_rows() -> LogRows:
    """Log rows, one a second until now, as a router does; `ages` are seconds before now."""

    def make(settings: Settings, ages: list[float] | None = None) -> CsvRequestLog:
        log, now = CsvRequestLog(settings.request_log, settings.labels_log), datetime.now(UTC)
        for number, age in enumerate(range(200, 0, -1) if ages is None else ages):
            time = (now - timedelta(seconds=age)).isoformat(timespec="microseconds")
            row = ("u1", "m-v1-v2", "A", "prod", "m", "1", 0.5, '{"a":1.5}', "", "1", 0.75, 1.25, 200)
            log.append([LogRow(time, f"r{number}", *row)])
        log.append_labels([LateLabel(now.isoformat(timespec="microseconds"), "r0", "1")])
        return log

    return make


@pytest.fixture
def used(tmp_path: Path, isolate: Callable[..., tuple[Settings, dict[str, str]]], log_rows: LogRows) -> Settings:
    """An installation with a log, labels and an audit, on free ports; nothing of it runs."""
    settings, _ = isolate(tmp_path)
    log_rows(settings)
    FileAudit.under(settings.report_dir).append({"event": "look", "verdict": "keep"})
    return settings


@pytest.fixture(scope="session")
def look() -> Look:
    """Let one of the doctor's checks look."""

    def one(name: str, settings: Settings, *running: str) -> Examined:
        checks = [check for check in all_checks() if check.name == name]
        assert len(checks) == 1
        return examine(checks, Site(settings, frozenset(running)))[0]

    return one
