"""From a trained pipeline to the fastest form that answers exactly like it."""

from __future__ import annotations

import copy
import io
import json
import logging
import pickle
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crossfade.compiled.ensembles import forest_of
from crossfade.compiled.formulas import formula_of
from crossfade.compiled.graphs import adds_one_number, estimator_graph, forest_graph
from crossfade.compiled.hardrows import boundaries, hard_rows
from crossfade.compiled.model import DESCRIPTION, FORMAT, GRAPH, LEAVES, PICKLE, Tier, load_compiled
from crossfade.compiled.parity import Parity, compared, parity
from crossfade.compiled.tabulate import NotConvertible, Parts, take_apart
from crossfade.compiled.trees import Forest
from crossfade.errors import ModelUnusable
from crossfade.model import SklearnModel
from crossfade.schema import Value

_log = logging.getLogger(__name__)

_HARD_ROWS = 10_000

_LEARNT_ROWS = 100_000
"""Most training rows that are answered: the newest."""

_ASKED_ALONE = 50
"""Rows that tell whether a pipeline agrees with itself: it takes milliseconds for each."""

_WALKED = 64
"""Most trees that are walked in Python, if they are not too deep either: ONNX is faster with more."""

_WALKED_STEPS = 200
"""Most comparisons on the way to these trees' leaves, along their longest branches."""


@dataclass(frozen=True)
class Compilation:
    """What became of a pipeline."""

    tier: Tier
    """The first that passed; ``pipeline`` when none did."""
    refused: dict[Tier, str]
    """Why not the faster ones, a sentence each."""
    files: dict[str, bytes]
    """To be stored with the version, by name; pickled code among them in tier ``sklearn`` only."""


Draft = tuple[dict[str, Any], dict[str, bytes]]
"""How an evaluator is described, and its files."""


def compile_model(model: SklearnModel, training: pd.DataFrame, seed: int = 0) -> Compilation:
    """Compile a pipeline into the first tier that answers like it: plain, onnx, sklearn; else it stays as it is.

    Parameters
    ----------
    model : SklearnModel
        The fitted pipeline.
    training : DataFrame
        The rows that it learnt, oldest first, of any types; other columns are ignored.
    seed : int
        Of the rows that are drawn to compare the answers.
    """
    schema = model.schema
    features = schema.conform(training)
    refused: dict[Tier, str] = {}
    try:
        parts = take_apart(model.pipeline, schema, features)
        forest = forest_of(parts.estimator)
    except Exception as error:  # noqa: BLE001 - whatever it raises, the pipeline can serve as it is
        reason = str(error) if isinstance(error, NotConvertible) else f"its steps cannot be tabulated: {error!r}"
        refused = dict.fromkeys(("plain", "onnx", "sklearn"), reason)
        return Compilation("pipeline", refused, _files(model, "pipeline", refused, None, ({}, {})))
    drawn = hard_rows(schema, features, boundaries(parts.encoder, forest), _HARD_ROWS, seed)
    tried = pd.concat(
        [features.tail(_LEARNT_ROWS), drawn], ignore_index=True
    )  # PyCaret's steps join on the index: it must be unique
    with np.errstate(all="ignore"):  # among the rows are the largest numbers that may be sent
        rows, expected = schema.rows_of(tried), model.predict_frame(tried)
    for tier, drafted in _drafts(parts, forest):
        try:
            files = _files(model, tier, refused, parts, drafted())
            found = parity(_loaded(files), rows, expected)
        except (NotConvertible, ModelUnusable) as error:
            refused[tier] = str(error)
            continue
        except Exception as error:  # noqa: BLE001 - as above
            refused[tier] = f"it cannot be evaluated: {error!r}"
            continue
        if found.holds:
            _log.info("compiled into tier %s: %s", tier, found)
            return Compilation(tier, refused, files)
        refused[tier] = str(found)
    itself = _against_itself(model, rows[:_ASKED_ALONE])
    if itself.differing:  # what depends on the rows that a row stands among cannot be copied
        refused["sklearn"] += f"; of the pipeline itself, between a row alone and among others, {itself}"
    return Compilation("pipeline", refused, _files(model, "pipeline", refused, None, ({}, {})))


def _against_itself(model: SklearnModel, rows: list[list[Value]]) -> Parity:
    """Compare a pipeline's answers to rows that come one by one with those to all at once."""
    return compared([model.predict([row])[0] for row in rows], model.predict(rows))


def _drafts(parts: Parts, forest: Forest | None) -> Iterator[tuple[Tier, Callable[[], Draft]]]:
    """Yield the tiers, fastest first, each with what drafts it."""
    yield "plain", partial(_plain, parts, forest)
    yield "onnx", partial(_onnx, parts, forest)
    yield "sklearn", partial(_sklearn, parts)


def _plain(parts: Parts, forest: Forest | None) -> Draft:
    formula = formula_of(parts)
    if formula is not None:
        return formula, {}
    if forest is None:
        raise NotConvertible(f"{type(parts.estimator).__name__} is neither a formula nor trees")
    steps = _steps(forest)
    if len(forest.roots) > _WALKED or steps > _WALKED_STEPS:
        raise NotConvertible(
            f"{len(forest.roots)} trees of {steps} comparisons are faster in ONNX than in Python "
            f"(walked in Python: up to {_WALKED} trees of {_WALKED_STEPS})"
        )
    return {"kind": "forest", **forest.to_json()}, {}


def _steps(forest: Forest) -> int:
    """Sum the depths of all trees."""
    steps, level = 0, forest.roots
    trees = np.arange(len(level))
    while len(level):
        steps += len(np.unique(trees))
        level, trees = np.concatenate([forest.below[level], forest.above[level]]), np.concatenate([trees, trees])
        level, trees = level[level >= 0], trees[level >= 0]
    return steps


def _onnx(parts: Parts, forest: Forest | None) -> Draft:
    if forest is None:
        labels = np.asarray(parts.estimator.classes_).tolist()
        return {"kind": "graph", "labels": labels}, {GRAPH: estimator_graph(parts.estimator, parts.encoder.width)}
    files = {GRAPH: forest_graph(forest, parts.encoder.width)}
    is_summed = adds_one_number(forest)
    if not is_summed:
        table = io.BytesIO()
        np.save(table, forest.leaves)
        files[LEAVES] = table.getvalue()
    described = {"start": forest.start.tolist(), "divisor": forest.divisor, "link": forest.link}
    return {"kind": "forest", "is_summed": is_summed, **described}, files


def _sklearn(parts: Parts) -> Draft:
    estimator = copy.copy(parts.estimator)
    vars(estimator).pop("feature_names_in_", None)  # it would warn at every array that it has no names
    return {"kind": "estimator"}, {PICKLE: pickle.dumps(estimator, protocol=5)}


def _files(
    model: SklearnModel, tier: Tier, refused: dict[Tier, str], parts: Parts | None, draft: Draft
) -> dict[str, bytes]:
    evaluator, files = draft
    described = {
        "format": FORMAT,
        "tier": tier,
        "refused": refused,
        "classes": list(model.classes),
        "features": [vars(feature) for feature in model.schema.features],
        "encoding": parts.encoder.to_json() if parts else [],
        "evaluator": evaluator,
    }
    return {DESCRIPTION: json.dumps(described, ensure_ascii=False).encode(), **files}


def _loaded(files: dict[str, bytes]) -> Any:
    """Load what was compiled as the router will: from its files."""
    with tempfile.TemporaryDirectory(prefix="crossfade-compiled-") as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        return load_compiled(Path(folder))
