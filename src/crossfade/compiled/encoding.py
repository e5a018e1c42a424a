"""What the steps before the estimator make of a row: imputation, encoding and scaling, one feature at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crossfade.manyrows import columns_of

Value = float | str | bool | None
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class NumericColumn:
    """One column of the estimator's input that follows a numeric or boolean feature."""

    feature: int
    """Place of the feature in the signature."""
    missing: float
    """Value of the column where the feature is missing."""
    factor: float = 1.0
    offset: float = 0.0
    """The column is ``factor * feature + offset``; of 1 and 0 the feature itself, bit for bit."""

    @property
    def width(self) -> int:
        """Columns that it makes."""
        return 1

    def of(self, value: float) -> float:
        """Return the column's value for a value of the feature that is there."""
        return value if self.factor == 1 and self.offset == 0 else self.factor * value + self.offset


@dataclass(frozen=True)
class CategoryColumns:
    """Neighbouring columns that follow a categorical feature."""

    feature: int
    """Place of the feature in the signature."""
    known: Mapping[str, tuple[float, ...]]
    """Values of the columns by category."""
    unseen: tuple[float, ...]
    """Their values for every other category."""
    missing: tuple[float, ...]

    @property
    def width(self) -> int:
        """Columns that it makes."""
        return len(self.unseen)


Columns = NumericColumn | CategoryColumns


class Encoder:
    """Turns rows of features into rows of numbers.

    Parameters
    ----------
    columns : sequence of NumericColumn or CategoryColumns
        In the order of the estimator's input.
    """

    def __init__(self, columns: Sequence[Columns]) -> None:
        self.columns = tuple(columns)
        self.width = sum(column.width for column in columns)

    @classmethod
    def of_json(cls, described: Sequence[Mapping[str, Any]]) -> Encoder:
        """Read what `to_json` wrote."""
        return cls([_column(entry) for entry in described])

    def to_json(self) -> list[dict[str, Any]]:
        """Describe the columns, as JSON holds them."""
        return [dict(vars(column)) for column in self.columns]

    def encode(self, row: Sequence[Value]) -> list[float]:
        """Encode one row of features, in signature order; None and NaN are missing. Returns `width` numbers."""
        numbers: list[float] = []
        for column in self.columns:
            value: Any = row[column.feature]
            absent = value is None or value != value
            if isinstance(column, NumericColumn):
                numbers.append(column.missing if absent else column.of(value))
            else:
                numbers += column.missing if absent else column.known.get(value, column.unseen)
        return numbers

    def encode_many(self, rows: Sequence[Sequence[Value]]) -> Matrix:
        """Encode rows of shape (n, features). Returns shape (n, width)."""
        encoded = np.empty((len(rows), self.width))
        if not len(rows):
            return encoded
        features = columns_of(rows)
        at = 0
        for column in self.columns:
            values = features[column.feature]
            encoded[:, at : at + column.width] = (
                _numbers(column, values) if isinstance(column, NumericColumn) else _indicators(column, values)
            )
            at += column.width
        return encoded


def _numbers(column: NumericColumn, values: Sequence[Value] | Matrix) -> Matrix:
    given = np.asarray(values, dtype=np.float64)  # None becomes NaN
    plain = column.factor == 1 and column.offset == 0
    numbers: Matrix = np.where(
        np.isnan(given), column.missing, given if plain else column.factor * given + column.offset
    )
    return numbers[:, np.newaxis]


def _indicators(column: CategoryColumns, values: Any) -> Matrix:
    place = {category: i for i, category in enumerate(column.known, start=2)}
    table: Matrix = np.array([column.missing, column.unseen, *column.known.values()], dtype=np.float64)
    places = [0 if value is None or value != value else place.get(value, 1) for value in values]
    return table[places]


def _column(entry: Mapping[str, Any]) -> Columns:
    if "known" not in entry:
        return NumericColumn(**entry)
    known = {category: tuple(values) for category, values in entry["known"].items()}
    return CategoryColumns(entry["feature"], known, tuple(entry["unseen"]), tuple(entry["missing"]))
