"""Quality: is the model in production still as good as it was on the rows held out when it was trained?

Drift of the inputs says that something changed; only labels say whether it matters, and a rule that changed under
stable inputs shows nowhere else.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from crossfade.stats.proportions import Share, share_of_clusters, worse_share


@dataclass(frozen=True)
class QualityReport:
    """Outcome of one look at recent labels."""

    verdict: Literal["worse", "as_good", "insufficient_data"]
    reason: str
    """One sentence with the numbers behind the verdict."""
    rows: int
    """Recent labelled rows that prod's version answered."""
    accuracy: float | None = None
    """On them; None without rows."""
    baseline: float | None = None
    """The accuracy that was promised; None when the version does not tell."""
    p_value: float | None = None
    """One-sided; chance of so low an accuracy when nothing got worse."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


def share_of_answers(unit: pd.Series[Any], correct: Any) -> Share:
    """Share of right answers, shape (n,) of booleans, clustered by who asked; at least one answer."""
    codes, _ = pd.factorize(unit)
    rows = np.bincount(codes)
    return share_of_clusters(rows, np.bincount(codes, weights=np.asarray(correct, dtype=np.float64)).astype(np.int64))


def check_quality(
    answers: pd.DataFrame,
    baseline: Share | None,
    min_rows: int,
    alpha: float,
    origin: str = "held out at training",
) -> QualityReport:
    """Compare the accuracy of recent answers with the baseline.

    Parameters
    ----------
    answers : DataFrame
        Labelled rows that prod's version answered, the newest: `unit` (who asked) and `correct`.
    baseline : Share or None
        Right answers that were promised, such as those on the rows held out at training.
    min_rows : int
        Fewer rows are no verdict.
    alpha : float
        p-value below which the fall is more than chance.
    origin : str
        Where the baseline comes from, for the reason.
    """
    if baseline is None:
        return QualityReport("insufficient_data", "prod's version does not tell how good it was", len(answers))
    if len(answers) < min_rows:
        reason = f"{len(answers)} labelled answers of prod's version; a verdict on its quality needs {min_rows}"
        return QualityReport("insufficient_data", reason, len(answers), baseline=baseline.value)
    recent = share_of_answers(answers["unit"], answers["correct"])
    p_value = worse_share(recent, baseline)
    reason = (
        f"accuracy {recent.value:.3f} on the newest {len(answers)} labels against {baseline.value:.3f} {origin} "
        f"(p = {p_value:.2g})"
    )
    verdict: Literal["worse", "as_good"] = "worse" if p_value < alpha else "as_good"
    return QualityReport(verdict, reason, len(answers), recent.value, baseline.value, p_value)
