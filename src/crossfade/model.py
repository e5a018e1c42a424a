"""A registered version, ready to answer."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, overload

import numpy as np

from crossfade.schema import FeatureSchema, Value

if TYPE_CHECKING:
    import pandas as pd

Label = int | str


class Prediction(NamedTuple):
    """Answer of a model for one row."""

    label: Label
    probability: float | None
    """Of `label`, in [0, 1]; None when the model gives no probabilities."""


@dataclass(slots=True)
class Predictions(Sequence[Prediction]):
    """Answers to n rows, in two columns: to make a pair of each takes longer than a small model does."""

    labels: list[Label]
    probabilities: list[float | None]
    """Of the labels."""

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, place: int) -> Prediction: ...
    @overload
    def __getitem__(self, place: slice) -> Predictions: ...
    def __getitem__(self, place: int | slice) -> Prediction | Predictions:
        if isinstance(place, slice):
            return Predictions(self.labels[place], self.probabilities[place])
        return Prediction(self.labels[place], self.probabilities[place])

    def __iter__(self) -> Iterator[Prediction]:
        return map(Prediction, self.labels, self.probabilities)


class Model(Protocol):
    """What the router and the evaluation need of a model."""

    @property
    def tier(self) -> str:
        """How it is evaluated: `plain`, `onnx`, `sklearn` or `pipeline`, as crossfade/compiled/ tells."""

    @property
    def schema(self) -> FeatureSchema:
        """The features it takes."""

    @property
    def classes(self) -> tuple[Label, ...]:
        """The labels that it knows."""

    def predict(self, rows: Sequence[Sequence[Value]]) -> Predictions:
        """Answer rows of shape (n, features), in signature order; None is missing."""

    def predict_frame(self, frame: pd.DataFrame) -> Predictions:
        """Answer the rows of a data frame as `FeatureSchema.conform` makes it."""


@dataclass(frozen=True)
class SklearnModel:
    """A scikit-learn compatible pipeline, PyCaret's among them."""

    pipeline: Any
    """Has ``predict`` and, mostly, ``predict_proba``, both on a data frame."""
    schema: FeatureSchema
    classes: tuple[Label, ...]
    """Labels in the order of ``predict_proba``'s columns."""
    tier: str = "pipeline"

    def predict(self, rows: Sequence[Sequence[Value]]) -> Predictions:
        """Answer rows of shape (n, features), in signature order."""
        return self.predict_frame(self.schema.frame_of(rows))

    def predict_frame(self, frame: pd.DataFrame) -> Predictions:
        """Answer rows of a frame as `FeatureSchema.conform` makes it."""
        with warnings.catch_warnings():
            # PyCaret drops feature names between its steps, and scikit-learn warns at every call that they are gone.
            warnings.filterwarnings("ignore", message="X does not have valid feature names", category=UserWarning)
            labels = np.asarray(self.pipeline.predict(frame)).tolist()
            if not hasattr(self.pipeline, "predict_proba"):
                return Predictions(labels, [None] * len(labels))
            shares = np.asarray(self.pipeline.predict_proba(frame), dtype=np.float64)
        column = {label: index for index, label in enumerate(self.classes)}
        chosen = [float(shares[i, column[label]]) for i, label in enumerate(labels)]
        return Predictions(labels, [share if math.isfinite(share) else None for share in chosen])
