"""One request from body to answer: split, predict, log. No web framework here."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from itertools import accumulate

import msgspec

from crossfade.errors import CrossfadeError, InvalidInput
from crossfade.logbatch import LogBatch
from crossfade.manyrows import parse_many
from crossfade.model import Label, Predictions
from crossfade.requestlog import LogRow, RequestLog, utc_now
from crossfade.schema import FeatureSchema, Value, label_text, plain_text
from crossfade.serving.answers import Predicted, PredictedBatch
from crossfade.serving.config import SplitConfig
from crossfade.serving.deployment import Arm, Deployment
from crossfade.serving.messages import PredictBody
from crossfade.serving.reload import Reloader
from crossfade.serving.requestids import new_request_id

_log = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode


class PredictionFailed(CrossfadeError):
    """A model raised while answering; the request is logged with status 500."""

    def __init__(self, detail: str, arm: Arm) -> None:
        super().__init__(detail)
        self.arm = arm


class Answer(msgspec.Struct, frozen=True):
    """What a caller gets back."""

    request_id: str
    model: str
    arm: Arm
    experiment_id: str | None
    split_b: float
    predictions: Predictions
    batch: bool
    """Whether the caller sent a list of rows, even of one."""
    latency_ms: float

    def body(self) -> Predicted | PredictedBatch:
        """Return what is sent."""
        arm, labels, probabilities = self.arm, self.predictions.labels, self.predictions.probabilities
        who = self.request_id, arm.variant, arm.alias, self.model, arm.version, self.experiment_id
        if self.batch:
            return PredictedBatch(*who, labels, probabilities, self.latency_ms, self.split_b)
        return Predicted(*who, labels[0], probabilities[0], self.latency_ms, self.split_b)


class _Task(msgspec.Struct, frozen=True):
    """A request, checked."""

    request_id: str
    user_id: str
    rows: Sequence[Sequence[Value]]
    labels: list[str]
    batch: bool


class _Answered(msgspec.Struct, frozen=True):
    """A request with its answer."""

    task: _Task
    deployment: Deployment
    arm: Arm
    split_b: float
    predictions: Predictions | None
    """None: the model failed."""
    latency_ms: float


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
        started = time.perf_counter_ns()
        deployment, split_b = self._reloader.current, self._config.recent_split_b
        task = self._check(body, deployment.prod.loaded.model.schema)
        arm = deployment.route(task.user_id or task.request_id, split_b)
        rows = _in_order_of(arm, task.rows, deployment)
        predictions, failure = None, None
        try:
            predictions = _predict(arm, rows)
        except Exception as error:  # noqa: BLE001 - a model is foreign code, it may raise anything at all
            said = {"request_id": task.request_id}
            _log.exception("version %s failed on request %s", arm.version, task.request_id, extra=said)
            failure = error
        latency_ms = (time.perf_counter_ns() - started) // 1000 / 1000  # to round a float takes five times as long
        answered = _Answered(task, deployment, arm, split_b, predictions, latency_ms)
        if task.batch:
            self._log.append_batch(_log_batch(self._clock(), answered))
        else:
            self._log.append([_log_row(self._clock(), answered)])
        if predictions is None:
            detail = f"version {arm.version} failed on this request (id {task.request_id}); the router's log says why"
            raise PredictionFailed(detail, arm) from failure
        return _answer(answered)

    def answer_all(self, bodies: Sequence[PredictBody]) -> list[Answer]:
        """Answer many requests, each assigned and logged by itself, but ask each arm's model only once.

        A PyCaret pipeline answers ten thousand rows in the time of three: this is how a replay gets through years.

        Raises
        ------
        InvalidInput, NoModel, LogUnavailable
            As `answer`; nothing is logged. What a model raises is passed on.
        """
        deployment, split_b = self._reloader.current, self._config.recent_split_b
        tasks = [self._check(body, deployment.prod.loaded.model.schema) for body in bodies]
        arms = [deployment.route(task.user_id or task.request_id, split_b) for task in tasks]
        answered: dict[int, Predictions] = {}
        for arm in (deployment.prod, deployment.staging):
            mine = [i for i, routed in enumerate(arms) if routed is arm]
            if arm is None or not mine:
                continue
            rows = [row for i in mine for row in tasks[i].rows]
            predictions = _predict(arm, _in_order_of(arm, rows, deployment))
            ends = accumulate(len(tasks[i].rows) for i in mine)
            answered |= {i: predictions[end - len(tasks[i].rows) : end] for i, end in zip(mine, ends, strict=True)}
        done = [
            _Answered(task, deployment, arm, split_b, answered[i], 0.0)
            for i, (task, arm) in enumerate(zip(tasks, arms, strict=True))
        ]
        self._log.append([row for one in done for row in _log_rows(self._clock(), one)])
        return [_answer(one) for one in done]

    def _check(self, body: PredictBody, schema: FeatureSchema) -> _Task:
        request_id = new_request_id() if body.request_id is None else plain_text(body.request_id, "request_id")
        user_id = "" if body.user_id is None else plain_text(str(body.user_id), "user_id")
        if isinstance(body.features, dict) or not _is_batch(body.features):
            if isinstance(body.label, list):
                raise InvalidInput("label", "is a list; allowed for a single row: one label")
            return _Task(request_id, user_id, [schema.parse(body.features)], [_label(body.label, "label")], False)
        if len(body.features) > self._max_batch_rows:
            raise InvalidInput("features", f"has {len(body.features)} rows; allowed: {self._max_batch_rows} per batch")
        rows = parse_many(schema, body.features)
        return _Task(request_id, user_id, rows, _labels(body.label, len(rows)), True)


def _labels(labels: object, rows: int) -> list[str]:
    if labels is None:
        return [""] * rows
    if not isinstance(labels, list) or len(labels) != rows:
        raise InvalidInput("label", f"must be a list of {rows} labels, one per row (null where unknown)")
    return [_label(label, f"label[{i}]") for i, label in enumerate(labels)]


def _is_batch(features: list[object]) -> bool:
    """Whether these are rows, not the values of one; a row that is null says neither."""
    first = next((row for row in features if row is not None), None)
    return isinstance(first, (list, dict))


def _label(label: object, field: str) -> str:
    return "" if label is None else label_text(label, field)


def _in_order_of(arm: Arm, rows: Sequence[Sequence[Value]], deployment: Deployment) -> Sequence[Sequence[Value]]:
    """Put rows, checked against prod's signature, in the order of the arm's (the names are the same)."""
    given, wanted = deployment.prod.loaded.model.schema.names, arm.loaded.model.schema.names
    if given == wanted:
        return rows
    order = [given.index(name) for name in wanted]
    return [[row[i] for i in order] for row in rows]


def _predict(arm: Arm, rows: Sequence[Sequence[Value]]) -> Predictions:
    """Ask an arm's model, and make sure that it answered each row with a label that can be logged."""
    predictions = arm.loaded.model.predict(rows)
    if len(predictions) != len(rows):
        raise ValueError(f"{len(predictions)} answers to {len(rows)} rows")
    for unknown in set(predictions.labels) - arm.texts.keys():
        label_text(unknown, "prediction")
    return predictions


