"""Windows of live rows, counted: read from the log newest first, slice by slice, on any engine, and never kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from operator import add
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from crossfade.engine import Engine
from crossfade.logchoice import Choice
from crossfade.loop.reference import PREDICTION, PROBABILITY, ReferenceProfile
from crossfade.requestlog import LogSlice, RequestLog
from crossfade.schema import FeatureSchema
from crossfade.stats.profile import Counts, count_columns
from crossfade.unpack import unpack

_SLICES_PER_WORKER = 4
"""Counted before looking whether more are needed: nobody waits long for the others, and little is read for nothing."""

_COLUMNS = ("ts_utc", "model_version", "features_json", PREDICTION, PROBABILITY)


@dataclass(frozen=True)
class Window:
    """Live rows, counted on a reference; windows of the same reference add up with ``+``, the newer one first."""

    rows: int
    counts: Mapping[str, Counts]
    """By column. A feature that no row has a column for is missing; so are outputs that nobody knows."""
    misread: Mapping[str, int]
    """By feature: values that are there, but of another kind; they count as missing."""
    first_ts: str = ""
    """When its oldest row was answered; empty where that is not known."""
    last_ts: str = ""

    def __add__(self, older: Window) -> Window:
        sides = (self.counts, older.counts)
        names = dict.fromkeys([*self.counts, *older.counts])
        return Window(
            self.rows + older.rows,
            {name: reduce(add, [side[name] for side in sides if name in side]) for name in names},
            Counter(self.misread) + Counter(older.misread),
            older.first_ts or self.first_ts,
            self.last_ts or older.last_ts,
        )


def count_frame(reference: ReferenceProfile, frame: pd.DataFrame, misread: Mapping[str, int] | None = None) -> Window:
    """Count rows of shape (n, columns): the features, and `prediction` and `probability` where known.

    Outputs may be missing in rows that another version answered; such rows are left out of that column's count.
    """
    columns = {
        name: frame[name].dropna() if name in (PREDICTION, PROBABILITY) else frame[name]
        for name in reference.columns
        if name in frame
    }
    profiles = {name: reference.columns[name] for name in columns}
    return Window(len(frame), count_columns(profiles, columns), misread or {})


@dataclass(frozen=True)
class WindowCounter:
    """Counts the answers to one model's requests, window by window.

    Parameters
    ----------
    reference : ReferenceProfile
        What they are counted on.
    schema : FeatureSchema
        Their features.
    model : str
        Name of the registered model.
    version : str
        The version whose outputs are counted; the features of rows that another one answered count as well.
    strangers : tuple of str
        Versions that take other features: rows that they answered are left out.
    """

    reference: ReferenceProfile
    schema: FeatureSchema
    model: str
    version: str
    strangers: tuple[str, ...] = ()

    @property
    def answered(self) -> Choice:
        """The rows that the model answered."""
        return Choice.of(self.strangers, model=self.model, status="200")

    def windows(self, log: RequestLog, rows: int, most: int, engine: Engine) -> list[Window]:
        """Cut the newest rows into windows, newest first; the last one holds what is left.

        The counts of the slices are added up in the order of the log: every engine finds the same to the last digit.

        Parameters
        ----------
        log : RequestLog
            Read newest first, and no further than needed.
        rows : int
            Rows of a window.
        most : int
            Most windows.
        engine : Engine
            Where slices are counted.

        Raises
        ------
        LogUnavailable
            The log cannot be read.
        """
        slices, found, seen = list(log.slices(self.answered)), list[Window](), 0
        while slices and seen < rows * most:
            newest_first = [slices.pop() for _ in range(min(_SLICES_PER_WORKER * engine.workers, len(slices)))]
            whole = [windows[0] for windows in engine.map(self.count, [(part, ()) for part in newest_first])]
            jobs: list[tuple[LogSlice, tuple[int, ...]]] = []
            for part, window in zip(newest_first, whole, strict=True):
                places = range(rows - seen % rows, min(window.rows, rows * most - seen + 1), rows)
                jobs.append((part, tuple(places)))
                seen += window.rows
            in_pieces = iter(engine.map(self.count, [job for job in jobs if job[1]]))
            for (_, cuts), window in zip(jobs, whole, strict=True):
                for piece in next(in_pieces) if cuts else [window]:
                    if found and found[-1].rows < rows:
                        found[-1] += piece
                    elif piece.rows:
                        found.append(piece)
        return found[:most]

    def count(self, job: tuple[LogSlice, Sequence[int]]) -> list[Window]:
        """Count the rows of a slice in pieces, newest first: one more than there are cuts (in rows from the newest)."""
        part, cuts = job
        table, _ = part.read(_COLUMNS)
        edges = [table.num_rows, *(table.num_rows - cut for cut in cuts), 0]
        return [self._window(table.slice(oldest, stop - oldest)) for stop, oldest in pairwise(edges)]

    def _window(self, table: pa.Table) -> Window:
        unpacked = unpack(table["features_json"], self.schema)
        window = count_frame(self.reference, unpacked.frame.assign(**self._outputs(table)), unpacked.misread)
        times = table["ts_utc"]
        return replace(window, first_ts=times[0].as_py(), last_ts=times[-1].as_py()) if len(times) else window

    def _outputs(self, table: pa.Table) -> dict[str, pd.Series[Any]]:
        mine = pc.equal(table["model_version"], self.version)
        prediction = pc.if_else(pc.and_(mine, pc.not_equal(table[PREDICTION], "")), table[PREDICTION], None)
        probability = pc.if_else(pc.and_(mine, pc.not_equal(table[PROBABILITY], "")), table[PROBABILITY], None)
        try:
            numbers = probability.cast(pa.float64()).to_pandas()
        except pa.ArrowInvalid:  # somebody edited the log; pandas is slower, and takes out what is no number
            numbers = pd.to_numeric(probability.to_pandas(), errors="coerce")
        return {PREDICTION: prediction.to_pandas(), PROBABILITY: numbers}

    def sample(self, log: RequestLog, rows: int) -> pd.DataFrame:
        """Return the newest rows, shape (n <= rows, features), oldest first, for people to look at."""
        found, slices = [self.schema.conform(pd.DataFrame())], list(log.slices(self.answered))
        while slices and sum(map(len, found)) < rows:
            table, _ = slices.pop().read(("features_json",))
            found.insert(1, unpack(table["features_json"].slice(max(0, table.num_rows - rows)), self.schema).frame)
        return pd.concat(found[1:] or found, ignore_index=True).tail(rows)
