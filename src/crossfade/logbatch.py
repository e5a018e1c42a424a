"""The rows of one batch as the request log takes them: column by column, for most columns are the same in all rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec
import numpy as np

from crossfade.csvline import csv_cell
from crossfade.manyrows import Column, columns_of
from crossfade.requestlog import LogRow
from crossfade.schema import Value

_encode = msgspec.json.Encoder().encode

_GAP = "\n"
"""Stands where a value goes: no cell holds a line break."""


class LogBatch(NamedTuple):
    """Answered rows of one request."""

    common: LogRow
    """What they share; `request_id` is the request's, and the columns below stand empty."""
    names: tuple[str, ...]
    """Of the features."""
    features: Sequence[Sequence[Value]]
    """Rows, in the order of the names."""
    labels: Sequence[str]
    predictions: Sequence[str]
    probabilities: Sequence[float | None]

    def rows(self) -> list[LogRow]:
        """Return the rows one by one; the i-th of request `r` is known as `r.i`."""
        columns = zip(self.features, self.labels, self.predictions, self.probabilities, strict=True)
        return [
            self.common._replace(
                request_id=f"{self.common.request_id}.{i}",
                features_json=_encode(dict(zip(self.names, features, strict=True))).decode(),
                label=label,
                prediction=prediction,
                probability=probability,
            )
            for i, (features, label, prediction, probability) in enumerate(columns)
        ]

    def lines(self) -> str:
        """Write the rows as lines of CSV, all at once: what `rows` says, for a tenth of the time."""
        columns: list[str | Sequence[str]] = [
            _places(len(self.features)),
            *map(_json_cells, columns_of(self.features)),
            _cells(self.labels),
            _cells(self.predictions),
            _numbers(self.probabilities),
        ]
        rows = len(self.features)
        same, *between = self._pieces()
        parts: list[Sequence[str]] = []
        for column, piece in zip(columns, between, strict=True):
            if isinstance(column, str):
                same += column + piece
            else:
                parts += [[same] * rows, column]
                same = piece
        parts.append([same] * rows)
        texts = [""] * (rows * len(parts))
        for place, part in enumerate(parts):
            texts[place :: len(parts)] = part
        return "".join(texts)

    def _pieces(self) -> list[str]:
        """Cut a line where a value differs between the rows: what stands before, between and after these."""
        cells = {name: csv_cell("" if cell is None else str(cell)) for name, cell in self.common._asdict().items()}
        features = ",".join(_quotes_doubled(_encode(name).decode()) + ":" + _GAP for name in self.names)
        cells |= dict.fromkeys(("label", "prediction", "probability"), _GAP)
        cells["request_id"] = csv_cell(self.common.request_id + "." + _GAP)
        cells["features_json"] = '"{' + features + '}"'
        pieces = ",".join(cells.values()).split(_GAP)
        pieces[-1] += "\n"
        return pieces


@lru_cache(maxsize=4)
def _places(count: int) -> list[str]:
    """Return the numbers of so many rows, as text; most callers send batches of one size."""
    return list(map(str, range(count)))


def _cells(texts: Sequence[str]) -> str | list[str]:
    """Write a column of texts; one cell, if it is the same in all rows."""
    cells = {text: csv_cell(text) for text in set(texts)}
    return next(iter(cells.values())) if len(cells) == 1 else [cells[text] for text in texts]


def _numbers(values: Sequence[float | None]) -> list[str]:
    cells = _split(values)
    return cells if None not in values else ["" if cell == "null" else cell for cell in cells]


def _json_cells(column: Column) -> list[str]:
    """Write a feature's values as JSON within a quoted cell."""
    if isinstance(column, np.ndarray):
        return _split(column.tolist())
    if str not in set(map(type, column)):
        return _split(column)
    known = {value: _quotes_doubled(_encode(value).decode()) for value in set(column)}
    return [known[value] for value in column]


def _split(values: Sequence[Value]) -> list[str]:
    """Write values that are no texts as JSON: a comma can only stand between two of them."""
    return _encode(values).decode()[1:-1].split(",")


def _quotes_doubled(text: str) -> str:
    return text.replace('"', '""')
