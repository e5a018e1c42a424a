"""The PSI of each feature over the last windows: whether a shift came at once, grows, or is over."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from crossfade.loop.reference import ReferenceProfile
from crossfade.loop.window import Window
from crossfade.stats.divergence import psi

_log = logging.getLogger(__name__)

COLUMNS = ("model", "model_version", "window", "first_ts", "last_ts", "rows", "feature", "psi")


def trend_of(
    reference: ReferenceProfile, windows: Sequence[Window], model: str, version: str, min_rows: int
) -> pd.DataFrame:
    """Compare windows, newest first, with what a version of a model learnt.

    Returns
    -------
    DataFrame
        A line per window and feature, `COLUMNS`, oldest window first; windows below `min_rows` are left out.
    """
    judged = [window for window in reversed(windows) if window.rows >= min_rows]
    lines = [
        (model, version, number, window.first_ts, window.last_ts, window.rows, name, found.value)
        for number, window in enumerate(judged)
        for name in reference.features
        if name in window.counts and (found := psi(reference.columns[name], window.counts[name])) is not None
    ]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def continued(path: Path, newest: pd.DataFrame, model: str, most: int) -> pd.DataFrame:
    """Put windows behind those of an earlier check that lie before them: the log may not go back so far any more.

    Parameters
    ----------
    path : Path
        The trend of an earlier check; it may be missing, and one that cannot be read is started anew.
    newest : DataFrame
        Of this check, with times.
    model : str
        Name of the model; lines of another one are dropped.
    most : int
        Most windows to keep.
    """
    before = _stored(path)
    before = before[before["model"] == model]
    if len(newest):
        before = before[before["last_ts"] < newest["first_ts"].min()]
    both = pd.concat([part for part in (before, newest) if len(part)] or [newest], ignore_index=True)
    if both.empty:
        return both
    starts = np.flatnonzero(np.diff(both["window"], prepend=-1))  # the two parts count from 0 each
    numbers = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(both))) - max(0, len(starts) - most)
    return both.assign(window=numbers)[numbers >= 0].reset_index(drop=True)


def _stored(path: Path) -> pd.DataFrame:
    nothing = pd.DataFrame(columns=list(COLUMNS))
    if not path.is_file():
        return nothing
    texts = dict.fromkeys(("model", "model_version", "first_ts", "last_ts", "feature"), str)
    try:
        found = pd.read_csv(path, dtype=texts, keep_default_na=False, float_precision="round_trip")
        return found[list(COLUMNS)].astype({"window": int, "rows": int, "psi": float})
    except (ValueError, KeyError, OSError) as error:
        _log.warning("%s cannot be read (%s); the trend starts anew", path, error)
        return nothing
