"""One real PostgreSQL for all of these tests, and a database of its own for each."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from crossfade.postgres.address import DatabaseUrl
from crossfade.postgres.private import PrivateServer, programs
from crossfade.postgres.spool import waiting_bytes


class Appenders:
    """Processes that append to a log, and what they were answered.

    Parameters
    ----------
    url : DatabaseUrl
        The database.
    folder : Path
        Where they spool, and note their answers.
    """

    def __init__(self, url: DatabaseUrl, folder: Path) -> None:
        self.spool = folder / "spool"
        self._url = url
        self._answered = folder / "answered"
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, processes: int = 1, threads: int = 4, seconds: float = 2.0) -> None:
        """Start more of them."""
        script = str(Path(__file__).with_name("appender.py"))
        for _ in range(processes):
            name = f"p{len(self._processes)}"
            arguments = [self._url.dsn, str(self.spool), name, str(self._answered), str(threads), str(seconds)]
            self._processes.append(subprocess.Popen([sys.executable, script, *arguments], stdin=subprocess.PIPE))

    def answered(self) -> list[str]:
        """Return the requests that were answered, in order."""
        return self._answered.read_text().split() if self._answered.exists() else []

    def go_on(self, requests: int) -> None:
        """Wait until so many more are answered, by each process."""
        before = Counter(one.partition(".")[0] for one in self.answered())
        names = [f"p{i}" for i, process in enumerate(self._processes) if process.poll() is None]

        def all_did() -> bool:
            now = Counter(one.partition(".")[0] for one in self.answered())
            return all(now[name] >= before[name] + requests for name in names)

        wait_until(all_did, "the processes go on being answered")

    def waiting(self) -> int:
        """Return how many bytes wait in the spool."""
        return waiting_bytes(self.spool)

    def kill(self) -> None:
        """Kill all of them at once."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()

    def finish(self) -> None:
        """Let them store what they have, and end."""
        for process in self._processes:
            if process.stdin and process.poll() is None:
                process.stdin.close()
        for process in self._processes:
            process.wait(timeout=120)

    def stored(self, table: str = "rows") -> list[str]:
        """Return the request ids in the database, in order of their ids."""
        with psycopg.connect(self._url.dsn) as connection:
            found = connection.execute(f"select request_id from crossfade_{table} order by id").fetchall()
        return [one for (one,) in found]


def wait_until(holds: Callable[[], object], what: str, seconds: float = 90.0) -> None:
    """Wait until something holds, which takes its time on a busy machine."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


@pytest.fixture
def appenders_of(tmp_path: Path) -> Iterator[Callable[[DatabaseUrl], Appenders]]:
    """Make processes that append; what is left of them ends with the test."""
    made: list[Appenders] = []

    def make(url: DatabaseUrl) -> Appenders:
        made.append(Appenders(url, tmp_path))
        return made[-1]

    yield make
    for appenders in made:
        appenders.kill()


@pytest.fixture(scope="module")
def mortal() -> Iterator[PrivateServer]:
    """A server that the tests of a module kill and suspend; each leaves it running."""
    if programs() is None:
        pytest.skip("needs the package postgresql (apt-get install -y postgresql)")
    with PrivateServer() as running:
        yield running
