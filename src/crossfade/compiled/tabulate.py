"""What a pipeline's steps make of each feature, found out by asking them.

Imputers and encoders look at one feature at a time. So each of their columns is a table over one feature's values, and
asking for every value once tells the table, whatever the steps are: PyCaret's wrappers and the encoders within them
need not be known one by one. Steps that mix features are noticed, and refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from crossfade.compiled.encoding import CategoryColumns, Columns, Encoder, Matrix, NumericColumn
from crossfade.schema import LARGEST, Feature, FeatureSchema

UNSEEN = "\u2047 never seen"
"""A category that no training row holds."""


class NotConvertible(Exception):
    """A tier is out of the question; the message is the reason."""


@dataclass(frozen=True)
class Parts:
    """A pipeline taken apart."""

    encoder: Encoder
    """What the steps before the estimator do."""
    estimator: Any
    """The fitted estimator, which takes arrays of shape (n, `encoder.width`)."""


@dataclass(frozen=True)
class _Asked:
    """Rows that vary one feature."""

    feature: int
    values: list[Any]
    rows: slice


def take_apart(pipeline: Any, schema: FeatureSchema, training: pd.DataFrame) -> Parts:
    """Separate a pipeline's estimator from its steps, and tabulate these.

    Parameters
    ----------
    pipeline
        A scikit-learn compatible pipeline, PyCaret's among them, or an estimator alone.
    schema : FeatureSchema
        Its features.
    training : DataFrame
        The rows that it learnt, as `FeatureSchema.conform` makes them: they hold every category that it knows.

    Raises
    ------
    NotConvertible
        A step looks at several features at once, or bends one.
    """
    steps = getattr(pipeline, "steps", None)
    estimator = steps[-1][1] if steps else pipeline
    # Through `predict_proba`, for this leaves out the steps that take part in training only.
    hand_on = (
        type(pipeline)([*steps[:-1], ("handed_on", _HandsOn())]).predict_proba if steps else _HandsOn().predict_proba
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            frame, asked = _questions(schema, training, steps or [], holed=True)
            answers = hand_on(frame)
        except ValueError:  # no imputer: gaps are refused
            frame, asked = _questions(schema, training, steps or [], holed=False)
            answers = hand_on(frame)
    table: Matrix = np.asarray(answers, dtype=np.float64)
    return Parts(Encoder(list(_columns(schema, asked, table))), estimator)


class _HandsOn:
    """Stands in for the estimator, and answers what it was handed."""

    def fit(self, x: Any, y: Any = None) -> _HandsOn:  # noqa: ARG002 - never called; pipelines ask that it is there
        return self

    def predict_proba(self, x: Any) -> Any:
        return x


def _questions(
    schema: FeatureSchema, training: pd.DataFrame, steps: list[tuple[str, Any]], holed: bool
) -> tuple[pd.DataFrame, list[_Asked]]:
    """Return rows that differ from the first in one feature each, in that it is missing first.

    Unless `holed`, a feature that may not be null is not missing there, but as usual.
    """
    known = _categories(steps)
    usual = [_usual(training[feature.name], feature) for feature in schema.features]
    rows: list[list[Any]] = [usual]
    asked = []
    for place, feature in enumerate(schema.features):
        gap = np.nan if holed or feature.nullable else usual[place]
        values: list[Any] = [gap, *_values(training[feature.name], feature, known.get(feature.name, []))]
        asked.append(_Asked(place, values, slice(len(rows), len(rows) + len(values))))
        rows += [[*usual[:place], value, *usual[place + 1 :]] for value in values]
    return schema.frame_of(rows), asked


def _usual(column: pd.Series[Any], feature: Feature) -> Any:
    present = column.dropna()
    if len(present):
        return present.iloc[0]
    return UNSEEN if feature.kind == "categorical" else 0.0


def _values(column: pd.Series[Any], feature: Feature, known: list[str]) -> list[Any]:
    """Return the values to ask for; of numbers enough to tell a straight line."""
    if feature.kind == "categorical":
        return [UNSEEN, *sorted({*column.dropna().unique().tolist(), *known} - {UNSEEN})]
    if feature.kind == "boolean":
        return [0.0, 1.0]
    quantiles = column.quantile([0, 0.1, 0.5, 0.9, 1]).dropna().tolist()
    return [0.0, 1.0, -1.0, *quantiles, 1 / 3, 1e6, -1e6, LARGEST / 1e3]


def _categories(steps: list[tuple[str, Any]]) -> dict[str, list[str]]:
    """Return the categories that the steps' encoders list, should the training rows lack one."""
    found: dict[str, list[str]] = {}
    for _, step in steps:
        encoder = getattr(step, "transformer", step)
        ordinal = getattr(encoder, "ordinal_encoder", encoder)
        for entry in getattr(ordinal, "category_mapping", None) or getattr(ordinal, "mapping", None) or []:
            mapped = entry.get("mapping") if isinstance(entry, dict) else None
            if mapped is not None:
                keys = mapped.keys() if hasattr(mapped, "keys") else []
                found.setdefault(entry["col"], []).extend(key for key in keys if isinstance(key, str))
    return found


def _columns(schema: FeatureSchema, asked: list[_Asked], table: Matrix) -> Iterator[Columns]:
    """Describe the columns of the table, whose first row is the usual one."""
    owners = [_owner(column, asked, place) for place, column in enumerate(table.T)]
    place = 0
    while place < len(owners):
        owner = owners[place]
        if owner is None:  # the same for every row
            constant = (float(table[0, place]),)
            yield CategoryColumns(0, {}, constant, constant)
        elif schema.features[owner.feature].kind != "categorical":
            yield _straight(owner, table[owner.rows, place], schema.features[owner.feature].name)
        else:
            end = place
            while end + 1 < len(owners) and owners[end + 1] is owner:
                end += 1
            missing, unseen, *known = map(tuple, table[owner.rows, place : end + 1].tolist())
            yield CategoryColumns(owner.feature, dict(zip(owner.values[2:], known, strict=True)), unseen, missing)
            place = end
        place += 1


def _owner(column: Matrix, asked: list[_Asked], place: int) -> _Asked | None:
    """Return the feature that a column follows."""
    changed = (column != column[0]) & ~(np.isnan(column) & np.isnan(column[0]))
    owners = [question for question in asked if changed[question.rows].any()]
    if len(owners) > 1:
        raise NotConvertible(f"column {place} of the estimator's input depends on {len(owners)} features at once")
    return owners[0] if owners else None


def _straight(asked: _Asked, column: Matrix, name: str) -> NumericColumn:
    """Describe a column that is a straight line over a feature."""
    values, missing, found = np.array(asked.values[1:]), float(column[0]), column[1:]
    if np.array_equal(values, found):
        return NumericColumn(asked.feature, missing)
    offset, factor = float(found[0]), float(found[1] - found[0])  # at 0 and at 1
    line = factor * values + offset
    if factor == 0 or not np.allclose(line, found, rtol=1e-9, atol=1e-12 * np.abs(found[:3]).max()):
        raise NotConvertible(f"feature {name} is bent, or split, before the estimator takes it")
    return NumericColumn(asked.feature, missing, factor, offset)
