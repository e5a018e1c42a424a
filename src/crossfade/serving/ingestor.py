"""Labelled rows from elsewhere: checked like those of a prediction, stored exactly once. No web framework here."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crossfade.errors import CrossfadeError, InvalidInput
from crossfade.ingested import FeatureRow, StoreStats
from crossfade.schema import plain_text
from crossfade.serving.intake import Intake, StreamReport
from crossfade.serving.labeledrow import MOST_PROBLEMS, Problem, RowReader
from crossfade.serving.messages import BatchBody, StreamCut
from crossfade.serving.reload import Reloader

if TYPE_CHECKING:
    from crossfade.featurestore import FeatureStore


class RowsRefused(CrossfadeError):
    """A batch has bad rows, so none of it is stored.

    Parameters
    ----------
    problems : list of Problem
        One per bad row.
    rows : int
        All rows of the batch.
    """

    def __init__(self, problems: list[Problem], rows: int) -> None:
        first = problems[0]
        super().__init__(
            f"{len(problems)} of {rows} rows are bad, so none is stored; row {first.row}: {first.field} {first.problem}"
        )
        self.problems = [problem.to_dict() for problem in problems[:MOST_PROBLEMS]]
        self.bad_rows = len(problems)


@dataclass(frozen=True)
class BatchReport:
    """What became of a batch."""

    batch_id: str
    rows: int
    stored: int
    """All of them; 0 of a batch that was stored before."""
    duplicate: bool


class Ingestor:
    """Takes rows in, against the features of the deployed prod model.

    Parameters
    ----------
    reloader : Reloader
        Holds the deployment.
    store : callable
        Opens the store that good rows go to; asked when it is needed.
    model : str
        Name of the registered model that they are for.
    max_batch_rows : int
        Longest batch, and most rows of one line of a stream.
    """

    def __init__(self, reloader: Reloader, store: Callable[[], FeatureStore], model: str, max_batch_rows: int) -> None:
        self._reloader = reloader
        self._store = store
        self._model = model
        self._max_batch_rows = max_batch_rows

    def batch(self, body: BatchBody) -> BatchReport:
        """Store all rows of a batch, or none.

        Raises
        ------
        InvalidInput, RowsRefused
            The batch, or rows of it, are not what the model takes.
        NoModel
            There is no model yet, so nobody knows what a row is.
        BatchConflict
            The store holds other rows under this batch id.
        StoreUnavailable
            The rows cannot be stored.
        """
        reader = self._reader()
        batch_id = _batch_id(body.batch_id)
        reader.check_lengths(body.features, body.labels)
        rows: list[FeatureRow] = []
        problems: list[Problem] = []
        for i, (features, label) in enumerate(zip(body.features, body.labels, strict=True)):
            try:
                rows.append(reader.read(features, label, batch_id, i))
            except InvalidInput as error:
                problems.append(Problem.of(error, row=i))
        if problems:
            raise RowsRefused(problems, len(body.features))
        new = self._store().add_batch(self._model, batch_id, rows)
        return BatchReport(batch_id, len(rows), len(rows) if new else 0, duplicate=not new)

    def stream(self, lines: Iterable[bytes | None], batch_id: str | None) -> StreamReport:
        """Store the good rows of a stream as they come.

        Parameters
        ----------
        lines : iterable of bytes or None
            One JSON object each; None is a line that is too long to be read.
        batch_id : str or None
            Of the lines that name none themselves; None: a new one.

        Raises
        ------
        InvalidInput
            The batch id is none, or the stream is empty.
        NoModel
            There is no model yet.
        StoreUnavailable
            The rows cannot be stored; those of earlier transactions are.
        StreamCut
            The connection broke; the rows that came before are stored.
        """
        reader = self._reader()
        intake = Intake(self._store(), self._model, reader, _batch_id(batch_id))
        try:
            for number, line in enumerate(lines, start=1):
                if line is None or (line and not line.isspace()):
                    intake.take(line, number)
        except StreamCut as error:
            intake.flush()
            raise StreamCut(f"the connection broke; {intake.advice}") from error
        intake.flush()
        if not intake.report.rows:
            raise InvalidInput("body", "holds no rows; allowed: one JSON object per line")
        return intake.report

    def stats(self) -> StoreStats:
        """Count what is stored."""
        return self._store().stats(self._model)

    def _reader(self) -> RowReader:
        return RowReader(self._reloader.current.prod.loaded.model, self._max_batch_rows)


def _batch_id(given: str | None) -> str:
    return uuid.uuid4().hex if given is None else plain_text(given, "batch_id")
