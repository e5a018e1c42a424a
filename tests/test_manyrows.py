"""Many rows at once are checked as each of them would be by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.errors import InvalidInput
from crossfade.manyrows import parse_many
from crossfade.schema import Feature, FeatureSchema, Value

SCHEMA = FeatureSchema((Feature("size"), Feature("colour", "categorical", nullable=True), Feature("flag", "boolean")))
NUMBERS = FeatureSchema.of_numbers("a", "b")

_GOOD = [st.floats(-1e30, 1e30) | st.integers(-5, 5), st.sampled_from(["red", "grün"]) | st.none(), st.booleans()]
_ANY = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.none(), max_size=1)


def _row(*values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.tuples(*values).map(list)
    return lists | lists.map(lambda row: dict(zip(("flag", "size", "colour"), [row[2], *row[:2]], strict=True)))


@settings(max_examples=300, deadline=None)
@given(st.lists(_row(*_GOOD) | _row(_ANY, _ANY, _ANY) | _ANY, max_size=4) | st.lists(_row(*_GOOD), max_size=4))
def test_many_are_checked_like_each(rows: list[Any]) -> None:
    """The same rows come out, of the same types, or the first bad one is refused in the same words."""
    assert _said(lambda: parse_many(SCHEMA, rows)) == _said(
        lambda: [SCHEMA.parse(row, f"features[{i}]") for i, row in enumerate(rows)]
    )


def _said(parse: Callable[[], Sequence[Sequence[Value]]]) -> str:
    try:
        return repr([list(row) for row in parse()])
    except InvalidInput as error:
        return str(error)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3.5e38, 10**400, True, "1", None, [1.0], {}])
@pytest.mark.parametrize("shape", [list, lambda row: dict(zip(("b", "a"), row[::-1], strict=True))])
def test_one_bad_number_among_many_is_named(bad: Any, shape: Any) -> None:
    """Nothing that is refused alone slips through among a thousand."""
    rows = [shape([1.0, 2.0]) for _ in range(1000)]
    rows[700] = shape([1.0, bad])
    with pytest.raises(InvalidInput, match=r"^features\[700\]\.b: is "):
        parse_many(NUMBERS, rows)


@pytest.mark.parametrize(
    "bad", [{"a": 1.0}, {"a": 1.0, "c": 2.0}, {"a": 1.0, "b": 2.0, "c": 3.0}, [1.0], [1.0, 2.0, 3.0]]
)
def test_one_row_of_another_shape_is_named(bad: Any) -> None:
    """A feature too few, too many, or of another name."""
    rows: list[Any] = [{"a": 1.0, "b": 2.0} if isinstance(bad, dict) else [1.0, 2.0] for _ in range(1000)]
    rows[700] = bad
    with pytest.raises(InvalidInput, match=r"^features\[700\]"):
        parse_many(NUMBERS, rows)


def test_whole_numbers_become_numbers() -> None:
    """JSON's 1 is 1.0, as in a single row."""
    assert repr(list(parse_many(NUMBERS, [[1, 2.5]]))) == "[(1.0, 2.5)]"
