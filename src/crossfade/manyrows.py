"""Many rows from outside, checked column by column: a thousand cost what a few do one by one."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from crossfade.errors import InvalidInput
from crossfade.schema import LARGEST, Feature, FeatureSchema, Value, check_category


def parse_many(schema: FeatureSchema, rows: Sequence[object], field: str = "features") -> list[Sequence[Value]]:
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
    >>> parse_many(FeatureSchema.of_numbers("a", "b"), [{"b": 2.5, "a": 1}, {"a": 3, "b": 4}])
    [(1.0, 2.5), (3.0, 4.0)]
    """
    columns = _columns(schema, rows)
    checked = [_checked(feature, column) for feature, column in zip(schema.features, columns, strict=True)]
    if checked and None not in checked:
        return list(zip(*checked, strict=True))
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


def _checked(feature: Feature, column: Sequence[object]) -> Sequence[Value] | None:
    """Return a column as `parse` gives it; None where it has to be looked at value by value."""
    kinds = set(map(type, column))
    if feature.kind == "numeric" and kinds and kinds <= {float, int}:
        try:
            numbers = np.array(column, dtype=np.float64)
        except OverflowError:
            return None
        return numbers.tolist() if (np.abs(numbers) <= LARGEST).all() else None
    if feature.kind == "categorical" and kinds == {str}:
        try:
            for category in set(column):
                check_category(str(category), "")
        except InvalidInput:
            return None
        return column  # type: ignore[return-value]  # all of it is text
    return None
