"""Tier plain: quadratic discriminants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crossfade.compiled.encoding import Encoder, Matrix, Value
from crossfade.compiled.links import Answer, Answers, choose, choose_many


class Quadratic:
    """Scores ``start - |(x - mean) @ turned|**2 / 2`` per class; always in numpy, for a class takes width**2 products.

    Parameters
    ----------
    encoder : Encoder
        Turns features into the estimator's input x, of shape (n, width).
    start : array of shape (classes,)
    means : array of shape (classes, width)
    turned : list of arrays of shape (width, rank)
        One per class.
    """

    def __init__(self, encoder: Encoder, start: Matrix, means: Matrix, turned: list[Matrix]) -> None:
        self._encoder, self._start, self._means, self._turned = encoder, start, means, turned

    @classmethod
    def of_json(cls, encoder: Encoder, described: Mapping[str, Any]) -> Quadratic:
        """Read a description: `start`, `means`, `turned`."""
        turned = [np.array(matrix, dtype=float) for matrix in described["turned"]]
        return cls(encoder, np.array(described["start"], dtype=float), np.array(described["means"]), turned)

    def answer(self, row: Sequence[Value]) -> Answer:
        """Answer one row of features, in signature order."""
        scores: list[float] = self._scores(np.array([self._encoder.encode(row)]))[0].tolist()
        return choose(scores, "softmax")

    def answer_many(self, rows: Sequence[Sequence[Value]]) -> Answers:
        """Answer rows of shape (n, features)."""
        return choose_many(self._scores(self._encoder.encode_many(rows)), "softmax")

    def _scores(self, x: Matrix) -> Matrix:
        norms = [((x - mean) @ turned) ** 2 for mean, turned in zip(self._means, self._turned, strict=True)]
        scores: Matrix = self._start - 0.5 * np.stack([norm.sum(axis=1) for norm in norms], axis=1)
        return scores
