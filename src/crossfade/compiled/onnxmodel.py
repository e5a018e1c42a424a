"""Tier onnx: graphs that onnxruntime runs on one thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from crossfade.compiled.encoding import Encoder, Matrix, Value
from crossfade.compiled.links import Answer, Answers, Link, answers, choose, choose_many


def open_session(graph: bytes) -> Any:
    """Open a graph on one thread: a router has a process per core, and a row is too small to be shared out."""
    import onnxruntime  # type: ignore[import-untyped]  # ships no types

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


class OnnxForest:
    """Many trees: the graph compares, in 64-bit floats, and adds up what the leaves hold.

    Leaves that hold several numbers are more than the operator knows: the graph then answers which leaves they are, and
    numpy adds them, in the order in which scikit-learn does, so that ties are broken alike.

    Parameters
    ----------
    encoder : Encoder
        Turns features into the trees' input.
    session
        Of the graph: X of shape (n, width) to sums, shape (n, scores), or numbers of leaves, shape (n, trees).
    leaves : array of shape (leaves, scores) or None
        What each leaf adds to the scores; None where the graph has added them.
    start : array of shape (scores,)
        Scores before the first tree.
    divisor : float
        What the sum is divided by.
    link : Link
        What the scores say.
    """

    def __init__(
        self, encoder: Encoder, session: Any, leaves: Matrix | None, start: Matrix, divisor: float, link: Link
    ) -> None:
        self._encoder, self._run, self._leaves = encoder, session.run, leaves
        self._start, self._divisor, self._link = start, divisor, link

    def answer(self, row: Sequence[Value]) -> Answer:
        """Answer one row of features, in signature order."""
        scores: list[float] = self._scores(np.array([self._encoder.encode(row)]))[0].tolist()
        return choose(scores, self._link)

    def answer_many(self, rows: Sequence[Sequence[Value]]) -> Answers:
        """Answer rows of shape (n, features)."""
        return choose_many(self._scores(self._encoder.encode_many(rows)), self._link)

    def _scores(self, x: Matrix) -> Matrix:
        (added,) = self._run(["Y"], {"X": x})
        if self._leaves is not None:
            added = np.add.reduce(self._leaves.take(added.astype(np.intp), axis=0), axis=1)
        scores: Matrix = (self._start + added) / self._divisor
        return scores


class OnnxGraph:
    """A whole estimator as a graph that answers the label and a probability per class.

    Parameters
    ----------
    encoder : Encoder
        Turns features into the estimator's input.
    session
        Of the graph: X of shape (n, width) to labels, shape (n,), and probabilities, shape (n, classes).
    labels : sequence of int
        The estimator's own labels, in the order of the classes.
    """

    def __init__(self, encoder: Encoder, session: Any, labels: Sequence[int]) -> None:
        self._encoder, self._run, self._labels = encoder, session.run, np.array(labels)

    def answer(self, row: Sequence[Value]) -> Answer:
        """Answer one row of features, in signature order."""
        (place,), (share,) = self._answers(np.array([self._encoder.encode(row)]))
        return place, share

    def answer_many(self, rows: Sequence[Sequence[Value]]) -> Answers:
        """Answer rows of shape (n, features)."""
        return self._answers(self._encoder.encode_many(rows))

    def _answers(self, x: Matrix) -> Answers:
        labels, shares = self._run(None, {"X": x})
        places = np.searchsorted(self._labels, np.ravel(labels))
        return answers(places, shares[np.arange(len(x)), places].astype(np.float64))
