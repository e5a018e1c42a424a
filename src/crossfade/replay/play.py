"""Play a history through the real parts, in process and in simulated time.

The rows go to the router's own predictor, which assigns, answers and logs them; at the end of every window the steps
of the DAG run in its order, on a registry, log and reports of their own that are thrown away afterwards. One window is
one simulated day: the DAG runs daily by default, and days are what AB_MAX_DAYS counts.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import mlflow

from crossfade.errors import CrossfadeError, DataError
from crossfade.featurestore import FeatureStore
from crossfade.loop import steps
from crossfade.loop.installation import Installation
from crossfade.memorylog import MemoryRequestLog
from crossfade.model import SklearnModel
from crossfade.modelcache import ModelCache
from crossfade.registry import Registry
from crossfade.replay.history import History
from crossfade.requestlog import LateLabel
from crossfade.schema import label_text
from crossfade.serving.catalog import Catalog
from crossfade.serving.config import SplitConfig
from crossfade.serving.messages import PredictBody
from crossfade.serving.predictor import Predictor
from crossfade.serving.reload import Reloader
from crossfade.settings import Settings

Kind = Literal["drift", "quality", "retrain", "rejection", "promotion", "rollback"]

_TIME_COLUMN = "crossfade replay row"
_DAY_ONE = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Event:
    """Something that happened at the end of a window."""

    window: int
    kind: Kind
    detail: str
    """One sentence with the reasons."""


@dataclass(frozen=True)
class Played:
    """What users were answered, and what the loop did."""

    answers: list[str]
    """One per row after the first model's."""
    events: tuple[Event, ...]
    cpu_seconds: float
    """Spent on training after the first model."""

    def count(self, kind: Kind) -> int:
        """Count the events of a kind."""
        return sum(event.kind == kind for event in self.events)


class _Clock:
    """Simulated time: every window is a day, its rows evenly spread over it."""

    def __init__(self) -> None:
        self._next, self._step, self._end = _DAY_ONE, timedelta(days=1), _DAY_ONE

    def open(self, window: int, rows: int) -> None:
        """Begin the day of a window."""
        self._next, self._step = _DAY_ONE + timedelta(days=window), timedelta(days=1) / max(rows, 1)
        self._end = self._next + timedelta(days=1)

    def end(self) -> str:
        """Return the end of the day, when the pipeline runs."""
        return self._end.isoformat(timespec="microseconds")

    def __call__(self) -> str:
        """Return the time of the next row."""
        now, self._next = self._next, self._next + self._step
        return now.isoformat(timespec="microseconds")


class _Router:
    """The split of the replay, for its own loop to change; the aliases are looked at after each window anyway."""

    def __init__(self, config: SplitConfig) -> None:
        self._config = config

    def split_b(self) -> float:
        """Return the share in force."""
        return self._config.split_b

    def change_split_b(self, share: float) -> None:
        """Change it."""
        self._config.split_b = share

    def reload(self) -> None:
        """Do nothing."""


