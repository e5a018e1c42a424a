"""What the request log tells about the traffic of the next experiment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crossfade.logreader import LogContents, units
from crossfade.planning.power import Situation

if TYPE_CHECKING:
    from crossfade.loop.pairing import Pairs

OBSERVED_COLUMNS = ("user_id", "experiment_id", "variant", "model_version", "ab_split_b", "prediction")
"""Of the request log, beside those that every reader gets."""

ASSUMED_ACCURACY, ASSUMED_AGREEMENT = 0.9, 0.95

_FEWEST = 30
"""Labelled rows (or users, or pairs) below which a number is assumed and not measured."""


def observe(contents: LogContents, split: float, pairs: Pairs | None = None) -> Situation:
    """Measure the running or newest experiment, without enough labels in one all rows, and assume the rest.

    Parameters
    ----------
    contents : LogContents
        The request log: `OBSERVED_COLUMNS` of one model.
    split : float
        Share of users on B where no experiment tells.
    pairs : Pairs or None
        How the two models answer the same rows; None when that is not known.
    """
    rows = _newest_experiment(contents)
    measured, agreement = [], ASSUMED_AGREEMENT
    if pairs is not None and pairs.rows >= _FEWEST:
        agreement = 1 - (pairs.only_a + pairs.only_b) / pairs.rows
        measured.append("agreement")
    if rows is not None and 0 < float(rows["ab_split_b"].iloc[-1]) < 1:
        split = float(rows["ab_split_b"].iloc[-1])
        measured.append("split")
    labeled = LogContents(contents.rows if rows is None else rows, 0).labeled()
    if len(labeled) < _FEWEST:
        return Situation(ASSUMED_ACCURACY, split, None, agreement, measured=tuple(measured))
    labeled = labeled.assign(unit=units(labeled), correct=labeled["label"] == labeled["prediction"])
    days = max((labeled["ts_utc"].max() - labeled["ts_utc"].min()) / pd.Timedelta(days=1), 1.0)
    mine = labeled[labeled["variant"] == "A"]
    mine = mine[mine["model_version"] == mine["model_version"].iloc[-1]] if len(mine) else mine
    accuracy, icc = ASSUMED_ACCURACY, 0.0
    if len(mine) >= _FEWEST:
        least = 1 / (2 * len(mine))  # nobody is always right
        accuracy = float(np.clip(mine["correct"].mean(), least, 1 - least))
        icc = intra_class_correlation(mine)
        measured.append("accuracy")
    return Situation(
        accuracy,
        split,
        len(labeled) / days,
        agreement,
        len(labeled) / labeled["unit"].nunique(),
        icc,
        (*measured, "traffic", "users"),
    )


def intra_class_correlation(rows: pd.DataFrame) -> float:
    """Estimate how alike the outcomes of one user are; in [0, 1), and 0 when too few users came twice.

    The analysis of variance's estimator for users with differently many rows (Donner, International Statistical
    Review 54, 1986).

    Parameters
    ----------
    rows : DataFrame
        `unit` and `correct`.
    """
    of_user = rows.groupby("unit")["correct"].agg(["size", "sum"]).to_numpy(dtype=np.float64)
    size, right = of_user[:, 0], of_user[:, 1]
    total, users = size.sum(), len(size)
    if users < _FEWEST or total - users < _FEWEST:
        return 0.0
    share = right / size
    between = float((size * (share - right.sum() / total) ** 2).sum()) / (users - 1)
    within = float((size * share * (1 - share)).sum()) / (total - users)
    typical = (total - (size**2).sum() / total) / (users - 1)
    whole = between + (typical - 1) * within
    return float(np.clip((between - within) / whole, 0, 0.99)) if whole > 0 else 0.0


def _newest_experiment(contents: LogContents) -> pd.DataFrame | None:
    """Return the rows of the newest experiment that has labels enough; None without one."""
    named = contents.rows[contents.rows["experiment_id"] != ""]
    for name in reversed(named["experiment_id"].unique()):
        rows: pd.DataFrame = named[named["experiment_id"] == name]
        if len(LogContents(rows, 0).labeled()) >= _FEWEST:
            return rows
    return None
