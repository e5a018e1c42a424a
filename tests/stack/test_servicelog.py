"""What a service prints ends up in a file per day, whatever happens to those who write it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from crossfade.errors import ServiceError
from crossfade.stack import processes
from crossfade.stack.servicelog import DatedLog, newest_log
from crossfade.stack.services import Service

NOON = 1_795_262_400.0  # 2026-11-21 12:00 UTC
DAY = 86_400.0

_TALKER = """
import os, sys, time
for line in sys.stdin:
    os.write(1, line.encode())
"""


@dataclass
class Clock:
    """Stands still until it is put forward."""

    now: float = NOON

    def __call__(self) -> float:
        return self.now


def _until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_new_day_is_a_new_file(tmp_path: Path) -> None:
    """By UTC, while the service runs; a later run of the same day goes on in the same file."""
    clock = Clock()
    log = DatedLog(tmp_path, "router", 7, clock)
    log.write(b"one\n")
    clock.now += DAY / 2 - 1
    log.write(b"two\n")
    clock.now += 1
    log.write(b"three\n")
    DatedLog(tmp_path, "router", 7, clock).write(b"four\n")
    assert _files(tmp_path) == {"router_20261121.log": b"one\ntwo\n", "router_20261122.log": b"three\nfour\n"}


def test_midnight_splits_no_line(tmp_path: Path) -> None:
    """A line that is half written stays whole in the old file, in however many parts it comes."""
    clock = Clock()
    log = DatedLog(tmp_path, "router", 7, clock)
    log.write(b"one, ")
    clock.now += DAY
    log.write(b"two, ")
    log.write(b"three\nfour\n")
    assert _files(tmp_path) == {"router_20261121.log": b"one, two, three\n", "router_20261122.log": b"four\n"}


@pytest.mark.parametrize(("days", "kept"), [(0, 10), (1, 2), (7, 8)])
def test_old_files_are_deleted(tmp_path: Path, days: int, kept: int) -> None:
    """After the days of retention, 0 being for ever; other services' files and other names stay."""
    others = ["airflow_20200101.log", "router_config.json", "router_2020010.log", "my_router_20200101.log"]
    for name in others:
        (tmp_path / name).touch()
    clock = Clock()
    log = DatedLog(tmp_path, "router", days, clock)
    for _ in range(10):
        log.write(b"x\n")
        clock.now += DAY
    assert len(list(tmp_path.glob("router_2026????.log"))) == kept
    assert all((tmp_path / name).exists() for name in others)


def test_a_file_that_is_gone_is_made_again(tmp_path: Path) -> None:
    """Somebody deletes the file, or the folder with it: the next line is in a new one."""
    log = DatedLog(tmp_path / "logs", "router", 7, Clock())
    log.write(b"one\n")
    (tmp_path / "logs" / "router_20261121.log").unlink()
    (tmp_path / "logs").rmdir()
    log.write(b"two\n")
    assert _files(tmp_path / "logs") == {"router_20261121.log": b"two\n"}


def test_what_cannot_be_written_is_dropped_and_counted(tmp_path: Path) -> None:
    """A folder that is no folder (or a full disk) stops nothing, and the file says later how much is missing."""
    folder = tmp_path / "logs"
    folder.touch()
    log = DatedLog(folder, "router", 7, Clock())
    log.write(b"one\n")
    log.write(b"two\n")
    folder.unlink()
    log.write(b"three\n")
    log.write(b"four\n")
    assert _files(folder) == {"router_20261121.log": b"\n(8 bytes could not be written here)\nthree\nfour\n"}


def test_the_newest_log_is_found(tmp_path: Path) -> None:
    """By the day in its name, among those of the service itself; there may be none."""
    assert newest_log(tmp_path / "nowhere", "router") is None
    for name in ("router_20261121.log", "router_20261122.log", "router_later.log", "airflow_20261130.log"):
        (tmp_path / name).touch()
    os.utime(tmp_path / "router_20261122.log", (1, 1))
    assert newest_log(tmp_path, "router") == tmp_path / "router_20261122.log"


@dataclass
class Talker:
    """A service of its own process that prints what it is told to, under those who write its log."""

    folder: Path
    service: subprocess.Popen[bytes] = field(init=False)
    guard: psutil.Process = field(init=False)

    def __post_init__(self) -> None:
        read_end, write_end = os.pipe()
        command = [sys.executable, "-m", "crossfade.stack.servicelog", "talker", str(self.folder), "7"]
        self.guard = psutil.Process(subprocess.Popen(command, stdin=read_end).pid)
        self.service = subprocess.Popen([sys.executable, "-c", _TALKER], stdin=subprocess.PIPE, stdout=write_end)
        os.close(read_end)
        os.close(write_end)

    def say(self, line: bytes) -> None:
        assert self.service.stdin
        self.service.stdin.write(line + b"\n")
        self.service.stdin.flush()

    def text(self) -> bytes:
        log = newest_log(self.folder, "talker")
        return log.read_bytes() if log else b""

    def writer(self) -> psutil.Process:
        """Return the process that writes the file."""
        _until(self.guard.children)
        return self.guard.children()[0]


@pytest.fixture
def talker(tmp_path: Path) -> Iterator[Talker]:
    made = Talker(tmp_path / "logs")
    yield made
    made.service.kill()
    made.service.wait()
    assert made.guard.wait(timeout=120) in (0, -signal.SIGKILL)  # ended with the service


