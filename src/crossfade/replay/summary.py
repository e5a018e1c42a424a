"""What a replay found: three ways of running one model, on the same rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from sklearn.metrics import accuracy_score, f1_score

from crossfade.replay.baselines import Baseline
from crossfade.replay.history import History
from crossfade.replay.play import Event, Kind, Played


@dataclass(frozen=True)
class Way:
    """One way of running a model, and how good its answers were."""

    name: str
    accuracy: float
    f1_macro: float
    """Unweighted mean over the classes that occur among the labels."""
    window_accuracy: tuple[float, ...]
    """Per window."""
    window_f1_macro: tuple[float, ...]
    """Per window."""
    retrains: int
    cpu_seconds: float
    """Spent on training after the first model."""

    @classmethod
    def of(cls, name: str, history: History, answers: list[str], retrains: int, cpu_seconds: float) -> Way:
        """Score answers, one per row after the first model's."""
        truth, start = history.truth, history.first
        slices = [slice(a - start, b - start) for a, b in zip(history.edges[:-1], history.edges[1:], strict=True)]
        return cls(
            name,
            _accuracy(truth, answers),
            _f1_macro(truth, answers),
            tuple(_accuracy(truth[part], answers[part]) for part in slices),
            tuple(_f1_macro(truth[part], answers[part]) for part in slices),
            retrains,
            round(cpu_seconds, 1),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


@dataclass(frozen=True)
class Summary:
    """One replay."""

    table: str
    history: History
    static: Way
    retrain_always: Way
    crossfade: Way
    events: tuple[Event, ...]
    counts: dict[str, int]
    """Events by kind."""
    seconds: float
    """From the command to the result."""
    varied: dict[str, str] = field(default_factory=dict)
    """Settings that this replay was asked to try, by name."""

    @classmethod
    def of(
        cls,
        table: str,
        history: History,
        baselines: tuple[Baseline, Baseline],
        played: Played,
        seconds: float,
        varied: dict[str, str],
    ) -> Summary:
        """Score what was played, static and always retrained baselines first."""
        static, always = baselines
        counts = {kind: played.count(kind) for kind in get_args(Kind)}
        return cls(
            table,
            history,
            Way.of("static model", history, static.answers, static.retrains, static.cpu_seconds),
            Way.of("retrain always", history, always.answers, always.retrains, always.cpu_seconds),
            Way.of("Crossfade", history, played.answers, counts["retrain"], played.cpu_seconds),
            played.events,
            counts,
            round(seconds, 1),
            varied,
        )

    @property
    def ways(self) -> tuple[Way, Way, Way]:
        """The three ways, in the order of the reports."""
        return self.static, self.retrain_always, self.crossfade

    @property
    def verdict(self) -> str:
        """One sentence with what a reader wants to know first."""
        gain = self.crossfade.accuracy - self.static.accuracy
        possible = self.retrain_always.accuracy - self.static.accuracy
        always = f"retraining always {'gains' if possible >= 0 else 'loses'} {abs(possible) * 100:.1f}"
        return (
            f"Crossfade's answers were {abs(gain) * 100:.1f} points of accuracy {'better' if gain >= 0 else 'worse'} "
            f"than the first model's ({always}), with {self.crossfade.retrains} retrainings instead of "
            f"{self.retrain_always.retrains}."
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form: the contents of summary.json."""
        history = self.history
        return {
            "table": self.table,
            "verdict": self.verdict,
            "static": self.static.to_dict(),
            "retrain_always": self.retrain_always.to_dict(),
            "crossfade": self.crossfade.to_dict(),
            "retrains": self.counts["retrain"],
            "promotions": self.counts["promotion"],
            "rejections": self.counts["rejection"],
            "rollbacks": self.counts["rollback"],
            "drift_alarms": self.counts["drift"],
            "quality_alarms": self.counts["quality"],
            "rows": len(history.truth),
            "first_rows": history.first,
            "refused_rows": history.refused,
            "windows": history.windows,
            "label_delay_windows": history.delay,
            "varied": self.varied,
            "events": [asdict(event) for event in self.events],
            "seconds": self.seconds,
        }


def _accuracy(truth: list[str], answers: list[str]) -> float:
    return float(accuracy_score(truth, answers))


def _f1_macro(truth: list[str], answers: list[str]) -> float:
    return float(f1_score(truth, answers, labels=sorted(set(truth)), average="macro", zero_division=0))
