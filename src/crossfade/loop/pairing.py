"""Paired scoring: what each version would have answered to the requests that the other one got.

A split test compares rows that one version answered with rows that the other one did. Here both answer every labelled
row, offline, from its logged features, so that only the rows on which they differ speak: far fewer labels are needed.
Answers are kept, so a look costs the rows that are new since the last one. Labels may still be corrected, so what is
kept is what a version said and never whether it was right.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from crossfade.errors import ModelUnusable
from crossfade.logreader import read_log, units
from crossfade.loop.evaluate import Experiment
from crossfade.loop.installation import Installation
from crossfade.model import Model
from crossfade.schema import label_text
from crossfade.stats.arms import design_effect
from crossfade.unpack import unpack
from crossfade.version import Version

_log = logging.getLogger(__name__)

_BATCH_ROWS = 10_000
"""Rows that a model is asked at once."""

_SURELY_BROKEN = 100
"""Rows after which a model that failed on every one is taken for broken, and nothing of it is kept."""

_SCORES = pa.schema(
    [
        ("request_id", pa.string()),
        ("ts_utc", pa.timestamp("ns", "UTC")),
        ("version", pa.string()),
        ("run_id", pa.string()),
        ("prediction", pa.string()),
    ]
)
"""Of the files: who was asked what. A request id that is sent again, with another time, is another question, and a
version of the same number from another run is another model. No prediction: it could not answer."""

_QUESTION = ["ts_utc", "version", "run_id"]


@dataclass(frozen=True)
class Pairs:
    """How both versions answer the labelled rows of an experiment."""

    rows: int
    """Labelled rows that both answered."""
    only_a: int
    """Rows that only A (prod) answered rightly."""
    only_b: int
    """Rows that only B answered rightly."""
    design_effect: float = field(default=1.0, compare=False)
    """How many times fewer independent rows these are worth, because the rows of a user resemble each other."""
    skipped: int = 0
    """The other labelled rows: a version lacks a feature or raised, or neither of the two gave the logged answer."""


def score_pairs(here: Installation, experiment: Experiment, one_per_user: bool = False) -> Pairs | None:
    """Let both versions answer the labelled rows of an experiment, as far as they have not yet.

    Parameters
    ----------
    here : Installation
        Whose log, registry and kept answers (below `report_dir`).
    experiment : Experiment
        Which rows, and which versions.
    one_per_user : bool
        Count, and score, only the first labelled row of each user.

    Returns
    -------
    Pairs or None
        None when a version cannot be loaded; the log says why.

    Raises
    ------
    LogUnavailable
        The request log cannot be read.
    RegistryUnavailable
        MLflow does not answer.
    """
    try:
        return _score(here, experiment, one_per_user)
    except ModelUnusable as error:
        _log.warning("experiment %s cannot be scored in pairs: %s", experiment.id, error)
        return None


def _score(here: Installation, experiment: Experiment, one_per_user: bool) -> Pairs:
    versions = _versions(here, experiment)
    folder = here.settings.report_dir / "scores" / experiment.id
    columns = ("user_id", "variant", "model_version", "prediction")
    labeled = read_log(here.log, columns, labeled=True, experiment_id=experiment.id).rows
    rows = labeled[~units(labeled).duplicated()] if one_per_user else labeled
    questions = _questions(rows, versions)
    answers = _recall(_kept(folder), questions)
    open_ones = questions.drop(answers.index)
    if len(open_ones):
        fresh = _ask(here, experiment, versions, without=labeled["request_id"].drop(open_ones.index).tolist())
        _keep(folder, fresh)
        answers = pd.concat([answers, _recall(fresh, open_ones)])
    return _count(rows, answers.reindex(rows.index))


def _versions(here: Installation, experiment: Experiment) -> dict[str, Version]:
    """Return the versions by variant."""
    known = {version.number: version for version in here.registry.versions()}
    numbers = {"A": experiment.version_a, "B": experiment.version_b}
    for number in numbers.values():
        if number not in known:
            raise ModelUnusable(f"version {number} is not registered any more")
    return {variant: known[number] for variant, number in numbers.items()}


def _questions(rows: pd.DataFrame, versions: Mapping[str, Version]) -> pd.DataFrame:
    """Say which version has still to be asked about each row: the one that did not answer it.

    A row that neither answered in its own arm is no question.
    """
    parts = []
    for variant, other in (("A", versions["B"]), ("B", versions["A"])):
        its_own = (rows["variant"] == variant) & (rows["model_version"] == versions[variant].number)
        mine = rows.loc[its_own & rows["prediction"].notna(), ["request_id", "ts_utc"]]
        parts.append(mine.assign(version=other.number, run_id=other.run_id))
    return pd.concat(parts)


def _ask(
    here: Installation, experiment: Experiment, versions: Mapping[str, Version], without: Collection[str]
) -> pd.DataFrame:
    """Read the labelled rows but for some requests, and let the version that did not answer them do it."""
    columns = ("variant", "model_version", "prediction", "features_json")
    rows = read_log(here.log, columns, labeled=True, without=without, experiment_id=experiment.id).rows
    questions = _questions(rows, versions)
    answers = [pd.Series(dtype=object)]
    for version in versions.values():
        texts = rows.loc[questions.index[questions["version"] == version.number], "features_json"]
        if len(texts):
            answers.append(_answers(here.registry.load(version).model, texts, version))
    return questions.assign(prediction=pd.concat(answers))


def _answers(model: Model, texts: pd.Series[Any], version: Version) -> pd.Series[Any]:
    """Let a model answer rows, given as JSON, shape (n,); those that it cannot are missing.

    Raises
    ------
    ModelUnusable
        It fails on everything: whatever is wrong, it is not the rows.
    """
    never_missing = [feature.name for feature in model.schema.features if not feature.nullable]
    found, asked, answered = [], 0, 0
    for start in range(0, len(texts), _BATCH_ROWS):
        frame = unpack(texts.iloc[start : start + _BATCH_ROWS], model.schema).frame
        whole = frame.dropna(subset=never_missing)
        answers = pd.Series(_predict(model, whole), whole.index, dtype=object).dropna()
        found.append(answers)
        asked, answered = asked + len(whole), answered + len(answers)
        if asked >= _SURELY_BROKEN and not answered:
            raise ModelUnusable(f"version {version.number} failed on each of {asked} rows")
    if answered < len(texts):
        _log.warning(
            "version %s cannot answer %d of %d rows: %d lack a feature, on %d it failed",
            version.number,
            len(texts) - answered,
            len(texts),
            len(texts) - asked,
            asked - answered,
        )
    return pd.concat(found).reindex(texts.index)


def _predict(model: Model, frame: pd.DataFrame) -> list[str | None]:
    """Ask a model; a row that it fails on has no answer, and costs no other row its own."""
    if frame.empty:
        return []
    try:
        answers: list[str | None] = [label_text(answer.label) for answer in model.predict_frame(frame)]
        if len(answers) == len(frame):
            return answers
    except Exception as error:  # noqa: BLE001 - a model is foreign code, it may raise anything at all
        _log.debug("a model failed on %d rows: %s", len(frame), error)
    if len(frame) == 1:
        return [None]
    half = len(frame) // 2
    return _predict(model, frame.iloc[:half]) + _predict(model, frame.iloc[half:])


def _count(rows: pd.DataFrame, answers: pd.Series[Any]) -> Pairs:
    """Count right answers, given what the version that did not answer a row would have; missing where it cannot."""
    both = rows[answers.notna()]
    logged, offline = both["prediction"] == both["label"], answers[both.index] == both["label"]
    in_a = both["variant"] == "A"
    a, b = logged.where(in_a, offline), offline.where(in_a, logged)
    only_a, only_b = (a & ~b).to_numpy(), (b & ~a).to_numpy()
    effect = design_effect(only_b.astype(np.int64) - only_a, units(both).to_numpy())
    return Pairs(len(both), int(only_a.sum()), int(only_b.sum()), effect, len(rows) - len(both))


def _recall(scores: pd.DataFrame, questions: pd.DataFrame) -> pd.Series[Any]:
    """Return the answers to those questions that were asked before, by the questions' index."""
    newest = scores.drop_duplicates("request_id", keep="last").set_index("request_id")
    found = newest.reindex(questions["request_id"]).set_index(questions.index)
    asked = (found[_QUESTION] == questions[_QUESTION]).all(axis=1)
    return found.loc[asked, "prediction"]


def _kept(folder: Path) -> pd.DataFrame:
    """Read the answers of earlier looks, oldest first; a file that cannot be read is deleted, its rows asked again."""
    tables = [_SCORES.empty_table()]
    for path in sorted(folder.glob("[0-9]*.parquet")):
        try:
            with parquet.ParquetFile(path) as file:
                tables.append(file.read().select(_SCORES.names).cast(_SCORES))
        except (OSError, pa.ArrowException, KeyError) as error:
            _log.warning("%s cannot be read (%s): its rows are scored again", path, error)
            path.unlink(missing_ok=True)
    scores: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    return scores


def _keep(folder: Path, scores: pd.DataFrame) -> None:
    """Add a file, whole or not at all; looks at the same time each add their own."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{uuid.uuid4().hex}"
    try:
        table = pa.Table.from_pandas(scores, _SCORES, preserve_index=False)
        parquet.write_table(table, draft, compression="zstd")
        for number in count(1):
            try:
                os.link(draft, folder / f"{number:05d}.parquet")
                return
            except FileExistsError:
                continue
    finally:
        draft.unlink(missing_ok=True)
