"""Which labelled rows are learnt, which choose, and which judge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from crossfade.data import load_dataset
from crossfade.errors import DataError
from crossfade.loop.holdout import SharingRule, TrainingRows, share_out
from crossfade.loop.incumbent import KnownRows
from crossfade.schema import Feature, FeatureSchema
from crossfade.settings import Settings

IRIS = load_dataset(Settings())
FIRST = IRIS.features[0]
NAMES = {0: "setosa", 1: "versicolor", 2: "virginica"}


def _known(frame: pd.DataFrame = IRIS.frame, ordered: bool = False) -> KnownRows:
    """Rows of the dataset, each told from the others by its first feature."""
    frame = frame.reset_index(drop=True).assign(**{FIRST: lambda rows: -1.0 - rows.index})
    return KnownRows(frame.assign(request_id=""), IRIS.schema, ordered)


def _labeled(labels: list[str], first: int = 0) -> pd.DataFrame:
    """Live rows, labels as text, numbered in their first feature."""
    columns = {name: [float(first + i) for i in range(len(labels))] for name in IRIS.features}
    return pd.DataFrame({**columns, "target": labels, "request_id": [f"r{first + i}" for i in range(len(labels))]})


def _share(labeled: pd.DataFrame, known: KnownRows | None = None, **rule: Any) -> TrainingRows:
    return share_out(known or _known(), labeled, "target", SharingRule(**{"holdout_share": 0.3, "seed": 1, **rule}))


def _numbers(frame: pd.DataFrame | None) -> list[float]:
    assert frame is not None
    return frame[FIRST].tolist()


NOTHING = _labeled([])


def test_enough_new_rows_hold_the_newest_out() -> None:
    """With enough new rows the newest of them judge, and everything older is learnt."""
    rows = _share(_labeled(["0", "1", "2", "1"] * 25))
    assert (rows.new, rows.left_out) == (100, 0)
    assert _numbers(rows.holdout) == [float(i) for i in range(70, 100)]
    assert _numbers(rows.train) == [-1.0 - i for i in range(150)] + [float(i) for i in range(70)]


def test_exactly_enough_new_rows_are_enough() -> None:
    """One row fewer than needed is held out at random from all of them; exactly as many are the newest."""
    assert _share(_labeled(["0", "1", "2"] * 33)).ordered is False
    assert _share(_labeled(["0", "1", "2"] * 33 + ["0"])).ordered is True


def test_few_new_rows_hold_a_stratified_draw_out() -> None:
    """Without an order a share of all rows is drawn, each class in proportion."""
    rows = _share(NOTHING)
    assert (rows.new, len(rows.train), rows.ordered, len(rows.holdout)) == (0, 105, False, 45)
    assert rows.holdout["target"].value_counts().tolist() == [15, 15, 15]


def test_a_draw_is_the_seeds() -> None:
    """The same seed draws the same rows, another one others."""
    assert _numbers(_share(NOTHING).holdout) == _numbers(_share(NOTHING).holdout)
    assert _numbers(_share(NOTHING).holdout) != _numbers(_share(NOTHING, seed=2).holdout)


def test_a_dataset_with_an_order_of_time_holds_its_newest_out() -> None:
    """Before there is traffic, a dataset in order of time is judged by its own newest rows."""
    mixed = IRIS.frame.sample(frac=1, random_state=0)
    rows = _share(NOTHING, _known(mixed, ordered=True), holdout_share=0.5)
    assert _numbers(rows.holdout) == [-1.0 - i for i in range(75, 150)]
    assert _numbers(rows.train) == [-1.0 - i for i in range(75)]


def test_few_new_rows_on_an_ordered_snapshot_are_drawn() -> None:
    """A snapshot that prod has learnt, and a few new rows, leave nothing unlearnt to judge by: a draw is held out."""
    rows = _share(_labeled(["0", "1"] * 20), _known(ordered=True))
    assert (rows.new, rows.ordered, len(rows.holdout)) == (40, False, 57)


def test_only_rows_nobody_has_learnt_judge() -> None:
    """What prod has learnt already never judges, however large a share is asked for."""
    rows = _share(_labeled(["0", "1", "2", "1"] * 25), _known(ordered=True), holdout_share=0.99)
    assert min(_numbers(rows.holdout)) >= 1.0
    assert len(rows.holdout) == 99


@pytest.mark.parametrize(("limit", "held"), [(500, 300), (200, 200), (10, 10)])
def test_judges_are_limited(limit: int, held: int) -> None:
    """At most HOLDOUT_MAX_ROWS judge; all others are learnt."""
    rows = _share(_labeled(["0", "1", "2"] * 200), holdout_share=0.5, holdout_rows=limit)
    assert (len(rows.holdout), len(rows.train)) == (held, 750 - held)


def test_rows_that_were_learnt_already_are_not_new() -> None:
    """Live rows that the snapshot holds already are not learnt, or counted, twice."""
    first = _share(_labeled(["0"] * 60))
    rows = _share(_labeled(["0"] * 60 + ["1"] * 40), KnownRows(first.snapshot, IRIS.schema, ordered=True))
    assert rows.new == 40
    assert not rows.snapshot["request_id"][rows.snapshot["request_id"] != ""].duplicated().any()


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("new", [0, 50, 100, 1500])
def test_nothing_is_lost_or_in_two_places(new: int, ordered: bool) -> None:
    """Learnt and judging rows are disjoint and together all there is."""
    labels = np.random.default_rng(new).choice(["0", "1", "2", "9"], new).tolist()
    rows = _share(_labeled(labels), _known(IRIS.frame.sample(frac=1, random_state=0), ordered))
    parts = (rows.train, rows.holdout)
    assert sorted(number for part in parts for number in _numbers(part)) == sorted(_numbers(rows.snapshot))
    assert len(rows.snapshot) == 150 + new
    assert all("request_id" not in part for part in parts)


def test_the_snapshot_is_oldest_first_with_its_request_ids() -> None:
    """The snapshot holds the dataset, then live rows as they came, and says which is which."""
    rows = _share(_labeled(["0", "1", "2"] * 40))
    assert _numbers(rows.snapshot) == [-1.0 - i for i in range(150)] + [float(i) for i in range(120)]
    assert rows.snapshot["request_id"].tolist() == [""] * 150 + [f"r{i}" for i in range(120)]


def test_labels_get_the_type_of_the_classes() -> None:
    """Labels, text in the log, become whole numbers where the classes are."""
    rows = _share(_labeled(["0", "1", "2"] * 40))
    assert pd.api.types.is_integer_dtype(rows.snapshot["target"])
    assert set(rows.snapshot["target"]) == {0, 1, 2}


def test_text_classes_stay_text() -> None:
    """Where the classes are text the labels stay text."""
    known = _known(IRIS.frame.assign(target=IRIS.frame["target"].map(NAMES)))
    rows = _share(_labeled(["setosa", "virginica"] * 60), known)
    assert set(rows.snapshot["target"]) == set(NAMES.values())


@pytest.mark.parametrize("label", ["setosa", "1.5", "inf", "nan", str(2**70)])
def test_labels_nobody_can_read_are_left_out(label: str) -> None:
    """A label that is no whole number, where the classes are, is left out and counted: it is not guessed at."""
    rows = _share(_labeled(["0", label, "2", label]))
    assert (rows.new, rows.left_out) == (2, 2)
    assert set(rows.snapshot["target"]) == {0, 1, 2}


@pytest.mark.parametrize(("rows_of_it", "left_out"), [(1, 1), (9, 9), (10, 0)])
def test_a_new_class_needs_ten_rows(rows_of_it: int, left_out: int) -> None:
    """Up to nine live rows of a class never seen before are taken for mistakes; ten are a class."""
    rows = _share(_labeled(["7"] * rows_of_it + ["0", "1", "2"] * 40))
    assert (rows.left_out, rows.new) == (left_out, 120 + rows_of_it - left_out)
    assert (7 in set(rows.snapshot["target"])) == (left_out == 0)


def test_a_known_class_is_never_too_rare() -> None:
    """A single new row of a class that prod knows is learnt."""
    assert _share(_labeled(["0"] * 5 + ["2"])).left_out == 0


def test_a_new_class_is_learnt_from_the_older_half_of_its_rows() -> None:
    """A class that only the newest rows hold is moved, its older half, to where it can be learnt before it judges."""
    rows = _share(_labeled(["0", "1"] * 45 + ["7"] * 30), holdout_share=0.3)
    assert [int((part["target"] == 7).sum()) for part in (rows.train, rows.holdout)] == [15, 15]
    assert max(_numbers(rows.train[rows.train["target"] == 7])) < min(
        _numbers(rows.holdout[rows.holdout["target"] == 7])
    )


@pytest.mark.parametrize("seed", range(20))
def test_every_class_that_is_judged_can_be_learnt(seed: int) -> None:
    """Whatever order the classes come in, none is asked for that nobody could have learnt."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([str(i) for i in rng.integers(0, 8, 12)], rng.integers(1, 60, 12)).tolist()
    rows = _share(_labeled(labels), min_new=50)
    assert set(rows.holdout["target"]) <= set(rows.train["target"])


