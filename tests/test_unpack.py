"""Logged features, from JSON texts to columns."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from crossfade import unpack as unpack_module
from crossfade.schema import Feature, FeatureSchema
from crossfade.unpack import unpack

SCHEMA = FeatureSchema((Feature("size"), Feature("colour", "categorical"), Feature("flag", "boolean")))
ROW: dict[str, Any] = {"size": 1.5, "colour": "red", "flag": True}


def _texts(*rows: object) -> pd.Series[Any]:
    return pd.Series([row if isinstance(row, str) else json.dumps(row) for row in rows], dtype=object)


def test_kinds_come_as_models_take_them() -> None:
    """Numbers and booleans become floats, text stays text; null and absent are missing; other names are ignored."""
    found = unpack(_texts(ROW, {"size": 2, "colour": None, "flag": False, "extra": [1]}, {}), SCHEMA)
    assert found.frame["size"].tolist()[:2] == [1.5, 2.0]
    assert found.frame["colour"].tolist()[0] == "red"
    assert found.frame["flag"].tolist()[:2] == [1.0, 0.0]
    assert found.frame.isna().to_numpy().tolist() == [[False] * 3, [False, True, False], [True] * 3]
    assert found.frame.dtypes.astype(str).tolist() == ["float64", "object", "float64"]
    assert found.misread == {}


@pytest.mark.parametrize(
    ("row", "misread"),
    [
        ({**ROW, "size": "large"}, {"size": 1}),
        ({**ROW, "size": [1]}, {"size": 1}),
        ({**ROW, "size": 1e300}, {"size": 1}),
        ({**ROW, "flag": "perhaps"}, {"flag": 1}),
        ({**ROW, "flag": 7}, {"flag": 1}),
        ("no json", {}),
        ("[1, 2]", {}),
        ("", {}),
        (json.dumps(ROW) + json.dumps(ROW), {}),
    ],
)
def test_one_bad_row_spoils_itself_only(row: object, misread: dict[str, int]) -> None:
    """A value of another kind is missing and counted; a text that is no object holds nothing; other rows are whole."""
    found = unpack(_texts(ROW, row, ROW), SCHEMA)
    assert {name: n for name, n in found.misread.items() if n} == misread
    assert found.frame.iloc[[0, 2]].to_numpy().tolist() == [[1.5, "red", 1.0]] * 2
    assert found.frame.iloc[1].isna().any()


@pytest.mark.parametrize("row", [{**ROW, "size": "1.5"}, {**ROW, "flag": 1}, {**ROW, "flag": "true"}])
def test_what_can_be_read_is_not_misread(row: object) -> None:
    """A number in quotes is that number, and 1 is true, as in a file."""
    found = unpack(_texts(row), SCHEMA)
    assert found.frame.to_numpy().tolist() == [[1.5, "red", 1.0]]
    assert not any(found.misread.values())


def test_many_rows_are_read_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """However the rows are portioned, and whether or not one portion has a bad row, the result is the same."""
    rows = _texts(*({**ROW, "size": i / 7} for i in range(25)), {**ROW, "size": "x"}, ROW)
    whole = unpack(rows, SCHEMA)
    monkeypatch.setattr(unpack_module, "_ROWS_AT_ONCE", 4)
    portions = unpack(rows, SCHEMA)
    pd.testing.assert_frame_equal(whole.frame, portions.frame)
    assert whole.misread == portions.misread == {"size": 1, "colour": 0, "flag": 0}


def test_the_rows_index_is_kept() -> None:
    """A series keeps its index, an Arrow array counts from 0, and no rows have all columns."""
    assert unpack(_texts(ROW, ROW).set_axis([7, 3]), SCHEMA).frame.index.tolist() == [7, 3]
    assert unpack(pa.chunked_array([pa.array([json.dumps(ROW)])]), SCHEMA).frame.index.tolist() == [0]
    empty = unpack(_texts(), SCHEMA).frame
    assert (empty.shape, empty["colour"].dtype, empty["size"].dtype) == ((0, 3), np.dtype(object), np.dtype(float))
