"""PyCaret really training: on Iris, and on a small table of every kind of column."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cloudpickle
import numpy as np
import pandas as pd
import pytest
from distributed import Client

from crossfade.data import load_dataset
from crossfade.engine import EngineName, dask_client
from crossfade.errors import DataError
from crossfade.loop.automl import Candidate, PyCaretTrainer
from crossfade.loop.holdout import SharingRule, TrainingRows, share_out
from crossfade.loop.incumbent import KnownRows
from crossfade.schema import Feature, FeatureSchema
from crossfade.settings import Settings

IRIS = load_dataset(Settings())
NAMES = {0: "setosa", 1: "versicolor", 2: "virginica"}
TRAINER = PyCaretTrainer(["lr", "dt"], folds=3, seed=1)

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Dask's workers cannot import this file

MIXED = FeatureSchema(
    (
        Feature("size", nullable=True),
        Feature("colour", "categorical", nullable=True),
        Feature("flag", "boolean", nullable=True),
        Feature("noise"),
    )
)


def _mixed(rows: int, seed: int, yes: float = 0.5, inverted: bool = False) -> pd.DataFrame:
    """Rows whose class follows from size, colour and flag, of which a tenth or so is missing."""
    rng = np.random.default_rng(seed)
    size, noise = rng.normal(size=rows), rng.normal(size=rows)
    colour, flag = rng.choice(["red", "green", "blue"], rows).astype(object), (rng.random(rows) > 0.5).astype(float)
    score = size + 1.5 * (colour == "red") - (flag == 0) + rng.normal(scale=0.3, size=rows)
    is_yes = (score > np.quantile(score, 1 - yes)) != inverted
    frame = pd.DataFrame({"size": size, "colour": colour, "flag": flag, "noise": noise})
    for name, share in (("size", 0.05), ("colour", 0.1), ("flag", 0.05)):
        frame.loc[rng.random(rows) < share, name] = np.nan
    return frame.assign(target=np.where(is_yes, "yes", "no"))


def _share(frame: pd.DataFrame, schema: FeatureSchema = MIXED, ordered: bool = False) -> TrainingRows:
    known = KnownRows(frame.assign(request_id=""), schema, ordered)
    return share_out(known, known.frame.head(0), "target", SharingRule(seed=1))


def _accuracy(rows: TrainingRows, candidate: Candidate) -> float:
    answers = [answer.label for answer in candidate.holdout_answers]
    return float(np.mean(rows.holdout["target"].to_numpy() == np.array(answers, dtype=object)))


def _has_trained() -> bool:
    """Whether this process has loaded PyCaret; asked of workers, who have no other reason to."""
    return "pycaret.classification" in sys.modules


@dataclass(frozen=True)
class Trained:
    """What was shared out, and what became of it."""

    rows: TrainingRows
    candidate: Candidate


@pytest.fixture(scope="module", params=[False, True], ids=["whole numbers", "text"])
def iris(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Iris, its classes as numbers and as names, learnt in an empty working directory that is left empty."""
    frame = IRIS.frame.assign(target=IRIS.frame["target"].map(NAMES)) if request.param else IRIS.frame
    rows, folder = _share(frame, IRIS.schema), tmp_path_factory.mktemp("cwd")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        trained = Trained(rows, TRAINER.train(rows, "target"))
    assert list(folder.iterdir()) == []
    return trained


@pytest.fixture(scope="module")
def mixed() -> Trained:
    """Ten times as many rows of one class as of the other, in columns of every kind, some values missing."""
    rows = _share(_mixed(1100, seed=3, yes=1 / 11))
    return Trained(rows, TRAINER.train(rows, "target"))


def test_the_best_of_the_models_asked_for_is_trained(iris: Trained) -> None:
    """The models asked for are compared, best first by macro F1, and the best is taken."""
    board = iris.candidate.leaderboard
    assert set(board["id"]) == {"lr", "dt"}
    assert iris.candidate.algorithm == board["Model"].iloc[0]
    assert board["F1 macro"].is_monotonic_decreasing
    assert board["F1 macro"].between(0.85, 1).all()


def test_answers_have_the_labels_own_type(iris: Trained) -> None:
    """Classes that are whole numbers are answered as int, names as str, each with a probability."""
    text = iris.rows.holdout["target"].dtype == object
    assert iris.candidate.model.classes == (tuple(sorted(NAMES.values())) if text else (0, 1, 2))
    answers = iris.candidate.model.predict(iris.rows.holdout[IRIS.features].to_numpy().tolist())
    for answer in (*answers, *iris.candidate.holdout_answers):
        assert type(answer.label) is (str if text else int)
        assert answer.probability is not None
        assert 1 / 3 <= answer.probability <= 1


