"""The request log in PostgreSQL: any number of routers on any number of machines append to it."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from crossfade.appendonly import Fsync
from crossfade.errors import LogUnavailable
from crossfade.logchoice import EVERY, Choice
from crossfade.postgres.address import DatabaseUrl
from crossfade.postgres.groupwriter import GroupWriter
from crossfade.postgres.lines import LABELS, ROWS, Table, csv_lines, numbered
from crossfade.postgres.link import opened
from crossfade.postgres.spool import Spool, waiting_bytes
from crossfade.requestlog import LateLabel, LogRow, LogSlice, RequestLog

if TYPE_CHECKING:
    from crossfade.logbatch import LogBatch
    from crossfade.postgres.reading import PostgresReader


class PostgresRequestLog(RequestLog):
    """A log in a PostgreSQL database. What `append` was given is committed, or waits on the local disk.

    Parameters
    ----------
    url : DatabaseUrl
        The database; its tables are made when it is first used.
    spool : Path
        Folder for what waits while the database is away.
    fsync : {"never", "interval", "always"}
        What a power cut may take of the spool; what is in the database is as safe as that is.
    timeout_seconds : float
        How long a request waits for a database that does not answer, or a disk.
    """

    def __init__(self, url: DatabaseUrl, spool: Path, fsync: Fsync = "never", timeout_seconds: float = 5.0) -> None:
        self.url = url
        self.upkeep_problem: str | None = None
        """What a `DatabaseKeeper` says."""
        self._spool = spool
        self._fsync = fsync
        self._timeout_seconds = timeout_seconds
        self._begin()

    def _begin(self) -> None:
        """Be the log of this process: a forked one shares neither threads nor connections with its parent."""
        self._process = os.getpid()
        self._name = str(uuid4())
        self._seq = 0
        self._counting = threading.Lock()
        spool = Spool(self._spool, self._name, self._fsync, self._timeout_seconds)
        self._writer = GroupWriter(self.url, spool, self._timeout_seconds)

    @property
    def problem(self) -> str | None:
        """Why rows wait on disk or were refused, or what is wrong with the upkeep of the database."""
        return self._writer.problem or self.upkeep_problem

    @property
    def commits_in_groups(self) -> bool:
        """True: a commit takes a way over the network."""
        return True

    @property
    def waiting_bytes(self) -> int:
        """How much waits on this machine's disk, of all processes."""
        return waiting_bytes(self._spool)

    def open(self) -> str | None:
        """Connect once, to make the tables; return why that is not possible now: rows will wait on disk.

        Raises
        ------
        SchemaTooNew
            A newer Crossfade has upgraded the database: there is no waiting for that.
        """
        try:
            with opened(self.url, self._timeout_seconds):
                return None
        except LogUnavailable as error:
            return str(error)

    def start(self) -> None:
        """Store what an earlier process left on disk, without waiting for the first request."""
        self._mine().start()

    def stop(self) -> None:
        """End the writer's thread; what waits on disk is left to the next process."""
        self._writer.stop()

    def append(self, rows: Sequence[LogRow]) -> None:
        """Store rows together."""
        self._write(ROWS, csv_lines(rows), len(rows))

    def append_batch(self, batch: LogBatch) -> None:
        """Store the rows of a batch together."""
        self._write(ROWS, batch.lines(), len(batch.features))

    def append_labels(self, labels: Sequence[LateLabel]) -> None:
        """Store late labels."""
        self._write(LABELS, csv_lines(labels), len(labels))

    @cached_property
    def _reader(self) -> PostgresReader:
        from crossfade.postgres.reading import PostgresReader  # a router only writes: it does without

        return PostgresReader(self.url)

    def slices(self, choice: Choice = EVERY) -> Sequence[LogSlice]:
        """Return the chosen rows, by ranges of their ids, oldest first."""
        return self._reader.slices(choice)

    def label_slices(self) -> Sequence[LogSlice]:
        """Return the late labels, by ranges of their ids, oldest first."""
        return self._reader.label_slices()

    def joined_slices(self, choice: Choice, labeled: bool) -> Sequence[LogSlice] | None:
        """Return chosen rows with late labels in place, where there are fewer such rows than late labels."""
        return self._reader.joined_slices(choice, labeled)

    def _write(self, table: Table, lines: str, count: int) -> None:
        if not count:
            return
        writer = self._mine()
        with self._counting:
            first, self._seq = self._seq, self._seq + count
        writer.write(table, numbered(lines, self._name, first))

    def _mine(self) -> GroupWriter:
        if os.getpid() != self._process:
            self._begin()
        return self._writer
