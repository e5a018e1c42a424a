"""3. The request log: one row per answer, written before the answer leaves; labels may come later.

The log is the only thing that serving writes and the learning loop reads. Rows and labels are appended, never changed;
a label that came later is joined when the log is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pandas as pd

from crossfade.appendonly import AppendOnlyCsv
from crossfade.schema import FeatureSchema


def utc_now() -> str:
    """Time stamp of the log: ISO 8601, UTC, microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


@dataclass(frozen=True)
class LogRow:
    """One answered row of a request; a batch is one row per item."""

    ts_utc: str
    request_id: str
    user_id: str
    """Empty where the caller named none."""
    experiment_id: str
    """Empty while no experiment runs."""
    variant: str
    alias: str
    model: str
    model_version: str
    ab_split_b: float
    """The split in force when this row was assigned."""
    features_json: str
    """Object of feature name to value."""
    label: str
    """Empty where none came with the request."""
    prediction: str
    """Empty when the model failed."""
    probability: float | None
    """Of the predicted class; None when the model gives none, or failed."""
    latency_ms: float
    status: int
    """HTTP status of the answer: 200, or 500 when the model failed."""


@dataclass(frozen=True)
class LateLabel:
    """A label that came after its request was answered."""

    ts_utc: str
    request_id: str
    label: str


@dataclass(frozen=True)
class LogContents:
    """What a log holds, late labels joined."""

    rows: pd.DataFrame
    """One line per `LogRow`, oldest first; `ts_utc` as UTC timestamps, empty labels and predictions as missing."""
    set_aside: int
    """Lines that are no rows: torn by a crash or damaged. They are left out and counted."""
    orphan_labels: int
    """Late labels whose request the log does not hold."""

    def of_experiment(self, experiment_id: str) -> LogContents:
        """Return the rows of one experiment only."""
        return replace(self, rows=self.rows[self.rows["experiment_id"] == experiment_id])

    def of_model(self, name: str) -> LogContents:
        """Return the rows of one registered model only."""
        return replace(self, rows=self.rows[self.rows["model"] == name])

    def labeled(self) -> pd.DataFrame:
        """Answered rows whose label is known, one per request id (the newest)."""
        rows = self.rows
        known = rows[(rows["status"] == 200) & rows["label"].notna()]
        return known.drop_duplicates("request_id", keep="last")


class RequestLog(Protocol):
    """Where rows and late labels go, and come from."""

    def append(self, rows: Sequence[LogRow]) -> None:
        """Store rows together; when this returns they are stored. Raises LogUnavailable."""

    def append_labels(self, labels: Sequence[LateLabel]) -> None:
        """Store late labels. The last one of a request wins, and it may come before its row is read."""

    def read(self) -> LogContents:
        """Read everything stored so far. Raises LogUnavailable."""


COLUMNS = tuple(field.name for field in fields(LogRow))
LABEL_COLUMNS = tuple(field.name for field in fields(LateLabel))


class MemoryRequestLog:
    """A log that lives as long as its process, for tests and replays."""

    def __init__(self) -> None:
        self._rows: list[LogRow] = []
        self._labels: list[LateLabel] = []
        self._read_rows = _text_frame([], COLUMNS)
        self._read_labels = _text_frame([], LABEL_COLUMNS)

    def append(self, rows: Sequence[LogRow]) -> None:
        """Store rows together."""
        self._rows.extend(rows)

    def append_labels(self, labels: Sequence[LateLabel]) -> None:
        """Store late labels."""
        self._labels.extend(labels)

    def read(self) -> LogContents:
        """Read everything stored so far; what was read before is not turned into columns again."""
        rows, labels = self._rows[len(self._read_rows) :], self._labels[len(self._read_labels) :]
        self._read_rows = pd.concat([self._read_rows, _text_frame(rows, COLUMNS)], ignore_index=True)
        self._read_labels = pd.concat([self._read_labels, _text_frame(labels, LABEL_COLUMNS)], ignore_index=True)
        return _join(self._read_rows, self._read_labels, set_aside=0)


class CsvRequestLog:
    """A log in two CSV files that any number of processes may append to.

    Parameters
    ----------
    path : Path
        The rows.
    labels_path : Path
        The late labels.
    """

    def __init__(self, path: Path, labels_path: Path) -> None:
        self._rows = AppendOnlyCsv(path, COLUMNS)
        self._labels = AppendOnlyCsv(labels_path, LABEL_COLUMNS)

    def append(self, rows: Sequence[LogRow]) -> None:
        """Store rows with one write."""
        self._rows.append([_texts(row) for row in rows])

    def append_labels(self, labels: Sequence[LateLabel]) -> None:
        """Store late labels with one write."""
        self._labels.append([_texts(label) for label in labels])

    def read(self) -> LogContents:
        """Read both files; a missing one is empty."""
        rows, torn_rows = self._rows.read()
        labels, torn_labels = self._labels.read()
        return _join(rows, labels, set_aside=torn_rows + torn_labels)


def _texts(record: LogRow | LateLabel) -> dict[str, str]:
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: "" if value is None else str(value) for name, value in values.items()}


def _text_frame(records: Sequence[LogRow | LateLabel], columns: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame([_texts(record) for record in records], columns=list(columns), dtype=object)


def _join(rows: pd.DataFrame, labels: pd.DataFrame, set_aside: int) -> LogContents:
    """Give the columns their types and put late labels in place of those that came with the request."""
    rows = rows.assign(
        ts_utc=pd.to_datetime(rows["ts_utc"], utc=True, errors="coerce", format="ISO8601"),
        status=pd.to_numeric(rows["status"], errors="coerce"),
        ab_split_b=pd.to_numeric(rows["ab_split_b"], errors="coerce"),
        probability=pd.to_numeric(rows["probability"], errors="coerce"),
        latency_ms=pd.to_numeric(rows["latency_ms"], errors="coerce"),
        label=rows["label"].where(rows["label"] != ""),
        prediction=rows["prediction"].where(rows["prediction"] != ""),
    )
    damaged = rows["ts_utc"].isna() | rows["status"].isna()
    rows = rows[~damaged].astype({"status": int}).reset_index(drop=True)
    last = labels.drop_duplicates("request_id", keep="last").set_index("request_id")["label"]
    rows["label"] = rows["request_id"].map(last).fillna(rows["label"])
    orphans = int((~last.index.isin(rows["request_id"])).sum())
    return LogContents(rows, set_aside + int(damaged.sum()), orphans)


def units(rows: pd.DataFrame) -> pd.Series[Any]:
    """Return what the split hashed: the user, or the request where none was named (a batch, of one time, is one)."""
    request = rows["request_id"].str.replace(r"\.\d+$", "", regex=True) + " " + rows["ts_utc"].astype(str)
    return rows["user_id"].where(rows["user_id"] != "", "request " + request)


def features_frame(rows: pd.DataFrame, schema: FeatureSchema) -> pd.DataFrame:
    """Unpack `features_json` into one column per feature; what a row lacks, or has of another kind, is NaN.

    Returns
    -------
    DataFrame
        Shape (rows, features), on the rows' own index.
    """
    unpacked = pd.DataFrame([_object(text) for text in rows["features_json"]], index=rows.index, dtype=object)
    return schema.conform(unpacked)


def _object(text: str) -> dict[str, Any]:
    """Read a JSON object; what is none holds no feature."""
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}