def test_every_row_is_learnt_in_the_end(iris: Trained) -> None:
    """Rows without an order are all remembered, and the held-out ones are answered before they are learnt."""
    assert iris.candidate.learnt == len(iris.rows.snapshot) == 150
    assert len(iris.candidate.holdout_answers) == len(iris.rows.holdout) == 45
    assert _accuracy(iris.rows, iris.candidate) > 0.85


def test_a_table_of_every_kind_is_learnt(mixed: Trained) -> None:
    """Numbers, categories and booleans with gaps are learnt well beyond answering the frequent class only."""
    assert mixed.candidate.model.classes == ("no", "yes")
    assert mixed.candidate.model.schema == mixed.rows.schema
    assert _accuracy(mixed.rows, mixed.candidate) > 0.94
    truth = mixed.rows.holdout["target"].to_numpy() == "yes"
    said = np.array([answer.label == "yes" for answer in mixed.candidate.holdout_answers])
    assert (said & truth).sum() / truth.sum() > 0.5


def test_what_was_never_seen_is_answered(mixed: Trained) -> None:
    """An unseen category, and null in every feature that may be null, get an answer of a known class."""
    rows = [[0.1, "violet", True, 0.0], [None, None, None, 0.0], [2.0, "red", True, 1e6], [0.1, "RED", False, -1e6]]
    for answer in mixed.candidate.model.predict(rows):
        assert answer.label in ("no", "yes")
        assert answer.probability is not None
        assert 0.5 <= answer.probability <= 1


def test_an_answer_depends_on_category_and_boolean(mixed: Trained) -> None:
    """The category and the boolean take part in the answer: neither is dropped on the way into PyCaret."""
    (red,) = mixed.candidate.model.predict([[2.0, "red", True, 0.0]])
    (blue,) = mixed.candidate.model.predict([[2.0, "blue", False, 0.0]])
    assert (red.label, blue.label) == ("yes", "no")


def test_one_row_is_answered_as_among_many(mixed: Trained) -> None:
    """A row gets the same answer alone as in a batch."""
    frame = mixed.rows.holdout[list(MIXED.names)].head(30)
    many = mixed.candidate.model.predict_frame(frame)
    alone = [mixed.candidate.model.predict_frame(frame.iloc[[i]])[0] for i in range(30)]
    assert [a.label for a in alone] == [m.label for m in many]
    assert [a.probability for a in alone] == pytest.approx([m.probability for m in many])


def test_constants_and_many_categories_do_no_harm() -> None:
    """A column that never varies, and one of 500 categories, are learnt from without failing, and asked again."""
    rng, frame = np.random.default_rng(0), _mixed(600, seed=4)
    extra = {"one": 1.0, "same": "k", "many": [f"m{i}" for i in rng.integers(0, 500, 600)]}
    kinds = (Feature("one"), Feature("same", "categorical"), Feature("many", "categorical"))
    schema = FeatureSchema(MIXED.features + kinds)
    rows = _share(frame.assign(**extra)[[*schema.names, "target"]], schema)
    candidate = TRAINER.train(rows, "target")
    assert _accuracy(rows, candidate) > 0.8
    asked = [[2.0, "red", True, 0.0, 1.0, "k", "m3"], [-2.0, "red", True, 0.0, 7.0, "other", "never seen"]]
    assert [answer.label for answer in candidate.model.predict(asked)] == ["yes", "no"]


def test_an_obsolete_rule_is_forgotten() -> None:
    """Where the rule was turned round, the rows from before are left out, and the new rule is learnt."""
    turned = pd.concat([_mixed(2000, seed=1, inverted=True), _mixed(1500, seed=2)], ignore_index=True)
    rows = _share(turned, ordered=True)
    candidate = PyCaretTrainer(["lr"], folds=3, seed=1).train(rows, "target")
    assert candidate.learnt < 2000
    assert _accuracy(rows, candidate) > 0.8  # by all rows it would be about .2


def test_a_rule_that_holds_is_learnt_from_time_ordered_rows() -> None:
    """Where nothing changed, whatever memory is chosen answers the newest rows well."""
    rows = _share(_mixed(1500, seed=5), ordered=True)
    candidate = PyCaretTrainer(["lr"], folds=3, seed=1).train(rows, "target")
    assert 200 <= candidate.learnt <= len(rows.snapshot)
    assert _accuracy(rows, candidate) > 0.85
    assert len(candidate.holdout_answers) == len(rows.holdout)


def test_unknown_models_are_a_data_error() -> None:
    """A model id that PyCaret does not know is named, with those it knows."""
    with pytest.raises(DataError, match=r"AUTOML_MODELS: xxx unknown; allowed: lr"):
        PyCaretTrainer(["lr", "xxx"], 3, 1).train(_share(IRIS.frame, IRIS.schema), "target")


