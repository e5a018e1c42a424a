"""The PSI of each feature over the last windows: whether a shift came at once, grows, or is over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from crossfade.loop.reference import ReferenceProfile
from crossfade.loop.window import Window
from crossfade.stats.divergence import psi

COLUMNS = ("first_ts", "last_ts", "rows", "model_version", "feature", "psi")


def trend_of(reference: ReferenceProfile, windows: Sequence[Window], version: str, min_rows: int) -> pd.DataFrame:
    """Compare windows, newest first, with what a version learnt.

    Returns
    -------
    DataFrame
        A line per window and feature, `COLUMNS`, oldest window first; windows below `min_rows` are left out.
    """
    lines = [
        (window.first_ts, window.last_ts, window.rows, version, name, found.value)
        for window in reversed(windows)
        if window.rows >= min_rows
        for name in reference.features
        if name in window.counts and (found := psi(reference.columns[name], window.counts[name])) is not None
    ]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def continued(path: Path, newest: pd.DataFrame, most: int) -> pd.DataFrame:
    """Put windows behind those of an earlier check that lie before them: the log may not go back so far any more.

    Parameters
    ----------
    path : Path
        The trend of an earlier check; it may be missing.
    newest : DataFrame
        Of this check, with times.
    most : int
        Most windows to keep.
    """
    if newest.empty or not path.is_file():
        return newest
    before = pd.read_csv(path, dtype={"model_version": str, "feature": str}, float_precision="round_trip")
    before = before[before["last_ts"] < newest["first_ts"].min()]
    both = pd.concat([before, newest], ignore_index=True)
    kept = sorted(both["last_ts"].unique())[-most:]
    return both[both["last_ts"].isin(kept)].reset_index(drop=True)