class Stage:
    """An installation of its own for one replay, with the first model in production.

    Parameters
    ----------
    history : History
        What is played.
    settings : Settings
        The user's; whatever names a place is replaced.
    folder : Path
        Empty; holds everything that the replay makes.
    """

    def __init__(self, history: History, settings: Settings, folder: Path) -> None:
        self._history = history
        self._settings = _private(settings, history, folder)
        registry = Registry(self._settings.mlflow_tracking_uri, self._settings.reg_model_name)
        mlflow.create_experiment(self._settings.mlflow_experiment, f"file://{folder}/artifacts")
        log = MemoryRequestLog()
        config = SplitConfig(self._settings.router_config, settings.ab_split_b)
        self._clock = _Clock()
        self._here = Installation(
            self._settings,
            registry,
            log,
            FeatureStore(self._settings.feature_store),
            for_use=False,
            clock=self._clock.end,
            router=_Router(config),
        )
        catalog = Catalog(registry, "pipeline", ModelCache(folder / "models"))
        aliases = settings.prod_alias, settings.staging_alias
        self._reloader = Reloader(catalog, *aliases, signal=folder / ".reload", poll_seconds=3600)
        self._predictor = Predictor(self._reloader, config, log, settings.router_max_batch_rows, self._clock)
        steps.register_staging(self._here, steps.retrain(self._here, trigger="the first model"))
        self._reloader.refresh()

    @property
    def first_model(self) -> SklearnModel:
        """The model that the oldest rows gave."""
        model = self._here.registry.load(self._here.registry.get("1")).model
        assert isinstance(model, SklearnModel), "a registry gives models as they were trained, unless told otherwise"
        return model

    def play(self, tick: Callable[[], None]) -> Played:
        """Play every window; `tick` is called after each."""
        answers: list[str] = []
        events: list[Event] = []
        cpu_seconds = 0.0
        for window in range(self._history.windows):
            answers += self._serve(window)
            self._label(window - self._history.delay)
            happened, spent = self._learn(window)
            events += happened
            cpu_seconds += spent
            self._reloader.refresh()
            if problem := self._reloader.last_look.problem:
                raise CrossfadeError(f"the replay stopped at window {window}: {problem}")
            tick()
        return Played(answers, tuple(events), cpu_seconds)

    def _serve(self, window: int) -> list[str]:
        rows = self._history.rows(window)
        self._clock.open(window, len(rows))
        schema = self._history.table.schema
        bodies = [
            PredictBody(features=dict(zip(schema.names, values, strict=True)), request_id=f"row-{number}")
            for number, values in zip(rows.index, schema.rows_of(rows), strict=True)
        ]
        return [label_text(answer.predictions[0].label) for answer in self._predictor.answer_all(bodies)]

    def _label(self, window: int) -> None:
        """Let the labels of a window come in."""
        if window < 0:
            return
        labels = self._history.rows(window)[self._history.table.target]
        self._here.log.append_labels(
            [LateLabel(self._clock(), f"row-{number}", label_text(label)) for number, label in labels.items()]
        )

    def _learn(self, window: int) -> tuple[list[Event], float]:
        """Run the DAG's steps in its order; return what happened, and the CPU seconds of the training."""
        trigger, events, spent = f"window {window}", [], 0.0
        checked = steps.check_drift(self._here, trigger=trigger)
        because = "; ".join(checked["reasons"])
        if checked["rolled_back"]:
            out, back = checked["rolled_back"]
            events.append(Event(window, "rollback", f"version {out} to {back}: {because}"))
        if checked["verdict"] == "drift":
            events.append(Event(window, "drift", because))
        if checked["quality"] == "worse":
            events.append(Event(window, "quality", because))
        if checked["decision"] == "retrain":
            started = time.process_time()
            try:
                trained = steps.retrain(self._here, trigger=trigger)
            except DataError as error:  # a live DAG run would fail, and the next one try again
                events.append(Event(window, "rejection", f"not trained: {error}"))
            else:
                registered = steps.register_staging(self._here, trained)
                events.append(Event(window, "retrain", f"version {registered['version']}: {trained['algorithm']}"))
                if not trained["passed"]:
                    said = f"version {registered['version']}, by the champion gate: {'; '.join(trained['reasons'])}"
                    events.append(Event(window, "rejection", said))
            spent = time.process_time() - started
        report = steps.evaluate_and_promote(self._here, trigger=trigger)
        if report["verdict"] in ("promote", "reject"):
            kind: Kind = "promotion" if report["verdict"] == "promote" else "rejection"
            said = f"version {report['model_version_b']}, by the A/B test: {'; '.join(report['reasons'])}"
            events.append(Event(window, kind, said))
        return events, spent


def _private(settings: Settings, history: History, folder: Path) -> Settings:
    """Return the user's settings with every place replaced by one in the folder, and the oldest rows as dataset."""
    oldest = history.table.frame.iloc[: history.first].copy()
    for name in history.table.schema.of_kind("boolean"):
        oldest[name] = oldest[name].astype("boolean")
    for name in history.table.schema.of_kind("categorical"):
        oldest[name] = oldest[name].astype("category")  # as it is, and not what its oldest values look like
    oldest.assign(**{_TIME_COLUMN: range(history.first)}).to_parquet(folder / "oldest.parquet")
    return settings.model_copy(
        update={
            "crossfade_home": folder,
            "dataset": str(folder / "oldest.parquet"),
            "dataset_query": "",
            "dataset_time_column": _TIME_COLUMN,
            "dataset_id_column": "",
            "dataset_features": "",
            "dataset_categorical": "",
            "mlflow_tracking_uri": f"sqlite:///{folder}/mlflow.db",
            "feature_store": f"sqlite:///{folder}/features.db",
            "request_log": folder / "requests.csv",
            "router_config": folder / "router_config.json",
            "report_dir": folder / "reports",
            "drift_report_dir": folder / "reports" / "drift_reports",
            "ab_eval_report": folder / "reports" / "ab_reports" / "ab_eval_latest.json",
        }
    )


def play(
    history: History, settings: Settings, opened: Callable[[SklearnModel], None], tick: Callable[[], None]
) -> Played:
    """Play a history in a folder of its own; `opened` is called with the first model, `tick` after each window."""
    with tempfile.TemporaryDirectory(prefix="crossfade-replay-") as folder:
        stage = Stage(history, settings, Path(folder))
        opened(stage.first_model)
        return stage.play(tick)
