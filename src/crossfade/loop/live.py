"""The live window: the rows a drift check looks at, and the labelled ones a retraining may learn from."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from crossfade.data import draw_traffic, load_dataset, read_table
from crossfade.errors import DataError
from crossfade.loop.drift import PREDICTION, PROBABILITY
from crossfade.loop.installation import Installation
from crossfade.requestlog import features_frame, units
from crossfade.schema import FeatureSchema, label_text

REQUEST_ID = "request_id"


@dataclass(frozen=True)
class LiveRows:
    """Traffic as the learning loop sees it."""

    window: pd.DataFrame
    """The newest rows: the features, and where known `prediction` and `probability` of prod's version."""
    labeled: pd.DataFrame
    """Every row with a label, oldest first: `request_id`, the features, the label as text under the target's name."""
    answers: pd.DataFrame
    """Every labelled row that prod's version answered, oldest first: `unit` (who asked) and `correct`."""
    set_aside: int = 0
    """Lines of the log that could not be read."""


def read_live(here: Installation, source: str, schema: FeatureSchema, prod_version: str, strength: float) -> LiveRows:
    """Read live rows from where the caller says.

    Parameters
    ----------
    here : Installation
        Whose rows.
    source : str
        `requests` (the request log, and what was ingested), `simulated` (the dataset, drifted), or the path of a CSV
        or Parquet file.
    schema : FeatureSchema
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
    settings = here.settings
    if source == "requests":
        return _from_log(here, schema, prod_version)
    if source == "simulated":
        drawn = draw_traffic(load_dataset(settings), settings.drift_window_rows, strength, settings.automl_seed)
        return _from_frame(here, drawn, schema, f"DATASET={settings.dataset_shown}")
    path = settings.below_home(source)
    return _from_frame(here, read_table(path, schema), schema, path.name)


def _from_log(here: Installation, schema: FeatureSchema, prod_version: str) -> LiveRows:
    settings = here.settings
    contents = here.log.read().of_model(settings.reg_model_name)
    newest = contents.rows[contents.rows["status"] == 200].tail(settings.drift_window_rows)
    from_prod = newest["model_version"] == prod_version
    window = features_frame(newest, schema).assign(
        **{PREDICTION: newest["prediction"].where(from_prod), PROBABILITY: newest["probability"].where(from_prod)}
    )
    known = contents.labeled()
    mine = known[known["model_version"] == prod_version]
    answers = pd.DataFrame({"unit": units(mine), "correct": mine["label"] == mine["prediction"]})
    columns = ["ts_utc", REQUEST_ID, "features_json", "label"]
    ingested = here.store.labeled(settings.reg_model_name)
    if len(ingested):
        ingested["ts_utc"] = pd.to_datetime(ingested["ts_utc"], utc=True, format="ISO8601")
        known = pd.concat([known[columns], ingested[columns]], ignore_index=True).sort_values("ts_utc", kind="stable")
    labeled = features_frame(known, schema).assign(**{settings.target: known["label"], REQUEST_ID: known[REQUEST_ID]})
    return LiveRows(window, _complete(labeled, schema), answers, contents.set_aside)


def _complete(labeled: pd.DataFrame, schema: FeatureSchema) -> pd.DataFrame:
    """Leave out rows that lack what the model has never seen missing: they were sent to one with other features."""
    return labeled.dropna(subset=[feature.name for feature in schema.features if not feature.nullable])


def _from_frame(here: Installation, frame: pd.DataFrame, schema: FeatureSchema, name: str) -> LiveRows:
    target, names = here.settings.target, list(schema.names)
    missing = [feature for feature in names if feature not in frame]
    if missing:
        raise DataError(
            f"{name} has no column {', '.join(missing)}, which prod's model takes; "
            f"is DATASET that of {here.settings.reg_model_name}?"
        )
    window, unanswered = frame[names].tail(here.settings.drift_window_rows), pd.DataFrame({"unit": [], "correct": []})
    if target not in frame:
        return LiveRows(window, window.head(0).assign(**{target: "", REQUEST_ID: ""}), unanswered)
    known = frame.dropna(subset=[target])
    labels = [label_text(label) for label in known[target].tolist()]
    labeled = known[names].assign(**{target: labels})
    return LiveRows(window, labeled.assign(**{REQUEST_ID: _content_ids(labeled)}), unanswered)


def _content_ids(rows: pd.DataFrame) -> list[str]:
    """Name rows by what they hold, so that the same file under another name, or grown, is not learnt twice."""
    digests = pd.util.hash_pandas_object(rows, index=False)
    occurrence = digests.groupby(digests).cumcount()
    return [f"row-{digest:016x}-{n}" for digest, n in zip(digests, occurrence, strict=True)]
