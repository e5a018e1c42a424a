"""Tier plain: models whose scores are sums of one term per feature (linear ones, naive Bayes)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import add, itemgetter, mul
from typing import Any

import numpy as np

from crossfade.compiled.encoding import CategoryColumns, Encoder, Matrix, NumericColumn, Value
from crossfade.compiled.links import Answer, Answers, Link, choose, choose_many

_Terms = tuple[float, ...]


class Additive:
    """Scores ``start + sum of weight * x``; with centres ``start + sum of weight * (x - centre)**2``.

    For one row the terms of every category are summed beforehand, and what is left is a dozen additions of Python's
    floats: an array would take longer to be made than they take.

    Parameters
    ----------
    encoder : Encoder
        Turns features into the estimator's input x, of shape (n, width).
    start : array of shape (scores,)
        One score for two classes of a linear model, else one per class.
    weights : array of shape (scores, width)
    centres : array of shape (scores, width) or None
    link : Link
        What the scores say.
    """

    def __init__(self, encoder: Encoder, start: Matrix, weights: Matrix, centres: Matrix | None, link: Link) -> None:
        self._encoder, self._start, self._weights, self._centres, self._link = encoder, start, weights, centres, link
        self._fold()

    @classmethod
    def of_json(cls, encoder: Encoder, described: Mapping[str, Any]) -> Additive:
        """Read a description: `start`, `weights`, `centres`, `link`."""
        start, weights = np.array(described["start"], dtype=float), np.array(described["weights"], dtype=float)
        centres = None if described["centres"] is None else np.array(described["centres"], dtype=float)
        return cls(encoder, start, weights, centres, described["link"])

    def _fold(self) -> None:
        """Sum the terms of each category, and write the others over the features as they come."""
        numbers: list[tuple[int, float]] = []
        self._categories: list[tuple[int, dict[Value, _Terms], _Terms]] = []
        start, weights, centres = self._start.copy(), [], []
        at = 0
        for column in self._encoder.columns:
            if isinstance(column, NumericColumn):
                numbers.append((column.feature, (column.missing - column.offset) / column.factor))
                weight = self._weights[:, at]
                if self._centres is None:
                    start += weight * column.offset
                    weights.append(weight * column.factor)
                else:
                    centres.append((self._centres[:, at] - column.offset) / column.factor)
                    weights.append(weight * column.factor**2)
            else:
                self._categories.append(self._folded(column, slice(at, at + column.width)))
            at += column.width
        self._numbers_of = _picker([feature for feature, _ in numbers])
        self._missing = [missing for _, missing in numbers]
        self._terms: list[tuple[float, list[float], list[float]]] = [
            (float(start[i]), [float(weight[i]) for weight in weights], [float(centre[i]) for centre in centres])
            for i in range(len(start))
        ]

    def _folded(self, column: CategoryColumns, place: slice) -> tuple[int, dict[Value, _Terms], _Terms]:
        def terms(values: _Terms) -> _Terms:
            x = np.array(values)
            moved = x if self._centres is None else (x - self._centres[:, place]) ** 2
            return tuple((self._weights[:, place] * moved).sum(axis=1).tolist())

        known: dict[Value, _Terms] = {category: terms(values) for category, values in column.known.items()}
        known[None] = terms(column.missing)
        return column.feature, known, terms(column.unseen)

    def answer(self, row: Sequence[Value]) -> Answer:
        """Answer one row of features, in signature order."""
        x: Sequence[Any] = self._numbers_of(row)
        if None in x or (total := sum(x)) != total:  # NaN spoils a sum
            filled = zip(x, self._missing, strict=True)
            x = [missing if value is None or value != value else value for value, missing in filled]
        if self._centres is None:
            scores = [sum(map(mul, x, weights), start) for start, weights, _ in self._terms]
        else:
            scores = [
                sum([w * (v - c) * (v - c) for v, w, c in zip(x, weights, centres, strict=True)], start)
                for start, weights, centres in self._terms
            ]
        for feature, known, unseen in self._categories:
            value = row[feature]
            terms = known.get(value if value == value else None, unseen)
            scores = list(map(add, scores, terms))
        return choose(scores, self._link)

    def answer_many(self, rows: Sequence[Sequence[Value]]) -> Answers:
        """Answer rows of shape (n, features)."""
        x = self._encoder.encode_many(rows)
        if self._centres is None:
            scores = x @ self._weights.T + self._start
        else:
            moved = x[:, np.newaxis, :] - self._centres
            scores = (self._weights * moved * moved).sum(axis=2) + self._start
        return choose_many(scores, self._link)


def _picker(features: list[int]) -> Callable[[Sequence[Value]], Sequence[Value]]:
    """Return what takes some features out of a row: without a loop, where there are several."""
    if len(features) > 1:
        return itemgetter(*features)
    return lambda row: [row[feature] for feature in features]