def test_null_is_allowed_where_the_snapshot_lacks_a_value() -> None:
    """Features may be null where the rows to learn have gaps, and only there."""
    known = _known()
    known.frame.loc[5, IRIS.features[1]] = np.nan
    live = _labeled(["0", "1", "2", "1"] * 25)
    live.loc[99, IRIS.features[2]] = np.nan
    rows = _share(live, KnownRows(known.frame, known.schema, ordered=False))
    assert [feature.nullable for feature in rows.schema.features] == [False, True, True, False]


def test_text_and_gaps_pass_through() -> None:
    """Categories and missing values arrive where they are learnt as they came."""
    schema = FeatureSchema((Feature("colour", "categorical", nullable=True), Feature("size")))
    frame = pd.DataFrame({"colour": ["red", np.nan] * 50, "size": range(100), "target": ["a", "b"] * 50})
    known = KnownRows(frame.assign(request_id="").astype({"colour": object}), schema, ordered=True)
    rows = share_out(known, known.frame.head(0), "target", SharingRule())
    assert rows.train["colour"].tolist() == ["red", np.nan] * 25
    assert rows.train["colour"].dtype == object


@pytest.mark.parametrize(("classes", "each"), [(12, 2), (100, 3)])
def test_many_small_classes_are_shared_out(classes: int, each: int) -> None:
    """Where the rows to draw are fewer than the classes, they are shared out all the same."""
    labels = [f"c{i}" for i in range(classes)] * each
    frame = pd.DataFrame({"a": np.arange(len(labels), dtype=float), "target": labels, "request_id": ""})
    known = KnownRows(frame, FeatureSchema.of_numbers("a"), ordered=False)
    rows = share_out(known, frame.head(0), "target", SharingRule())
    assert len(rows.train) + len(rows.holdout) == len(frame)


