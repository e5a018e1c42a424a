"""Labelled rows from elsewhere, and what is said of them; featurestore.py keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class FeatureRow:
    """One labelled row."""

    batch_id: str
    position: int
    """Place within the batch, from 0."""
    features_json: str
    """Object of feature name to value."""
    label: str


@dataclass(frozen=True)
class Batch:
    """A batch, or all that was streamed under one batch id."""

    batch_id: str
    ts_utc: str
    """When its first row came."""
    stored: int
    rejected: int
    """Bad rows when it was streamed last; a batch of `add_batch` has none."""


@dataclass(frozen=True)
class StoreStats:
    """What the store holds of one model."""

    rows: int
    batches: int
    labels: Mapping[str, int]
    """Rows by label."""
    first_ts_utc: str | None
    """When the oldest row came; None while there is none."""
    last_ts_utc: str | None
    newest_batches: tuple[Batch, ...]
    """The ten that came last, newest first."""


@dataclass(frozen=True)
class Added:
    """What became of rows that were to be added."""

    new: int
    """Rows that were stored; those that stood there already are neither new nor refused."""
    refused: tuple[FeatureRow, ...]
    """Rows whose place another row has, or whose batch was stored whole without them."""
