"""The champion gate: is the challenger good enough to be shown to any user?

Both models answer the newest labelled rows; what stands in for the challenger there has not learnt what it answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Union

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import precision_recall_fscore_support

from crossfade.stats.proportions import Share

Texts = Union[Sequence[str], npt.NDArray[np.object_], "pd.Series[Any]"]


@dataclass(frozen=True)
class Scores:
    """Quality of answers to labelled rows."""

    rows: int
    accuracy: float
    precision_macro: float
    """Unweighted mean over the classes that occur among the labels; one that is never predicted counts 0."""
    recall_macro: float
    f1_macro: float
    recall: Mapping[str, float]
    """Per class, of those that occur among the labels."""
    class_rows: Mapping[str, int]
    """Rows of each of these classes."""
    youden_j: Mapping[str, float]
    """Per class: recall minus the share of the other classes' rows that were answered with it; in [-1, 1], 0 for a
    model that answers everything with one class (Youden 1950)."""

    @classmethod
    def of(cls, truth: Texts, predicted: Texts) -> Scores | None:
        """Score answers against labels, both as text, shape (n,); None without rows.

        Examples
        --------
        >>> Scores.of(["a", "a", "b"], ["a", "b", "b"]).recall
        {'a': 0.5, 'b': 1.0}
        """
        if not len(truth):
            return None
        codes, names = pd.factorize(pd.concat([pd.Series(truth), pd.Series(predicted)]), sort=True)
        is_true, is_said = np.split(codes, 2)
        of_row, pairs = pd.factorize(is_true * len(names) + is_said)  # few pairs, however many rows
        times = np.bincount(of_row)
        true, said = np.divmod(pairs, len(names))
        rows, right = (
            np.bincount(true[which], times[which], len(names)).astype(np.int64) for which in (slice(None), true == said)
        )
        classes = np.flatnonzero(rows)
        precision, recall, f1, _ = precision_recall_fscore_support(
            true, said, labels=classes, sample_weight=times, zero_division=0
        )
        wrongly_said = np.bincount(said, times, len(names)) - right
        others = len(is_true) - rows
        youden_j = right / np.maximum(rows, 1) - wrongly_said / np.maximum(others, 1)
        labels = [str(name) for name in names[classes]]
        return cls(
            rows=len(is_true),
            accuracy=int(right.sum()) / len(is_true),
            precision_macro=float(precision.mean()),
            recall_macro=float(recall.mean()),
            f1_macro=float(f1.mean()),
            recall=dict(zip(labels, recall.tolist(), strict=True)),
            class_rows=dict(zip(labels, rows[classes].tolist(), strict=True)),
            youden_j=dict(zip(labels, youden_j[classes].tolist(), strict=True)),
        )

    def share_of_class(self, name: str) -> Share:
        """Share of a class's rows that were answered rightly: its recall, and how surely it is known."""
        rows = self.class_rows[name]
        return Share.of(round(self.recall[name] * rows), rows)


@dataclass(frozen=True)
class GateResult:
    """Outcome of the champion gate."""

    passed: bool
    reasons: tuple[str, ...]
    challenger: Scores
    champion: Scores | None
    """None for the first model: there is nobody to beat."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


def champion_gate(challenger: Scores, champion: Scores | None, max_recall_drop: float) -> GateResult:
    """Let a challenger pass when it beats the champion in macro F1, is no less accurate, and no class pays for it.

    The A/B test promotes by accuracy: who has less of it would cost users and could not win.

    A class pays when its recall falls by more than the margin and Youden's J of it falls too. Recall alone would
    protect a champion that answers everything with one class: nobody can match its recall of 1 there.

    Parameters
    ----------
    challenger, champion : Scores
        On the same held-out rows.
    max_recall_drop : float
        Recall that a class may lose before its Youden's J is looked at.
    """
    if champion is None:
        return GateResult(True, ("there is no champion to beat",), challenger, None)
    f1 = f"macro F1 {challenger.f1_macro:.3f} against the champion's {champion.f1_macro:.3f} on {challenger.rows} rows"
    better = challenger.f1_macro > champion.f1_macro
    losers = [
        f"class {name} pays: recall {before:.3f} -> {challenger.recall[name]:.3f} (allowed: -{max_recall_drop}), "
        f"Youden's J {champion.youden_j[name]:.3f} -> {challenger.youden_j[name]:.3f}"
        for name, before in champion.recall.items()
        if before - challenger.recall[name] > max_recall_drop and challenger.youden_j[name] < champion.youden_j[name]
    ]
    accuracy = f"accuracy {challenger.accuracy:.3f} against {champion.accuracy:.3f}"
    faults = [*([] if challenger.accuracy >= champion.accuracy else [f"{accuracy}: worse"]), *losers]
    reasons = (f1 if better else f"{f1}: not better", *faults)
    return GateResult(better and not faults, reasons, challenger, champion)
