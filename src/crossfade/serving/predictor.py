"""One request from body to answer: split, predict, log. No web framework here."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import msgspec

from crossfade.errors import CrossfadeError, InvalidInput
from crossfade.model import Label, Prediction
from crossfade.requestlog import LogRow, RequestLog, utc_now
from crossfade.schema import FeatureSchema, Value, label_text, plain_text
from crossfade.serving.config import SplitConfig
from crossfade.serving.deployment import Arm, Deployment
from crossfade.serving.messages import PredictBody
from crossfade.serving.reload import Reloader

_log = logging.getLogger(__name__)


class PredictionFailed(CrossfadeError):
    """A model raised while answering; the request is logged with status 500."""


@dataclass(frozen=True)
class Answer:
    """What a caller gets back."""

    request_id: str
    model: str
    arm: Arm
    experiment_id: str | None
    split_b: float
    predictions: tuple[Prediction, ...]
    batch: bool
    """Whether the caller sent a list of rows, even of one."""
    latency_ms: float

    def to_dict(self) -> dict[str, object]:
        """JSON-able body."""
        labels: list[Label] = [prediction.label for prediction in self.predictions]
        probabilities = [prediction.probability for prediction in self.predictions]
        answered = (
            {"predictions": labels, "probabilities": probabilities}
            if self.batch
            else {"prediction": labels[0], "probability": probabilities[0]}
        )
        return {
            "request_id": self.request_id,
            "variant": self.arm.variant,
            "alias": self.arm.alias,
            "model": self.model,
            "model_version": self.arm.version,
            "experiment_id": self.experiment_id,
            **answered,
            "latency_ms": self.latency_ms,
            "ab_split_b": self.split_b,
        }


@dataclass(frozen=True)
class _Task:
    """A request, checked."""

    request_id: str
    user_id: str
    rows: list[list[Value]]
    labels: list[str]
    batch: bool


class Predictor:
    """Answers requests from the current deployment and logs each before the answer leaves.

    Parameters
    ----------
    reloader : Reloader
        Holds the deployment.
    config : SplitConfig
        Holds the split.
    log : RequestLog
        Where answered rows go.
    max_batch_rows : int
        Longest batch.
    clock : callable
        Time stamp of a row; a replay has a time of its own.
    """

    def __init__(
        self,
        reloader: Reloader,
        config: SplitConfig,
        log: RequestLog,
        max_batch_rows: int,
        clock: Callable[[], str] = utc_now,
    ) -> None:
        self._reloader = reloader
        self._config = config
        self._log = log
        self._max_batch_rows = max_batch_rows
        self._clock = clock

    def answer(self, body: PredictBody) -> Answer:
        """Answer a request.

        Raises
        ------
        InvalidInput
            The body asks for something the model does not take; nothing is logged.
        NoModel
            There is no model yet; nothing is logged.
        PredictionFailed
            The model raised; the rows are logged with status 500.
        LogUnavailable
            The rows could not be logged, so no answer may leave.
        """
        started = time.perf_counter()
        deployment, split_b = self._reloader.current, self._config.split_b
        task = self._check(body, deployment.prod.loaded.model.schema)
        arm = deployment.route(task.user_id or task.request_id, split_b)
        rows = _in_order_of(arm, task.rows, deployment)
        predictions, failure = None, None
        try:
            predictions = _predict(arm, rows)
        except Exception as error:  # noqa: BLE001 - a model is foreign code, it may raise anything at all
            _log.exception("version %s failed on request %s", arm.version, task.request_id)
            failure = error
        latency_ms = round((time.perf_counter() - started) * 1000, 3)
        self._log.append(_log_rows(self._clock(), task, deployment, arm, split_b, predictions, latency_ms))
        if predictions is None:
            detail = f"version {arm.version} failed on this request (id {task.request_id}); the router's log says why"
            raise PredictionFailed(detail) from failure
        return _answer(task, deployment, arm, split_b, predictions, latency_ms)

    def answer_all(self, bodies: Sequence[PredictBody]) -> list[Answer]:
        """Answer many requests, each assigned and logged by itself, but ask each arm's model only once.

        A PyCaret pipeline answers ten thousand rows in the time of three: this is how a replay gets through years.

        Raises
        ------
        InvalidInput, NoModel, LogUnavailable
            As `answer`; nothing is logged. What a model raises is passed on.
        """
        deployment, split_b = self._reloader.current, self._config.split_b
        tasks = [self._check(body, deployment.prod.loaded.model.schema) for body in bodies]
        arms = [deployment.route(task.user_id or task.request_id, split_b) for task in tasks]
        answered: dict[int, list[Prediction]] = {}
        for arm in (deployment.prod, deployment.staging):
            mine = [i for i, routed in enumerate(arms) if routed is arm]
            if arm is None or not mine:
                continue
            rows = [row for i in mine for row in tasks[i].rows]
            predictions = iter(_predict(arm, _in_order_of(arm, rows, deployment)))
            answered |= {i: list(islice(predictions, len(tasks[i].rows))) for i in mine}
        logged = [
            row
            for i, (task, arm) in enumerate(zip(tasks, arms, strict=True))
            for row in _log_rows(self._clock(), task, deployment, arm, split_b, answered[i], latency_ms=0.0)
        ]
        self._log.append(logged)
        return [
            _answer(task, deployment, arm, split_b, answered[i], latency_ms=0.0)
            for i, (task, arm) in enumerate(zip(tasks, arms, strict=True))
        ]

    def _check(self, body: PredictBody, schema: FeatureSchema) -> _Task:
        request_id = uuid.uuid4().hex if body.request_id is None else plain_text(body.request_id, "request_id")
        user_id = "" if body.user_id is None else plain_text(str(body.user_id), "user_id")
        first = next((row for row in body.features if row is not None), None)
        batch = isinstance(body.features, list) and isinstance(first, (list, dict))
        if not batch:
            if isinstance(body.label, list):
                raise InvalidInput("label", "is a list; allowed for a single row: one label")
            return _Task(request_id, user_id, [schema.parse(body.features)], [_label(body.label, "label")], batch)
        if len(body.features) > self._max_batch_rows:
            raise InvalidInput("features", f"has {len(body.features)} rows; allowed: {self._max_batch_rows} per batch")
        labels = [None] * len(body.features) if body.label is None else body.label
        if not isinstance(labels, list) or len(labels) != len(body.features):
            raise InvalidInput(
                "label", f"must be a list of {len(body.features)} labels, one per row (null where unknown)"
            )
        rows = [schema.parse(row, f"features[{i}]") for i, row in enumerate(body.features)]
        return _Task(request_id, user_id, rows, [_label(label, f"label[{i}]") for i, label in enumerate(labels)], batch)


def _label(label: object, field: str) -> str:
    return "" if label is None else label_text(label, field)


def _in_order_of(arm: Arm, rows: list[list[Value]], deployment: Deployment) -> list[list[Value]]:
    """Put rows, checked against prod's signature, in the order of the arm's (the names are the same)."""
    given, wanted = deployment.prod.loaded.model.schema.names, arm.loaded.model.schema.names
    if given == wanted:
        return rows
    order = [given.index(name) for name in wanted]
    return [[row[i] for i in order] for row in rows]


def _predict(arm: Arm, rows: list[list[Value]]) -> list[Prediction]:
    """Ask an arm's model, and make sure that it answered each row with a label that can be logged."""
    predictions = arm.loaded.model.predict(rows)
    if len(predictions) != len(rows):
        raise ValueError(f"{len(predictions)} answers to {len(rows)} rows")
    for prediction in predictions:
        label_text(prediction.label, "prediction")
    return predictions


