"""What teams do today, on the same rows: keep the first model, or retrain it at every window."""

from __future__ import annotations

import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle
from sklearn.base import clone

from crossfade.errors import ServiceError
from crossfade.model import SklearnModel
from crossfade.replay.history import History
from crossfade.schema import label_text


@dataclass(frozen=True)
class Baseline:
    """What users would have been answered."""

    answers: list[str]
    """One per row after the first model's."""
    retrains: int
    cpu_seconds: float
    """Spent on training after the first model."""


def static(history: History, model: SklearnModel) -> Baseline:
    """Answer every row with the first model."""
    rows = history.table.frame.iloc[history.first :]
    return Baseline(_answers(model, rows[list(model.schema.names)]), 0, 0.0)


class RetrainAlways:
    """At the end of every window, refit the first model's pipeline on every labelled row so far and serve it to all.

    No drift check, no gate, no A/B test: a cron job. It runs in a process of its own, beside the replay.

    Parameters
    ----------
    history : History
        What is played.
    model : SklearnModel
        The first model.
    tick : callable
        Called after each window.
    """

    def __init__(self, history: History, model: SklearnModel, tick: Callable[[], None]) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit the locks of running threads
        self._tick = tick
        self._receiver, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(cloudpickle.dumps((history, model)), sender))
        self._process.start()
        sender.close()
        self._result: Baseline | None = None

    def follow(self, wait: bool = False) -> None:
        """Report progress made since the last call; with `wait`, until the end."""
        try:
            while self._result is None and (wait or self._receiver.poll()):
                message = self._receiver.recv()
                if isinstance(message, str):
                    raise ServiceError(f"retraining always failed: {message}")
                if isinstance(message, Baseline):
                    self._result = message
                else:
                    self._tick()
        except EOFError:
            raise ServiceError("the process that retrains always died; is there enough memory?") from None

    def result(self) -> Baseline:
        """Wait for the end."""
        self.follow(wait=True)
        self._process.join()
        assert self._result is not None, "follow waits until there is a result"
        return self._result

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self._process.terminate()
        self._process.join()


def _work(pickled: bytes, sender: Connection) -> None:
    """Play all windows in this process, which was made for it; what goes wrong is sent instead."""
    try:
        _refit_always(pickled, sender)
    except Exception as error:  # noqa: BLE001 - libraries raise anything; the parent says what it was
        sender.send(f"{type(error).__name__}: {error}")


def _refit_always(pickled: bytes, sender: Connection) -> None:
    warnings.simplefilter("ignore")
    sys.stdout = None  # LightGBM's reports would tear the progress bar
    played: tuple[History, SklearnModel] = cloudpickle.loads(pickled)
    history, model = played
    names, target = list(model.schema.names), history.table.target
    answers: list[str] = []
    cpu_seconds = 0.0
    retrains = 0
    for window in range(history.windows):
        if history.known(window) > history.known(window - 1):
            retrains += 1
            known = history.table.frame.iloc[: history.known(window)]
            started = time.process_time()
            pipeline: Any = clone(model.pipeline).fit(known[names], known[target])
            cpu_seconds += time.process_time() - started
            classes = tuple(sorted(known[target].unique().tolist()))
            model = SklearnModel(pipeline, model.schema, classes)
        answers += _answers(model, history.rows(window)[names])
        sender.send(None)
    sender.send(Baseline(answers, retrains, cpu_seconds))


def _answers(model: SklearnModel, features: Any) -> list[str]:
    return [label_text(answer.label) for answer in model.predict_frame(features)]
