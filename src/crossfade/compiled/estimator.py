"""Tier sklearn: the estimator itself, on arrays, without the steps and frames before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from crossfade.compiled.encoding import Encoder, Matrix, Value
from crossfade.compiled.links import Answer, Answers, answers


class BareEstimator:
    """A scikit-learn compatible classifier.

    Parameters
    ----------
    encoder : Encoder
        Turns features into its input.
    estimator
        Has ``predict``, mostly ``predict_proba``, and its labels in ``classes_``.
    """

    def __init__(self, encoder: Encoder, estimator: Any) -> None:
        self._encoder, self._estimator = encoder, estimator
        self._place = {label: place for place, label in enumerate(np.asarray(estimator.classes_).tolist())}

    def answer(self, row: Sequence[Value]) -> Answer:
        """Answer one row of features, in signature order."""
        (place,), (share,) = self._answers(np.array([self._encoder.encode(row)]))
        return place, share

    def answer_many(self, rows: Sequence[Sequence[Value]]) -> Answers:
        """Answer rows of shape (n, features)."""
        return self._answers(self._encoder.encode_many(rows))

    def _answers(self, x: Matrix) -> Answers:
        places = np.array([self._place[label] for label in np.asarray(self._estimator.predict(x)).tolist()])
        if not hasattr(self._estimator, "predict_proba"):
            return Answers(places.tolist(), [None] * len(places))
        shares = np.asarray(self._estimator.predict_proba(x), dtype=np.float64)
        return answers(places, shares[np.arange(len(x)), places])
