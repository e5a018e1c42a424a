"""The newest drift check, and how each feature's PSI went over the last windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crossfade.dashboard.reportfiles import DriftFiles

WORDS = {
    "drift": "The data drift",
    "stable": "The data are as they were learnt",
    "insufficient_data": "Too few answers to tell",
    "schema_broken": "The schema broke",
    "no_reference": "There is nothing to compare with yet",
}


@dataclass(frozen=True)
class ColumnShift:
    """A monitored column in the newest check."""

    name: str
    psi: float | None
    """None when there was nothing to compare."""
    verdict: str


@dataclass(frozen=True)
class PsiLine:
    """A feature's PSI over the windows."""

    name: str
    times: tuple[str, ...]
    """When each window's newest row was answered (UTC)."""
    psi: tuple[float, ...]


@dataclass(frozen=True)
class DriftView:
    """What the drift panel shows."""

    verdict: str
    """Empty before the first check."""
    when: str
    """ISO 8601, UTC."""
    rows: int
    version: str
    """Whose learning the rows were held against; empty where that is not known."""
    threshold: float
    columns: tuple[ColumnShift, ...]
    """The largest PSI first."""
    trend: tuple[PsiLine, ...]
    """The largest PSI of the newest window first."""
    decision: str
    """`retrain`, `monitor` or `block`; empty before the first check."""
    reasons: tuple[str, ...]
    run_id: str

    @property
    def words(self) -> str:
        """The verdict in a few words."""
        return WORDS.get(self.verdict, self.verdict.replace("_", " ") or "No drift check yet")

    @property
    def drifted(self) -> int:
        """How many columns drifted."""
        return sum(column.verdict == "drift" for column in self.columns)


def drift_view(files: DriftFiles, threshold: float) -> DriftView:
    """Arrange the report files of the newest check.

    Parameters
    ----------
    files : DriftFiles
        What stands in them.
    threshold : float
        PSI_THRESHOLD, for want of a check that says which one it used.
    """
    status, advice = files.status or {}, files.advice or {}
    columns = [ColumnShift(str(c["feature"]), c.get("psi"), str(c["verdict"])) for c in files.columns]
    return DriftView(
        verdict=str(status.get("verdict", "")),
        when=str(status.get("ts_utc", "")),
        rows=int(status.get("rows", 0)),
        version=str(status.get("model_version") or ""),
        threshold=float(status.get("psi_threshold", threshold)),
        columns=tuple(sorted(columns, key=lambda column: -(column.psi or 0))),
        trend=_lines(files.trend),
        decision=str(advice.get("decision", "")),
        reasons=tuple(str(reason) for reason in advice.get("reasons", ())),
        run_id=str(status.get("run_id", "")),
    )


def _lines(trend: tuple[Mapping[str, Any], ...]) -> tuple[PsiLine, ...]:
    by_feature: dict[str, list[tuple[str, float]]] = {}
    for line in trend:
        by_feature.setdefault(str(line["feature"]), []).append((str(line["last_ts"]), float(line["psi"])))
    lines = [
        PsiLine(name, tuple(when for when, _ in points), tuple(psi for _, psi in points))
        for name, points in by_feature.items()
    ]
    return tuple(sorted(lines, key=lambda line: -line.psi[-1]))
