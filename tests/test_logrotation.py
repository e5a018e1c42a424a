"""The log's older rows: moved to parts, packed, deleted; under load, beside readers, and killed at any point."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from crossfade import appendonly, csvslices, logpacking
from crossfade.errors import LogUnavailable
from crossfade.logpacking import pack_all
from crossfade.logparts import first_day, is_at_rest, only_one, part_of, parts_of
from crossfade.logreader import read_log
from crossfade.logrotation import LogKeeper, clear, rotate
from crossfade.requestlog import COLUMNS, LABEL_COLUMNS, CsvRequestLog, LateLabel, LogRow

DAY = date(2026, 1, 2)
NEXT = DAY + timedelta(days=1)
FORK = multiprocessing.get_context("fork")


def a_row(request_id: str, day: date = DAY, **changes: Any) -> LogRow:
    values: dict[str, Any] = {
        "ts_utc": f"{day}T03:04:05.000006+00:00",
        "request_id": request_id,
        "user_id": "u1",
        "experiment_id": "m-v1-v2",
        "variant": "A",
        "alias": "prod",
        "model": "m",
        "model_version": "1",
        "ab_split_b": 0.5,
        "features_json": '{"a":1.5,"b":2.0}',
        "label": "",
        "prediction": "1",
        "probability": 0.1 + 0.2,
        "latency_ms": 1e-7,
        "status": 200,
    }
    return LogRow(**{**values, **changes})


@pytest.fixture(autouse=True)
def looks_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer sees at once, not within a hundredth of a second, that its file was moved away."""
    monkeypatch.setattr(appendonly, "_LOOK_SECONDS", 0.0)


@pytest.fixture
def log(tmp_path: Path) -> CsvRequestLog:
    """An empty log in a folder of its own."""
    return CsvRequestLog(tmp_path / "logs" / "requests.csv", tmp_path / "logs" / "labels.csv")


def live(log: CsvRequestLog) -> Path:
    return log.paths[0]


def ids(log: CsvRequestLog) -> list[str]:
    return read_log(log).rows["request_id"].tolist()


def names(log: CsvRequestLog) -> list[str]:
    """What stands in the folder, but for the lock."""
    return sorted(path.name for path in live(log).parent.iterdir() if path.suffix != ".lock")


def packed(log: CsvRequestLog) -> Path:
    """Make a Parquet part of all that is in the log's file."""
    part = rotate(live(log), NEXT)
    assert part is not None
    log.let_go()
    [made] = pack_all(live(log), COLUMNS)
    return made


class TestRotate:
    """When a file becomes a part, and of what name."""

    def test_a_file_of_an_earlier_day_becomes_a_part(self, log: CsvRequestLog) -> None:
        """The file is moved as it is, and the next row starts a new one with a header."""
        log.append([a_row("r1")])
        before = live(log).read_bytes()
        part = rotate(live(log), NEXT)
        assert part == live(log).with_name("requests.2026-01-02.csv")
        log.append([a_row("r2", NEXT)])
        assert part.read_bytes() == before
        assert live(log).read_text().splitlines()[0] == ",".join(COLUMNS)
        assert ids(log) == ["r1", "r2"]

    def test_todays_file_stays(self, log: CsvRequestLog) -> None:
        """A file that was begun today, or by a clock that runs ahead, is left alone."""
        log.append([a_row("r1")])
        assert rotate(live(log), DAY) is None
        assert rotate(live(log), DAY - timedelta(days=1)) is None
        assert names(log) == ["requests.csv"]

    def test_nothing_is_no_part(self, log: CsvRequestLog) -> None:
        """Neither a file that is not there nor one with a header only is moved."""
        assert rotate(live(log), NEXT) is None
        live(log).parent.mkdir()
        live(log).write_text(",".join(COLUMNS) + "\n")
        assert rotate(live(log), NEXT) is None

    def test_a_torn_first_line_has_no_day(self, log: CsvRequestLog) -> None:
        """The day is that of the first line that names one; of torn lines only, that of the last write."""
        live(log).parent.mkdir()
        live(log).write_text(",".join(COLUMNS) + "\n-01-0")
        assert first_day(live(log)) == datetime.now(UTC).date()
        log.append([a_row("r1")])
        assert first_day(live(log)) == DAY

    def test_a_row_late_at_midnight_makes_no_second_part(self, log: CsvRequestLog) -> None:
        """A file that begins with a row of a day that has its part is taken for the next day's."""
        log.append([a_row("r1")])
        rotate(live(log), NEXT)
        log.append([a_row("r2", DAY), a_row("r3", NEXT)])
        assert rotate(live(log), NEXT) is None
        part = rotate(live(log), NEXT + timedelta(days=1))
        assert part == part_of(live(log), NEXT, ".csv")
        assert ids(log) == ["r1", "r2", "r3"]

    def test_one_process_at_a_time(self, log: CsvRequestLog) -> None:
        """Whoever comes second is told so, until the first one is through."""
        live(log).parent.mkdir()
        with only_one(live(log)) as first, only_one(live(log)) as second:
            assert (first, second) == (True, False)
        with only_one(live(log)) as again:
            assert again


