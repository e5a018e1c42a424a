"""Tier plain: few and small trees, walked in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crossfade.compiled.encoding import Encoder, Matrix, Value
from crossfade.compiled.links import Answer, Answers, Link, choose, choose_many

Places = npt.NDArray[np.int64]

_PLACES, _NUMBERS = ("roots", "feature", "below", "above"), ("threshold", "leaves", "start")


@dataclass(frozen=True)
class Forest:
    """Trees side by side, each an array over the nodes of all; every tree has one node at least.

    A row goes to `below` where ``x[feature] <= threshold``, else to `above`; a negative place is the leaf ``~place``.
    The comparison is one of 64-bit floats, without any rounding before it.
    """

    roots: Places
    feature: Places
    threshold: Matrix
    below: Places
    above: Places
    leaves: Matrix
    """What each leaf adds to the scores, shape (leaves, scores)."""
    start: Matrix
    """Scores before the first tree, shape (scores,)."""
    divisor: float
    """What the sum is divided by."""
    link: Link

    @classmethod
    def of_json(cls, described: Mapping[str, Any]) -> Forest:
        """Read what `to_json` wrote."""
        arrays: dict[str, Any] = {
            name: np.array(described[name], dtype=kind)
            for kind, names in ((np.int64, _PLACES), (np.float64, _NUMBERS))
            for name in names
        }
        return cls(**arrays, divisor=described["divisor"], link=described["link"])

    def to_json(self) -> dict[str, Any]:
        """Describe the trees, as JSON holds them."""
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}


class WalkedForest:
    """Walks every tree; exact, because nothing is rounded.

    Parameters
    ----------
    encoder : Encoder
        Turns features into the trees' input.
    forest : Forest
        The trees.
    """

    def __init__(self, encoder: Encoder, forest: Forest) -> None:
        self._encoder, self._forest = encoder, forest
        self._roots: list[int] = forest.roots.tolist()
        branches = (forest.feature, forest.threshold, forest.below, forest.above)
        self._nodes: list[tuple[int, float, int, int]] = list(zip(*(part.tolist() for part in branches), strict=True))
        self._leaves: list[list[float]] = forest.leaves.tolist()
        self._start: list[float] = forest.start.tolist()

    def answer(self, row: Sequence[Value]) -> Answer:
        """Answer one row of features, in signature order."""
        x, nodes, reached = self._encoder.encode(row), self._nodes, [self._start]
        for root in self._roots:
            place = root
            while place >= 0:
                feature, threshold, below, above = nodes[place]
                place = below if x[feature] <= threshold else above
            reached.append(self._leaves[~place])
        divisor = self._forest.divisor
        return choose([sum(column) / divisor for column in zip(*reached, strict=True)], self._forest.link)

    def answer_many(self, rows: Sequence[Sequence[Value]]) -> Answers:
        """Answer rows of shape (n, features)."""
        x, forest = self._encoder.encode_many(rows), self._forest
        scores = np.tile(forest.start, (len(x), 1))
        for root in self._roots:
            scores += forest.leaves[_leaves_reached(x, forest, root)]
        return choose_many(scores / forest.divisor, forest.link)


def _leaves_reached(x: Matrix, forest: Forest, root: int) -> Places:
    places: Places = np.full(len(x), root, dtype=np.int64)
    walking = np.arange(len(x))
    while len(walking):
        at = places[walking]
        is_below = x[walking, forest.feature[at]] <= forest.threshold[at]
        places[walking] = np.where(is_below, forest.below[at], forest.above[at])
        walking = walking[places[walking] >= 0]
    return np.invert(places)
