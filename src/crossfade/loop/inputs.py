"""Which rows a run saw, as MLflow's dataset inputs: name, source, digest, columns and how many."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import mlflow
import pandas as pd
from mlflow.data.dataset_source_registry import get_dataset_source_from_json
from mlflow.data.meta_dataset import MetaDataset
from mlflow.types import Schema

from crossfade.loop.tracking import SNAPSHOT_FILE
from crossfade.schema import FeatureSchema
from crossfade.signature import signature_of

_DIGEST = 16
"""Hexadecimal digits that are shown; MLflow keeps 36."""


@dataclass(frozen=True)
class Rows:
    """Rows that a run saw."""

    name: str
    """What MLflow's list of runs shows."""
    number: int
    digest: str
    """Of their content."""
    source: str
    """Where they are: a path, or `runs:/<run>/<file>`."""


class _Dataset(MetaDataset):
    """Rows that are described and not kept: MLflow's own dataset of a frame copies it, and hashes its head only."""

    def __init__(self, rows: Rows, columns: Schema) -> None:
        # `local` is MLflow's word for whatever `mlflow.artifacts` fetches: a file, or `runs:/...`.
        found = get_dataset_source_from_json(json.dumps({"uri": rows.source}), "local")
        super().__init__(found, name=rows.name, digest=rows.digest, schema=columns)
        self._columns, self._number = columns, rows.number

    @property
    def profile(self) -> dict[str, int]:
        """How much there is."""
        return {"num_rows": self._number, "num_elements": self._number * len(self._columns.inputs)}

    def to_dict(self) -> dict[str, str]:
        """As MLflow stores it."""
        return {**super().to_dict(), "profile": json.dumps(self.profile)}


def log_rows(context: str, rows: Rows, columns: Schema) -> Rows:
    """Log rows as an input of the open run.

    Parameters
    ----------
    context : str
        What they were used for: `training`, `validation`, `reference`, `live`.
    rows : Rows
        The rows.
    columns : Schema
        What was used of them.
    """
    mlflow.log_input(_Dataset(rows, columns), context)
    return rows


def log_snapshot(run_id: str, context: str, schema: FeatureSchema, snapshot: pd.DataFrame) -> Rows:
    """Log the rows that a training run learnt, from where that run keeps them."""
    return log_labeled("training snapshot", context, f"runs:/{run_id}/{SNAPSHOT_FILE}", schema, snapshot)


def log_labeled(name: str, context: str, source: str, schema: FeatureSchema, frame: pd.DataFrame) -> Rows:
    """Log labelled rows that are at hand."""
    return log_rows(context, Rows(name, len(frame), frame_digest(frame, schema), source), columns_of(schema))


def columns_of(schema: FeatureSchema) -> Schema:
    """Return the features as MLflow shows them."""
    columns: Schema = signature_of(schema, text_labels=True).inputs
    return columns


def frame_digest(frame: pd.DataFrame, schema: FeatureSchema) -> str:
    """Hash every row, in order; whether a whole number came as integer or as float makes no difference."""
    others = frame.drop(columns=list(schema.names)).astype(str)
    whole = pd.concat([schema.conform(frame), others], axis=1)
    digest = hashlib.sha256(json.dumps([str(name) for name in whole.columns]).encode())
    digest.update(pd.util.hash_pandas_object(whole, index=False).to_numpy().tobytes())
    return digest.hexdigest()[:_DIGEST]


def digest_of_facts(**facts: Any) -> str:
    """Hash what is known of rows that were counted and not kept."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:_DIGEST]