TORN = [b"2026-01-02T03:0\n", b"\xff\xfe" + b"," * 14 + b"\n", b'"open\n', b"\x00" * 9 + b"\n", b"a,b\n", b"\r\n"]


class TestPack:
    """A packed part holds the rows that the CSV file held."""

    @pytest.mark.parametrize("slice_bytes", [400, 1_500, 2**22])
    def test_every_text_comes_back_as_it_was(
        self, log: CsvRequestLog, slice_bytes: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Numbers to the last digit, empty cells, odd texts, and the count of lines that are no rows."""
        monkeypatch.setattr(csvslices, "_SLICE_BYTES", slice_bytes)
        odd = ['say "hi", you', "é 日本", "NULL", "NaN", " x ", "1e5", ""]
        for i, text in enumerate(odd * 5):
            log.append([a_row(f"r{i}", user_id=text, label=text, probability=(i + 1) / 7 or None, latency_ms=i / 3)])
            with live(log).open("ab") as file:
                file.write(TORN[i % len(TORN)])
        with live(log).open("ab") as file:
            file.write(b"2026-01-02T03:04:05,cut")
        before = [part.read(COLUMNS) for part in log.slices()]
        part = packed(log)
        after = [part.read(COLUMNS) for part in log.slices()]
        assert pa.concat_tables(table for table, _ in after) == pa.concat_tables(table for table, _ in before)
        assert [torn for _, torn in after] == [torn for _, torn in before]
        assert sum(torn for _, torn in after) > 20
        assert names(log) == [part.name]
        assert len(read_log(log).rows) + read_log(log).set_aside == 35 + sum(torn for _, torn in before)

    def test_a_part_that_a_process_may_append_to_waits(self, log: CsvRequestLog) -> None:
        """As long as a writer has the file open, whatever it does, the part stays CSV."""
        log.append([a_row("r1")])
        part = rotate(live(log), NEXT)
        assert part
        assert not is_at_rest(part)
        assert pack_all(live(log), COLUMNS) == []
        log.append([a_row("r2", NEXT)])  # in a new file: the old one is let go
        assert is_at_rest(part)
        assert pack_all(live(log), COLUMNS) == [part.with_suffix(".parquet")]
        assert ids(log) == ["r1", "r2"]

    def test_an_idle_writer_lets_go(self, log: CsvRequestLog) -> None:
        """A writer that has nothing to append closes what was moved away, and nothing else."""
        log.append([a_row("r1")])
        log.let_go()
        assert not is_at_rest(live(log))
        part = rotate(live(log), NEXT)
        log.let_go()
        assert part
        assert is_at_rest(part)

    def test_a_dead_writer_holds_nothing(self, log: CsvRequestLog) -> None:
        """A writer that was killed does not keep a part from being packed."""

        def write() -> None:
            log.append([a_row("r1")])
            os.kill(os.getpid(), signal.SIGKILL)

        child = FORK.Process(target=write)
        child.start()
        child.join(120)
        assert packed(log).suffix == ".parquet"
        assert ids(log) == ["r1"]

    def test_no_row_goes_to_a_file_that_is_packed(self, log: CsvRequestLog, monkeypatch: pytest.MonkeyPatch) -> None:
        """A writer that opened the file just before it was moved away, and was held up, writes to the new one."""
        log.append([a_row("r1")])
        log._rows._file = None
        opened = log._rows._open

        def held_up() -> Any:
            file = opened()
            monkeypatch.setattr(log._rows, "_open", opened)
            rotate(live(log), NEXT)
            return file

        monkeypatch.setattr(log._rows, "_open", held_up)
        log.append([a_row("r2", NEXT)])
        assert len(live(log).read_text().splitlines()) == 2
        assert ids(log) == ["r1", "r2"]

    def test_labels_are_packed_too(self, log: CsvRequestLog) -> None:
        """Late labels go the way of the rows, and the last one still wins."""
        log.append([a_row("r1")])
        stamp = f"{DAY}T03:04:05.000006+00:00"
        log.append_labels([LateLabel(stamp, "r1", "1"), LateLabel(stamp, "r1", "2")])
        assert rotate(log.paths[1], NEXT)
        log.let_go()
        assert [path.name for path in pack_all(log.paths[1], LABEL_COLUMNS)] == ["labels.2026-01-02.parquet"]
        assert read_log(log).labeled()["label"].tolist() == ["2"]
        log.append_labels([LateLabel(f"{NEXT}T03:04:05.000006+00:00", "r1", "3")])
        assert read_log(log).labeled()["label"].tolist() == ["3"]

    def test_a_part_can_be_read_by_anybody(self, log: CsvRequestLog) -> None:
        """It is plain Parquet of the documented columns, and smaller than half the CSV."""
        log.append([a_row(f"request-{i}", features_json=f'{{"a":{i / 7},"b":2.0}}') for i in range(5_000)])
        size = live(log).stat().st_size
        part = packed(log)
        table = parquet.read_table(part)
        assert table.column_names == list(COLUMNS)
        assert table["request_id"].to_pylist() == [f"request-{i}" for i in range(5_000)]
        assert part.stat().st_size < size / 2

    def test_a_part_of_other_columns_stays(self, log: CsvRequestLog) -> None:
        """A CSV part of another version is neither packed nor deleted; the message says what to do."""
        live(log).parent.mkdir()
        part = part_of(live(log), DAY, ".csv")
        part.write_text("a,b\n1,2\n")
        with pytest.raises(LogUnavailable, match="Move the file away"):
            pack_all(live(log), COLUMNS)
        assert names(log) == [part.name]


class TestReaders:
    """A reader may take its time between the list of what there is and the reading of it."""

    @pytest.fixture(autouse=True)
    def _small_slices(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(csvslices, "_SLICE_BYTES", 700)

    @staticmethod
    def _read(slices: Any) -> list[str]:
        read = [pickle.loads(pickle.dumps(part)).read(("request_id",)) for part in slices]
        assert {torn for _, torn in read} <= {0}
        return [name for table, _ in read for name in table["request_id"].to_pylist()]

    def test_rows_are_found_wherever_they_went(self, log: CsvRequestLog) -> None:
        """What was listed reads the same after the file was moved away, another took its place, and it was packed."""
        expected = [f"r{i}" for i in range(20)]
        log.append([a_row(name) for name in expected])
        listed = log.slices()
        assert len(listed) > 3
        part = rotate(live(log), NEXT)
        assert self._read(listed) == expected
        log.append([a_row(f"new{i}", NEXT) for i in range(20)])
        assert self._read(listed) == expected
        pack_all(live(log), COLUMNS)
        assert part
        assert not part.exists()
        assert self._read(listed) == expected
        assert self._read(reversed(listed)) != expected  # and each slice is its own

    def test_rows_are_found_in_groups_of_another_size(
        self, log: CsvRequestLog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who listed slices of another size than those that were packed reads each row once all the same."""
        expected = [f"r{i}" for i in range(40)]
        log.append([a_row(name) for name in expected])
        listed = log.slices()
        for size in (300, 2_000):
            monkeypatch.setattr(csvslices, "_SLICE_BYTES", size)
            copy = CsvRequestLog(live(log).parent / str(size) / "requests.csv", live(log).parent / "labels.csv")
            live(copy).parent.mkdir()
            live(copy).write_bytes(live(log).read_bytes())
            moved = [csvslices.CsvSlice(live(copy), live(copy), s.columns, s.head, s.start, s.stop) for s in listed]
            packed(copy)
            assert self._read(moved) == expected

    def test_rows_that_came_after_the_list_are_no_harm(self, log: CsvRequestLog) -> None:
        """Of rows appended between the list and the packing some may be read, after the others, and none twice."""
        expected = [f"r{i}" for i in range(21)]
        log.append([a_row(name) for name in expected])
        listed = log.slices()
        log.append([a_row(f"r{i}") for i in range(21, 40)])
        packed(log)
        found = self._read(listed)
        assert found == [f"r{i}" for i in range(len(found))]
        assert len(found) >= 21

    @pytest.mark.parametrize("while_csv", [True, False])
    def test_deleted_rows_are_no_rows(self, log: CsvRequestLog, while_csv: bool) -> None:
        """What was listed and deleted by retention before it was read reads as nothing."""
        log.append([a_row("r1")])
        listed = log.slices() if while_csv else []
        part = packed(log)
        listed = listed or log.slices()
        part.unlink()
        assert self._read(listed) == []

    def test_a_log_out_of_sight_is_said_so(self, log: CsvRequestLog) -> None:
        """On a machine that does not see the log's folder its rows are not taken for deleted."""
        log.append([a_row("r1")])
        csv_listed, _ = log.slices(), packed(log)
        listed = [*csv_listed, *log.slices()]
        live(log).parent.rename(live(log).parent.with_name("elsewhere"))
        for part in listed:
            with pytest.raises(LogUnavailable, match="cannot be read"):
                part.read(COLUMNS)

    @pytest.mark.parametrize("step", ["rotate", "pack"])
    def test_what_moves_while_it_is_listed_is_listed_once(
        self, log: CsvRequestLog, step: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file that moves between the looks at the parts and at the file is neither missed nor seen twice."""
        log.append([a_row("r1")])
        if step == "pack":
            rotate(live(log), NEXT)
            log.append([a_row("r2", NEXT)])
        look, moved = csvslices.lines_of, count()

        def moving(path: Path, *rest: Any) -> Any:
            if next(moved) == 0:
                rotate(live(log), NEXT) if step == "rotate" else pack_all(live(log), COLUMNS)
            return look(path, *rest)

        monkeypatch.setattr(csvslices, "lines_of", moving)
        assert self._read(log.slices()) == (["r1"] if step == "rotate" else ["r1", "r2"])
        assert next(moved) > 1

    def test_while_both_stand_there_one_is_read(self, log: CsvRequestLog) -> None:
        """A packer that died before it deleted the CSV file leaves each row once."""
        log.append([a_row("r1"), a_row("r2")])
        part = rotate(live(log), NEXT)
        assert part
        copy = part.read_bytes()
        log.let_go()
        pack_all(live(log), COLUMNS)
        part.write_bytes(copy)
        assert ids(log) == ["r1", "r2"]
        assert len(parts_of(live(log))) == 1


class TestRetention:
    """What is deleted, and what is not."""

    def _parts(self, log: CsvRequestLog, *days: int) -> None:
        live(log).parent.mkdir(exist_ok=True)
        for day in days:
            part = part_of(live(log), DAY + timedelta(days=day), ".parquet")
            part.touch()
            at = datetime.combine(DAY + timedelta(days=day), datetime.min.time(), UTC).timestamp() + 86_000
            os.utime(part, (at, at))

    def test_days_that_are_over_go(self, log: CsvRequestLog) -> None:
        """A part goes when its day is more than so many days ago."""
        self._parts(log, 0, 1, 2, 3)
        gone = clear(live(log), DAY + timedelta(days=4), retention_days=2)
        assert [path.name for path in gone] == ["requests.2026-01-02.parquet", "requests.2026-01-03.parquet"]
        assert names(log) == ["requests.2026-01-04.parquet", "requests.2026-01-05.parquet"]

    def test_for_ever(self, log: CsvRequestLog) -> None:
        """With 0 nothing ever goes."""
        self._parts(log, 0)
        assert clear(live(log), DAY + timedelta(days=4_000), retention_days=0) == []

    def test_newer_rows_keep_a_part(self, log: CsvRequestLog) -> None:
        """A part that was written to after its day, because no router was there to rotate, stays for those rows."""
        self._parts(log, 0)
        late = datetime.combine(DAY + timedelta(days=3), datetime.min.time(), UTC).timestamp()
        os.utime(part_of(live(log), DAY, ".parquet"), (late, late))
        assert clear(live(log), DAY + timedelta(days=4), retention_days=2) == []
        assert len(clear(live(log), DAY + timedelta(days=5), retention_days=2)) == 1

    def test_packing_does_not_make_rows_younger(self, log: CsvRequestLog) -> None:
        """A packed part is as old as the last row in it."""
        log.append([a_row("r1")])
        os.utime(live(log), (1_767_323_045, 1_767_323_045))
        assert packed(log).stat().st_mtime == 1_767_323_045

    def test_other_files_stay(self, log: CsvRequestLog) -> None:
        """Only parts that rotation has made are deleted, of this log."""
        self._parts(log, 0)
        others = ("requests.csv", "requests.old.parquet", "labels.2026-01-02.parquet", "requests.2026-01-02.csv.bak")
        for name in others:
            live(log).with_name(name).touch()
        os.utime(live(log).with_name("requests.old.parquet"), (0, 0))
        clear(live(log), DAY + timedelta(days=400), retention_days=2)
        assert names(log) == sorted(others)


class TestKeeper:
    """The background thread of a router, one look at a time."""

    def test_a_day_in_the_life_of_a_log(self, log: CsvRequestLog) -> None:
        """A minute into a new day the day before is moved and packed; when its days are over it is deleted."""
        now = datetime.combine(NEXT, datetime.min.time(), UTC)
        keeper = LogKeeper(log, retention_days=2, clock=lambda: now)
        log.append([a_row("r1")])
        log.append_labels([LateLabel(f"{DAY}T23:00:00.000000+00:00", "r1", "1")])
        os.utime(live(log), (1_767_323_045, 1_767_323_045))
        now += timedelta(seconds=59)
        keeper.look()
        assert names(log) == ["labels.csv", "requests.csv"]
        now += timedelta(seconds=2)
        keeper.look()
        assert names(log) == ["labels.2026-01-02.parquet", "requests.2026-01-02.parquet"]
        log.append([a_row("r2", NEXT)])
        assert read_log(log).labeled()["request_id"].tolist() == ["r1"]
        now += timedelta(days=1)
        keeper.look()
        assert ids(log) == ["r1", "r2"]
        now += timedelta(days=1)
        keeper.look()
        assert ids(log) == ["r2"]
        assert log.problem is None

    def test_what_is_wrong_is_said(self, log: CsvRequestLog) -> None:
        """A part that cannot be packed is the log's problem until it is mended; serving goes on."""
        log.append([a_row("r1")])
        part = part_of(live(log), DAY, ".csv")
        part.write_text("a,b\n1,2\n")
        keeper = LogKeeper(log, 0, clock=lambda: datetime.combine(DAY, datetime.max.time(), UTC))
        keeper.look()
        assert log.problem
        assert "requests.2026-01-02.csv does not start with the columns" in log.problem
        log.append([a_row("r2")])
        part.unlink()
        keeper.look()
        assert log.problem is None

    def test_the_thread_looks_until_it_is_stopped(self, log: CsvRequestLog, monkeypatch: pytest.MonkeyPatch) -> None:
        """It looks again and again, and ends when told to."""
        monkeypatch.setattr("crossfade.logrotation._SECONDS", 0.01)
        monkeypatch.setattr("crossfade.logrotation.os.getpid", lambda: -1)
        looked, keeper = threading.Semaphore(0), LogKeeper(log, 0)
        monkeypatch.setattr(keeper, "look", looked.release)
        others = threading.enumerate()
        keeper.start()
        [thread] = [one for one in threading.enumerate() if one not in others]
        assert looked.acquire(timeout=120)
        assert looked.acquire(timeout=120)
        keeper.stop()
        thread.join(120)
        assert not thread.is_alive()

    def test_a_router_does_without_arrow(self) -> None:
        """What a router imports to write and keep a log holds none of the large libraries."""
        code = """
import sys
import crossfade.forgivinglog, crossfade.logrotation, crossfade.requestlog
print([name for name in ("pandas", "pyarrow", "mlflow", "sqlalchemy") if name in sys.modules])
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


def _die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _after(step: Callable[..., Any]) -> Callable[..., Any]:
    def dying(*given: Any, **named: Any) -> None:
        step(*given, **named)
        _die()

    return dying


KILLS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "before the draft": lambda patch: patch.setattr(logpacking.parquet, "ParquetWriter", _die),
    "with half a draft": lambda patch: patch.setattr(logpacking.json, "dumps", _die),
    "before the draft is on disk": lambda patch: patch.setattr(logpacking.os, "fsync", _die),
    "before it is in place": lambda patch: patch.setattr(Path, "replace", _die),
    "when it is in place": lambda patch: patch.setattr(Path, "replace", _after(Path.replace)),
    "before the CSV goes": lambda patch: patch.setattr(Path, "unlink", _die),
    "when the CSV is gone": lambda patch: patch.setattr(Path, "unlink", _after(Path.unlink)),
}


@pytest.mark.parametrize("kill", KILLS.values(), ids=list(KILLS))
def test_a_killed_packer_leaves_each_row_once(log: CsvRequestLog, kill: Callable[[pytest.MonkeyPatch], None]) -> None:
    """Wherever a packer is killed, every row is read once, and the next one finishes and leaves no rest."""
    expected = [f"r{i}" for i in range(50)]
    log.append([a_row(name) for name in expected])
    listed = log.slices()
    part = rotate(live(log), NEXT)
    log.let_go()

    def dying() -> None:
        with pytest.MonkeyPatch.context() as patch:
            kill(patch)
            pack_all(live(log), COLUMNS)

    child = FORK.Process(target=dying)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert ids(log) == expected
    assert [name for one in listed for name in one.read(("request_id",))[0]["request_id"].to_pylist()] == expected
    pack_all(live(log), COLUMNS)
    assert part
    assert names(log) == [part.with_suffix(".parquet").name]
    assert ids(log) == expected


_DAYS = 4


def _write(log: CsvRequestLog, writer: int, done: Any, over: Any) -> None:
    for i in count():
        if over.is_set():
            return
        log.append([a_row(f"{writer}-{2 * i}"), a_row(f"{writer}-{2 * i + 1}")])
        done[writer] = 2 * i + 2
        time.sleep(0.0005)  # some thousand rows a second: the reader has but one core


@pytest.fixture
def writers(log: CsvRequestLog) -> Iterator[Any]:
    """Processes that append as fast as they can, and how many rows each of them was told are stored."""
    done, over = FORK.Array("q", [0] * 3), FORK.Event()
    processes = [FORK.Process(target=_write, args=(log, writer, done, over)) for writer in range(3)]
    for process in processes:
        process.start()

    def stop() -> None:
        over.set()
        for process in processes:
            process.join(120)
        assert {process.exitcode for process in processes} == {0}

    yield done, stop
    for process in processes:
        process.kill()


def test_no_row_is_missed_or_seen_twice_under_load(log: CsvRequestLog, writers: Any) -> None:
    """Writers append, files are moved and packed, packers are killed: a reader sees what was stored before, once."""
    done, stop = writers
    over = threading.Event()
    failures: list[BaseException] = []

    def rotate_and_pack() -> None:
        command = [sys.executable, "-m", "crossfade.logpacking", *map(str, log.paths)]
        try:
            for day in range(1, _DAYS + 1):
                with only_one(live(log)) as mine:
                    assert mine
                    assert rotate(live(log), DAY + timedelta(days=day))
                packer = subprocess.Popen(command)
                if day % 2:  # this one is killed at some point of its work
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        packer.wait(0.3 + 0.1 * day)
                    packer.kill()
                packer.wait(60)
        except BaseException as error:  # noqa: BLE001 - told to the test below
            failures.append(error)
        over.set()

    thread = threading.Thread(target=rotate_and_pack)
    while min(done) < 100:
        pass
    thread.start()
    looks = 0
    while not over.is_set() or looks < 5:
        before = list(done)
        _complete(log, before)
        looks += 1
    thread.join()
    stop()
    assert not failures
    log.let_go()
    pack_all(live(log), COLUMNS)
    _complete(log, list(done), exactly=True)
    parts = [f"requests.{DAY + timedelta(days=day)}.parquet" for day in range(_DAYS)]
    assert names(log) == [*parts, "requests.csv"]


def _complete(log: CsvRequestLog, stored: list[int], exactly: bool = False) -> None:
    """Check that each writer's rows are there in order from the first on, at least those that were stored."""
    contents = read_log(log, ("request_id",))
    assert not (exactly and contents.set_aside)  # before, the end of a row that is just being written may be missing
    found: dict[str, list[int]] = {}
    for name in contents.rows["request_id"].tolist():
        writer, _, number = name.partition("-")
        found.setdefault(writer, []).append(int(number))
    for writer, least in enumerate(stored):
        numbers = found.get(str(writer), [])
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= least
        assert not exactly or len(numbers) == least
