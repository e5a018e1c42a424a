"""Rows on which a copy of a model would err, if it errs anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from crossfade.compiled.encoding import Encoder, Matrix, NumericColumn
from crossfade.compiled.tabulate import UNSEEN
from crossfade.compiled.trees import Forest
from crossfade.schema import LARGEST, Feature, FeatureSchema

_STRANGE = [UNSEEN, "nan", "None", "other", "0", " ", "é"]
"""Categories that training rows seldom hold, some of which a careless copy would take for missing."""

_TINY = [0.0, -0.0, 5e-324, -5e-324, 1e-45, -1e-38, 1.0, -1.0]


def boundaries(encoder: Encoder, forest: Forest | None) -> dict[int, Matrix]:
    """Return the values of each numeric feature at which a tree changes its mind; by the feature's place."""
    if forest is None:
        return {}
    found: dict[int, Matrix] = {}
    at = 0
    for column in encoder.columns:
        if isinstance(column, NumericColumn):
            limits = np.unique(forest.threshold[forest.feature == at])
            if len(limits):
                found[column.feature] = (limits - column.offset) / column.factor
        at += column.width
    return found


def hard_rows(
    schema: FeatureSchema, training: pd.DataFrame, limits: Mapping[int, Matrix], count: int, seed: int
) -> pd.DataFrame:
    """Draw rows to compare two models on.

    A quarter mixes the features' training values, and categories, known and unseen, with gaps where null is allowed; a
    quarter lies within and up to a training range beyond the training ranges, a few rows at the limits of what may be
    sent at all. Half stands at boundaries: a training row with one number moved to, or just beside, a boundary close to
    it, in steps of 32 and of 64 bits.

    Parameters
    ----------
    schema : FeatureSchema
        The features.
    training : DataFrame
        As `FeatureSchema.conform` makes it.
    limits : mapping
        Boundaries by the feature's place; without one its training values are taken.
    count : int
        Rows to draw.
    seed : int
        The same seed draws the same rows.
    """
    rng = np.random.default_rng(seed)
    features = training[list(schema.names)]
    near = _at_boundaries(schema, features, limits, count // 2, rng)
    mixed, beyond = count // 4, count - count // 2 - count // 4
    columns = {
        feature.name: np.concatenate(
            [_mixed(features[feature.name], feature, mixed, rng), _beyond(features[feature.name], feature, beyond, rng)]
        )
        for feature in schema.features
    }
    return pd.concat([pd.DataFrame(columns), near], ignore_index=True).astype(features.dtypes.to_dict())


def _mixed(column: pd.Series[Any], feature: Feature, count: int, rng: np.random.Generator) -> Any:
    """Draw what training held, and what it did not."""
    pool = column.dropna().unique()
    if feature.kind == "categorical":
        pool = np.array([*pool, *_STRANGE], dtype=object)
    elif not len(pool):
        pool = np.array([0.0])
    drawn = rng.choice(pool, count)
    return _with_gaps(drawn, feature, rng)


def _beyond(column: pd.Series[Any], feature: Feature, count: int, rng: np.random.Generator) -> Any:
    if feature.kind != "numeric" or column.isna().all():
        return _mixed(column, feature, count, rng)
    low, high = float(column.min()), float(column.max())
    room = min(high - low or 1.0, LARGEST)
    drawn = np.clip(rng.uniform(low / 2 - room / 2, high / 2 + room / 2, count) * 2, -LARGEST, LARGEST)
    extreme = max(1, count // 50)  # a few, for one per row suffices to drown the other features
    powers = 10 ** rng.uniform(-40, 38, extreme) * rng.choice([-1, 1], extreme)
    drawn[rng.choice(count, extreme, replace=False)] = rng.choice([*powers, *_TINY, LARGEST, -LARGEST], extreme)
    return _with_gaps(drawn, feature, rng)


def _with_gaps(drawn: Any, feature: Feature, rng: np.random.Generator) -> Any:
    if feature.nullable:
        drawn[rng.random(len(drawn)) < 0.1] = np.nan
    return drawn


def _at_boundaries(
    schema: FeatureSchema, training: pd.DataFrame, limits: Mapping[int, Matrix], count: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Move one number of each of `count` training rows to a boundary beside it."""
    numeric = [
        place
        for place, feature in enumerate(schema.features)
        if feature.kind == "numeric" and training[feature.name].notna().any()
    ]
    used = [place for place in numeric if place in limits] or numeric
    if not used:
        return training.iloc[rng.integers(0, len(training), count)]
    parts = [
        _beside(training, schema.names[place], limits.get(place), len(share), rng)
        for place, share in zip(used, np.array_split(np.arange(count), len(used)), strict=True)
    ]
    return pd.concat(parts)


def _beside(
    training: pd.DataFrame, name: str, limits: Matrix | None, count: int, rng: np.random.Generator
) -> pd.DataFrame:
    present = training[training[name].notna()].sort_values(name)
    values = present[name].to_numpy()
    chosen = rng.choice(values if limits is None else limits, count)
    # The row next to a boundary is the likeliest to come to the node that holds it.
    rows = np.clip(np.searchsorted(values, chosen) - rng.integers(0, 2, count), 0, len(values) - 1)
    single = chosen.astype(np.float32)
    kinds = [
        chosen,
        np.nextafter(chosen, np.inf),
        np.nextafter(chosen, -np.inf),
        single.astype(np.float64),
        np.nextafter(single, np.float32(np.inf)).astype(np.float64),
        np.nextafter(single, np.float32(-np.inf)).astype(np.float64),
    ]
    moved = np.choose(rng.integers(0, len(kinds), count), kinds)
    return present.iloc[rows].assign(**{name: np.clip(moved, -LARGEST, LARGEST)})
