"""The request log when the disk is full, slow, read-only or broken, and when processes die in the middle of a write."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app import create_app
from crossfade import appendfile, appendonly
from crossfade.appendfile import AppendFile
from crossfade.errors import LogUnavailable
from crossfade.forgivinglog import ForgivingLog
from crossfade.logreader import read_log
from crossfade.memorylog import MemoryRequestLog
from crossfade.registry import Registry
from crossfade.requestlog import CsvRequestLog, LateLabel, LogRow
from crossfade.settings import Settings

NOW = "2026-01-02T03:04:05.000006+00:00"
FORK = multiprocessing.get_context("fork")
FEATURES = [5.1, 3.5, 1.4, 0.2]


def a_row(request_id: str, features_json: str = '{"a":1.5}') -> LogRow:
    return LogRow(NOW, request_id, "u1", "m-v1-v2", "A", "prod", "m", "1", 0.5, features_json, "", "1", 0.75, 1.25, 200)


def ids(log: CsvRequestLog) -> list[str]:
    return read_log(log).rows["request_id"].tolist()


@pytest.fixture
def log(tmp_path: Path) -> CsvRequestLog:
    """A log that waits for its disk for a fifth of a second."""
    return CsvRequestLog(tmp_path / "requests.csv", tmp_path / "labels.csv", timeout_seconds=0.2)


def _run(work: Callable[[], None]) -> tuple[threading.Thread, list[Exception]]:
    """Start a thread, and keep what it raises."""
    raised: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - told to the test
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


class Slow:
    """A system call that does not come back until it is let go."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call
        self.entered, self.free = threading.Event(), threading.Event()
        self.calls = 0

    def __call__(self, *given: Any) -> Any:
        self.calls += 1
        self.entered.set()
        assert self.free.wait(120)
        return self._call(*given)


