"""Many rows from outside, checked column by column: a thousand cost what a few do one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from crossfade.errors import InvalidInput
from crossfade.schema import LARGEST, Feature, FeatureSchema, Value, check_category

Column = Sequence[Value] | npt.NDArray[np.float64]


class ManyRows(Sequence[Sequence[Value]]):
    """Rows that are kept column by column, as models and the log take them.

    Parameters
    ----------
    columns : sequence of arrays or sequences, each of shape (n,)
        One per feature, in signature order; arrays where all values are numbers. At least one.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = columns

    @cached_property
    def values(self) -> list[Sequence[Value]]:
        """The columns, as Python's values."""
        return [column.tolist() if isinstance(column, np.ndarray) else column for column in self.columns]

    def __len__(self) -> int:
        return len(self.columns[0])

    @overload
    def __getitem__(self, place: int) -> Sequence[Value]: ...
    @overload
    def __getitem__(self, place: slice) -> ManyRows: ...
    def __getitem__(self, place: int | slice) -> Sequence[Value] | ManyRows:
        if isinstance(place, slice):
            return ManyRows([column[place] for column in self.columns])
        return [column[place] for column in self.values]

    def __iter__(self) -> Iterator[Sequence[Value]]:
        return zip(*self.values, strict=True)


def columns_of(rows: Sequence[Sequence[Value]]) -> Sequence[Column]:
    """Return the columns of rows, however they are kept; none of no rows."""
    return rows.columns if isinstance(rows, ManyRows) else list(zip(*rows, strict=True))


def parse_many(schema: FeatureSchema, rows: Sequence[object], field: str = "features") -> Sequence[Sequence[Value]]:
    """Check rows and put each in signature order, as `FeatureSchema.parse` does.

    Parameters
    ----------
    schema : FeatureSchema
        The features.
    rows : sequence of object
        Each a mapping by name, or a sequence in signature order.
    field : str
        Where the rows stand in the request; errors name it, and the row.

    Raises
    ------
    InvalidInput
        As `parse`, for the first row that is refused.

    Examples
    --------
    >>> list(parse_many(FeatureSchema.of_numbers("a", "b"), [{"b": 2.5, "a": 1}, {"a": 3, "b": 4}]))
    [(1.0, 2.5), (3.0, 4.0)]
    """
    columns = _columns(schema, rows)
    found = [_checked(feature, column) for feature, column in zip(schema.features, columns, strict=True)]
    checked = [column for column in found if column is not None]
    if checked and len(checked) == len(found):
        return ManyRows(checked)
    return [schema.parse(row, f"{field}[{i}]") for i, row in enumerate(rows)]  # says what is wrong, and where


def _columns(schema: FeatureSchema, rows: Sequence[Any]) -> Sequence[Sequence[object]]:
    """Return a column per feature; empty ones where not all rows are alike and complete."""
    width, alike = len(schema.names), set(map(type, rows))
    if alike not in ({dict}, {list}) or set(map(len, rows)) != {width}:
        return [()] * width
    if alike == {list}:
        return list(zip(*rows, strict=True))
    try:
        return [list(map(itemgetter(name), rows)) for name in schema.names]
    except KeyError:
        return [()] * width


def _checked(feature: Feature, column: Sequence[object]) -> Column | None:
    """Return a column as `parse` gives it; None where it has to be looked at value by value."""
    kinds = set(map(type, column))
    if feature.kind == "numeric" and kinds and kinds <= {float, int}:
        try:
            numbers = np.array(column, dtype=np.float64)
        except OverflowError:
            return None
        return numbers if (np.abs(numbers) <= LARGEST).all() else None
    if feature.kind == "categorical" and kinds == {str}:
        try:
            for category in set(column):
                check_category(str(category), "")
        except InvalidInput:
            return None
        return column  # type: ignore[return-value]  # all of it is text
    return None