def _given(train: pd.DataFrame, holdout: pd.DataFrame) -> TrainingRows:
    snapshot = pd.concat([train, holdout]).assign(request_id="")
    return TrainingRows(train, holdout, False, snapshot, IRIS.schema, 0, 0)


def test_one_class_cannot_be_learnt() -> None:
    """Rows of one class only are a DataError."""
    one = IRIS.frame[IRIS.frame["target"] == 0]
    with pytest.raises(DataError, match="holds 1 class in 30 rows"):
        TRAINER.train(_given(one.iloc[:30], one.iloc[30:]), "target")


def test_a_class_with_a_single_row_is_named() -> None:
    """A class with a single row cannot be cross-validated; it is named."""
    rows = pd.concat([IRIS.frame[IRIS.frame["target"] < 2], IRIS.frame.tail(1)])
    with pytest.raises(DataError, match=r"class 2 .* single row"):
        TRAINER.train(_given(rows, rows.head(3)), "target")


def test_a_class_nobody_could_learn_is_named() -> None:
    """A class that stands only among the rows that judge is a DataError that names it."""
    frame = IRIS.frame.assign(target=IRIS.frame["target"].map(NAMES))
    with pytest.raises(DataError, match="virginica"):
        TRAINER.train(_given(frame.iloc[:80], frame.iloc[80:]), "target")


def test_the_working_directory_survives_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that fails leaves the working directory where it was."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError):
        PyCaretTrainer(["xxx"], 3, 1).train(_share(IRIS.frame, IRIS.schema), "target")
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize("known", ["yes or no", "no only"])
def test_a_class_that_came_late_is_learnt(known: str) -> None:
    """A class that only the newer rows hold does not stop rows in order of time from being compared and learnt."""
    frame = _mixed(900, seed=6)
    if known == "yes or no":
        frame.loc[500:, "target"] = frame.loc[500:, "target"].where(frame.loc[500:, "flag"] == 1, "maybe")
    else:
        frame.loc[:300, "target"] = "no"
    rows = _share(frame, ordered=True)
    candidate = PyCaretTrainer(["lr"], folds=5, seed=1).train(rows, "target")
    assert set(candidate.model.classes) == set(frame["target"])


def test_rows_are_not_forgotten_where_that_empties_a_column() -> None:
    """A column that only the older rows hold cannot be learnt from the newer ones alone: all are kept."""
    turned = pd.concat([_mixed(2000, seed=1, inverted=True), _mixed(1500, seed=2)], ignore_index=True)
    turned.loc[2000:, "noise"] = np.nan
    schema = FeatureSchema(tuple(replace(feature, nullable=True) for feature in MIXED.features))
    candidate = PyCaretTrainer(["lr"], folds=3, seed=1).train(_share(turned, schema, ordered=True), "target")
    assert candidate.learnt == 3500


@pytest.fixture(scope="module")
def cluster() -> Iterator[Client]:
    """A Dask cluster that trainings share: each of its workers imports PyCaret once."""
    with dask_client("", workers=2) as client:
        yield client


def test_dask_chooses_what_this_process_chooses(mixed: Trained, cluster: Client) -> None:
    """Compared by a Dask cluster's workers, the same algorithm wins with the same scores and gives the same answers."""
    trainer = replace(TRAINER, engine="dask", engine_address=cluster.scheduler.address)
    candidate = trainer.train(mixed.rows, "target")
    assert True in cluster.run(_has_trained).values()
    assert candidate.algorithm == mixed.candidate.algorithm
    assert candidate.holdout_answers == mixed.candidate.holdout_answers
    scores = ["id", "Accuracy", "F1 macro"]
    pd.testing.assert_frame_equal(candidate.leaderboard[scores], mixed.candidate.leaderboard[scores], atol=0.005)


@pytest.mark.parametrize("engine", ["local", "dask"])
def test_algorithms_that_fail_are_left_out(engine: EngineName, request: pytest.FixtureRequest) -> None:
    """An algorithm that cannot learn these rows is left out, here and on a cluster; that none can is a DataError."""
    few = IRIS.frame[IRIS.frame["target"] < 2].groupby("target").head(3).reset_index(drop=True)
    rows = _given(few, IRIS.frame.iloc[60:80])
    address = request.getfixturevalue("cluster").scheduler.address if engine == "dask" else ""
    candidate = PyCaretTrainer(["lr", "knn"], 2, 1, engine=engine, engine_address=address).train(rows, "target")
    assert candidate.leaderboard["id"].tolist() == ["lr"]
    with pytest.raises(DataError, match="none of knn could learn these 6 rows"):
        PyCaretTrainer(["knn"], 2, 1, engine=engine, engine_address=address).train(rows, "target")
