"""What each call takes and answers, by the name of its view: the types that check the bodies, and an example each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta

from crossfade.ingested import StoreStats
from crossfade.serving import answers
from crossfade.serving.ingestor import BatchReport
from crossfade.serving.intake import StreamReport
from crossfade.serving.messages import BatchBody, ConfigBody, FeedbackBody, InferBody, LineBody, PredictBody
from crossfade.serving.monitor import MOST_ROWS, Window
from crossfade.serving.scoring import InvocationsBody

JSON = "application/json"


@dataclass(frozen=True)
class Operation:
    """One call; where there are several types, any of them may come."""

    tag: str
    answer: Any = None
    """Type of the body of a 200, or several; None: text."""
    body: Any = None
    kind: str = JSON
    """Content type of the body."""
    example: Any = None
    """A body that works on Iris; text where it is no JSON."""
    also: tuple[tuple[str, str], ...] = ()
    """Bodies of other content types, as examples."""
    query: tuple[tuple[str, Any, str], ...] = ()
    """Parameters of the query: name, type, meaning."""
    headers: tuple[tuple[str, str], ...] = ()
    failures: tuple[int, ...] = ()
    error: Any = answers.Error
    answer_kind: str = JSON


_NAMES = ("sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)")
_SETOSA, _VIRGINICA = [5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]
_TAKES_BODY = (400, 401, 413, 415, 422)

_MODEL_READY = Operation(
    "open inference protocol", answers.ModelReady, failures=(404, 503), error=answers.InferenceError
)
_METADATA = Operation(
    "open inference protocol", answers.ModelMetadata, failures=(401, 404, 503), error=answers.InferenceError
)
_LABELED = Operation(
    "labels and rows",
    BatchReport,
    BatchBody,
    example={"batch_id": "lab-1", "features": [_SETOSA, _VIRGINICA], "labels": [0, 2]},
    failures=(*_TAKES_BODY, 409, 503),
    error=answers.RowsError,
)

OPERATIONS: dict[str, Operation] = {
    "api.predict": Operation(
        "predictions",
        (answers.Predicted, answers.PredictedBatch),
        PredictBody,
        example={"user_id": "user-7", "features": dict(zip(_NAMES, _SETOSA, strict=True))},
        failures=(*_TAKES_BODY, 500, 503),
    ),
    "api.feedback": Operation(
        "labels and rows",
        answers.Accepted,
        FeedbackBody | list[FeedbackBody],
        example={"request_id": "order-1", "label": 0},
        failures=(*_TAKES_BODY, 503),
    ),
    "ingest.batch": _LABELED,
    "ingest.stream": Operation(
        "labels and rows",
        StreamReport,
        LineBody,
        kind="application/x-ndjson",
        example='{"features": [5.9, 3.0, 4.2, 1.5], "label": 1}\n{"features": [6.7, 3.0, 5.2, 2.3], "label": 2}\n',
        query=(("batch_id", str, "of the lines that name none; the header X-Batch-Id says the same"),),
        failures=(400, 401, 415, 422, 503),
        error=(answers.RowsError, StreamReport),
    ),
    "ingest.stats": Operation("labels and rows", StoreStats, failures=(401, 503)),
    "api.show_config": Operation("split", answers.Split),
    "api.change_config": Operation(
        "split", answers.Split, ConfigBody, example={"ab_split_b": 0.5}, failures=(*_TAKES_BODY, 503)
    ),
    "api.reload": Operation("split", answers.Health, failures=(401,)),
    "api.health": Operation("state", answers.Health),
    "api.ready": Operation("state", answers.Ready, failures=(503,)),
    "api.version": Operation("state", answers.Version, failures=(503,)),
    "api.monitor": Operation(
        "state",
        Window,
        query=(
            (
                "rows",
                Annotated[int, Meta(ge=1, le=MOST_ROWS)],
                "how many of the newest rows, 1 to 10000; 1000 when left out",
            ),
        ),
        failures=(401, 422, 503),
    ),
    "api.metrics": Operation("state", answer_kind="text/plain"),
    "scoring.invocations": Operation(
        "mlflow scoring protocol",
        answers.PredictedBatch,
        InvocationsBody,
        example={
            "dataframe_split": {"columns": list(_NAMES), "data": [_SETOSA, _VIRGINICA]},
            "params": {"user_id": "user-7"},
        },
        also=(("text/csv", f"{','.join(_NAMES)}\n5.1,3.5,1.4,0.2\n6.7,3.0,5.2,2.3\n"),),
        headers=(
            ("X-User-Id", "as `params.user_id`, for bodies that have none"),
            ("X-Request-Id", "as `params.request_id`"),
        ),
        failures=(400, 401, 413, 415, 500, 503),
    ),
    "scoring.ping": Operation("mlflow scoring protocol", answers.Ready, failures=(503,)),
    "inference.server": Operation("open inference protocol", answers.Server, error=answers.InferenceError),
    "inference.live": Operation("open inference protocol", answers.Live, error=answers.InferenceError),
    "inference.ready": Operation(
        "open inference protocol", answers.ServerReady, failures=(503,), error=answers.InferenceError
    ),
    "inference.model_ready": _MODEL_READY,
    "inference.metadata": _METADATA,
    "inference.infer": Operation(
        "open inference protocol",
        answers.Inferred,
        InferBody,
        example={
            "inputs": [{"name": "rows", "shape": [2, 4], "datatype": "FP64", "data": [*_SETOSA, *_VIRGINICA]}],
            "parameters": {"user_id": "user-7"},
        },
        failures=(400, 401, 404, 409, 413, 415, 500, 503),
        error=answers.InferenceError,
    ),
    "apidocs.openapi": Operation("description", dict[str, Any]),
    "apidocs.docs": Operation("description", answer_kind="text/html"),
    "apidocs.asset": Operation("description", answer_kind="*/*", failures=(404,)),
}
