"""The version in production, and what it learnt: where every check and every retraining starts."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pandas as pd

from crossfade.data import load_dataset
from crossfade.errors import ModelUnusable
from crossfade.loop.installation import Installation
from crossfade.loop.live import REQUEST_ID
from crossfade.loop.reference import ReferenceProfile
from crossfade.loop.tracking import read_metrics, read_profile, read_snapshot, share_of
from crossfade.model import Model
from crossfade.schema import FeatureSchema
from crossfade.stats.proportions import Share
from crossfade.version import Version

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reference:
    """What live traffic is compared with."""

    schema: FeatureSchema
    profile: ReferenceProfile
    snapshot: pd.DataFrame
    """The rows that were learnt: the features, the label and `request_id` ('' for rows of the dataset)."""
    baseline: Share | None
    """Right answers on the rows held out at training; None when the run does not tell."""


@dataclass(frozen=True)
class KnownRows:
    """Labelled rows that a retraining starts from."""

    frame: pd.DataFrame
    """The features, the label and `request_id` ('' for rows of the dataset)."""
    schema: FeatureSchema
    ordered: bool
    """Whether the rows stand in the order of time, oldest first."""


def reference_of(here: Installation, prod: Version) -> Reference:
    """Read what a version learnt.

    Raises
    ------
    ModelUnusable
        It was not trained by Crossfade.
    """
    schema = here.registry.schema(prod)
    snapshot = _typed(read_snapshot(prod.run_id), schema)
    return Reference(schema, read_profile(prod.run_id), snapshot, share_of(read_metrics(prod.run_id), "holdout"))


def known_rows(here: Installation, prod: Version | None) -> KnownRows:
    """Return what prod learnt; the dataset when there is no prod, or somebody else trained it."""
    if prod is not None:
        try:
            schema, snapshot = here.registry.schema(prod), read_snapshot(prod.run_id)
            return KnownRows(_typed(snapshot, schema), schema, ordered=snapshot[REQUEST_ID].ne("").any())
        except ModelUnusable as error:
            _log.warning("starting from the dataset: %s", error)
    table = load_dataset(here.settings)
    return KnownRows(table.frame.assign(**{REQUEST_ID: ""}), table.schema, table.ordered)


def champion_of(here: Installation, prod: Version | None) -> Model | None:
    """Load what a challenger has to beat; None when there is nothing, or nothing that could answer."""
    if prod is None:
        return None
    try:
        return here.registry.load(prod).model
    except ModelUnusable as error:
        _log.warning("there is no champion to beat: %s", error)
        return None


def _typed(snapshot: pd.DataFrame, schema: FeatureSchema) -> pd.DataFrame:
    features = schema.conform(snapshot)
    return snapshot.assign(**{name: features[name] for name in schema.names})
