"""Numbers that workers share through files, and that outlive a worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from crossfade.serving.tally import Tally, folder_of_this_router, sweep


def _totals(tally: Tally) -> dict[str, float]:
    totals: dict[str, float] = {}
    for _, numbers in tally.read():
        for series, number in numbers.items():
            totals[" ".join(series)] = totals.get(" ".join(series), 0) + number
    return totals


def _alive(tally: Tally) -> list[bool]:
    return [alive for alive, _ in tally.read()]


def _die_after(folder: Path, code: str) -> None:
    """Run code in a process with a `tally`, which then dies without any ado."""
    script = f"""
import os, signal
from pathlib import Path
from crossfade.serving.tally import Tally
tally = Tally(Path({str(folder)!r}))
{code}
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_workers_add_up(tmp_path: Path) -> None:
    """Two workers have a file each, and either sees the numbers of both."""
    one, two = Tally(tmp_path), Tally(tmp_path)
    one.add(2, "rows", "A")
    two.add(3, "rows", "A")
    two.add(1, "rows", "B")
    assert _totals(one) == _totals(two) == {"rows A": 5, "rows B": 1}
    assert _alive(one) == [True, True]


def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    """What a worker counted before kill -9 is there, and it is known to be dead."""
    mine = Tally(tmp_path)
    mine.add(1, "rows")
    _die_after(tmp_path, "for _ in range(1000): tally.add(1, 'rows')")
    assert _totals(mine) == {"rows": 1001}
    assert _alive(mine) == [True, False]


def test_a_new_worker_counts_on_where_a_dead_one_stopped(tmp_path: Path) -> None:
    """However often workers die, there are no more files than workers, and nothing is counted twice."""
    for _ in range(3):
        _die_after(tmp_path, "tally.add(10, 'rows'); tally.add(1, 'more')")
    mine = Tally(tmp_path)
    mine.add(5, "rows")
    assert _totals(mine) == {"rows": 35, "more": 3}
    assert len(list(tmp_path.glob("*.numbers"))) == 1


def test_a_torn_name_spoils_itself_only(tmp_path: Path) -> None:
    """A worker that died while it named a series leaves the others, and its file can be used on."""
    _die_after(tmp_path, "tally.add(1, 'rows')")
    with (tmp_path / "0.names").open("ab") as file:
        file.write(b'\n[1, "ha')
    mine = Tally(tmp_path)
    mine.add(1, "rows")
    mine.add(7, "new")
    assert _totals(mine) == {"rows": 2, "new": 7}


def test_threads_lose_no_count(tmp_path: Path) -> None:
    """Threads of a worker may count at once."""
    tally = Tally(tmp_path)
    threads = [threading.Thread(target=lambda: [tally.add(1, "rows") for _ in range(5000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _totals(tally) == {"rows": 40_000}


def test_without_a_folder_numbers_stay_in_the_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder that cannot be made costs the siblings' numbers, not the router."""
    (tmp_path / "file").touch()
    tally = Tally(tmp_path / "file" / "folder")
    tally.add(2, "rows")
    assert _totals(tally) == {"rows": 2}
    assert "one worker at a time" in caplog.text


def test_a_full_file_refuses_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all places are taken, further series are not told of, and the others stay right."""
    monkeypatch.setattr("crossfade.serving.tally._SLOTS", 4)
    tally = Tally(tmp_path)
    for i in range(8):
        tally.add(i, "series", str(i))
    assert _totals(tally) == {"series 0": 0, "series 1": 1, "series 2": 2}


def test_siblings_share_a_folder_and_other_routers_do_not(tmp_path: Path) -> None:
    """Two processes of one parent have the same folder, which differs from their parent's own."""
    code = f"""
from pathlib import Path
from crossfade.serving.tally import folder_of_this_router
print(folder_of_this_router(Path({str(tmp_path)!r})))
"""
    names = {subprocess.check_output([sys.executable, "-c", code], text=True).strip() for _ in range(2)}
    assert len(names) == 1
    assert names != {str(folder_of_this_router(tmp_path))}


def test_folders_of_dead_routers_are_removed(tmp_path: Path) -> None:
    """At a start, folders that nobody uses go; those in use, young ones and the router's own stay."""
    folders = {name: tmp_path / f"{name}-1-1" for name in ("used", "dead", "young", "own")}
    used = Tally(folders["used"])
    for name in ("dead", "young", "own"):
        _die_after(folders[name], "tally.add(1, 'rows')")
    for name in ("used", "dead", "own"):
        os.utime(folders[name], (0, 0))
    sweep(tmp_path, but=folders["own"])
    assert {name for name, folder in folders.items() if folder.exists()} == {"used", "young", "own"}
    assert used.numbers
