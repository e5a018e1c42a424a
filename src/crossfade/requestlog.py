"""3. The request log: one row per answer, written before the answer leaves; labels may come later.

The log is the only thing that serving writes and the learning loop reads. Rows and labels are appended, never changed;
a label that came later is joined when the log is read. Reading goes slice by slice, and takes what is asked for only.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import reduce
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from crossfade.appendonly import AppendOnlyCsv


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
    """One line per `LogRow`, oldest first; `ts_utc` as UTC timestamps, empty labels and predictions as missing, texts
    that occur again and again as categories (a million rows are a few seconds faster, and a fifth of the memory)."""
    set_aside: int
    """Lines that are no rows: torn by a crash or damaged. They are left out and counted."""

    def of_experiment(self, experiment_id: str) -> LogContents:
        """Return the rows of one experiment only."""
        return replace(self, rows=where(self.rows, self.rows["experiment_id"] == experiment_id))

    def known(self) -> pd.Series[bool]:
        """Tell which rows were answered and have a label; of a request id that was sent again, the newest only."""
        known = (self.rows["status"] == 200) & self.rows["label"].notna()
        ids = self.rows["request_id"]
        if not ids.is_unique:  # quickly found out, and rare
            known[known] = ~ids[known].duplicated(keep="last")
        return known

    def labeled(self) -> pd.DataFrame:
        """Take the rows whose label is `known`."""
        return where(self.rows, self.known())


class LogSlice(Protocol):
    """Some rows of a log that can be read by themselves, by any process that sees the files."""

    def read(self, wanted: Sequence[str]) -> tuple[pa.Table, int]:
        """Read some columns, as text, and count the lines that were set aside. Raises LogUnavailable."""


class RequestLog(ABC):
    """Where rows and late labels go, and come from."""

    @abstractmethod
    def append(self, rows: Sequence[LogRow]) -> None:
        """Store rows together; when this returns they are stored. Raises LogUnavailable."""

    @abstractmethod
    def append_labels(self, labels: Sequence[LateLabel]) -> None:
        """Store late labels. The last one of a request wins, and it may come before its row is read."""

    @abstractmethod
    def slices(self) -> Sequence[LogSlice]:
        """Return the rows stored so far, oldest first. Raises LogUnavailable."""

    @abstractmethod
    def label_slices(self) -> Sequence[LogSlice]:
        """Return the late labels stored so far, oldest first. Raises LogUnavailable."""

    def read(
        self, columns: Sequence[str] = (), labeled: bool = False, without: Collection[str] = (), **where: str
    ) -> LogContents:
        """Read what was stored so far.

        Parameters
        ----------
        columns : sequence of str
            The columns that are wanted, beside those that say when, which request, how it went and what was right;
            none: all of them.
        labeled : bool
            Take only rows that were answered and whose label is known, one per request id (the newest).
        without : collection of str
            Request ids whose rows are left out, slice by slice: what is known of them already is not kept in memory.
        **where : str
            Take only rows with these values, such as ``model="IrisClassifier"``.

        Raises
        ------
        LogUnavailable
            The log cannot be read.
        """
        wanted = [name for name in COLUMNS if not columns or name in columns or name in _ALWAYS]
        late, torn = self._late_labels()
        labeled_late, left_out = frozenset(late.index), frozenset(without)

        def take(part: LogSlice) -> tuple[pa.Table, int]:
            table, set_aside = part.read(sorted({*wanted, *where}))
            tests = [pc.equal(table[name], value) for name, value in where.items()]
            if labeled:
                tests.append(pc.equal(table["status"], "200"))
                tests.append(pc.or_(pc.not_equal(table["label"], ""), _among(table, labeled_late)))
            if left_out:
                tests.append(pc.invert(_among(table, left_out)))
            chosen = table.select(wanted)
            return (_chosen(chosen, reduce(pc.and_, tests)) if tests else chosen), set_aside

        tables = [pa.table({name: pa.array([], pa.string()) for name in wanted})]
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Arrow reads and filters without the interpreter's lock
            for table, set_aside in pool.map(take, self.slices()):
                tables.append(table)
                torn += set_aside
        contents = _typed(pa.concat_tables(tables), late, torn)
        return replace(contents, rows=contents.labeled()) if labeled else contents

    def _late_labels(self) -> tuple[pd.Series[Any], int]:
        """Return the last late label of each request, and how many lines were set aside."""
        tables, torn = [pa.table({name: pa.array([], pa.string()) for name in ("request_id", "label")})], 0
        for part in self.label_slices():
            table, set_aside = part.read(("request_id", "label"))
            tables.append(table)
            torn += set_aside
        labels = pa.concat_tables(tables).to_pandas().drop_duplicates("request_id", keep="last")
        return labels.set_index("request_id")["label"], torn


COLUMNS = tuple(field.name for field in fields(LogRow))
LABEL_COLUMNS = tuple(field.name for field in fields(LateLabel))
_ROW, _LABEL = attrgetter(*COLUMNS), attrgetter(*LABEL_COLUMNS)
_TYPES = {
    "ts_utc": pa.timestamp("ns", "UTC"),
    **dict.fromkeys(("status", "ab_split_b", "probability", "latency_ms"), pa.float64()),
}
_REPEATED = {"user_id", "experiment_id", "variant", "alias", "model", "model_version"}
_ALWAYS = ("ts_utc", "request_id", "status", "label")


class CsvRequestLog(RequestLog):
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
        self._rows.append([_ROW(row) for row in rows])

    def append_labels(self, labels: Sequence[LateLabel]) -> None:
        """Store late labels with one write."""
        self._labels.append([_LABEL(label) for label in labels])

    def slices(self) -> Sequence[LogSlice]:
        """Return the parts and the file of the rows; a missing file is empty."""
        return self._rows.slices()

    def label_slices(self) -> Sequence[LogSlice]:
        """Return the file of the late labels; a missing one is empty."""
        return self._labels.slices()


class MemoryRequestLog(RequestLog):
    """A log that lives as long as its process, for tests and replays."""

    def __init__(self) -> None:
        self._rows = _MemoryRows(COLUMNS)
        self._labels = _MemoryRows(LABEL_COLUMNS)

    def append(self, rows: Sequence[LogRow]) -> None:
        """Store rows together."""
        self._rows.waiting.extend(rows)

    def append_labels(self, labels: Sequence[LateLabel]) -> None:
        """Store late labels."""
        self._labels.waiting.extend(labels)

    def slices(self) -> Sequence[LogSlice]:
        """Return the rows, in a slice per time that they were read."""
        return self._rows.slices()

    def label_slices(self) -> Sequence[LogSlice]:
        """Return the late labels."""
        return self._labels.slices()


class _MemoryRows:
    def __init__(self, columns: tuple[str, ...]) -> None:
        self.waiting: list[LogRow | LateLabel] = []
        self._columns = columns
        self._slices: list[_MemorySlice] = []

    def slices(self) -> list[_MemorySlice]:
        if self.waiting:
            records, self.waiting = self.waiting, []
            table = {
                name: pa.array([_text(getattr(record, name)) for record in records], pa.string())
                for name in self._columns
            }
            self._slices.append(_MemorySlice(pa.table(table)))
        return list(self._slices)


@dataclass(frozen=True)
class _MemorySlice:
    table: pa.Table

    def read(self, wanted: Sequence[str]) -> tuple[pa.Table, int]:
        return self.table.select(list(wanted)), 0


def _text(value: object) -> str:
    """Write a value as the CSV file does."""
    return "" if value is None else str(value)


def _typed(table: pa.Table, late: pd.Series[Any], set_aside: int) -> LogContents:
    """Give the columns their types and put late labels in place of those that came with the request."""
    columns = dict(zip(table.column_names, table.columns, strict=True))
    for name in columns.keys() & _TYPES.keys():
        columns[name] = _cast(columns[name], _TYPES[name])
    answers = [name for name in ("label", "prediction") if name in columns]
    for name in answers:
        columns[name] = pc.if_else(pc.equal(columns[name], ""), None, columns[name])
    if len(late):
        place = pc.index_in(columns["request_id"], pa.array(late.index, pa.string()))
        columns["label"] = pc.coalesce(pc.take(pa.array(late, pa.string()), place), columns["label"])
    whole = pc.and_(pc.is_valid(columns["ts_utc"]), pc.is_valid(columns["status"]))
    typed = _chosen(pa.table(columns), whole)
    columns = dict(zip(typed.column_names, typed.columns, strict=True))
    columns["status"] = columns["status"].cast(pa.int64(), safe=False)
    together = pa.chunked_array([chunk for name in answers for chunk in typed[name].chunks], pa.string())
    coded = together.dictionary_encode()  # one set of categories, so that a prediction can be compared with its label
    columns |= {name: coded.slice(place * len(typed), len(typed)) for place, name in enumerate(answers)}
    columns |= {name: columns[name].dictionary_encode() for name in columns.keys() & _REPEATED}
    rows = pa.table(columns).to_pandas(types_mapper={pa.string(): pd.ArrowDtype(pa.string())}.get)
    return LogContents(rows, set_aside + table.num_rows - len(rows))


def _among(table: pa.Table, ids: frozenset[str]) -> pa.Array:
    """Tell whose request id is among some; `pc.is_in` would hash all of them anew for each slice."""
    if not ids:
        return pa.repeat(False, table.num_rows)
    return pa.array([name in ids for name in table["request_id"].to_pylist()], pa.bool_())


def _cast(texts: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | pa.Array:
    """Read texts as numbers or times; an empty one is missing, and so is what cannot be read."""
    present = pc.if_else(pc.equal(texts, ""), None, texts)
    try:
        return pc.cast(present, kind)
    except pa.ArrowInvalid:  # somebody edited the log; pandas is slower, and takes out what it cannot read
        column = present.to_pandas()
        if pa.types.is_timestamp(kind):
            read = pd.to_datetime(column, utc=True, errors="coerce", format="ISO8601")
        else:
            read = pd.to_numeric(column, errors="coerce")
        return pa.array(read, kind, from_pandas=True)


def units(rows: pd.DataFrame) -> pd.Series[int]:
    """Give what the split hashed a number: the user, or the request without one (a batch, of one time, is one)."""
    number, users = pd.factorize(rows["user_id"])
    nameless = (rows["user_id"] == "").to_numpy()
    if nameless.any():
        these = rows[nameless]
        request = (
            these["request_id"].astype(object).str.replace(r"\.\d+$", "", regex=True)
            + " "
            + these["ts_utc"].astype(str)
        )
        number[nameless] = len(users) + pd.factorize(request)[0]
    return pd.Series(number, rows.index)


def _chosen(table: pa.Table, test: pa.ChunkedArray | pa.Array) -> pa.Table:
    """Take some rows, without a copy where that is all of them."""
    return table if pc.all(test).as_py() else table.filter(test)


def where(rows: pd.DataFrame, test: pd.Series[bool]) -> pd.DataFrame:
    """Take some rows, without a copy where that is all of them."""
    return rows if test.all() else rows[test]
