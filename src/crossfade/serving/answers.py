"""The shapes of the answers: of those to rows as they are made, of the others for the API's description.

A test holds every real answer against its shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from crossfade.model import Label
from crossfade.serving.split import Variant


class Error(Struct, forbid_unknown_fields=True):
    """What every call answers when something is wrong."""

    error: str
    """A code that stays the same."""
    detail: str
    """What came, what is allowed, what to do next."""
    field: str | UnsetType = UNSET
    """The place in the body, where one is to blame."""


class RowsError(Struct, forbid_unknown_fields=True):
    """Rows that were refused; none of them is stored."""

    error: str
    detail: str
    bad_rows: int | UnsetType = UNSET
    problems: list[dict[str, Any]] | UnsetType = UNSET
    """Of the first bad rows: where, which field, what is wrong."""
    field: str | UnsetType = UNSET


class Predicted(Struct, forbid_unknown_fields=True):
    """Answer to one row."""

    request_id: str
    """Name it when the label is known (`POST /feedback`)."""
    variant: Variant
    alias: str
    model: str
    model_version: str
    experiment_id: str | None
    """None while no experiment runs."""
    prediction: Label
    probability: float | None
    """Of the prediction; None when the model gives none."""
    latency_ms: float
    ab_split_b: float
    """Share of users on B when this was assigned."""


class PredictedBatch(Struct, forbid_unknown_fields=True):
    """Answer to a batch; for `POST /feedback` its items are `{request_id}.0`, `{request_id}.1` and so on."""

    request_id: str
    variant: Variant
    alias: str
    model: str
    model_version: str
    experiment_id: str | None
    predictions: list[Label]
    probabilities: list[float | None]
    latency_ms: float
    ab_split_b: float


class Accepted(Struct, forbid_unknown_fields=True):
    """Answer to labels."""

    accepted: int


class Split(Struct, forbid_unknown_fields=True):
    """The split in force."""

    ab_split_b: float


@dataclass(frozen=True)
class Worker:
    """A worker that lives, as it was after its last look at the registry."""

    worker: int
    """Its process id."""
    prod: str | None
    """Version that it serves as arm A; None while it has no model."""
    staging: str | None
    """Version that it serves as arm B; None while it serves no experiment."""
    registry_seen_utc: str | None
    """When it last saw the registry; None before the first time."""


class Health(Struct, forbid_unknown_fields=True):
    """The worker that answered."""

    status: Literal["ok"]
    worker: int
    """Its process id."""
    prod: str | None
    """Version that it serves as arm A."""
    staging: str | None
    experiment_id: str | None
    ab_split_b: float
    registry_seen_utc: str | None
    workers: list[Worker]
    """All that live, this one among them."""
    problems: list[str]


class Ready(Struct, forbid_unknown_fields=True):
    """A model is loaded."""

    status: Literal["ready"]
    prod: str


class ArmVersion(Struct, forbid_unknown_fields=True):
    """What serves an arm."""

    alias: str
    model: str
    model_version: str
    run_id: str
    digest: str
    runtime: str


class Version(Struct, forbid_unknown_fields=True):
    """What serves whom."""

    router: str
    experiment_id: str | None
    arms: dict[str, ArmVersion]


class InferenceError(Struct, forbid_unknown_fields=True):
    """What the calls under /v2 answer when something is wrong."""

    error: str


class Server(Struct, forbid_unknown_fields=True):
    """Which server this is."""

    name: str
    version: str
    extensions: list[str]


class Live(Struct, forbid_unknown_fields=True):
    """The worker lives."""

    live: bool


class ServerReady(Struct, forbid_unknown_fields=True):
    """A model is loaded."""

    ready: bool


class ModelReady(Struct, forbid_unknown_fields=True):
    """A model serves."""

    name: str
    ready: bool


class TensorShape(Struct, forbid_unknown_fields=True):
    """A tensor that a model takes or gives."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Struct, forbid_unknown_fields=True):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    """Those that serve an arm."""
    platform: str
    inputs: list[TensorShape]
    outputs: list[TensorShape]


class OutputTensor(Struct, forbid_unknown_fields=True):
    """Answers to all rows."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class Inferred(Struct, forbid_unknown_fields=True):
    """Answer to tensors; for `POST /feedback` its rows are `{id}.0`, `{id}.1` and so on."""

    model_name: str
    model_version: str
    id: str
    parameters: dict[str, Any]
    """`variant`, `alias`, `experiment_id`, `ab_split_b`, `latency_ms`."""
    outputs: list[OutputTensor]
