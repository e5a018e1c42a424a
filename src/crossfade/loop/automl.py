"""Training with PyCaret: compare the candidates, keep the best, refit it on every row it is to remember.

The algorithm is chosen by cross-validation. How much it remembers is chosen on the newest rows, where rows have an
order of time: all rows, or the newest quarter of them, or a quarter of those, whatever answers the held-out rows best;
for what was true long ago may be so no more.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.metrics import f1_score

from crossfade.engine import EngineError, EngineName, dask_client
from crossfade.errors import DataError
from crossfade.loop.holdout import TrainingRows
from crossfade.model import Prediction, SklearnModel
from crossfade.schema import label_text

_log = logging.getLogger(__name__)

_MEMORY_STEP = 4
"""Each memory that is tried is so many times shorter than the one before."""

_SHORTEST_MEMORY = 200
"""Rows that a model learns at least, where there are as many."""

_BLOCKS = 10
"""Blocks that the held-out rows are cut into."""

_COMPARED_ON = 5_000
"""Most rows that the algorithms are compared on: more take longer and do not change who is best."""

_RANKED_BY = "F1 macro"
"""Column of the leaderboard; PyCaret's own F1 weighs the classes by their rows, and would let a rare one starve."""


@dataclass(frozen=True)
class Candidate:
    """A trained challenger."""

    model: SklearnModel
    """Refitted on training and held-out rows: what is registered."""
    holdout_answers: Sequence[Prediction]
    """What it answered to the held-out rows without having learnt them; shape (m,)."""
    algorithm: str
    leaderboard: pd.DataFrame
    """Every compared model, best first, with its metrics."""
    learnt: int
    """How many of the newest rows it remembers."""


class Trainer(Protocol):
    """Turns labelled rows into a candidate."""

    def train(self, rows: TrainingRows, target: str) -> Candidate:
        """Learn the rows, and answer the held-out ones without having learnt them. Raises DataError."""


@dataclass(frozen=True)
class PyCaretTrainer:
    """PyCaret's `setup`, `compare_models`, `finalize_model`; its pipeline is then refitted on what is to be learnt."""

    models: Sequence[str]
    """PyCaret's ids, for example `lr`, `rf`."""
    folds: int
    seed: int
    budget_seconds: float = 600
    """No further algorithm is tried after this time (on Dask: none by a worker that compares several at once)."""
    engine: EngineName = "local"
    """Where the algorithms are compared: on a Dask cluster with `dask`; with `spark` here, as with `local`."""
    engine_address: str = ""
    """As in :func:`crossfade.engine.open_engine`."""

    def train(self, rows: TrainingRows, target: str) -> Candidate:
        """Learn `rows.train`; answer `rows.holdout` without having learnt what is answered; then learn both."""
        _check_learnable(rows, target)
        with _quiet_pycaret():
            pipeline, leaderboard = self._choose(rows, target)

            def learn(learnt: pd.DataFrame) -> SklearnModel:
                fitted = clone(pipeline).fit(learnt[list(rows.schema.names)], learnt[target])
                return SklearnModel(fitted, rows.schema, tuple(np.unique(learnt[target]).tolist()))

            forgotten, answers = _best_memory(learn, rows, target)
            model = learn(rows.snapshot.iloc[forgotten:])
        name, learnt = str(leaderboard["Model"].iloc[0]), len(rows.snapshot) - forgotten
        _log.info("best of %d: %s, learning %d of %d rows", len(leaderboard), name, learnt, len(rows.snapshot))
        return Candidate(model, answers, name, leaderboard, learnt)

    def _choose(self, rows: TrainingRows, target: str) -> tuple[Any, pd.DataFrame]:
        """Return the best algorithm's pipeline, and the leaderboard, best first."""
        from pycaret.classification import ClassificationExperiment  # takes seconds: only when it is needed

        train = _compared(rows, target)
        experiment = ClassificationExperiment()
        experiment.setup(
            data_func=partial(train.reset_index, drop=True),  # workers set the experiment up for themselves
            test_data=rows.holdout.set_axis(range(len(train), len(train) + len(rows.holdout)), axis=0),
            target=target,
            numeric_features=rows.schema.of_kind("numeric", "boolean"),
            categorical_features=rows.schema.of_kind("categorical"),
            session_id=self.seed,
            fold=min(self.folds, int(train[target].value_counts().min())),
            fold_shuffle=True,
            n_jobs=1,
            memory=False,
            html=False,
            verbose=False,
            log_experiment=False,
            system_log=False,
        )
        known = experiment.models().index
        unknown = set(self.models) - set(known)
        if unknown:
            raise DataError(f"AUTOML_MODELS: {', '.join(sorted(unknown))} unknown; allowed: {', '.join(known)}")
        _log.info("comparing %s on %d rows", ", ".join(self.models), len(train))
        experiment.add_metric("f1_macro", _RANKED_BY, _f1_macro)
        nothing_learnt = DataError(f"none of {', '.join(self.models)} could learn these {len(train)} rows")
        with self._backend() as backend:
            try:
                best = experiment.compare_models(
                    include=list(self.models),
                    sort=_RANKED_BY,
                    budget_time=self.budget_seconds / 60,
                    verbose=False,
                    errors="ignore",
                    parallel=backend,
                )
            except KeyError as error:  # the parallel backend sorts a leaderboard without rows, so without columns
                raise nothing_learnt from error
        leaderboard = experiment.pull().reset_index(names="id")
        if not hasattr(best, "predict"):
            raise nothing_learnt
        return experiment.finalize_model(best), leaderboard

    @contextlib.contextmanager
    def _backend(self) -> Iterator[Any]:
        """Yield PyCaret's parallel backend on a Dask cluster, one algorithm at a time; None: compare them here."""
        if self.engine != "dask":
            yield None
            return
        try:
            from pycaret.parallel import FugueBackend
        except ModuleNotFoundError as error:
            raise EngineError("ENGINE=dask needs Fugue for AutoML: pip install 'crossfade[dask]'") from error
        # As the current one too: Fugue's frames are computed by whichever client that is, and here where there is none.
        with dask_client(self.engine_address, workers=2) as client, client.as_current():
            yield FugueBackend(client)


