"""Where rows come from: the dataset as the settings name it, files of rows, and traffic made from a table."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy
from sklearn import datasets

from crossfade.errors import DataError, InvalidInput, without_login
from crossfade.schema import LONGEST_CATEGORY, Feature, FeatureSchema, Kind, label_text, lost
from crossfade.settings import Settings

_log = logging.getLogger(__name__)

RESERVED = ("request_id", "prediction", "probability")
"""Names that the log and the reference profile have for something else."""

_BUNDLED = {"iris": datasets.load_iris, "wine": datasets.load_wine, "breast_cancer": datasets.load_breast_cancer}

_MOSTLY = 0.9
"""A column is of a kind when at least this share of its values can be read so; the others are taken as missing."""

_MOST_DISTINCT = 0.5
"""Text of which more than this share of the rows is different is an id or free text, not a category..."""
_FEW_DISTINCT = 100
"""...unless there are no more different texts than this."""

_MOST_CLASSES = 100
"""More classes than this is not a classification."""


@dataclass(frozen=True)
class Table:
    """Labelled rows."""

    frame: pd.DataFrame
    """The features as `FeatureSchema.conform` makes them, then the label column: whole numbers (int64) or text."""
    target: str
    schema: FeatureSchema
    ordered: bool = False
    """Whether the rows stand in the order of time, oldest first."""

    @property
    def features(self) -> list[str]:
        """Names of the feature columns, in order."""
        return list(self.schema.names)


def load_dataset(settings: Settings) -> Table:
    """Load the table that the settings name, and infer what its columns are.

    A column that holds dates, an id or nothing is left out, with a line in the log; DATASET_FEATURES names the columns
    to take instead.

    Raises
    ------
    DataError
        The table cannot be read, is empty, or does not hold what the settings promise.
    """
    source = settings.dataset_shown
    raw = _read_source(settings).reset_index(drop=True)
    raw.columns = [str(name) for name in raw.columns]
    given = [settings.target, settings.dataset_time_column, settings.dataset_id_column, *settings.dataset_feature_names]
    _check_columns(raw, given, source, settings.target)
    if settings.dataset_time_column:
        raw = _in_time_order(raw, settings.dataset_time_column, source)
    labeled = raw[raw[settings.target].notna()].reset_index(drop=True)
    if len(labeled) < len(raw):
        _log.warning(
            "%d of %d rows of %s have no %s and are left out",
            len(raw) - len(labeled),
            len(raw),
            source,
            settings.target,
        )
    if labeled.empty:
        raise DataError(f"{source} holds no labelled rows; give it rows with a value in TARGET={settings.target!r}")
    labels = _labels(labeled[settings.target], settings.target, source)
    schema = _infer(labeled[_feature_columns(labeled, settings)], settings)
    frame = schema.conform(labeled)
    _say_what_was_lost(labeled, frame, schema, source)
    frame[settings.target] = labels
    return Table(frame, settings.target, schema.with_nulls_of(frame), ordered=bool(settings.dataset_time_column))


def read_table(path: Path, schema: FeatureSchema) -> pd.DataFrame:
    """Read a CSV or Parquet file that holds at least these features; other columns stay as they are.

    Raises
    ------
    DataError
        The file cannot be read, lacks a feature, or holds something else in its column.
    """
    return take_features(read_file(path), schema, str(path))


def take_features(raw: pd.DataFrame, schema: FeatureSchema, source: str) -> pd.DataFrame:
    """Give the features of a table their types; other columns stay as they are.

    Raises
    ------
    DataError
        A feature is absent, or its column holds something else.
    """
    missing = [name for name in schema.names if name not in raw]
    if missing:
        raise DataError(f"{source} has no column {', '.join(missing)}; the model takes {', '.join(schema.names)}")
    features = schema.conform(raw)
    for name, kind in schema.kinds.items():
        if (unread := lost(raw[name], features[name])).mean() > 1 - _MOSTLY:
            example = raw.loc[unread, name].iloc[0]
            raise DataError(f"{source}: column {name} holds {example!r} where the model takes {_WORDS[kind]}")
    return raw.assign(**{name: features[name] for name in schema.names})


def draw_traffic(table: Table, rows: int, strength: float, seed: int) -> pd.DataFrame:
    """Draw live rows: table rows, with noise, measured by an instrument that reads too high.

    Each row is drawn with replacement; its numeric features get Gaussian noise of a tenth of their standard deviation
    and are then shifted up by `strength` standard deviations; a category is recorded as the one ``round(2 * strength)``
    places further on in the order of names. The label stays that of the drawn row, so a model that learnt the table as
    it is is really wrong about such rows.

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
    numeric = table.schema.of_kind("numeric")
    spread = table.frame[numeric].std(ddof=0)
    noise = rng.normal(scale=0.1, size=(rows, len(numeric)))
    moved = drawn[numeric] + (noise + strength) * spread.to_numpy()
    drawn[numeric] = moved.round({name: 4 - _magnitude(width) for name, width in spread.items()})
    for name in table.schema.of_kind("categorical"):
        names = sorted(table.frame[name].dropna().unique())
        recorded = dict(zip(names, np.roll(names, -round(2 * strength)).tolist(), strict=True))
        drawn[name] = drawn[name].map(recorded, na_action="ignore")
    return drawn


