"""What a caller is told when something goes wrong: ``{"error": code, "detail": sentence}`` and an HTTP status."""

from __future__ import annotations

from typing import Any

from crossfade.errors import BatchConflict, CrossfadeError, InvalidInput, LogUnavailable, NoModel, StoreUnavailable
from crossfade.serving.context import Unauthorized
from crossfade.serving.ingestor import RowsRefused
from crossfade.serving.messages import BrokenJson, StreamCut
from crossfade.serving.predictor import PredictionFailed

_STATUS: dict[type[CrossfadeError], tuple[int, str]] = {
    BrokenJson: (400, "bad_request"),
    StreamCut: (400, "stream_cut"),
    Unauthorized: (401, "unauthorized"),
    BatchConflict: (409, "batch_conflict"),
    InvalidInput: (422, "invalid_input"),
    RowsRefused: (422, "invalid_input"),
    PredictionFailed: (500, "prediction_failed"),
    LogUnavailable: (503, "log_unavailable"),
    NoModel: (503, "no_model"),
    StoreUnavailable: (503, "store_unavailable"),
}

UNEXPECTED = (500, {"error": "internal", "detail": "the router failed on this request; its log says why"})


def describe(error: CrossfadeError) -> tuple[int, dict[str, Any]]:
    """Return the status and the body that tell of an error."""
    status, code = _STATUS.get(type(error), (500, "internal"))
    told: dict[str, Any] = {"error": code, "detail": str(error)}
    if isinstance(error, InvalidInput):
        told["field"] = error.field
    elif isinstance(error, RowsRefused):
        told |= {"bad_rows": error.bad_rows, "problems": error.problems}
    elif isinstance(error, BrokenJson):
        told["detail"] = f"the body {error}"
    return status, told
