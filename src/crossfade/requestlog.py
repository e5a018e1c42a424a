"""3. The request log: one row per answer, written before the answer leaves; labels may come later.

The log is the only thing that serving writes and the learning loop reads (logreader.py). Rows and labels are appended,
never changed; a label that came later is joined when the log is read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from crossfade.appendonly import AppendOnlyCsv

if TYPE_CHECKING:
    import pyarrow as pa


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


COLUMNS = tuple(field.name for field in fields(LogRow))
LABEL_COLUMNS = tuple(field.name for field in fields(LateLabel))
_ROW, _LABEL = attrgetter(*COLUMNS), attrgetter(*LABEL_COLUMNS)


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