_WORDS: dict[Kind, str] = {"numeric": "a number", "categorical": "text", "boolean": "true or false"}


def _magnitude(width: float) -> int:
    """Return the power of ten of a positive width; 0 for a constant."""
    return int(np.floor(np.log10(width))) if width > 0 else 0


def _read_source(settings: Settings) -> pd.DataFrame:
    if settings.dataset in _BUNDLED:
        bundled: pd.DataFrame = _BUNDLED[settings.dataset](as_frame=True).frame
        return bundled
    if "://" in settings.dataset:
        return _read_sql(settings)
    return read_file(settings.below_home(settings.dataset))


def _read_sql(settings: Settings) -> pd.DataFrame:
    try:
        engine = sqlalchemy.create_engine(settings.dataset)
        try:
            with engine.connect().execution_options(no_parameters=True) as connection:  # a % in the query is a %
                return pd.read_sql_query(settings.dataset_query, connection)
        finally:
            engine.dispose()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, ValueError) as error:
        detail = without_login(str(error).splitlines()[0])
        raise DataError(f"DATASET={settings.dataset_shown}: DATASET_QUERY failed: {detail}") from error


def read_file(path: Path) -> pd.DataFrame:
    """Read a CSV or Parquet file as it is. Raises DataError."""
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        header = pd.read_csv(path, header=None, nrows=1, dtype=str).iloc[0]
        if header.duplicated().any():  # pandas would rename the second one
            raise DataError(f"{path} has two columns named {header[header.duplicated()].iloc[0]}; rename one")
        return pd.read_csv(path, low_memory=False)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; give a CSV, CSV.gz or Parquet file") from None
    except pd.errors.EmptyDataError:
        raise DataError(f"{path} is empty; give it a header and rows") from None
    except (OSError, EOFError, ValueError, gzip.BadGzipFile) as error:
        raise DataError(f"{path} cannot be read as a CSV or Parquet table: {error}") from error


def _check_columns(raw: pd.DataFrame, wanted: Sequence[str | None], source: str, target: str) -> None:
    there = ", ".join(raw.columns[:50]) + (" ..." if len(raw.columns) > 50 else "")
    if target not in raw:
        raise DataError(f"TARGET={target!r} is no column of {source}; its columns: {there}")
    missing = [name for name in wanted if name and name not in raw]
    if missing:
        raise DataError(f"{source} has no column {', '.join(missing)}, which the settings name; its columns: {there}")
    if target in RESERVED:
        raise DataError(f"TARGET={target!r} is a name that the request log and the reports need; rename the column")
    if not raw.columns.is_unique:
        twice = ", ".join(raw.columns[raw.columns.duplicated()].unique())
        raise DataError(f"{source} has two columns named {twice}; rename one")


def _feature_columns(labeled: pd.DataFrame, settings: Settings) -> list[str]:
    """Return the columns that may be features; those that were asked for by name must be."""
    never = {
        settings.target: "is the TARGET",
        settings.dataset_time_column: "is the DATASET_TIME_COLUMN",
        settings.dataset_id_column: "is the DATASET_ID_COLUMN",
        **dict.fromkeys(RESERVED, "has a name that the request log and the reports need; rename the column"),
    }
    asked = settings.dataset_feature_names
    for name in asked:
        if name in never or asked.count(name) > 1:
            raise DataError(f"DATASET_FEATURES names {name}, which {never.get(name, 'it has named before')}")
    for name in RESERVED:
        if name in labeled and not asked:
            _log.warning("%s: column %s is left out: it %s", settings.dataset_shown, name, never[name])
    return asked or [name for name in labeled.columns if name not in never]


def _in_time_order(raw: pd.DataFrame, column: str, source: str) -> pd.DataFrame:
    times = raw[column]
    if not pd.api.types.is_numeric_dtype(times):
        times = pd.to_datetime(times, errors="coerce", utc=True, format="mixed")
    if times.isna().any():
        example = raw.loc[times.isna(), column].iloc[0]
        raise DataError(
            f"{source}: DATASET_TIME_COLUMN={column!r} holds {example!r}, which is no time; allowed: dates or numbers"
        )
    return raw.loc[times.sort_values(kind="stable").index]


