"""Answers as the dashboard keeps them: some 30 bytes each, so that a million of them cost neither memory nor time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from crossfade.logreader import LogContents

Ints = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

COLUMNS = ("experiment_id", "variant", "model_version", "prediction", "latency_ms")
"""Of the request log, beside those that every reader gets."""

LATENCY_BINS = 256
_LEAST_MS, _STEP = 0.01, 1.08
"""Latencies are kept as one of 256 steps of 8 %: a percentile is right to within 4 %."""

UNKNOWN = -1


@dataclass(frozen=True)
class Group:
    """What answers have in common."""

    experiment_id: str
    variant: str
    version: str


class Codes:
    """Gives texts and groups small numbers, the same ones for ever."""

    def __init__(self) -> None:
        self._texts: dict[str, int] = {}
        self.groups: list[Group] = []
        self._numbers: dict[Group, int] = {}

    def of_texts(self, texts: list[str]) -> Ints:
        """Return the numbers of some texts, shape (n,)."""
        return np.array([self._texts.setdefault(str(text), len(self._texts)) for text in texts], dtype=np.int32)

    def of_group(self, group: Group) -> int:
        """Return the number of a group."""
        if group not in self._numbers:
            self._numbers[group] = len(self.groups)
            self.groups.append(group)
        return self._numbers[group]


@dataclass(frozen=True, eq=False)
class Answers:
    """Some rows of the log, in its order; every array has shape (rows,)."""

    at: Ints
    """Milliseconds since the epoch."""
    group: Ints
    """Number of its `Group`."""
    latency: Ints
    """Step of `LATENCY_BINS`; see `milliseconds`."""
    answered: Bools
    """Whether the status is 200."""
    prediction: Ints
    """Number of the text; -1 where there is none."""
    label: Ints
    """Number of the text; -1 while it is not known."""
    ids: Ints
    """A 64-bit digest of the request id."""
    set_aside: int
    """Lines that were no rows."""

    def __len__(self) -> int:
        return len(self.at)

    @property
    def known(self) -> Bools:
        """Which rows were answered and have a label."""
        return np.asarray(self.answered & (self.label != UNKNOWN))

    @property
    def correct(self) -> Bools:
        """Which rows were answered rightly; of no meaning where the label is not `known`."""
        return np.asarray(self.label == self.prediction)

    @cached_property
    def _order(self) -> Ints:
        return np.argsort(self.ids, kind="stable")

    def labeled(self, ids: Ints, labels: Ints) -> Answers:
        """Put late labels in place; of the same request, the last one counts.

        Parameters
        ----------
        ids, labels : array
            Shape (m,): digests of request ids, and numbers of labels; most may belong to other rows.
        """
        if not len(self) or not len(ids):
            return self
        ordered = self.ids[self._order]
        place = np.minimum(np.searchsorted(ordered, ids), len(ordered) - 1)
        hit = ordered[place] == ids
        if not hit.any():
            return self
        changed = self.label.copy()
        changed[self._order[place[hit]]] = labels[hit]
        return replace(self, label=changed)


def take(contents: LogContents, codes: Codes) -> Answers:
    """Keep what is shown of rows that were read with `COLUMNS`."""
    rows = contents.rows
    return Answers(
        at=(rows["ts_utc"].astype("int64") // 1_000_000).to_numpy(),
        group=_groups(rows, codes),
        latency=_bins(rows["latency_ms"].to_numpy(dtype=np.float64)),
        answered=(rows["status"] == 200).to_numpy(),
        prediction=_numbers(rows["prediction"], codes),
        label=_numbers(rows["label"], codes),
        ids=digests(rows["request_id"].to_numpy(dtype=object)),
        set_aside=contents.set_aside,
    )


def digests(ids: npt.NDArray[np.object_]) -> Ints:
    """Shorten request ids, shape (n,), to 64 bits: two of a million collide with a chance of 3e-8."""
    return np.asarray(pd.util.hash_array(ids, categorize=False))


def milliseconds(step: Ints) -> npt.NDArray[np.float64]:
    """Return the latency in the middle of a step."""
    return np.asarray(_LEAST_MS * _STEP**step, dtype=np.float64)


def _bins(latency_ms: npt.NDArray[np.float64]) -> Ints:
    known = np.nan_to_num(latency_ms, nan=_LEAST_MS).clip(_LEAST_MS)
    steps = np.rint(np.log(known / _LEAST_MS) / np.log(_STEP))
    return np.asarray(steps.clip(0, LATENCY_BINS - 1), dtype=np.uint8)


def _numbers(column: pd.Series[Any], codes: Codes) -> Ints:
    """Return the numbers of the texts of a categorical column; that of a missing one is -1."""
    known = np.append(codes.of_texts(list(column.cat.categories)), UNKNOWN).astype(np.int32)
    return np.asarray(known[column.cat.codes.to_numpy()])  # a code of -1 takes the last


def _groups(rows: pd.DataFrame, codes: Codes) -> Ints:
    columns = [rows[name] for name in ("experiment_id", "variant", "model_version")]
    names = [list(column.cat.categories) for column in columns]
    if not len(rows):
        return np.array([], dtype=np.int16)
    shape = tuple(map(len, names))
    mixed = np.ravel_multi_index([column.cat.codes.to_numpy() for column in columns], shape)
    there, number = np.unique(mixed, return_inverse=True)
    places = np.transpose(np.unravel_index(there, shape))
    known = [codes.of_group(Group(*(str(names[i][at]) for i, at in enumerate(place)))) for place in places]
    return np.array(known, dtype=np.int16)[number]
