"""A line of the log's files: as Python writes it, and found again wherever another process was torn."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.csvline import csv_line, whole_rows
from crossfade.csvrows import rows_in
from crossfade.requestlog import COLUMNS, LABEL_COLUMNS

PLAIN = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=12)
NASTY = st.sampled_from(
    ['"', ",", 'a "b", c', "2026-01-02T03:04:05.000006+00:00,r9,u", "+00:00,", '{"a":"+00:00,"}', ""]
)
TIMES = st.datetimes(allow_imaginary=False).map(lambda when: f"{when.isoformat(timespec='microseconds')}+00:00")


def _lines(columns: int) -> st.SearchStrategy[bytes]:
    """Rows that begin with their time, whatever stands behind it."""
    cells = st.lists(PLAIN | NASTY | st.floats() | st.none(), min_size=columns - 1, max_size=columns - 1)
    return st.builds(lambda time, rest: csv_line([time, *rest]).encode().rstrip(b"\n"), TIMES, cells)


@given(
    st.lists(
        st.text(st.characters(exclude_categories=("Cs", "Cc"))) | st.floats() | st.integers() | st.none(), min_size=2
    )
)
def test_rows_are_written_as_by_the_csv_module(cells: list[Any]) -> None:
    """Whatever the cells, a line is the one that Python's own writer makes."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    assert csv_line(cells) == text.getvalue()


@pytest.mark.parametrize("columns", [COLUMNS, LABEL_COLUMNS], ids=["rows", "labels"])
@settings(deadline=None)
@given(st.data())
def test_a_row_is_found_behind_a_torn_one(columns: tuple[str, ...], data: st.DataObject) -> None:
    """Wherever one row was cut and whatever both hold, the next one is read as it was written, among others."""
    torn, row = data.draw(_lines(len(columns))), data.draw(_lines(len(columns)))
    cut = torn[: data.draw(st.integers(1, len(torn) - 1))]
    assert whole_rows([row, b"", cut + row, row + b"\r"], len(columns)) == ([row] * 3, 1)
    table, set_aside = rows_in(torn + b"\n" + cut + row + b"\n" + torn + b"\n", columns, columns)
    expected = [next(csv.reader([line.decode()])) for line in (torn, row, torn)]
    assert [list(found.values()) for found in table.to_pylist()] == expected
    assert set_aside == 1


def test_what_holds_no_row_is_set_aside() -> None:
    """A torn line by itself, one behind another, and one that is no UTF-8."""
    start = b"2026-01-02T03:04:05.000006+00:00,"
    assert whole_rows([start, start[:20] + start + b"r", start + b"r,\xff"], 3) == ([], 3)
