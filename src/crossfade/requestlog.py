"""3. The request log: one row per answer, written before the answer leaves; labels may come later.

The log is the only thing that serving writes and the learning loop reads (logreader.py). Rows and labels are appended,
never changed; a label that came later is joined when the log is read.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from crossfade.appendonly import AppendOnlyCsv, Fsync
from crossfade.csvline import Cell, csv_cell, csv_line
from crossfade.logchoice import EVERY, Choice, choose

if TYPE_CHECKING:
    import pyarrow as pa

    from crossfade.logbatch import LogBatch


def utc_now() -> str:
    """Time stamp of the log: ISO 8601, UTC, microseconds."""
    second, microsecond = divmod(time.time_ns() // 1000, 1_000_000)
    return f"{_text_of_second(second)}.{microsecond:06d}+00:00"


@lru_cache(maxsize=2)
def _text_of_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class LogRow(NamedTuple):
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


class LateLabel(NamedTuple):
    """A label that came after its request was answered."""

    ts_utc: str
    request_id: str
    label: str


class LogSlice(Protocol):
    """Some rows of a log that can be read by themselves, by any process that sees the files, or the database."""

    @property
    def beginning(self) -> Hashable:
        """Names a slice for good, also while it grows, and wherever its rows are moved."""

    @property
    def mark(self) -> Hashable:
        """Differs when other rows may be in it; it tells nothing of rows that are over their days."""

    def read(self, wanted: Sequence[str]) -> tuple[pa.Table, int]:
        """Read some columns, as text, and count the lines that were set aside. Raises LogUnavailable."""


class RequestLog(ABC):
    """Where rows and late labels go, and come from."""

    @property
    def problem(self) -> str | None:
        """Why rows or labels cannot be stored; None: they were, when this was last tried."""
        return None

    @property
    def rows_lost(self) -> int:
        """How many rows were answered by this process and not stored; only a `ForgivingLog` allows that."""
        return 0

    @property
    def waiting_bytes(self) -> int:
        """How much waits on this machine's disk for a database that is away."""
        return 0

    @property
    def commits_in_groups(self) -> bool:
        """Whether appends wait, and those that wait at once share a commit: then many threads are faster than one."""
        return False

    @abstractmethod
    def append(self, rows: Sequence[LogRow]) -> None:
        """Store rows together; when this returns they are stored. Raises LogUnavailable."""

    def append_batch(self, batch: LogBatch) -> None:
        """Store the rows of a batch together, as `append` does."""
        self.append(batch.rows())

    @abstractmethod
    def append_labels(self, labels: Sequence[LateLabel]) -> None:
        """Store late labels. The last one of a request wins, and it may come before its row is read."""

    @abstractmethod
    def slices(self, choice: Choice = EVERY) -> Sequence[LogSlice]:
        """Return the chosen ones of the rows stored so far, oldest first. Raises LogUnavailable."""

    @abstractmethod
    def label_slices(self) -> Sequence[LogSlice]:
        """Return the late labels stored so far, oldest first. Raises LogUnavailable."""

    def joined_slices(self, choice: Choice, labeled: bool) -> Sequence[LogSlice] | None:  # noqa: ARG002 - for stores
        """Return chosen rows with late labels in place, where a store joins them for less than its readers would.

        Parameters
        ----------
        choice : Choice
            Which rows.
        labeled : bool
            Rows may be left out that were not answered, or whose label is not known.

        Returns
        -------
        sequence of LogSlice or None
            None: let the reader join.

        Raises
        ------
        LogUnavailable
            The log cannot be read.
        """
        return None


COLUMNS, LABEL_COLUMNS = LogRow._fields, LateLabel._fields


def _line(row: LogRow) -> str:
    """Write a row as `csv_line` does, in two thirds of the time."""
    ts_utc, request_id, user_id = row[:3]
    features_json, label, prediction, probability, latency_ms, status = row[9:]
    return (
        f"{ts_utc},{csv_cell(request_id)},{csv_cell(user_id)},{_cells_of_arm(row[3:9])},{csv_cell(features_json)},"
        f"{csv_cell(label)},{csv_cell(prediction)},{'' if probability is None else probability},{latency_ms},{status}\n"
    )


@lru_cache(maxsize=64)
def _cells_of_arm(cells: tuple[Cell, ...]) -> str:
    """Write what the answers of an arm have in common: there are few arms, and splits."""
    return csv_line(cells).removesuffix("\n")


class CsvRequestLog(RequestLog):
    """A log in two CSV files that any number of processes may append to.

    Parameters
    ----------
    path : Path
        The rows.
    labels_path : Path
        The late labels.
    fsync : {"never", "interval", "always"}
        What a power cut may take: what the kernel has not written by itself, a second, or nothing. What a process
        that dies has stored is stored in any case.
    timeout_seconds : float
        How long to wait for a disk that does not answer.
    """

    def __init__(self, path: Path, labels_path: Path, fsync: Fsync = "never", timeout_seconds: float = 5.0) -> None:
        self._rows = AppendOnlyCsv(path, COLUMNS, fsync, timeout_seconds)
        self._labels = AppendOnlyCsv(labels_path, LABEL_COLUMNS, fsync, timeout_seconds)
        self.upkeep_problem: str | None = None
        """What a `LogKeeper` says."""

    @property
    def problem(self) -> str | None:
        """Why the last append failed, of rows or of labels, or the upkeep of the files."""
        return self._rows.problem or self._labels.problem or self.upkeep_problem

    @property
    def commits_in_groups(self) -> bool:
        """Whether answers wait for the disk."""
        return self._rows.fsync == "always"

    @property
    def paths(self) -> tuple[Path, Path]:
        """The files of the rows and of the late labels."""
        return self._rows.path, self._labels.path

    def let_go(self) -> None:
        """Close what was moved away, so that it can be packed, also where nobody appends. Raises TimeoutError."""
        self._rows.let_go()
        self._labels.let_go()

    def append(self, rows: Sequence[LogRow]) -> None:
        """Store rows with one write."""
        self._rows.append_lines("".join([_line(row) for row in rows]))

    def append_batch(self, batch: LogBatch) -> None:
        """Store the rows of a batch with one write."""
        self._rows.append_lines(batch.lines())

    def append_labels(self, labels: Sequence[LateLabel]) -> None:
        """Store late labels with one write."""
        self._labels.append(labels)

    def slices(self, choice: Choice = EVERY) -> Sequence[LogSlice]:
        """Return the parts and the file of the rows; a missing file is empty."""
        return choose(self._rows.slices(), choice)

    def label_slices(self) -> Sequence[LogSlice]:
        """Return the parts and the file of the late labels; a missing file is empty."""
        return self._labels.slices()
