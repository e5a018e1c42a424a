"""A table cut into what the first model learns and the windows that follow."""

from __future__ import annotations

import pandas as pd
import pytest

from crossfade.data import Table
from crossfade.errors import DataError
from crossfade.replay.history import History
from crossfade.schema import Feature, FeatureSchema


def _table(rows: int, **columns: list[object]) -> Table:
    frame = pd.DataFrame({"x": [float(i) for i in range(rows)], **columns, "y": [i % 2 for i in range(rows)]})
    kinds = [Feature(name, "numeric", bool(frame[name].isna().any())) for name in frame.columns if name != "y"]
    return Table(frame, "y", FeatureSchema(tuple(kinds)), ordered=True)


@pytest.mark.parametrize(("window", "step"), [(0.02, 20), (50, 50), (1, 1)])
def test_windows_follow_the_first_share_without_gap_or_overlap(window: float, step: int) -> None:
    """The first share is learnt; every later row stands in one window, of the asked length."""
    history = History.cut(_table(1000), 0.2, window, 0)
    played = pd.concat([history.rows(k) for k in range(history.windows)])
    assert history.first == 200
    assert played.index.tolist() == list(range(200, 1000))
    assert {len(history.rows(k)) for k in range(history.windows)} == {step}


def test_a_short_rest_joins_the_last_window() -> None:
    """What is left over is less than half a window: the last window takes it in; else it is a window of its own."""
    assert History.cut(_table(1010), 0.2, 100, 0).edges[-2:] == (902, 1010)
    assert History.cut(_table(1080), 0.2, 100, 0).edges[-2:] == (1016, 1080)


def test_labels_are_known_after_the_delay() -> None:
    """When window k begins, the labels of the windows before k - delay are known, and never fewer than the first."""
    history = History.cut(_table(1000), 0.2, 100, 2)
    assert [history.known(k) for k in range(4)] == [200, 200, 200, 300]


def test_rows_that_the_first_model_would_refuse_are_left_out() -> None:
    """A null where the first rows have none would be refused by a router: the row is left out, and counted."""
    later_null: list[object] = [1.0] * 900 + [None] * 100
    history = History.cut(_table(1000, z=later_null), 0.2, 0.05, 0)
    assert (history.refused, len(history.table.frame), len(history.truth)) == (100, 900, 700)


def test_nulls_that_the_first_rows_have_stay() -> None:
    """A null where the first rows have some is a value like any other."""
    some_null: list[object] = [None, 1.0] * 500
    assert History.cut(_table(1000, z=some_null), 0.2, 0.05, 0).refused == 0


def test_a_column_that_begins_later_is_no_feature() -> None:
    """A column without any value in the first rows could not be learnt by the first model."""
    late: list[object] = [None] * 500 + [1.0] * 500
    history = History.cut(_table(1000, z=late), 0.2, 0.05, 0)
    assert history.table.schema.names == ("x",)
    assert history.refused == 0


@pytest.mark.parametrize(("rows", "first", "window"), [(100, 0.2, 0.02), (1000, 0.2, 500), (300, 0.95, 20)])
def test_a_table_that_is_too_short_is_refused(rows: int, first: float, window: float) -> None:
    """Too few first rows, or fewer than two windows, are refused with the numbers."""
    with pytest.raises(DataError, match="too few"):
        History.cut(_table(rows), first, window, 0)


def test_a_column_that_ends_is_named() -> None:
    """Where nearly all later rows lack what the first ones have, the column is named, with what to do."""
    ended: list[object] = [1.0] * 200 + [None] * 800
    with pytest.raises(DataError, match=r"800 of 1000 rows lack .* in column z; .* \(--features\), or begin later"):
        History.cut(_table(1000, z=ended), 0.2, 0.05, 0)
