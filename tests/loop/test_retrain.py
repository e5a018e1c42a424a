"""Sharing rows out for a retraining, and PyCaret really training."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from crossfade.data import load_table
from crossfade.errors import DataError
from crossfade.loop.automl import PyCaretTrainer
from crossfade.loop.retrain import TrainingRows, share_out, train_challenger

IRIS = load_table("iris", "target")
KNOWN = IRIS.frame.assign(request_id="")
NAMES = {0: "setosa", 1: "versicolor", 2: "virginica"}


def _labeled(labels: list[str], first: int = 0) -> pd.DataFrame:
    columns = {name: [float(first + i) for i in range(len(labels))] for name in IRIS.features}
    return pd.DataFrame({**columns, "target": labels, "request_id": [f"r{first + i}" for i in range(len(labels))]})


def _share(labeled: pd.DataFrame, known: pd.DataFrame = KNOWN, min_new: int = 100) -> TrainingRows:
    return share_out(known, labeled, "target", min_new, holdout_share=0.3, seed=1)


def test_enough_new_rows_hold_the_newest_out() -> None:
    """With enough new rows the newest of them judge, and everything before is learnt."""
    rows = _share(_labeled(["0", "1", "2", "1"] * 25))
    assert (rows.new, rows.left_out, len(rows.train), len(rows.holdout)) == (100, 0, 220, 30)
    assert rows.holdout[IRIS.features[0]].tolist() == [float(i) for i in range(70, 100)]


def test_few_new_rows_hold_a_stratified_draw_out() -> None:
    """With too few new rows a share of all is drawn, each class in proportion."""
    rows = _share(_labeled([]))
    assert (rows.new, len(rows.train), len(rows.holdout)) == (0, 105, 45)
    assert rows.holdout["target"].value_counts().tolist() == [15, 15, 15]


def test_rows_that_were_learnt_already_are_not_new() -> None:
    """Live rows that the snapshot holds already are not learnt, or counted, twice."""
    known = _share(_labeled(["0"] * 60)).snapshot
    rows = _share(_labeled(["0"] * 60 + ["1"] * 40), known)
    assert rows.new == 40
    assert not rows.snapshot["request_id"][rows.snapshot["request_id"] != ""].duplicated().any()


def test_no_row_is_in_both_halves() -> None:
    """Training and held-out rows are disjoint and together all there is."""
    for labeled in (_labeled([]), _labeled(["1"] * 200)):
        rows = _share(labeled)
        assert sorted([*rows.train.index, *rows.holdout.index]) == list(range(len(rows.snapshot)))


def test_labels_get_the_type_of_the_classes() -> None:
    """Labels, text in the log, become whole numbers where the classes are."""
    rows = _share(_labeled(["0", "1", "2"] * 40))
    assert pd.api.types.is_integer_dtype(rows.snapshot["target"])
    assert set(rows.snapshot["target"]) == {0, 1, 2}


def test_text_classes_stay_text() -> None:
    """Where the classes are text the labels stay text."""
    known = KNOWN.assign(target=KNOWN["target"].map(NAMES))
    rows = _share(_labeled(["setosa", "virginica"] * 60), known)
    assert set(rows.snapshot["target"]) == set(NAMES.values())


@pytest.mark.parametrize("label", ["setosa", "1.5", "inf", "nan", str(2**70)])
def test_labels_nobody_can_read_are_left_out(label: str) -> None:
    """A label that is no whole number, where the classes are, is left out and counted: it is not guessed at."""
    rows = _share(_labeled(["0", label, "2", label]))
    assert (rows.new, rows.left_out) == (2, 2)
    assert set(rows.snapshot["target"]) == {0, 1, 2}


def test_one_row_of_a_new_class_is_no_accident() -> None:
    """A single live row of a class never seen (a typing error) does not stop the others from being shared out."""
    try:
        rows = _share(_labeled(["0", "7"]))
    except DataError as refused:
        assert "7" in str(refused)  # noqa: PT017 - refusing it by name is as good
    else:
        assert len(rows.train) + len(rows.holdout) == len(rows.snapshot)


TRAINER = PyCaretTrainer(["lr", "dt"], folds=3, seed=1)


@pytest.mark.parametrize("text", [False, True], ids=["whole numbers", "text"])
def test_pycaret_trains_a_candidate(text: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyCaret compares the models asked for, and the best answers in the labels' own type, in the folder left clean."""
    monkeypatch.chdir(tmp_path)
    known = KNOWN.assign(target=KNOWN["target"].map(NAMES)) if text else KNOWN
    rows = _share(_labeled([]), known)
    candidate, gate = train_challenger(rows, "target", TRAINER, champion=None, max_recall_drop=0.05)
    assert set(candidate.leaderboard["id"]) == {"lr", "dt"}
    assert candidate.algorithm == candidate.leaderboard["Model"].iloc[0]
    assert candidate.leaderboard["F1"].is_monotonic_decreasing
    assert candidate.model.classes == (tuple(sorted(NAMES.values())) if text else (0, 1, 2))
    assert candidate.model.schema.names == tuple(IRIS.features)
    assert gate.passed
    assert gate.challenger.rows == 45
    assert gate.challenger.accuracy > 0.85
    answers = candidate.model.predict(rows.holdout[IRIS.features].to_numpy().tolist())
    assert all(type(answer.label) is (str if text else int) for answer in answers)
    assert all(answer.probability is not None and 1 / 3 <= answer.probability <= 1 for answer in answers)
    assert list(tmp_path.iterdir()) == []


def test_a_champion_is_judged_on_the_same_rows() -> None:
    """Champion and challenger answer the same held-out rows."""
    rows = _share(_labeled([]))
    first, _ = train_challenger(rows, "target", TRAINER, champion=None, max_recall_drop=0.05)
    _, gate = train_challenger(rows, "target", TRAINER, champion=first.model, max_recall_drop=0.05)
    assert gate.champion is not None
    assert gate.champion.rows == gate.challenger.rows == 45


def test_unknown_models_are_a_data_error() -> None:
    """A model id that PyCaret does not know is named, with those it knows."""
    rows = _share(_labeled([]))
    with pytest.raises(DataError, match=r"AUTOML_MODELS: xxx unknown; allowed: lr"):
        PyCaretTrainer(["lr", "xxx"], 3, 1).train(rows.train, rows.holdout, "target")


def test_one_class_cannot_be_learnt() -> None:
    """Rows of one class only are a DataError."""
    one = IRIS.frame[IRIS.frame["target"] == 0]
    with pytest.raises(DataError, match="holds 1 class in 30 rows"):
        TRAINER.train(one.iloc[:30], one.iloc[30:], "target")


def test_a_class_with_a_single_row_is_named() -> None:
    """A class with a single row cannot be cross-validated; it is named."""
    rows = pd.concat([IRIS.frame[IRIS.frame["target"] < 2], IRIS.frame.tail(1)])
    with pytest.raises(DataError, match=r"class 2 .* single row"):
        TRAINER.train(rows, rows.head(3), "target")


def test_a_class_that_only_the_newest_rows_hold_is_judged_or_refused() -> None:
    """A text class that turns up only among the held-out rows counts as wrong, or is a DataError that names it."""
    frame = IRIS.frame.assign(target=IRIS.frame["target"].map(NAMES))
    train, holdout = frame.iloc[:100], frame.iloc[50:]
    try:
        candidate = TRAINER.train(train, holdout, "target")
    except DataError as refused:
        assert "virginica" in str(refused)  # noqa: PT017 - refusing it by name is as good
    else:
        assert len(candidate.holdout_answers) == 100