def test_a_single_row_is_a_data_error() -> None:
    """One labelled row cannot be shared out."""
    known = _known(IRIS.frame.head(1))
    with pytest.raises(DataError):
        _share(NOTHING, known)


@pytest.mark.parametrize("rows", [2, 3, 4])
def test_a_tiny_ordered_table_is_refused_or_judged(rows: int) -> None:
    """A few rows in order of time have somebody to judge, or are refused."""
    try:
        shared = _share(NOTHING, _known(IRIS.frame.iloc[[0, 50, 1, 51][:rows]], ordered=True), holdout_share=0.5)
    except DataError:
        return
    assert len(shared.holdout) > 0


def test_a_corrected_label_is_learnt() -> None:
    """A live row that prod learnt with a wrong label is learnt with the right one, once."""
    rows = _labeled(["0", "1", "2"] * 40)
    learnt = KnownRows(_share(rows).snapshot, IRIS.schema, ordered=True)
    again = _share(rows.assign(target=["2", *rows["target"].iloc[1:]]), learnt)
    mine = again.snapshot.set_index("request_id")["target"]
    assert (again.new, len(again.snapshot)) == (0, 150 + 120)
    assert (mine["r0"], mine["r1"]) == (2, 1)
    assert again.snapshot["target"].dtype == "int64"


def test_a_correction_of_another_kind_is_ignored() -> None:
    """A label that is no class of the table does not replace the one that is known."""
    rows = _labeled(["0", "1", "2"] * 40)
    learnt = KnownRows(_share(rows).snapshot, IRIS.schema, ordered=True)
    again = _share(rows.assign(target=["setosa", *rows["target"].iloc[1:]]), learnt)
    assert again.snapshot.set_index("request_id")["target"]["r0"] == 0
