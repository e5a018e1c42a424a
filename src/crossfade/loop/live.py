"""The live window: the rows a drift check looks at, and the labelled ones a retraining may learn from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from crossfade.data import draw_traffic, load_table, read_table
from crossfade.errors import DataError
from crossfade.loop.drift import PREDICTION, PROBABILITY
from crossfade.requestlog import CsvRequestLog, features_frame
from crossfade.schema import label_text
from crossfade.settings import Settings

REQUEST_ID = "request_id"


@dataclass(frozen=True)
class LiveRows:
    """Traffic as the learning loop sees it."""

    window: pd.DataFrame
    """The newest rows: the features, and where known `prediction` and `probability` of prod's version."""
    labeled: pd.DataFrame
    """Every row with a label, oldest first: `request_id`, the features, the label as text under the target's name."""
    set_aside: int = 0
    """Lines of the log that could not be read."""


def read_live(source: str, settings: Settings, features: list[str], prod_version: str, strength: float) -> LiveRows:
    """Read live rows from where the caller says.

    Parameters
    ----------
    source : str
        `requests` (the request log), `simulated` (the dataset, drifted), or the path of a CSV or Parquet file.
    features : list of str
        The features of the version in production.
    prod_version : str
        Whose predictions are compared with its reference.
    strength : float
        Shift of simulated rows, in standard deviations.

    Raises
    ------
    DataError
        The file cannot be read, or lacks a feature.
    """
    if source == "requests":
        return _from_log(settings, features, prod_version)
    if source == "simulated":
        table = load_table(settings.dataset, settings.target)
        drawn = draw_traffic(table, settings.drift_window_rows, strength, settings.automl_seed)
        return _from_frame(drawn, features, settings, f"DATASET={settings.dataset}")
    path = Path(source).expanduser()
    path = path if path.is_absolute() else settings.crossfade_home / path
    return _from_frame(read_table(path, features), features, settings, path.name)


def _from_log(settings: Settings, features: list[str], prod_version: str) -> LiveRows:
    contents = CsvRequestLog(settings.request_log, settings.labels_log).read().of_model(settings.reg_model_name)
    newest = contents.rows[contents.rows["status"] == 200].tail(settings.drift_window_rows)
    from_prod = newest["model_version"] == prod_version
    window = features_frame(newest, features).assign(
        **{PREDICTION: newest["prediction"].where(from_prod), PROBABILITY: newest["probability"].where(from_prod)}
    )
    known = contents.labeled()
    labeled = features_frame(known, features).assign(
        **{settings.target: known["label"], REQUEST_ID: known["request_id"]}
    )
    return LiveRows(window, labeled.dropna(), contents.set_aside)


def _from_frame(frame: pd.DataFrame, features: list[str], settings: Settings, name: str) -> LiveRows:
    missing = [feature for feature in features if feature not in frame]
    if missing:
        raise DataError(
            f"{name} has no column {', '.join(missing)}, which prod's model takes; "
            f"is DATASET that of {settings.reg_model_name}?"
        )
    window = frame[features].tail(settings.drift_window_rows)
    if settings.target not in frame:
        return LiveRows(window, window.head(0).assign(**{settings.target: "", REQUEST_ID: ""}))
    known = frame.dropna(subset=[settings.target])
    labels = [label_text(label) for label in known[settings.target].tolist()]
    labeled = known[features].assign(**{settings.target: labels})
    return LiveRows(window, labeled.assign(**{REQUEST_ID: _content_ids(labeled)}))


def _content_ids(rows: pd.DataFrame) -> list[str]:
    """Name rows by what they hold, so that the same file under another name, or grown, is not learnt twice."""
    digests = pd.util.hash_pandas_object(rows, index=False)
    occurrence = digests.groupby(digests).cumcount()
    return [f"row-{digest:016x}-{n}" for digest, n in zip(digests, occurrence, strict=True)]
