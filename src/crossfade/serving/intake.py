"""A stream of labelled rows on its way into the store: where each row stands, what is wrong, what is new."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from crossfade.errors import InvalidInput, StoreUnavailable
from crossfade.ingested import FeatureRow
from crossfade.schema import plain_text
from crossfade.serving.labeledrow import MOST_PROBLEMS, Problem, RowReader
from crossfade.serving.messages import BrokenJson, LineBody, decode

if TYPE_CHECKING:
    from crossfade.featurestore import FeatureStore

_ROWS_AT_ONCE = 1000
"""Rows that are stored in one transaction."""

_MOST_BATCHES = 10_000
"""Batches of one stream: where it stands in each has to be remembered."""

_BATCH_ID = re.compile(rb'"batch_id"\s*:\s*"([^"\\]+)"')


@dataclass
class StreamReport:
    """What became of a stream so far."""

    batch_id: str
    """Of the lines that name none."""
    rows: int = 0
    stored: int = 0
    duplicates: int = 0
    """Rows that were stored before."""
    rejected: int = 0
    problems: list[dict[str, object]] = field(default_factory=list)
    """Of the first bad rows."""


@dataclass
class _Place:
    """How far a stream is in one batch."""

    rows: int = 0
    rejected: int = 0


@dataclass(frozen=True)
class _Waiting:
    """A good row, and where it came from, as a `Problem` says it."""

    stored_as: FeatureRow
    row: int | None
    line: int


class Intake:
    """The rows of one stream on their way into the store, and the report on them.

    Parameters
    ----------
    store : FeatureStore
        Where good rows go.
    model : str
        Name of the registered model that they are for.
    reader : RowReader
        Checks them.
    batch_id : str
        Batch of the lines that name none.
    """

    def __init__(self, store: FeatureStore, model: str, reader: RowReader, batch_id: str) -> None:
        self.report = StreamReport(batch_id)
        self._reader = reader
        self._store = store
        self._model = model
        self._places = {batch_id: _Place()}
        self._waiting: list[_Waiting] = []
        self._touched: set[str] = set()

    @property
    def advice(self) -> str:
        """What to do when the stream has to end early."""
        stored, batch_id = self.report.stored, self.report.batch_id
        return f"{stored} new rows are stored: send the whole stream again with batch_id={batch_id}, none counts twice"

    def take(self, line: bytes | None, number: int) -> None:
        """Read a line, None for one that is too long: its good rows go in, its bad ones are reported."""
        try:
            if line is None:
                raise InvalidInput("line", "is too long; allowed: the bytes that ROUTER_MAX_BODY_BYTES says")
            body = decode(line, LineBody)
            rows, several = self._rows_of(body)
            batch_id = self.report.batch_id if body.batch_id is None else plain_text(body.batch_id, "batch_id")
            place = self._place(batch_id)
        except BrokenJson as error:
            self._reject(Problem("line", str(error), line=number), line)
            return
        except InvalidInput as error:
            self._reject(Problem.of(error, line=number), line)
            return
        for i, (features, label) in enumerate(rows):
            row = i if several else None
            position = place.rows
            self._count(batch_id)
            try:
                good = self._reader.read(features, label, batch_id, position)
            except InvalidInput as error:
                self._refuse(Problem.of(error, row, number), batch_id)
                continue
            self._waiting.append(_Waiting(good, row, number))
            if len(self._waiting) >= _ROWS_AT_ONCE:
                self.flush()

    def flush(self) -> None:
        """Store what waits, in one transaction."""
        if self.report.rows == self.report.rejected:
            return  # nothing good came yet, so there is nothing to remember either
        rejected = {batch_id: self._places[batch_id].rejected for batch_id in self._touched}
        try:
            added = self._store.add_rows(self._model, [waiting.stored_as for waiting in self._waiting], rejected)
        except StoreUnavailable as error:
            raise StoreUnavailable(f"{error}. {self.advice}") from error
        self.report.stored += added.new
        self.report.duplicates += len(self._waiting) - added.new - len(added.refused)
        refused = set(added.refused)
        for waiting in self._waiting if refused else ():
            if waiting.stored_as in refused:
                batch_id = waiting.stored_as.batch_id
                taken = f"{batch_id!r} stands for other rows than these; send them with a batch_id of their own"
                self._refuse(Problem("batch_id", taken, waiting.row, waiting.line), batch_id)
        self._waiting.clear()
        self._touched.clear()

    def _rows_of(self, body: LineBody) -> tuple[list[tuple[Any, Any]], bool]:
        """Return each row of a line with its label, and whether the line may hold several."""
        if (body.label is UNSET) == (body.labels is UNSET):
            raise InvalidInput(
                "label", "is missing, or sent beside `labels`; allowed: `label` for one row, or `labels`"
            )
        if not isinstance(body.labels, list):
            return [(body.features, body.label)], False
        if not isinstance(body.features, list):
            raise InvalidInput("features", "is no list of rows; with `labels`, send as many rows as labels")
        self._reader.check_lengths(body.features, body.labels)
        return list(zip(body.features, body.labels, strict=True)), True

    def _place(self, batch_id: str) -> _Place:
        """Return how far the stream is in a batch."""
        if batch_id not in self._places and len(self._places) >= _MOST_BATCHES:
            raise InvalidInput("batch_id", f"is one too many; allowed: {_MOST_BATCHES} batches in one stream")
        return self._places.setdefault(batch_id, _Place())

    def _count(self, batch_id: str, rows: int = 1) -> None:
        """Count the next rows of a batch, bad ones too: sent again with corrections, its rows have the same places."""
        self._place(batch_id).rows += rows
        self._touched.add(batch_id)
        self.report.rows += rows

    def _refuse(self, problem: Problem, batch_id: str, rows: int = 1) -> None:
        """Report a problem, which may stand for several rows of a batch."""
        self._place(batch_id).rejected += rows
        self.report.rejected += rows
        if len(self.report.problems) < MOST_PROBLEMS:
            self.report.problems.append(problem.to_dict())

    def _reject(self, problem: Problem, line: bytes | None) -> None:
        """Report a line that cannot be taken apart."""
        batch_id, rows = _guess(line or b"")
        try:
            self._place(plain_text(batch_id, "batch_id"))
        except InvalidInput:
            batch_id = self.report.batch_id
        self._count(batch_id, rows)
        self._refuse(problem, batch_id, rows)


def _guess(line: bytes) -> tuple[str, int]:
    """Guess the batch id (empty: none) and the number of rows of a line that is not as it should be."""
    try:
        found = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        named = _BATCH_ID.search(line)
        return (named[1].decode(errors="replace") if named else ""), 1
    if not isinstance(found, dict):
        return "", 1
    batch_id, features = found.get("batch_id"), found.get("features")
    rows = features if isinstance(features, list) else []
    several = len(rows) > 0 and isinstance(rows[0], (list, dict))
    return (batch_id if isinstance(batch_id, str) else ""), (len(rows) if several else 1)
