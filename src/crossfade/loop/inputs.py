"""Which rows a run saw, as MLflow's dataset inputs: name, source, digest, columns and how many."""

from __future__ import annotations

import hashlib
import json
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


class _Rows(MetaDataset):
    """Rows that are described and not kept: MLflow's own dataset of a frame copies it, and hashes its head only."""

    def __init__(self, name: str, source: str, digest: str, columns: Schema, rows: int) -> None:
        # `local` is MLflow's word for whatever `mlflow.artifacts` fetches: a file, or `runs:/...`.
        found = get_dataset_source_from_json(json.dumps({"uri": source}), "local")
        super().__init__(found, name=name, digest=digest, schema=columns)
        self._columns, self._rows = columns, rows

    @property
    def profile(self) -> dict[str, int]:
        """How much there is."""
        return {"num_rows": self._rows, "num_elements": self._rows * len(self._columns.inputs)}

    def to_dict(self) -> dict[str, str]:
        """As MLflow stores it."""
        return {**super().to_dict(), "profile": json.dumps(self.profile)}


def log_rows(name: str, context: str, source: str, digest: str, columns: Schema, rows: int) -> None:
    """Log rows as an input of the open run.

    Parameters
    ----------
    name : str
        What MLflow's list of runs shows.
    context : str
        What they were used for: `training`, `validation`, `reference`, `live`.
    source : str
        Where they are: a path, or `runs:/<run>/<file>`.
    digest : str
        Of their content.
    columns : Schema
        What was used of them.
    rows : int
        How many.
    """
    mlflow.log_input(_Rows(name, source, digest[:_DIGEST], columns, rows), context)


def log_snapshot(run_id: str, context: str, schema: FeatureSchema, snapshot: pd.DataFrame) -> None:
    """Log the rows that a training run learnt, from where that run keeps them."""
    source = f"runs:/{run_id}/{SNAPSHOT_FILE}"
    log_frame_input("training snapshot", context, source, schema, snapshot)


def log_frame_input(name: str, context: str, source: str, schema: FeatureSchema, frame: pd.DataFrame) -> None:
    """Log labelled rows that are at hand."""
    log_rows(name, context, source, frame_digest(frame, schema), columns_of(schema), len(frame))


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
    return digest.hexdigest()


def digest_of_facts(**facts: Any) -> str:
    """Hash what is known of rows that were counted and not kept."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
