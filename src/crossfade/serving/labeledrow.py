"""One labelled row from elsewhere: checked like the row of a prediction, or refused with a reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from crossfade.errors import InvalidInput
from crossfade.ingested import FeatureRow
from crossfade.model import Model
from crossfade.schema import WHOLE_LABEL, label_text

MOST_PROBLEMS = 20
"""So many are told of one request."""


@dataclass(frozen=True)
class Problem:
    """Why one row was refused."""

    field: str
    problem: str
    row: int | None = None
    """Its place in the list of rows, from 0; None on a line that holds one row."""
    line: int | None = None
    """Its line in the stream, from 1; None in a batch."""

    @classmethod
    def of(cls, error: InvalidInput, row: int | None = None, line: int | None = None) -> Problem:
        """Say where an error is."""
        place = "line" if line is not None and error.field == "body" else error.field
        return cls(place, str(error).removeprefix(f"{error.field}: "), row, line)

    def to_dict(self) -> dict[str, object]:
        """JSON-able form: where first, then what."""
        where = {"line": self.line, "row": self.row}
        told = {name: place for name, place in where.items() if place is not None}
        return {**told, "field": self.field, "problem": self.problem}


class RowReader:
    """Turns rows from outside into rows of the store.

    Parameters
    ----------
    model : Model
        The deployed prod model.
    max_rows : int
        Most rows at once.
    """

    def __init__(self, model: Model, max_rows: int) -> None:
        self._schema = model.schema
        self._whole_labels = all(isinstance(label, int) for label in model.classes)
        self._max_rows = max_rows
        self._names = model.schema.names
        self._encoder = msgspec.json.Encoder(order="sorted")  # the same row is the same text whatever prod's order

    def check_lengths(self, features: list[Any], labels: list[Any]) -> None:
        """Refuse rows that are none or too many, and labels that are not one per row."""
        if not 1 <= len(features) <= self._max_rows:
            raise InvalidInput("features", f"has {len(features)} rows; allowed: 1 to {self._max_rows} at once")
        if len(labels) != len(features):
            raise InvalidInput("labels", f"has {len(labels)} labels; allowed: one per row, {len(features)}")

    def read(self, features: Any, label: Any, batch_id: str, position: int) -> FeatureRow:
        """Check one row; raises InvalidInput."""
        row = self._schema.parse(features)
        text = self._encoder.encode(dict(zip(self._names, row, strict=True))).decode()
        if isinstance(label, bool):
            raise InvalidInput("label", f"is {str(label).lower()}; allowed: a class label, as text or whole number")
        label = label_text(label)
        if self._whole_labels and not WHOLE_LABEL.fullmatch(label):
            raise InvalidInput("label", f"is {label[:50]!r}; allowed: a whole number, as the labels that prod learnt")
        return FeatureRow(batch_id, position, text, label)
