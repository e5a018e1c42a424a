"""From scores to the label and its probability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Link = Literal["sigmoid", "softmax", "share", "none"]
"""``sigmoid``: the second class's log odds or, with ``softmax``, one log weight per class; ``share``: one probability
per class; ``none``: as the first two, but the estimator states no probability."""

Answer = tuple[int, float | None]
"""Place of the class among the classes, and its probability, in [0, 1]; None: it has none."""


class Answers(NamedTuple):
    """As `Answer`, of many rows: two columns of shape (n,)."""

    places: list[int]
    shares: list[float | None]


def choose(scores: Sequence[float], link: Link) -> Answer:
    """Pick the class by its scores: one score of two classes, else one per class; the first among equals.

    Examples
    --------
    >>> choose([0.0], "sigmoid"), choose([1.0, 1.0], "softmax"), choose([3.0, -1.0], "none")
    ((0, 0.5), (0, 0.5), (0, None))
    """
    if len(scores) == 1:
        (score,) = scores
        chosen = int(score > 0)
        return chosen, None if link == "none" else _finite(1 / (1 + math.exp(-abs(score))))
    top = max(scores)
    chosen = scores.index(top)
    if link == "share":
        return chosen, _finite(top)
    if link == "none" or not math.isfinite(top):
        return chosen, None
    return chosen, _finite(1 / sum([math.exp(score - top) for score in scores]))


def choose_many(scores: npt.NDArray[np.float64], link: Link) -> Answers:
    """Do as `choose` for scores of shape (n, 1) or (n, classes)."""
    with np.errstate(all="ignore"):
        if scores.shape[1] == 1:
            places = (scores[:, 0] > 0).astype(np.int64)
            shares = 1 / (1 + np.exp(-np.abs(scores[:, 0])))
        else:
            places = scores.argmax(axis=1)
            top = scores[np.arange(len(scores)), places]
            shares = top if link == "share" else 1 / np.exp(scores - top[:, np.newaxis]).sum(axis=1)
    if link == "none":
        return Answers(places.tolist(), [None] * len(places))
    return answers(places, shares)


def answers(places: npt.NDArray[np.int64], shares: npt.NDArray[np.float64]) -> Answers:
    """Put classes' places and probabilities, both of shape (n,), side by side."""
    finite = shares.tolist() if np.isfinite(shares).all() else [_finite(share) for share in shares.tolist()]
    return Answers(places.tolist(), finite)


def _finite(share: float) -> float | None:
    return share if math.isfinite(share) else None