def test_a_killed_writer_is_started_again(talker: Talker) -> None:
    """The service neither dies nor stands still, and its next lines are written; as often as it happens."""
    for line in (b"one", b"two", b"three"):
        talker.say(line)
        _until(lambda line=line: line in talker.text())
        writer = talker.writer()
        writer.kill()
        _until(lambda writer=writer: not writer.is_running())  # what it had in hand would be lost with it
        talker.say(b"meanwhile " + line)
        _until(lambda line=line: b"meanwhile " + line in talker.text())
        assert talker.writer().pid != writer.pid
    assert talker.service.poll() is None


def test_a_killed_guard_takes_nothing_along(talker: Talker) -> None:
    """The writer goes on, and ends with the service."""
    talker.say(b"one")
    _until(lambda: b"one" in talker.text())
    writer = talker.writer()
    talker.guard.kill()
    talker.say(b"two")
    _until(lambda: b"two" in talker.text())
    talker.service.kill()
    _until(lambda: not writer.is_running() or writer.status() == psutil.STATUS_ZOMBIE)


def test_the_last_lines_outlive_sigterm(talker: Talker) -> None:
    """Who ends the service signals everybody: its log still takes what it says to that."""
    talker.writer()
    for process in (talker.guard, talker.writer()):
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
    talker.say(b"good bye")
    _until(lambda: b"good bye" in talker.text())


def test_much_output_arrives_whole(talker: Talker) -> None:
    """A hundred thousand lines, many times what the pipe holds, in their order."""
    lines = [b"%d" % number for number in range(100_000)]
    talker.say(b"\n".join(lines))
    assert talker.service.stdin
    talker.service.stdin.close()
    talker.guard.wait(timeout=120)
    assert talker.text().split() == lines


def _marked(home: Path) -> list[psutil.Process]:
    """Return whatever `processes.start` started for this installation, and still lives."""
    return [process for process in psutil.process_iter() if _home_of(process) == str(home)]


def _home_of(process: psutil.Process) -> str | None:
    with contextlib.suppress(psutil.Error, OSError):
        if process.status() != psutil.STATUS_ZOMBIE:
            return process.environ().get("CROSSFADE_HOME")
    return None


def _service(folder: Path, code: str) -> Service:
    port = 20_000 + os.getpid() % 10_000
    command = (sys.executable, "-u", "-c", code)
    return Service("talker", command, {}, "", "127.0.0.1", port, "TALKER_PORT", folder / "logs", 7, lambda: False)


def test_a_service_that_fails_is_quoted(tmp_path: Path) -> None:
    """`crossfade up` says what the service said last, complete and at once, and nothing of it is left running."""
    service = _service(tmp_path, "import sys; print('\\n'.join(map(str, range(40)))); sys.exit('no such model')")
    processes.start(service, tmp_path)
    with pytest.raises(
        ServiceError, match=r"(?s)talker ended while starting.*talker_\d{8}\.log:\s+26\n.*no such model"
    ):
        processes.wait_until_healthy(service, tmp_path, 15, lambda waited: None)
    assert _marked(tmp_path) == []


def test_a_service_that_hangs_is_quoted_and_stopped(tmp_path: Path) -> None:
    """Those who write its log end with it, and have written what it said to SIGTERM."""
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit('terminated'))\n"
        "print('waiting')\n"
        "time.sleep(99)"
    )
    service = _service(tmp_path, code)
    processes.start(service, tmp_path)
    _until(lambda: newest_log(service.log_folder, "talker"))
    with pytest.raises(ServiceError, match=r"(?s)not healthy after 0 s.*waiting"):
        processes.wait_until_healthy(service, tmp_path, 0.01, lambda waited: None)
    processes.stop(service, tmp_path)
    log = newest_log(service.log_folder, "talker")
    assert log is not None
    assert log.read_text() == "waiting\nterminated\n"
    assert _marked(tmp_path) == []


def test_a_process_that_writes_a_log_is_none_of_the_service(tmp_path: Path) -> None:
    """A service whose main process is gone has no leader any more, though its log is still kept; its memory counts."""
    service = _service(tmp_path, "import time; time.sleep(99)")
    processes.start(service, tmp_path)
    _until(lambda: len(_marked(tmp_path)) == 3)
    (talking,) = processes.find(service, tmp_path)
    assert talking.cmdline()[:2] == [sys.executable, "-u"]
    alone = talking.memory_full_info().pss / 2**20
    assert processes.state_of(service, tmp_path).memory_mb > alone + 1
    assert processes.stop(service, tmp_path) == 1
    assert _marked(tmp_path) == []


def test_nobody_waits_for_a_stranger_who_holds_the_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child without the service's marks may live on; what writes the log does not."""
    monkeypatch.setattr(processes, "_LOG_SECONDS", 0.3)
    service = _service(
        tmp_path,
        "import subprocess, time\n"
        "print(subprocess.Popen(['sleep', '99'], env={}, start_new_session=True).pid)\n"
        "time.sleep(99)",
    )
    processes.start(service, tmp_path)
    _until(lambda: (log := newest_log(service.log_folder, "talker")) and log.read_text().endswith("\n"))
    log = newest_log(service.log_folder, "talker")
    assert log is not None
    stranger = psutil.Process(int(log.read_text()))
    processes.stop(service, tmp_path)
    assert _marked(tmp_path) == []
    assert stranger.is_running()
    stranger.kill()
