"""LOG_FAILURE=serve: answers leave although they cannot be logged, and every lost row is counted."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from crossfade.errors import LogUnavailable
from crossfade.logbatch import LogBatch
from crossfade.logchoice import EVERY, Choice
from crossfade.requestlog import LateLabel, LogRow, LogSlice, RequestLog

_log = logging.getLogger(__name__)


class ForgivingLog(RequestLog):
    """A log that loses rows sooner than answers. Late labels it does not lose: nobody waits for an answer to those.

    Parameters
    ----------
    log : RequestLog
        Where rows and labels go.
    on_loss : callable, optional
        Called with how many rows were lost just now, and why.
    """

    def __init__(self, log: RequestLog, on_loss: Callable[[int, LogUnavailable], None] | None = None) -> None:
        self._log = log
        self._on_loss = on_loss
        self._lock = threading.Lock()
        self._losing = False
        self._rows_lost = 0

    @property
    def problem(self) -> str | None:
        """What the log says."""
        return self._log.problem

    @property
    def rows_lost(self) -> int:
        """How many rows this process has lost. Some of a batch may be in the log all the same."""
        return self._rows_lost

    @property
    def commits_in_groups(self) -> bool:
        """What the log says."""
        return self._log.commits_in_groups

    @property
    def waiting_bytes(self) -> int:
        """How much waits on this machine's disk."""
        return self._log.waiting_bytes

    def append(self, rows: Sequence[LogRow]) -> None:
        """Store rows together, or count them as lost."""
        self._store(lambda: self._log.append(rows), len(rows))

    def append_batch(self, batch: LogBatch) -> None:
        """Store the rows of a batch together, or count them as lost."""
        self._store(lambda: self._log.append_batch(batch), len(batch.features))

    def append_labels(self, labels: Sequence[LateLabel]) -> None:
        """Store late labels. Raises LogUnavailable."""
        self._log.append_labels(labels)

    def slices(self, choice: Choice = EVERY) -> Sequence[LogSlice]:
        """Return the rows that were stored. Raises LogUnavailable."""
        return self._log.slices(choice)

    def label_slices(self) -> Sequence[LogSlice]:
        """Return the late labels stored so far. Raises LogUnavailable."""
        return self._log.label_slices()

    def _store(self, append: Callable[[], None], rows: int) -> None:
        try:
            append()
        except LogUnavailable as error:
            self._lose(rows, error)
        else:
            if self._losing:
                self._losing = False
                _log.warning("the log can be written again; %s rows of this worker are lost", self._rows_lost)

    def _lose(self, rows: int, error: LogUnavailable) -> None:
        with self._lock:
            self._rows_lost += rows
            first, self._losing = not self._losing, True
        if first:  # once, not for every request
            _log.error("answers leave without being logged (LOG_FAILURE=serve): %s", error)
        if self._on_loss:
            self._on_loss(rows, error)
