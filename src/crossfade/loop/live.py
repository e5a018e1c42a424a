"""Live rows as the learning loop takes them: windows to compare, and labelled rows to judge by and to learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from crossfade.data import draw_traffic, load_dataset, read_file, take_features
from crossfade.engine import open_engine
from crossfade.logreader import read_log, units
from crossfade.loop.installation import Installation
from crossfade.loop.reference import ReferenceProfile
from crossfade.loop.window import Window, WindowCounter, count_frame
from crossfade.schema import FeatureSchema, label_text, lost
from crossfade.unpack import unpack

REQUEST_ID = "request_id"

_SAMPLE_ROWS = 2000
"""Enough for a picture of the newest rows."""


@dataclass(frozen=True)
class LiveSource:
    """Where live rows come from.

    Parameters
    ----------
    here : Installation
        Whose rows.
    name : str
        `requests` (the request log, and what was ingested), `simulated` (the dataset, drifted), or the path of a CSV
        or Parquet file.
    schema : FeatureSchema
        The features of the version in production.
    prod_version : str
        The version in production, whose answers count; empty: none.
    """

    here: Installation
    name: str
    schema: FeatureSchema
    prod_version: str
    strangers: tuple[str, ...] = ()
    """Versions of the same model that take other features."""


@dataclass(frozen=True)
class LiveWindows:
    """What a drift check looks at."""

    windows: tuple[Window, ...]
    """DRIFT_WINDOW_ROWS rows each, the newest first; the last one holds what is left. Empty where there are no rows."""
    sample: Callable[[], pd.DataFrame]
    """Gives the features of some of the newest rows, for people to look at."""

    @property
    def newest(self) -> Window:
        """The window that is judged."""
        return self.windows[0] if self.windows else Window(0, {}, {})


@dataclass(frozen=True)
class LabeledRows:
    """Live rows whose label is known."""

    labeled: pd.DataFrame
    """All of them, oldest first: `request_id`, the features, the label as text under the target's name."""
    answers: pd.DataFrame
    """Those that prod's version answered, oldest first: `unit` (who asked) and `correct`."""
    set_aside: int = 0
    """Lines of the log that could not be read."""


def read_windows(source: LiveSource, reference: ReferenceProfile, most: int) -> LiveWindows:
    """Count the newest live rows on a reference, in at most so many windows.

    Raises
    ------
    DataError
        The file cannot be read.
    EngineError
        ENGINE cannot be reached.
    """
    here, settings = source.here, source.here.settings
    rows = settings.drift_window_rows
    if source.name == "requests":
        counter = WindowCounter(
            reference, source.schema, settings.reg_model_name, source.prod_version, source.strangers
        )
        with open_engine(settings.engine, settings.engine_address) as engine:
            windows = counter.windows(here.log, rows, most, engine)
        return LiveWindows(tuple(windows), lambda: counter.sample(here.log, _SAMPLE_ROWS))
    raw = _table(source)
    conformed = source.schema.conform(raw)
    windows = []
    for stop in range(len(raw), max(0, len(raw) - rows * most), -rows):
        cut = slice(max(0, stop - rows), stop)
        there = {name: conformed[name].iloc[cut] for name in source.schema.names if name in raw}
        misread = {name: int(lost(raw[name].iloc[cut], column).sum()) for name, column in there.items()}
        windows.append(count_frame(reference, pd.DataFrame(there, index=raw.index[cut]), misread))
    return LiveWindows(tuple(windows), lambda: conformed.tail(_SAMPLE_ROWS))


def read_labeled(source: LiveSource) -> LabeledRows:
    """Read the live rows whose label is known.

    Raises
    ------
    DataError
        The file cannot be read, lacks a feature, or holds something else in its column.
    """
    return _labeled_requests(source) if source.name == "requests" else _labeled_of_table(source)


def _labeled_requests(source: LiveSource) -> LabeledRows:
    settings, schema = source.here.settings, source.schema
    columns = ("user_id", "model_version", "features_json", "prediction")
    contents = read_log(source.here.log, columns, labeled=True, model=settings.reg_model_name)
    known = contents.rows
    mine = known[known["model_version"] == source.prod_version]
    answers = pd.DataFrame({"unit": units(mine), "correct": mine["label"] == mine["prediction"]})
    shared = ["ts_utc", REQUEST_ID, "features_json", "label"]
    ingested = source.here.store.labeled(settings.reg_model_name)
    if len(ingested):
        ingested["ts_utc"] = pd.to_datetime(ingested["ts_utc"], utc=True, format="ISO8601")
        known = pd.concat([known[shared], ingested[shared]], ignore_index=True).sort_values("ts_utc", kind="stable")
    labeled = unpack(known["features_json"], schema).frame.assign(
        **{settings.target: known["label"], REQUEST_ID: known[REQUEST_ID]}
    )
    return LabeledRows(_complete(labeled, schema), answers, contents.set_aside)


def _complete(labeled: pd.DataFrame, schema: FeatureSchema) -> pd.DataFrame:
    """Leave out rows that lack what the model has never seen missing: they were sent to one with other features."""
    return labeled.dropna(subset=[feature.name for feature in schema.features if not feature.nullable])


def _labeled_of_table(source: LiveSource) -> LabeledRows:
    target, names = source.here.settings.target, list(source.schema.names)
    frame, unanswered = (
        take_features(_table(source), source.schema, source.name),
        pd.DataFrame({"unit": [], "correct": []}),
    )
    if target not in frame:
        return LabeledRows(frame[names].head(0).assign(**{target: "", REQUEST_ID: ""}), unanswered)
    known = frame.dropna(subset=[target])
    labels = [label_text(label) for label in known[target].tolist()]
    labeled = known[names].assign(**{target: labels})
    return LabeledRows(labeled.assign(**{REQUEST_ID: _content_ids(labeled)}), unanswered)


def _table(source: LiveSource) -> pd.DataFrame:
    settings = source.here.settings
    if source.name == "simulated":
        table = load_dataset(settings)
        return draw_traffic(table, settings.drift_window_rows, settings.drift_strength, settings.automl_seed)
    return read_file(settings.below_home(source.name))


def _content_ids(rows: pd.DataFrame) -> list[str]:
    """Name rows by what they hold, so that the same file under another name, or grown, is not learnt twice."""
    digests = pd.util.hash_pandas_object(rows, index=False)
    occurrence = digests.groupby(digests).cumcount()
    return [f"row-{digest:016x}-{n}" for digest, n in zip(digests, occurrence, strict=True)]
