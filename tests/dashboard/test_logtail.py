"""Following the log: what is new is read, what was read is kept, wherever the files go."""

from __future__ import annotations

import random
from datetime import date

import pytest

from crossfade import csvslices
from crossfade.dashboard.logtail import LogTail, Tail
from crossfade.errors import LogUnavailable
from crossfade.logpacking import pack
from crossfade.logparts import part_of
from crossfade.logreader import read_log
from crossfade.requestlog import COLUMNS, LABEL_COLUMNS


def _tail(log, most_rows: int = 1_000_000) -> LogTail:
    return LogTail(log, "IrisClassifier", most_rows)


def _known(tail: Tail) -> tuple[int, int]:
    """Labelled rows, and those of them that were answered rightly."""
    known = sum(int(part.known.sum()) for part in tail.parts)
    return known, sum(int((part.known & part.correct).sum()) for part in tail.parts)


@pytest.fixture
def small_slices(monkeypatch):
    """Slices of a few rows, so that a short log has many."""
    monkeypatch.setattr(csvslices, "_SLICE_BYTES", 500)


def test_an_empty_log_is_an_empty_tail(log):
    """No file yet is no problem."""
    tail = _tail(log).refresh()
    assert (tail.rows, tail.newest, tail.complete) == (0, None, True)


def test_new_rows_are_read_and_old_ones_only_once(log, answer, small_slices, monkeypatch):
    """A refresh reads the slices that are new, or have grown, and no other."""
    for i in range(20):
        answer(f"r{i}")
    tail = _tail(log)
    assert tail.refresh().rows == 20
    read, before = [], csvslices.CsvSlice.read
    monkeypatch.setattr(csvslices.CsvSlice, "read", lambda part, wanted: read.append(part) or before(part, wanted))
    assert tail.refresh().rows == 20
    assert not read
    answer("r20")
    assert tail.refresh().rows == 21
    assert len(read) <= 2


def test_a_torn_last_line_is_set_aside_until_it_is_whole(log, answer):
    """Half a row is no row; when the other half comes it is one."""
    answer("a", "b")
    path = log.paths[0]
    whole = path.read_bytes()
    line = whole.splitlines(keepends=True)[-1].replace(b",b,", b",c,")
    tail = _tail(log)
    path.write_bytes(whole + line[:40])
    torn = tail.refresh()
    assert (torn.rows, torn.set_aside) == (2, 1)
    path.write_bytes(whole + line)
    mended = tail.refresh()
    assert (mended.rows, mended.set_aside) == (3, 0)


def test_late_labels_count_whenever_they_come(log, answer, label):
    """A label is joined whether its row was read before or after it, and the last one of a request wins."""
    answer("early", "late", "never", said="1")
    tail = _tail(log)
    label("early", "1")
    assert _known(tail.refresh()) == (1, 1)
    label("late", "0")
    label("unborn", "1")
    assert _known(tail.refresh()) == (2, 1)
    label("late", "1")
    assert _known(tail.refresh()) == (2, 2)
    answer("unborn", said="1")
    assert _known(tail.refresh()) == (3, 3)


def test_a_late_label_takes_the_place_of_the_requests_own(log, answer, label):
    """As the package's reader has it."""
    answer("a", said="1", truth="0")
    label("a", "1")
    assert _known(_tail(log).refresh()) == (1, 1)


def test_rotation_moves_files_and_no_row_counts_twice(log, answer, label, small_slices):
    """A day's rows that were moved, and packed later, are known still; new ones come on top."""
    for i in range(20):
        answer(f"r{i}", said="1")
        label(f"r{i}", "1")
    tail = _tail(log)
    assert _known(tail.refresh()) == (20, 20)
    parts = [part_of(path, date(2026, 11, 21), ".csv") for path in log.paths]
    for path, part in zip(log.paths, parts, strict=True):
        path.rename(part)
    assert _known(tail.refresh()) == (20, 20)
    answer("next", said="1")
    label("next", "0")
    label("r3", "0")
    assert _known(tail.refresh()) == (21, 19)
    for path, part, columns in zip(log.paths, parts, (COLUMNS, LABEL_COLUMNS), strict=True):
        pack(part, path, columns)
    packed = tail.refresh()
    assert (packed.rows, _known(packed)) == (21, (21, 19))


def test_it_finds_what_the_packages_reader_finds(log, answer, label, small_slices):
    """Refreshed at any times, a tail ends at the counts of one reading of everything."""
    dice = random.Random(7)
    tail, waiting = _tail(log), []
    for i in range(150):
        answer(f"r{i}", variant=dice.choice("AB"), said=dice.choice("01"), truth=dice.choice(["", "", "0", "1"]))
        waiting.append(f"r{i}")
        if dice.random() < 0.5:
            label(dice.choice(waiting), dice.choice("01"))
        if dice.random() < 0.2:
            tail.refresh()
    labeled = read_log(log, ("prediction",), labeled=True).rows
    correct = int((labeled["label"] == labeled["prediction"]).sum())
    assert _known(tail.refresh()) == (len(labeled), correct)


def test_a_log_that_is_gone_is_a_problem_and_not_an_empty_log(log, answer):
    """What was known stays; the reason says what to do."""
    answer("a")
    tail = _tail(log)
    tail.refresh()
    aside = log.paths[0].rename(log.paths[0].with_name("aside"))
    with pytest.raises(LogUnavailable, match="gone"):
        tail.refresh()
    aside.rename(log.paths[0])
    assert tail.refresh().rows == 1


def test_only_the_newest_rows_are_kept(log, answer, small_slices):
    """In whole slices, and it is told that there are more."""
    for i in range(40):
        answer(f"r{i}", minutes=i)
    tail = _tail(log, most_rows=10).refresh()
    assert 10 <= tail.rows < 20
    assert tail.more
    assert tail.newest == max(int(part.at.max()) for part in tail.parts)


def test_the_newest_rows_come_first(log, answer, small_slices):
    """Without time for all of it there is something to show, and the rest follows."""
    for i in range(40):
        answer(f"r{i}", minutes=i)
    tail = _tail(log)
    first = tail.refresh(seconds=-1)
    assert not first.complete
    whole = tail.refresh()
    assert (whole.rows, whole.complete) == (40, True)


def test_rows_of_other_models_are_left_out(log, answer):
    """Several models may share a log."""
    answer("mine")
    answer("theirs", model="Other")
    assert _tail(log).refresh().rows == 1
