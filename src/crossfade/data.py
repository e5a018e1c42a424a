"""Where rows come from: the table the first model learns, and traffic made from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn import datasets

from crossfade.errors import DataError

_BUNDLED = {"iris": datasets.load_iris, "wine": datasets.load_wine, "breast_cancer": datasets.load_breast_cancer}


@dataclass(frozen=True)
class Table:
    """Labelled rows."""

    frame: pd.DataFrame
    """The features as float64 columns, then the label column `target`."""
    target: str

    @property
    def features(self) -> list[str]:
        """Names of the feature columns, in order."""
        return [name for name in self.frame.columns if name != self.target]


def load_table(name: str, target: str) -> Table:
    """Load one of scikit-learn's bundled tables.

    Raises
    ------
    DataError
        The table is not known, or has no column `target`.
    """
    if name not in _BUNDLED:
        raise DataError(f"DATASET={name!r} is not known; allowed: {', '.join(_BUNDLED)}")
    frame: pd.DataFrame = _BUNDLED[name](as_frame=True).frame
    if target not in frame:
        raise DataError(f"TARGET={target!r} is no column of {name}; its columns: {', '.join(map(str, frame.columns))}")
    features = [column for column in frame.columns if column != target]
    return Table(frame.astype(dict.fromkeys(features, np.float64)), target)


def draw_traffic(table: Table, rows: int, strength: float, seed: int) -> pd.DataFrame:
    """Draw live rows: table rows, with noise, measured by an instrument that reads too high.

    Each row is drawn with replacement, gets Gaussian noise of a tenth of each feature's standard deviation, and is
    then shifted up by `strength` standard deviations in every feature. The label stays that of the drawn row, so a
    model that learnt the table unshifted is really wrong about shifted rows.

    Parameters
    ----------
    rows : int
        How many.
    strength : float
        Shift in standard deviations; 0 is no drift.
    seed : int
        Same seed, same rows.

    Returns
    -------
    DataFrame
        Shape (rows, features + 1), columns as in the table.
    """
    rng = np.random.default_rng(seed)
    drawn = table.frame.iloc[rng.integers(0, len(table.frame), rows)].reset_index(drop=True)
    spread = table.frame[table.features].std(ddof=0).to_numpy()
    noise = rng.normal(scale=0.1, size=(rows, len(table.features)))
    drawn[table.features] = np.round(drawn[table.features].to_numpy() + (noise + strength) * spread, 4)
    return drawn


def read_table(path: Path, features: list[str]) -> pd.DataFrame:
    """Read a CSV or Parquet file that holds at least these features, as numbers.

    Raises
    ------
    DataError
        The file cannot be read, or lacks a feature.
    """
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a CSV or Parquet table: {error}") from error
    missing = [name for name in features if name not in frame]
    if missing:
        raise DataError(f"{path} has no column {', '.join(missing)}; the model takes {', '.join(features)}")
    try:
        return frame.astype(dict.fromkeys(features, np.float64))
    except (TypeError, ValueError) as error:
        raise DataError(f"{path} holds dates or text where the model takes numbers: {error}") from error