def _compared(rows: TrainingRows, target: str) -> pd.DataFrame:
    """Return the rows that the algorithms are compared on: the newest, as long as they hold every class."""
    enough = _is_like(rows.train.iloc[-_COMPARED_ON:], rows.train, target)
    return rows.train.iloc[-_COMPARED_ON:] if enough else rows.train


def _best_memory(
    learn: Callable[[pd.DataFrame], SklearnModel], rows: TrainingRows, target: str
) -> tuple[int, Sequence[Prediction]]:
    """Return how many of the oldest rows to forget, and the answers that this memory gives to the held-out rows."""
    if not rows.ordered:
        return 0, learn(rows.train).predict_frame(rows.holdout[list(rows.schema.names)])
    truth = [label_text(label) for label in rows.holdout[target].tolist()]
    tried: list[tuple[float, int, Sequence[Prediction]]] = []
    for forgotten in _memories(rows, target):
        answers = _cross_fitted(learn, _halves(rows, forgotten))
        tried.append((_f1_macro(truth, [label_text(answer.label) for answer in answers]), forgotten, answers))
    _, best, best_answers = max(tried, key=lambda memory: memory[0])  # the first, which is the longest, among equals
    return best, best_answers


def _memories(rows: TrainingRows, target: str) -> Iterator[int]:
    """Yield how many of the oldest rows to forget: none, then more and more, while every class can be learnt."""
    everything = len(rows.train) + len(rows.holdout)
    yield 0
    newest = everything // _MEMORY_STEP
    while newest >= _SHORTEST_MEMORY:
        if not all(_is_like(learnt, rows.train, target) for learnt, _ in _halves(rows, everything - newest)):
            return
        yield everything - newest
        newest //= _MEMORY_STEP


def _halves(rows: TrainingRows, forgotten: int) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Pair what is learnt with what is then answered: every second block of the held-out rows, and then the others.

    Were all of the newest rows kept from a model, it could not show that it has understood a rule that changed lately.
    Blocks, and not single rows, because neighbours in time resemble each other: who has learnt the one all but knows
    the other.
    """
    odd = np.arange(len(rows.holdout)) * _BLOCKS // len(rows.holdout) % 2 == 1
    parts = [rows.holdout[part] for part in (odd, ~odd) if part.any()]
    remembered = pd.concat([rows.train, rows.holdout]).iloc[forgotten:]
    return [(remembered[~remembered.index.isin(part.index)], part) for part in parts]


def _cross_fitted(
    learn: Callable[[pd.DataFrame], SklearnModel], halves: list[tuple[pd.DataFrame, pd.DataFrame]]
) -> Sequence[Prediction]:
    """Answer both halves of the held-out rows, each by a model that has not learnt it; in the order of the rows."""
    answers: dict[Any, Prediction] = {}
    for learnt, answered in halves:
        model = learn(learnt)
        found = model.predict_frame(answered[list(model.schema.names)])
        answers |= dict(zip(answered.index, found, strict=True))
    return [answers[row] for row in sorted(answers)]


def _f1_macro(truth: Any, answers: Any, **_options: Any) -> float:
    """Return macro F1 (PyCaret passes options of its own, which say otherwise)."""
    return float(f1_score(truth, answers, average="macro", zero_division=0))


def _is_like(part: pd.DataFrame, whole: pd.DataFrame, target: str) -> bool:
    """Tell whether a part holds two rows at least of every class of the whole, and a value wherever the whole does."""
    counts = part[target].value_counts()
    emptied = part.isna().all() & whole.notna().any()
    return len(counts) == whole[target].nunique() and bool(counts.min() > 1) and not emptied.any()


def _check_learnable(rows: TrainingRows, target: str) -> None:
    train = rows.train[target]
    unseen = sorted(map(str, set(rows.holdout[target]) - set(train)))
    if unseen:
        raise DataError(f"class {', '.join(unseen)} of column {target} is held out, but not among the rows to learn")
    counts = train.value_counts()
    if len(counts) < 2:
        raise DataError(
            f"column {target} holds {len(counts)} class in {len(train)} rows; a classifier needs two or more"
        )
    if counts.min() < 2:
        rare = ", ".join(map(str, counts[counts < 2].index))
        raise DataError(f"class {rare} of column {target} has a single row; cross-validation needs two or more")


@contextlib.contextmanager
def _quiet_pycaret() -> Iterator[None]:
    """Keep PyCaret's and its models' droppings (`logs.log`, `catboost_info`) out of the working directory.

    PyCaret collects garbage dozens of times per training, at a quarter of a second each with all its libraries loaded:
    two thirds of the time on small tables. What lives already is therefore left out of the collections.
    """
    os.environ.setdefault("PYCARET_CUSTOM_LOGGING_PATH", os.devnull)
    with (
        tempfile.TemporaryDirectory(prefix="crossfade-automl-") as folder,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(None),  # LightGBM reports on every tree that it cannot split
    ):
        import pycaret.classification  # noqa: F401 - loaded before the freeze

        gc.freeze()
        try:
            yield
        finally:
            gc.unfreeze()