def _labels(column: pd.Series[Any], target: str, source: str) -> pd.Series[Any]:
    """Give labels one type: int64 when all are whole numbers, else text."""
    try:
        text = [label_text(label) for label in column.tolist()]
    except InvalidInput as error:
        raise DataError(f"{source}: TARGET={target!r} holds a value that is no class {error}") from error
    if len(set(text)) > _MOST_CLASSES:
        raise DataError(
            f"{source}: TARGET={target!r} has {len(set(text))} different values; a classifier takes at most "
            f"{_MOST_CLASSES} classes. Is it the right column?"
        )
    whole = pd.api.types.is_numeric_dtype(column) or all(isinstance(label, bool) for label in column.tolist())
    return pd.Series([int(t) for t in text] if whole else text, column.index, dtype="int64" if whole else object)


def _infer(columns: pd.DataFrame, settings: Settings) -> FeatureSchema:
    """Tell what each column is; one that is no feature is left out, or refused when it was asked for by name."""
    features, source, asked_for = [], settings.dataset_shown, bool(settings.dataset_feature_names)
    categorical = settings.dataset_categorical_names
    if unknown := [name for name in categorical if name not in columns]:
        raise DataError(f"DATASET_CATEGORICAL names {', '.join(unknown)}, which is no feature column of {source}")
    for name in columns.columns.astype(str):
        as_text = name in categorical and columns[name].notna().any()
        kind, problem = ("categorical", "") if as_text else _kind_of(columns[name], keep_ids=asked_for)
        if kind is not None:
            features.append(Feature(name, kind))
        elif asked_for:
            raise DataError(f"{source}: column {name}, named in DATASET_FEATURES, {problem}")
        else:
            _log.warning("%s: column %s is left out: it %s", source, name, problem)
    if not features:
        raise DataError(
            f"{source} has no column to learn from beside the target; its columns: {', '.join(columns.columns)}"
        )
    return FeatureSchema(tuple(features))


def _kind_of(column: pd.Series[Any], keep_ids: bool) -> tuple[Kind | None, str]:
    """Return the kind of a column; None and the reason when it is no feature."""
    present = column.dropna()
    if present.empty:
        return None, "holds no value at all"
    if isinstance(present.dtype, pd.CategoricalDtype):
        return "categorical", ""
    if pd.api.types.is_bool_dtype(present) or present.map(lambda value: isinstance(value, bool)).all():
        return "boolean", ""
    if pd.api.types.is_numeric_dtype(present):
        return "numeric", ""
    if pd.api.types.is_datetime64_any_dtype(present) or pd.api.types.is_timedelta64_dtype(present):
        return None, "holds dates; make features of them (hour, weekday) or name it in DATASET_TIME_COLUMN"
    if not present.map(lambda value: isinstance(value, (str, int, float, bool))).all():
        return None, f"holds values of type {type(present.iloc[0]).__name__}; allowed: numbers, text, true or false"
    if pd.to_numeric(present, errors="coerce").notna().mean() >= _MOSTLY:
        return "numeric", ""
    if _are_dates(present):
        return None, "holds dates; make features of them (hour, weekday) or name it in DATASET_TIME_COLUMN"
    if present.astype(str).str.len().max() > LONGEST_CATEGORY:
        return None, f"holds free text of more than {LONGEST_CATEGORY} characters"
    distinct = present.nunique()
    if not keep_ids and distinct > max(_FEW_DISTINCT, _MOST_DISTINCT * len(present)):
        return None, f"holds {distinct} different texts in {len(present)} rows, as an id does"
    return "categorical", ""


def _are_dates(present: pd.Series[Any]) -> bool:
    sample = present.astype(str).drop_duplicates().head(1000)
    if not sample.str.contains(r"\d.*[-/:.].*\d").mean() >= _MOSTLY:  # else pandas would take `may` for a month
        return False
    return bool(pd.to_datetime(sample, errors="coerce", utc=True, format="mixed").notna().mean() >= _MOSTLY)


def _say_what_was_lost(raw: pd.DataFrame, frame: pd.DataFrame, schema: FeatureSchema, source: str) -> None:
    for name, kind in schema.kinds.items():
        unread = lost(raw[name], frame[name])
        if unread.any():
            _log.warning(
                "%s: column %s: %d of %d values, for example %r, are not %s and are taken as missing",
                source,
                name,
                int(unread.sum()),
                len(raw),
                raw.loc[unread, name].iloc[0],
                _WORDS[kind],
            )