def _answer(
    task: _Task,
    deployment: Deployment,
    arm: Arm,
    split_b: float,
    predictions: Sequence[Prediction],
    latency_ms: float,
) -> Answer:
    experiment, model = deployment.experiment_id, deployment.model_name
    return Answer(task.request_id, model, arm, experiment, split_b, tuple(predictions), task.batch, latency_ms)


def _log_rows(
    now: str,
    task: _Task,
    deployment: Deployment,
    arm: Arm,
    split_b: float,
    predictions: Sequence[Prediction] | None,
    latency_ms: float,
) -> list[LogRow]:
    """Make one log row per item; without predictions the model failed."""
    names = deployment.prod.loaded.model.schema.names
    return [
        LogRow(
            ts_utc=now,
            request_id=f"{task.request_id}.{i}" if task.batch else task.request_id,
            user_id=task.user_id,
            experiment_id=deployment.experiment_id or "",
            variant=arm.variant,
            alias=arm.alias,
            model=deployment.model_name,
            model_version=arm.version,
            ab_split_b=split_b,
            features_json=msgspec.json.encode(dict(zip(names, row, strict=True))).decode(),
            label=label,
            prediction=label_text(predictions[i].label) if predictions else "",
            probability=predictions[i].probability if predictions else None,
            latency_ms=latency_ms,
            status=200 if predictions else 500,
        )
        for i, (row, label) in enumerate(zip(task.rows, task.labels, strict=True))
    ]
