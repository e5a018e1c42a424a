"""A request log that lives as long as its process."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from crossfade.logchoice import EVERY, Choice, choose
from crossfade.requestlog import COLUMNS, LABEL_COLUMNS, LateLabel, LogRow, LogSlice, RequestLog


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

    def slices(self, choice: Choice = EVERY) -> Sequence[LogSlice]:
        """Return the rows, in a slice per time that they were read."""
        return choose(self._rows.slices(), choice)

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
            self._slices.append(_MemorySlice(pa.table(table), len(self._slices)))
        return list(self._slices)


@dataclass(frozen=True)
class _MemorySlice:
    table: pa.Table
    number: int

    @property
    def beginning(self) -> Hashable:
        return self.number

    @property
    def mark(self) -> Hashable:
        return self.number

    def read(self, wanted: Sequence[str]) -> tuple[pa.Table, int]:
        return self.table.select(list(wanted)), 0


def _text(value: object) -> str:
    """Write a value as the CSV file does."""
    return "" if value is None else str(value)
