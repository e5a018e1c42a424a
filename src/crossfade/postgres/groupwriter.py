"""Group commit: threads hand their rows to one that stores everything waiting in one transaction, and wait for it.

While the database is away they put their rows on the local disk instead (spool.py), and answer. The writer keeps on
trying, stores first what waits on disk, and then lets the threads come to it again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import psycopg

from crossfade.errors import LogUnavailable, SchemaTooNew
from crossfade.postgres.address import DatabaseUrl
from crossfade.postgres.lines import TABLES, Table
from crossfade.postgres.link import Link, Wire, connect, told
from crossfade.postgres.schema import bring_up_to_date
from crossfade.postgres.spool import Spool, chunks_of, set_aside, taken_over
from crossfade.postgres.store import store_again, store_new

_log = logging.getLogger(__name__)

_LEAST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
"""Seconds between two tries to connect."""

_IDLE_SECONDS = 1.0

_TAKE_OVER_SECONDS = 5.0
"""How often to look for what processes that ended have left."""

_LITTLE = 2**18
"""Bytes on disk that are stored before anybody who comes meanwhile grows impatient."""

_GROUP = 2**22
"""Bytes of a transaction, at most; a single request may have more."""


class _Handed:
    """Lines of one request, handed to the writer."""

    def __init__(self, table: Table, data: bytes) -> None:
        self.table = table
        self.data = data
        self.over = threading.Event()
        self.stored = False

    def finish(self, stored: bool) -> None:
        """Wake who waits; what is said first holds, for it is acted on."""
        if not self.over.is_set():
            self.stored = stored
            self.over.set()


class GroupWriter:
    """The writer of one process; its thread starts with the first rows, or by `start`.

    Parameters
    ----------
    url : DatabaseUrl
        The database.
    spool : Spool
        Where lines wait while it is away.
    seconds : float
        How long a thread waits before it takes the database for hanging.
    """

    def __init__(self, url: DatabaseUrl, spool: Spool, seconds: float) -> None:
        self._url = url
        self._spool = spool
        self._seconds = seconds
        self._changed = threading.Condition()
        self._handed: list[_Handed] = []
        self._in_flight: list[_Handed] = []
        self._wire: Wire | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._refused = 0
        self._refused_file: Path | None = None
        self._disk: str | None = None
        self.away: str | None = None
        """Why rows go to the disk; None: they go to the database."""

    @property
    def problem(self) -> str | None:
        """What is wrong now: with the database, with the disk, or with rows that were refused."""
        refused = self._refused and f"{self._refused} rows were refused by the database: see {self._refused_file}"
        return "; ".join(text for text in (self.away, self._disk, refused) if text) or None

    def start(self) -> None:
        """Start the thread, if it does not run."""
        with self._changed:
            self._start()

    def stop(self) -> None:
        """Store what was handed over, end the thread, and leave what waits on disk to the next process."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(self._seconds)
            if thread.is_alive():
                self._lose("the router stops")
                thread.join()
        self._spool.close()

    def write(self, table: Table, data: bytes) -> None:
        """Store lines; when this returns they are committed, or on disk and will be.

        Raises
        ------
        LogUnavailable
            Neither is possible.
        """
        with self._changed:
            self._start()
            handed = _Handed(table, data)
            if self.away is None:
                self._handed.append(handed)
                self._changed.notify_all()
            else:
                handed.finish(stored=False)
        if not handed.over.wait(self._seconds):
            self._lose(f"the request log at {self._url} has not answered for {self._seconds:g} s")
        if not handed.stored:
            self._keep(handed)

    def _start(self) -> None:
        if self._thread is None and not self._stopped:
            self._thread = threading.Thread(target=self._run, name="crossfade-log-writer", daemon=True)
            self._thread.start()

    def _keep(self, handed: _Handed) -> None:
        """Put lines on disk. They may be in the database all the same, and are then not stored again."""
        try:
            self._spool.append(handed.table, handed.data)
        except OSError as error:
            self._disk = f"rows cannot wait on disk, in {self._spool.home}: {error.strerror or error}"
            raise LogUnavailable(f"{self.away or 'the database was away'}, and {self._disk}. Free space.") from error
        self._disk = None

    def _lose(self, why: str) -> None:
        """Send everybody to the disk, and have the thread connect anew."""
        with self._changed:
            if self.away is None:
                _log.warning("%s: rows wait in %s", why, self._spool.home)
            self.away = why
            for handed in (*self._handed, *self._in_flight):
                handed.finish(stored=False)
            self._handed.clear()
            if self._wire is not None:
                self._wire.cut()

    def _run(self) -> None:
        pause = _LEAST_PAUSE
        while not self._stopped or self._handed:
            try:
                with connect(self._url, self._seconds) as link, self._cuttable(link):
                    bring_up_to_date(link, self._url)
                    pause = _LEAST_PAUSE
                    self._serve(link)
            except psycopg.Error as error:
                self._lose(told(self._url, error))
            except (SchemaTooNew, OSError) as error:
                self._lose(f"rows cannot be stored: {error}")
            except Exception as error:  # noqa: BLE001 - without this thread every request would wait in vain
                _log.exception("the writer of the request log failed")
                self._lose(f"rows cannot be stored: {error!r}")
            with self._changed:
                self._changed.wait_for(lambda: self._stopped, pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    @contextlib.contextmanager
    def _cuttable(self, link: Link) -> Iterator[None]:
        """Let other threads cut the connection."""
        wire = Wire(link)
        with self._changed:
            self._wire = wire
        try:
            yield
        finally:
            with self._changed:
                self._wire = None
            wire.close()

    def _serve(self, link: Link) -> None:
        """Store what waits on disk, what is handed over, and bit by bit what the dead have left, until `stop`."""
        with contextlib.closing(self._take_over(link)) as inheritance:
            while not self._stopped or self._handed:
                self._catch_up(link)
                more = next(inheritance)
                self._store(link, self._take(0.0 if more else _IDLE_SECONDS))

    def _take(self, seconds: float) -> list[_Handed]:
        """Wait for lines, and take all there are."""
        with self._changed:
            self._be_back()
            self._changed.wait_for(lambda: self._handed or self._stopped or self._spool.holds_lines, seconds)
            size = 0
            for taken, handed in enumerate(self._handed):
                size += len(handed.data)
                if taken and size > _GROUP:
                    break
            else:
                taken = len(self._handed)
            self._in_flight, self._handed = self._handed[:taken], self._handed[taken:]
            return self._in_flight

    def _store(self, link: Link, taken: list[_Handed]) -> None:
        for table in TABLES.values():
            mine = [handed for handed in taken if handed.table is table]
            if mine:
                store_new(link, table, [handed.data for handed in mine], self._refuse)
                for handed in mine:
                    handed.finish(stored=True)
        self._in_flight = []

    def _catch_up(self, link: Link) -> None:
        """Store what waits in this process's own spool, until little comes while it is being stored."""
        while self._spool.holds_lines and not self._stopped:
            size = 0
            for segment in self._spool.sealed():
                size += sum(self._drain(link, segment))
                self._spool.remove(segment)
            if size < _LITTLE:
                with self._changed:
                    self._be_back()

    def _take_over(self, link: Link) -> Generator[bool]:
        """Store what processes left that ended while the database was away, a little at each step, for requests wait.

        Yields
        ------
        bool
            Whether there is more.
        """
        while True:
            with taken_over(self._spool.home.parent) as segments:
                for segment in segments:
                    for _ in self._drain(link, segment):
                        yield True
                    segment.unlink()
            due = time.monotonic() + _TAKE_OVER_SECONDS
            while time.monotonic() < due:
                yield False

    def _drain(self, link: Link, segment: Path) -> Iterator[int]:
        """Store a segment, and yield how many bytes each step was."""
        for lines in chunks_of(segment):
            store_again(link, TABLES[segment.suffix[1:]], lines, self._refuse)
            yield sum(map(len, lines))

    def _be_back(self) -> None:
        if self.away is not None:
            _log.warning("the request log at %s is back", self._url)
            self.away = None

    def _refuse(self, table: Table, line: bytes, said: str) -> None:
        self._refused_file = set_aside(self._spool.home.parent, table, line, said)
        self._refused += 1
        _log.error("the database refused a line of %s (%s): it is in %s", table.name, said, self._refused_file)
