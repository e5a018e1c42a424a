"""A labelled table in the order of time, cut into what the first model learns and the windows that follow."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

from crossfade.data import Table
from crossfade.errors import DataError
from crossfade.schema import FeatureSchema, label_text

_FEWEST_FIRST_ROWS = 50


@dataclass(frozen=True)
class History:
    """What happened, and when labels were known."""

    table: Table
    """All rows that could be answered, oldest first; its schema is that of the first model."""
    first: int
    """How many of the oldest rows the first model learns."""
    edges: tuple[int, ...]
    """Window k holds the rows from ``edges[k]`` to before ``edges[k + 1]``; at its end the pipeline runs."""
    delay: int
    """Windows that a label comes late; 0: it is known when its window ends."""
    refused: int
    """Rows left out: they lack a value where the first model's rows never did, so a router would refuse them."""

    @classmethod
    def cut(cls, table: Table, first_share: float, window: float, delay: int) -> History:
        """Cut a table.

        Parameters
        ----------
        table : Table
            Labelled rows, oldest first.
        first_share : float
            Share of them that the first model learns, in (0, 1).
        window : float
            Rows between two runs of the pipeline; below 1, a share of the table.
        delay : int
            Windows that a label comes late.

        Raises
        ------
        DataError
            The table is too short for that.
        """
        first, rows = round(len(table.frame) * first_share), len(table.frame)
        step = max(1, round(window if window >= 1 else window * rows))
        if first < _FEWEST_FIRST_ROWS or rows - first < 2 * step:
            raise DataError(
                f"{rows} rows are too few: the first {first_share:.0%} would be {first} (allowed: {_FEWEST_FIRST_ROWS} "
                f"or more), and windows of {step} rows leave {(rows - first) // step} (allowed: 2 or more)"
            )
        schema = _known_at_first(table, first)
        lacking = [feature.name for feature in schema.features if not feature.nullable]
        answerable = table.frame[lacking].notna().all(axis=1)
        frame = table.frame.loc[answerable, [*schema.names, table.target]].reset_index(drop=True)
        if len(frame) - first < 2 * step:
            empty = table.frame.iloc[first:][lacking].isna().sum().idxmax()
            raise DataError(
                f"{rows - len(frame)} of {rows} rows lack a value that the first {first} always have, most of them in "
                f"column {empty}; a router would refuse them. Leave the column out (--features), or begin later"
            )
        edges = (*range(first, len(frame) - step // 2, step), len(frame))  # the last window takes a short rest in
        kept = replace(table, frame=frame, schema=schema, ordered=True)
        return cls(kept, first, edges, delay, refused=rows - len(frame))

    @property
    def windows(self) -> int:
        """How many windows follow the first model."""
        return len(self.edges) - 1

    def rows(self, window: int) -> pd.DataFrame:
        """Return the rows of a window."""
        return self.table.frame.iloc[self.edges[window] : self.edges[window + 1]]

    def known(self, window: int) -> int:
        """Return how many of the oldest rows have a label that is known when a window begins."""
        return self.edges[max(0, window - self.delay)]

    @property
    def truth(self) -> list[str]:
        """Labels of all rows after the first model's, as text."""
        return [label_text(label) for label in self.table.frame[self.table.target].iloc[self.first :].tolist()]


def _known_at_first(table: Table, first: int) -> FeatureSchema:
    """Return the features as the first rows show them: one without any value could not be learnt."""
    oldest = table.frame.iloc[:first]
    features = tuple(feature for feature in table.schema.features if oldest[feature.name].notna().any())
    return FeatureSchema(features).with_nulls_of(oldest)
