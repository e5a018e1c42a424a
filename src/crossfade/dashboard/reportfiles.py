"""What the learning loop's reports and its audit say, read again only when a file has changed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from crossfade.loop.audit import Audit, Trail, without_ended
from crossfade.loop.check import TREND_WINDOWS
from crossfade.loop.reports import RUNS_COLUMNS, ReportPaths
from crossfade.loop.trend import COLUMNS as TREND_COLUMNS
from crossfade.loop.trend import continued

Row = Mapping[str, Any]


@dataclass(frozen=True)
class DriftFiles:
    """The newest drift check."""

    status: Row | None = None
    """`drift_status.json`; None before the first check."""
    columns: tuple[Row, ...] = ()
    """`drift_report.csv`: a line per column; numbers, or None where there is none."""
    trend: tuple[Row, ...] = ()
    """`drift_trend.csv`: a line per window and feature."""
    advice: Row | None = None
    """`retrain_recommendation.json`."""


@dataclass(frozen=True)
class Decisions:
    """Everything that was decided."""

    looks: tuple[Row, ...] = ()
    """At experiments, oldest first."""
    moves: tuple[Row, ...] = ()
    """Of aliases and of the split, oldest first; one that has ended is told once."""
    runs: tuple[Row, ...] = ()
    """`tracking/runs.csv`: MLflow runs, oldest first."""
    plan: Row | None = None
    """What the newest experiment needs."""
    set_aside: int = 0
    """Lines of the audit that are torn."""


_NO_TRAIL = Trail(())


class ReportFiles:
    """Reads the files of one installation.

    Parameters
    ----------
    paths : ReportPaths
        Where the reports lie.
    audit : Audit
        The audit.
    model : str
        Name of the registered model: several may share the files.
    """

    def __init__(self, paths: ReportPaths, audit: Audit, model: str) -> None:
        self._paths = paths
        self._audit = audit
        self._model = model
        self._arranged: tuple[tuple[object, object, object], Decisions] = ((None, None, None), Decisions())
        self._seen: tuple[Hashable, Trail] = (None, _NO_TRAIL)
        self._known: dict[Path, tuple[tuple[int, int, int] | None, Any]] = {}

    def drift(self) -> DriftFiles:
        """Read the newest drift check. Raises OSError or ValueError: a file cannot be read."""
        folder = self._paths.drift
        return DriftFiles(
            self._read(folder / "drift_status.json", _json, None),
            self._read(folder / "drift_report.csv", _columns, ()),
            self._read(folder / "drift_trend.csv", self._trend, ()),
            self._read(self._paths.recommendation, _json, None),
        )

    def decisions(self) -> Decisions:
        """Read what was decided. Raises LogUnavailable, OSError or ValueError: a file cannot be read."""
        read = (self._trail(), self._read(self._paths.runs, _runs, ()), self._read(self._paths.plan, _json, None))
        if not all(new is old for new, old in zip(read, self._arranged[0], strict=True)):
            self._arranged = (read, self._arrange(*read))
        return self._arranged[1]

    def _trail(self) -> Trail:
        """Read the audit unless nothing was added."""
        mark = self._audit.mark()
        if mark != self._seen[0]:
            self._seen = mark, self._audit.read() if mark is not None else _NO_TRAIL
        return self._seen[1]

    def _arrange(self, trail: Trail, runs: tuple[Row, ...], plan: Row | None) -> Decisions:
        mine = [event for event in without_ended(trail.events) if event.get("model", self._model) == self._model]
        return Decisions(
            tuple(event for event in mine if event["event"] == "look" and self._is_mine(event)),
            tuple(event for event in mine if event["event"] != "look"),
            runs,
            plan,
            trail.set_aside,
        )

    def _is_mine(self, look: Row) -> bool:
        return str(look.get("experiment_id") or "").startswith(f"{self._model}-v")

    def _trend(self, path: Path) -> tuple[Row, ...]:
        nothing_newer = pd.DataFrame(columns=list(TREND_COLUMNS))
        return tuple(continued(path, nothing_newer, self._model, TREND_WINDOWS).to_dict("records"))  # type: ignore[arg-type]  # names are texts

    def _read(self, path: Path, reader: Callable[[Path], Any], missing: Any) -> Any:
        """Read a file unless it is the one that was read last."""
        try:
            found = path.stat()
            mark = (found.st_mtime_ns, found.st_size, found.st_ino)
        except FileNotFoundError:
            mark = None
        known = self._known.get(path)
        if known is None or known[0] != mark:
            try:
                known = self._known[path] = (mark, reader(path) if mark else missing)
            except ValueError as error:
                raise ValueError(f"{path} cannot be read: {error}. Move it away; the next DAG run writes it") from error
        return known[1]


def _json(path: Path) -> Row:
    found = json.loads(path.read_text())
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    return found


def _columns(path: Path) -> tuple[Row, ...]:
    lines = csv.DictReader(io.StringIO(path.read_text()))
    return tuple({name: _cell(name, text) for name, text in line.items()} for line in lines)


def _cell(name: str, text: str) -> str | float | None:
    if name in ("feature", "verdict"):
        return text
    return float(text) if text else None


def _runs(path: Path) -> tuple[Row, ...]:
    whole = path.read_text().rpartition("\n")[0]  # a line may be being written
    return tuple(row for row in csv.DictReader(io.StringIO(whole)) if row.keys() >= set(RUNS_COLUMNS))
