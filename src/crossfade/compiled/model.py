"""A compiled model, loaded from its files and ready to answer."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from crossfade.compiled.additive import Additive
from crossfade.compiled.encoding import Encoder, Value
from crossfade.compiled.estimator import BareEstimator
from crossfade.compiled.links import Answer, Answers
from crossfade.compiled.onnxmodel import OnnxForest, OnnxGraph, open_session
from crossfade.compiled.quadratic import Quadratic
from crossfade.compiled.trees import Forest, WalkedForest
from crossfade.errors import ModelUnusable
from crossfade.model import Label, Predictions
from crossfade.schema import Feature, FeatureSchema

if TYPE_CHECKING:
    import pandas as pd

Tier = Literal["plain", "onnx", "sklearn", "pipeline"]

FORMAT = 1
"""Of the description; a router that does not know a newer one refuses it."""

DESCRIPTION, GRAPH, LEAVES, PICKLE = "compiled.json", "model.onnx", "leaves.npy", "estimator.pkl"
"""Names of a compiled model's files; all but the first are there in some tiers only."""


class Evaluator(Protocol):
    """Turns rows of features into classes and their probabilities."""

    def answer(self, row: Sequence[Value]) -> Answer:
        """Answer one row of features, in signature order."""

    def answer_many(self, rows: Sequence[Sequence[Value]]) -> Answers:
        """Answer rows of shape (n, features)."""


class CompiledModel:
    """A model that answers as the pipeline did from which it was compiled; safe to use from several threads.

    Parameters
    ----------
    described : mapping
        The description, as `compile_model` wrote it.
    evaluator : Evaluator
        What answers.
    """

    def __init__(self, described: Mapping[str, Any], evaluator: Evaluator) -> None:
        self.tier: Tier = described["tier"]
        self.classes: tuple[Label, ...] = tuple(described["classes"])
        self.schema = FeatureSchema(tuple(Feature(**feature) for feature in described["features"]))
        self._evaluator = evaluator

    def answer(self, row: Sequence[Value]) -> tuple[Label, float | None]:
        """Answer one row, in signature order, by the label and its probability; None is missing."""
        place, share = self._evaluator.answer(row)
        return self.classes[place], share

    def predict(self, rows: Sequence[Sequence[Value]]) -> Predictions:
        """Answer rows of shape (n, features), in signature order; None is missing."""
        if len(rows) == 1:
            label, share = self.answer(rows[0])
            return Predictions([label], [share])
        if not len(rows):
            return Predictions([], [])
        places, shares = self._evaluator.answer_many(rows)
        return Predictions(list(map(self.classes.__getitem__, places)), shares)

    def predict_frame(self, frame: pd.DataFrame) -> Predictions:
        """Answer the rows of a data frame as `FeatureSchema.conform` makes it."""
        return self.predict(list(zip(*(frame[name].tolist() for name in self.schema.names), strict=True)))


def load_compiled(folder: Path, unpickle: bool = True) -> CompiledModel:
    """Load a compiled model.

    Parameters
    ----------
    folder : Path
        Holds the files of a `Compilation`.
    unpickle : bool
        Whether tier `sklearn` may be loaded: unpickling runs whatever code the file holds.

    Raises
    ------
    ModelUnusable
        A file is missing or broken, of another format, or of a tier that has no compiled form or may not be loaded.
    """
    try:
        described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if described["format"] != FORMAT:
            raise ModelUnusable(f"compiled model: format {described['format']} came, this release reads {FORMAT}")
        return CompiledModel(described, _evaluator(folder, described, unpickle))
    except ModelUnusable:
        raise
    except Exception as error:  # a broken file may raise anything: JSON, onnxruntime's and pickle's errors
        raise ModelUnusable(f"compiled model: its files cannot be loaded: {error!r}") from error


def _evaluator(folder: Path, described: Mapping[str, Any], unpickle: bool) -> Evaluator:
    tier, evaluator = described["tier"], described["evaluator"]
    if tier == "pipeline" or (tier == "sklearn" and not unpickle):
        raise ModelUnusable(f"compiled model: tier {tier} came; allowed: plain, onnx{', sklearn' if unpickle else ''}")
    encoder = Encoder.of_json(described["encoding"])
    match evaluator["kind"]:
        case "additive":
            return Additive.of_json(encoder, evaluator)
        case "quadratic":
            return Quadratic.of_json(encoder, evaluator)
        case "forest" if tier == "plain":
            return WalkedForest(encoder, Forest.of_json(evaluator))
        case "forest":
            session = open_session((folder / GRAPH).read_bytes())
            leaves = None if evaluator["is_summed"] else np.load(folder / LEAVES, allow_pickle=False)
            start = np.array(evaluator["start"], dtype=float)
            return OnnxForest(encoder, session, leaves, start, evaluator["divisor"], evaluator["link"])
        case "graph":
            return OnnxGraph(encoder, open_session((folder / GRAPH).read_bytes()), evaluator["labels"])
        case "estimator" if tier == "sklearn":  # whoever may not unpickle has not come to here
            return BareEstimator(encoder, pickle.loads((folder / PICKLE).read_bytes()))  # noqa: S301 - allowed above
    raise ModelUnusable(f"compiled model: evaluator {evaluator['kind']} of tier {tier} is unknown to this release")
