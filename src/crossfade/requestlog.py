"""3. The request log: one row per answer, written before the answer leaves; labels may come later.

The log is the only thing that serving writes and the learning loop reads. Rows and labels are appended, never changed;
a label that came later is joined when the log is read.
"""

from __future__ import annotations

import csv
import io
import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv as pa_csv

from crossfade.errors import LogUnavailable


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

    def append(self, rows: Sequence[LogRow]) -> None:
        """Store rows together."""
        self._rows.extend(rows)

    def append_labels(self, labels: Sequence[LateLabel]) -> None:
        """Store late labels."""
        self._labels.extend(labels)

    def read(self) -> LogContents:
        """Read everything stored so far."""
        rows = pa.Table.from_pylist([_texts(row) for row in self._rows], schema=_text_schema(COLUMNS))
        labels = pa.Table.from_pylist([_texts(label) for label in self._labels], schema=_text_schema(LABEL_COLUMNS))
        return _join(rows.to_pandas(), labels.to_pandas(), set_aside=0)


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
        self._rows = _AppendOnlyCsv(path, COLUMNS)
        self._labels = _AppendOnlyCsv(labels_path, LABEL_COLUMNS)

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


class _AppendOnlyCsv:
    """One CSV file with a header; every append is a single write on an O_APPEND descriptor.

    No value holds a line break (the API refuses them and JSON escapes them), so a line is a row and a row torn by a
    crash spoils itself only.
    """

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self._path = path
        self._columns = columns
        self._descriptor: int | None = None
        self._lock = threading.Lock()

    def append(self, rows: Sequence[Mapping[str, str]]) -> None:
        text = io.StringIO()
        csv.DictWriter(text, self._columns, lineterminator="\n").writerows(rows)
        data = text.getvalue().encode()
        try:
            written = os.write(self._open(), data)
        except OSError as error:
            raise LogUnavailable(
                f"{self._path} cannot be written: {error.strerror}. Free space or fix its rights."
            ) from error
        if written != len(data):
            raise LogUnavailable(f"{self._path} took {written} of {len(data)} bytes: the disk is full. Free space.")

    def _open(self) -> int:
        """Return a descriptor of the file that stands at the path now (it may have been moved away meanwhile)."""
        with self._lock:
            if self._descriptor is not None and self._is_current(self._descriptor):
                return self._descriptor
            self._create()
            stale, self._descriptor = self._descriptor, os.open(self._path, os.O_WRONLY | os.O_APPEND)
            if stale is not None:
                os.close(stale)
            return self._descriptor

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(self._path.stat(), os.fstat(descriptor))
        except FileNotFoundError:
            return False

    def _create(self) -> None:
        """Make the file with its header in one step, so that no process ever sees, or writes, a second header."""
        if self._path.exists():
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}.{threading.get_ident()}")
        draft.write_text(",".join(self._columns) + "\n")
        try:
            os.link(draft, self._path)
        except FileExistsError:
            pass  # another process was first, with the same header
        finally:
            draft.unlink()

    def read(self) -> tuple[pd.DataFrame, int]:
        """Return every whole row, all columns as text, and how many lines were set aside."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            data = b""
        except OSError as error:
            raise LogUnavailable(f"{self._path} cannot be read: {error.strerror}. Fix its rights.") from error
        if not data:
            return pd.DataFrame(columns=list(self._columns), dtype=object), 0
        lines = data.split(b"\n")
        torn = [lines.pop()]  # what follows the last line break: nothing, or a row cut short
        # Whole rows hold an even number of quotes; an odd one would swallow the rows after it.
        whole = [line for line in lines[1:] if line.count(b'"') % 2 == 0]
        torn_lines = len(lines[1:]) - len(whole) + sum(map(bool, torn))
        return self._parse(lines[:1] + whole, torn_lines)

    def _parse(self, lines: list[bytes], torn_lines: int) -> tuple[pd.DataFrame, int]:
        header = ",".join(self._columns).encode()
        if lines[:1] != [header]:
            raise LogUnavailable(
                f"{self._path} does not start with this version's columns ({header.decode()}). Move the file away."
            )
        other_width: list[pa_csv.InvalidRow] = []

        def set_aside(row: pa_csv.InvalidRow) -> str:
            other_width.append(row)
            return "skip"

        table = pa_csv.read_csv(
            pa.BufferReader(b"\n".join(lines) + b"\n"),
            parse_options=pa_csv.ParseOptions(invalid_row_handler=set_aside),
            convert_options=pa_csv.ConvertOptions(column_types=_text_schema(self._columns), strings_can_be_null=False),
        )
        return table.to_pandas(), torn_lines + len(other_width)


def _texts(record: LogRow | LateLabel) -> dict[str, str]:
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: "" if value is None else str(value) for name, value in values.items()}


def _text_schema(columns: tuple[str, ...]) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in columns])


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


def features_frame(rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Unpack `features_json` into one float column per feature; what a row lacks is NaN.

    Returns
    -------
    DataFrame
        Shape (rows, features), on the rows' own index.
    """
    unpacked = pd.DataFrame([json.loads(text) for text in rows["features_json"]], index=rows.index)
    return pd.DataFrame(
        {name: pd.to_numeric(unpacked[name], errors="coerce") if name in unpacked else np.nan for name in names},
        index=rows.index,
        dtype="float64",
    )