def _text_of(label: Label, arm: Arm) -> str:
    return arm.texts.get(label) or label_text(label, "prediction")


def _answer(done: _Answered) -> Answer:
    task, deployment = done.task, done.deployment
    return Answer(
        task.request_id,
        deployment.model_name,
        done.arm,
        deployment.experiment_id,
        done.split_b,
        done.predictions or Predictions([], []),
        task.batch,
        done.latency_ms,
    )


def _log_rows(now: str, done: _Answered) -> list[LogRow]:
    return _log_batch(now, done).rows() if done.task.batch else [_log_row(now, done)]


def _log_row(now: str, done: _Answered, of_batch: bool = False) -> LogRow:
    """Make the row of a single one; of a batch, what its rows share. Without predictions the model failed."""
    task, deployment, arm = done.task, done.deployment, done.arm
    single = None if of_batch else done.predictions
    return LogRow(
        ts_utc=now,
        request_id=task.request_id,
        user_id=task.user_id,
        experiment_id=deployment.experiment_id or "",
        variant=arm.variant,
        alias=arm.alias,
        model=deployment.model_name,
        model_version=arm.version,
        ab_split_b=done.split_b,
        features_json="" if of_batch else _encode(dict(zip(_names(done), task.rows[0], strict=True))).decode(),
        label="" if of_batch else task.labels[0],
        prediction=_text_of(single.labels[0], arm) if single else "",
        probability=single.probabilities[0] if single else None,
        latency_ms=done.latency_ms,
        status=200 if done.predictions else 500,
    )


def _log_batch(now: str, done: _Answered) -> LogBatch:
    """Make the rows of a batch; without predictions the model failed."""
    task, rows = done.task, len(done.task.rows)
    texts = [""] * rows
    probabilities: Sequence[float | None] = [None] * rows
    if done.predictions is not None:
        labels, probabilities = done.predictions.labels, done.predictions.probabilities
        text_of = {label: _text_of(label, done.arm) for label in set(labels)}
        texts = [text_of[label] for label in labels]
    common = _log_row(now, done, of_batch=True)
    return LogBatch(common, _names(done), task.rows, task.labels, texts, probabilities)


def _names(done: _Answered) -> tuple[str, ...]:
    return done.deployment.prod.loaded.model.schema.names