class TestSlowDisk:
    """A disk that does not answer holds up the one that is writing, and nobody else for long."""

    def test_who_waits_is_told(self, log: CsvRequestLog, monkeypatch: pytest.MonkeyPatch) -> None:
        """Others wait for LOG_TIMEOUT_SECONDS once, are then told at once, and all goes on when the disk does."""
        log.append([a_row("r0")])
        slow = Slow(log._rows._file.append)  # type: ignore[union-attr]
        monkeypatch.setattr(log._rows._file, "append", slow)
        stuck, raised = _run(lambda: log.append([a_row("stuck")]))
        assert slow.entered.wait(120)
        with pytest.raises(LogUnavailable, match=r"requests\.csv.*the disk has not answered for 0\.2 s.*goes on by"):
            log.append([a_row("waited")])
        started = time.monotonic()
        for _ in range(50):
            with pytest.raises(LogUnavailable, match="has not answered"):
                log.append([a_row("refused")])
        assert time.monotonic() - started < 5  # 50 waits of 0.2 s would be 10
        assert log.problem
        slow.free.set()
        stuck.join(120)
        log.append([a_row("after")])
        assert (raised, log.problem) == ([], None)
        assert ids(log) == ["r0", "stuck", "after"]

    def test_labels_do_not_wait_for_rows(self, log: CsvRequestLog, monkeypatch: pytest.MonkeyPatch) -> None:
        """Late labels have a file, and a turn, of their own."""
        log.append([a_row("r0")])
        slow = Slow(log._rows._file.append)  # type: ignore[union-attr]
        monkeypatch.setattr(log._rows._file, "append", slow)
        stuck, _ = _run(lambda: log.append([a_row("stuck")]))
        assert slow.entered.wait(120)
        log.append_labels([LateLabel(NOW, "r0", "1")])
        slow.free.set()
        stuck.join(120)

    def test_a_quiet_hour_is_no_slow_disk(self, log: CsvRequestLog, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is measured is how long the one that is in has been in, not how long ago somebody was."""
        log.append([a_row("r0")])
        turn, now = log._rows._turn, time.monotonic()
        monkeypatch.setattr(appendfile.time, "monotonic", lambda: now + 3600)
        assert not turn.overdue
        assert turn._lock.acquire()  # somebody has just come in, and not looked at the clock yet
        waiting, raised = _run(lambda: log.append([a_row("r1")]))
        waiting.join(0.05)
        turn._lock.release()
        waiting.join(120)
        assert raised == []

    def test_a_slow_sync_is_told_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who waits for the disk to confirm is told after the same time."""
        log = CsvRequestLog(tmp_path / "requests.csv", tmp_path / "labels.csv", "always", 0.2)
        log.append([a_row("r0")])
        slow = Slow(os.fdatasync)
        monkeypatch.setattr(appendfile.os, "fdatasync", slow)
        stuck, raised = _run(lambda: log.append([a_row("r1")]))
        assert slow.entered.wait(120)
        with pytest.raises(LogUnavailable, match="has not answered"):
            log.append([a_row("r2")])
        slow.free.set()
        stuck.join(120)
        assert raised == []
        log.append([a_row("r3")])
        assert ids(log) == ["r0", "r1", "r2", "r3"]  # r2 was refused, and may be there: nobody was answered


class TestFsync:
    """LOG_FSYNC: when rows are on disk."""

    def test_never(self, log: CsvRequestLog, monkeypatch: pytest.MonkeyPatch) -> None:
        """By default the kernel decides."""
        monkeypatch.setattr(appendfile.os, "fdatasync", lambda _: pytest.fail("synced"))
        log.append([a_row("r1")])

    def test_always_means_before_the_answer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each append of one thread is followed by a sync of a file that holds its row."""
        path, synced = tmp_path / "requests.csv", list[int]()
        monkeypatch.setattr(appendfile.os, "fdatasync", lambda _: synced.append(path.read_text().count("\n") - 1))
        log = CsvRequestLog(path, tmp_path / "labels.csv", "always")
        for i in range(3):
            log.append([a_row(f"r{i}")])
        assert synced == [1, 2, 3]

    def test_those_that_wait_share_a_sync(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """While one sync is under way others write; one more sync does for all of them."""
        path = tmp_path / "requests.csv"
        log = CsvRequestLog(path, tmp_path / "labels.csv", "always", 30)
        log.append([a_row("r0")])
        file = log._rows._file
        assert file
        slow = Slow(os.fdatasync)
        monkeypatch.setattr(appendfile.os, "fdatasync", slow)
        threads = [_run(lambda: log.append([a_row("first")]))]
        assert slow.entered.wait(120)
        threads += [_run(lambda i=i: log.append([a_row(f"r{i}")])) for i in range(20)]  # type: ignore[misc]
        deadline = time.monotonic() + 120
        while file.appends < 22 and time.monotonic() < deadline:  # counted, not only readable: a sync is for those
            time.sleep(0.001)
        slow.free.set()
        for thread, _ in threads:
            thread.join(120)
        assert [raised for _, raised in threads] == [[]] * 21
        assert slow.calls == 2

    def test_what_the_disk_could_not_keep_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A failed sync is LogUnavailable for all whose rows it was about; the next one counts again."""
        log = CsvRequestLog(tmp_path / "requests.csv", tmp_path / "labels.csv", "always")
        log.append([a_row("r0")])
        file = log._rows._file
        assert file
        with monkeypatch.context() as patch:
            patch.setattr(appendfile.os, "fdatasync", _io_error)
            with pytest.raises(LogUnavailable, match=r"Input/output error\. Replace the disk"):
                log.append([a_row("r1")])
        with pytest.raises(OSError, match="Input/output error"):
            file.sync(file.appends)  # one that shared it
        log.append([a_row("r2")])
        assert log.problem is None

    def test_interval(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Many appends are followed by one sync of them all, and a quiet log by none."""
        path, synced = tmp_path / "requests.csv", threading.Semaphore(0)
        sizes: list[int] = []

        def sync(_: int) -> None:
            sizes.append(path.read_text().count("\n") - 1)
            synced.release()

        monkeypatch.setattr(appendonly, "_SYNC_SECONDS", 1.0)
        monkeypatch.setattr(appendfile.os, "fdatasync", sync)
        log = CsvRequestLog(path, tmp_path / "labels.csv", "interval")
        for i in range(10):
            log.append([a_row(f"r{i}")])
        assert synced.acquire(timeout=120)
        assert sizes == [10]
        assert not synced.acquire(timeout=0.5)
        log.append([a_row("r10")])
        assert synced.acquire(timeout=120)
        assert sizes == [10, 11]

    def test_an_interval_that_fails_is_said(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A background sync that fails is the log's problem until one succeeds."""
        monkeypatch.setattr(appendonly, "_SYNC_SECONDS", 0.01)
        log = CsvRequestLog(tmp_path / "requests.csv", tmp_path / "labels.csv", "interval")
        with monkeypatch.context() as patch:
            patch.setattr(appendfile.os, "fdatasync", _io_error)
            log.append([a_row("r0")])
            _wait_for(lambda: "cannot be put on disk: Input/output error" in (log.problem or ""))
        log.append([a_row("r1")])
        _wait_for(lambda: log.problem is None)


def _io_error(_: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def _wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class TestFullDisk:
    """Real file systems that are full or read-only."""

    def test_full_and_free_again(self, small_disk: Path) -> None:
        """Full: LogUnavailable. Free again: works at once. Each accepted row is read once, torn ones are counted."""
        log = CsvRequestLog(small_disk / "requests.csv", small_disk / "labels.csv")
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"." * 40_000)
        accepted, refused, said = list[str](), list[str](), list[str | None]()
        for i in range(300):
            try:
                log.append([a_row(f"r{i}", "x" * (i % 90))])
                accepted.append(f"r{i}")
            except LogUnavailable as error:
                refused.append(str(error))
                said.append(log.problem)
            if len(refused) >= 20:
                ballast.unlink(missing_ok=True)
        assert said == refused
        assert all("No space left" in text and text.endswith("Free space.") for text in refused)
        assert len(accepted) > 200
        contents = read_log(log)
        assert contents.rows["request_id"].tolist() == accepted
        assert contents.set_aside >= 1
        assert log.problem is None

    def test_a_disk_that_was_full_at_the_start(self, small_disk: Path) -> None:
        """A file that could not even get its header gets it when there is space, and no draft stays."""
        log = CsvRequestLog(small_disk / "requests.csv", small_disk / "labels.csv")
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"." * 65_536)
        with pytest.raises(LogUnavailable, match="No space left"):
            log.append([a_row("r0")])
        assert list(small_disk.iterdir()) == [ballast]
        ballast.unlink()
        log.append([a_row("r1")])
        assert ids(log) == ["r1"]

    def test_read_only_and_writable_again(self, small_disk: Path) -> None:
        """A file system that turned read-only is LogUnavailable, saying so, until it is writable."""
        log = CsvRequestLog(small_disk / "requests.csv", small_disk / "labels.csv")
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
        with pytest.raises(LogUnavailable, match=r"requests\.csv cannot be written: Read-only.*Mount it writable"):
            log.append([a_row("r0")])
        with pytest.raises(LogUnavailable, match=r"labels\.csv cannot be written: Read-only"):
            log.append_labels([LateLabel(NOW, "r0", "1")])
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
        log.append([a_row("r1")])
        assert ids(log) == ["r1"]
        assert log.problem  # the labels were not tried again yet
        log.append_labels([LateLabel(NOW, "r1", "1")])
        assert log.problem is None


class TestTornByOthers:
    """Processes that die in the middle of a write spoil nobody's row but their own."""

    @pytest.mark.parametrize("torn", [b"2026-01-02T03", b"2026-01-02T03:04:05+00:00,r9,u,e", b'"', b"a,b\nc,"])
    def test_between_a_look_and_a_write(self, log: CsvRequestLog, torn: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        """A line that was torn after a writer had looked, and before it wrote, costs it no row."""
        log.append([a_row("r0")])
        append = AppendFile.append

        def torn_first(file: AppendFile, data: bytes) -> None:
            monkeypatch.setattr(AppendFile, "append", append)
            with log.paths[0].open("ab") as other:
                other.write(torn)
            append(file, data)

        monkeypatch.setattr(AppendFile, "append", torn_first)
        log.append([a_row("r1"), a_row("r2"), a_row("r3")])
        log.append([a_row("r4")])
        contents = read_log(log)
        assert Counter(contents.rows["request_id"]) == Counter(["r0", "r1", "r2", "r3", "r4"])
        assert contents.set_aside == torn.count(b"\n") + 1

    def test_killed_writers(self, tmp_path: Path) -> None:
        """Writers of large batches are killed at any moment; rows that others were told are stored are read once."""
        log = CsvRequestLog(tmp_path / "requests.csv", tmp_path / "labels.csv")
        batch = [a_row("batch", '{"a":"' + "x" * 500 + '"}') for _ in range(4_000)]
        log.append([a_row("r0")])
        stored = ["r0"]
        for round_ in range(6):
            child = FORK.Process(target=_append_for_ever, args=(log, batch))
            child.start()
            size = log.paths[0].stat().st_size
            _wait_for(lambda size=size: log.paths[0].stat().st_size > size)  # type: ignore[misc]
            for i in range(30):
                if i == 10 + round_:
                    os.kill(child.pid or 0, signal.SIGKILL)
                log.append([a_row(f"{round_}-{i}")])
                stored.append(f"{round_}-{i}")
            child.join(120)
            assert child.exitcode == -signal.SIGKILL
        found = read_log(log, ("request_id",)).rows["request_id"]
        assert found[found != "batch"].tolist() == stored


def _append_for_ever(log: CsvRequestLog, rows: list[LogRow]) -> None:
    while True:
        log.append(rows)


class TestForgiving:
    """LOG_FAILURE=serve."""

    def test_what_is_lost_is_counted(self, tmp_path: Path) -> None:
        """Rows that cannot be stored raise nothing, are counted and told; when the log works it stores again."""
        told: list[tuple[int, str]] = []
        inner = CsvRequestLog(tmp_path / "requests.csv", tmp_path / "labels.csv")
        log = ForgivingLog(inner, lambda rows, error: told.append((rows, str(error))))
        (tmp_path / "requests.csv").mkdir()
        log.append([a_row("r0"), a_row("r1")])
        log.append([a_row("r2")])
        assert (log.rows_lost, [rows for rows, _ in told]) == (3, [2, 1])
        assert log.problem == inner.problem == told[0][1]
        (tmp_path / "requests.csv").rmdir()
        log.append([a_row("r3")])
        assert (log.rows_lost, log.problem) == (3, None)
        assert read_log(log).rows["request_id"].tolist() == ["r3"]

    def test_it_says_so_once(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """An outage is two lines in the router's own log, not one per request."""
        log = ForgivingLog(CsvRequestLog(tmp_path / "requests.csv", tmp_path / "labels.csv"))
        (tmp_path / "requests.csv").mkdir()
        for _ in range(5):
            log.append([a_row("r")])
        (tmp_path / "requests.csv").rmdir()
        log.append([a_row("r")])
        log.append([a_row("r")])
        assert [record.message[:30] for record in caplog.records if record.name == "crossfade.forgivinglog"] == [
            "answers leave without being lo",
            "the log can be written again; ",
        ]

    def test_labels_are_never_lost(self, tmp_path: Path) -> None:
        """Late labels raise, as without it."""
        log = ForgivingLog(CsvRequestLog(tmp_path / "requests.csv", tmp_path / "labels.csv"))
        (tmp_path / "labels.csv").mkdir()
        with pytest.raises(LogUnavailable):
            log.append_labels([LateLabel(NOW, "r", "1")])
        assert log.rows_lost == 0

    def test_other_logs_lose_nothing(self) -> None:
        """Every log says what is wrong and what it lost; most have nothing to say."""
        log = MemoryRequestLog()
        assert (log.problem, log.rows_lost) == (None, 0)

    def test_a_router_serves_or_refuses(
        self, settings: Settings, registry: Registry, register: Callable[..., Any]
    ) -> None:
        """The setting decides between an answer and 503; labels are refused either way."""
        register("prod")
        settings.request_log.mkdir(parents=True)
        settings.labels_log.mkdir()
        for policy, status in (("refuse", 503), ("serve", 200)):
            chosen = settings.model_copy(update={"log_failure": policy})
            client = create_app(chosen, registry=registry, follow=False).test_client()
            assert client.post("/predict", json={"features": FEATURES}).status_code == status
            assert client.post("/feedback", json={"request_id": "r", "label": 1}).status_code == 503
