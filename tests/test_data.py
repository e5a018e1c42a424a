"""Tables: the dataset as the settings name it, files of rows, and traffic drawn from them."""

from __future__ import annotations

import gzip
import logging
import os
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crossfade.data import Table, draw_traffic, load_dataset, read_table
from crossfade.errors import DataError, SettingsError
from crossfade.schema import Feature, FeatureSchema, Kind
from crossfade.settings import Settings, load_settings

IRIS = load_dataset(Settings())
ROWS = 200
LABELS = ["yes", "no"] * (ROWS // 2)
AB = FeatureSchema.of_numbers("b", "a")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of whoever runs the tests says nothing."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def _load(path: Path, target: str = "y", **given: Any) -> Table:
    return load_dataset(load_settings(crossfade_home=path.parent, dataset=str(path), target=target, **given))


def _csv(folder: Path, **columns: object) -> Path:
    """Write columns of 200 rows, and the label `y` where none is given."""
    path = folder / "table.csv"
    pd.DataFrame({**columns, "y": columns.get("y", LABELS)}).to_csv(path, index=False)
    return path


def _parquet(folder: Path, **columns: object) -> Path:
    path = folder / "table.parquet"
    pd.DataFrame({**columns, "y": columns.get("y", LABELS)}).to_parquet(path)
    return path


def _only(table: Table) -> tuple[Feature, list[object]]:
    """Return the one feature of a table, and its values."""
    (feature,) = table.schema.features
    return feature, table.frame[feature.name].tolist()


@pytest.mark.parametrize(
    ("name", "rows", "features"), [("iris", 150, 4), ("wine", 178, 13), ("breast_cancer", 569, 30)]
)
def test_bundled_tables_load(name: str, rows: int, features: int) -> None:
    """Every bundled DATASET loads, with float features that are never missing, and the label as whole numbers."""
    table = load_dataset(load_settings(dataset=name))
    assert table.frame.shape == (rows, features + 1)
    assert len(table.features) == features
    assert set(table.frame[table.features].dtypes) == {np.dtype("float64")}
    assert table.frame["target"].dtype == np.dtype("int64")
    assert set(table.schema.features) == {Feature(name) for name in table.features}
    assert not table.ordered


MIXED = pd.DataFrame(
    {
        "size": [1.5, 2.5, None, 4.5] * 5,
        "colour": ["red", "green", "red", None] * 5,
        "flag": [True, False, True, True] * 5,
        "answer": ["yes", "no"] * 10,
    }
)


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet", "sql"])
def test_every_source_gives_the_same_table(ending: str, tmp_path: Path) -> None:
    """CSV, CSV.gz, Parquet and a query give one and the same table."""
    given: dict[str, Any] = {"target": "answer", "dataset": f"table.{ending}", "crossfade_home": tmp_path}
    if ending == "parquet":
        MIXED.to_parquet(tmp_path / "table.parquet")
    elif ending == "sql":
        with sqlite3.connect(tmp_path / "rows.db") as connection:
            MIXED.assign(flag=MIXED["flag"].map(str)).to_sql("t", connection, index=False)
        given |= {"dataset": f"sqlite:///{tmp_path}/rows.db", "dataset_query": "select * from t"}
    else:
        MIXED.to_csv(tmp_path / f"table.{ending}", index=False)
    table = load_dataset(load_settings(**given))
    size, colour = Feature("size", nullable=True), Feature("colour", "categorical", nullable=True)
    if ending == "sql":  # SQLite knows no booleans: here they are text
        assert table.schema.features == (size, colour, Feature("flag", "categorical"))
        return
    assert table.schema.features == (size, colour, Feature("flag", "boolean"))
    expected = MIXED.astype({"flag": float}).assign(
        colour=MIXED["colour"].astype(object).where(MIXED["colour"].notna(), np.nan)
    )
    pd.testing.assert_frame_equal(table.frame, expected)


def test_a_query_chooses_the_rows(tmp_path: Path) -> None:
    """DATASET_QUERY says which rows and columns."""
    with sqlite3.connect(tmp_path / "rows.db") as connection:
        pd.DataFrame({"a": range(10), "b": range(10), "y": [0, 1] * 5}).to_sql("t", connection, index=False)
    query = "select a, y from t where b >= 4 and y in (0, 1)"
    given = {"dataset": f"sqlite:///{tmp_path}/rows.db", "dataset_query": query, "target": "y"}
    table = load_dataset(load_settings(**given))
    assert table.frame["a"].tolist() == [4.0, 5.0, 6.0, 7.0, 8.0, 9.0]


def test_a_relative_path_starts_at_home(tmp_path: Path) -> None:
    """A relative DATASET lies below CROSSFADE_HOME, wherever the program was started."""
    (tmp_path / "data").mkdir()
    _csv(tmp_path / "data", a=range(ROWS))
    settings = load_settings(crossfade_home=tmp_path, dataset="data/table.csv", target="y")
    assert len(load_dataset(settings).frame) == ROWS


def test_a_wrong_target_is_refused() -> None:
    """A TARGET that is no column is refused, with the columns there are."""
    with pytest.raises(DataError, match=r"TARGET='species' is no column of iris.*target"):
        load_dataset(load_settings(target="species"))


def test_a_wide_table_lists_fifty_columns(tmp_path: Path) -> None:
    """The message about a wrong TARGET does not list a thousand columns."""
    path = _csv(tmp_path, **{f"c{i}": range(ROWS) for i in range(1000)})
    with pytest.raises(DataError, match=r"c49 \.\.\.$"):
        _load(path, target="species")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        pytest.param("t.csv", b"", "is empty; give it a header and rows", id="0 bytes"),
        pytest.param("t.csv.gz", b"", "is empty", id="0 bytes, gz"),
        pytest.param("t.csv", b"\n\n\n", "is empty", id="blank lines"),
        pytest.param("t.csv", b"a,y\n", "holds no labelled rows; give it rows with a value in TARGET='y'", id="header"),
        pytest.param("t.csv", b"a,y\n1,\n2,\n", "holds no labelled rows", id="no label"),
        pytest.param("t.csv.gz", b"\x89PNG\r\n\x1a\n" + os.urandom(99), "cannot be read as a CSV or Parquet", id="PNG"),
        pytest.param(
            "t.csv", b"\x89PNG\r\n\x1a\n" + os.urandom(99), "cannot be read as a CSV or Parquet", id="PNG csv"
        ),
        pytest.param("t.parquet", b"a,y\n1,2\n", "cannot be read as a CSV or Parquet", id="CSV named Parquet"),
        pytest.param(
            "t.csv.gz",
            gzip.compress(b"a,y\n" + b"".join(b"%d,x\n" % (i * i) for i in range(5000)))[:-2000],
            "cannot be read as a CSV or Parquet table: Compressed file ended",
            id="cut gz",
        ),
    ],
)
def test_a_file_that_is_no_table_is_refused(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    """A file that holds no table, or no rows, is a DataError that names the file and what is wrong."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as refused:
        _load(tmp_path / name)
    assert str(tmp_path / name) in str(refused.value)
    assert said in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A file that is not there is named, with what is allowed."""
    with pytest.raises(DataError, match=r"gone\.csv does not exist; give a CSV, CSV\.gz or Parquet file"):
        _load(tmp_path / "gone.csv")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([i / 3 for i in range(ROWS)], "TARGET='y' holds a value that is no class"),
        (range(ROWS), "has 200 different values; a classifier takes at most 100 classes. Is it the right column?"),
        (["yes", "x" * 257] * 100, "holds a value that is no class"),
    ],
    ids=["fractions", "too many", "too long"],
)
def test_labels_that_are_no_classes_are_refused(labels: object, said: str, tmp_path: Path) -> None:
    """A target of fractions, of more than 100 values, or of long texts is refused, naming it."""
    with pytest.raises(DataError) as refused:
        _load(_csv(tmp_path, a=range(ROWS), y=labels))
    assert said in str(refused.value)


def test_a_hundred_classes_are_enough(tmp_path: Path) -> None:
    """Exactly 100 classes are classes."""
    table = _load(_csv(tmp_path, a=range(ROWS), y=[i % 100 for i in range(ROWS)]))
    assert table.frame["y"].nunique() == 100


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    """Two columns of one name are refused by name."""
    query = "select 1 as a, 2 as a, 3 as b, 'x' as y"
    settings = load_settings(dataset=f"sqlite:///{tmp_path}/rows.db", dataset_query=query, target="y")
    with pytest.raises(DataError, match="has two columns named a; rename one"):
        load_dataset(settings)


@pytest.mark.parametrize("setting", ["dataset_features", "dataset_time_column", "dataset_id_column"])
def test_an_unknown_column_in_the_settings_is_refused(setting: str, tmp_path: Path) -> None:
    """A column that the settings name and the table lacks is named, with those there are."""
    with pytest.raises(DataError, match=r"has no column depth, which the settings name; its columns: a, y"):
        _load(_csv(tmp_path, a=range(ROWS)), **{setting: "depth"})


@pytest.mark.parametrize("times", [["2026-01-01"] * 199 + ["soon"], ["2026-01-01"] * 199 + [None]], ids=["text", "gap"])
def test_a_time_that_is_none_is_refused(times: list[str], tmp_path: Path) -> None:
    """A time column that cannot be sorted is refused with an example."""
    with pytest.raises(DataError, match=r"DATASET_TIME_COLUMN='t' holds ('soon'|nan), which is no time"):
        _load(_csv(tmp_path, a=range(ROWS), t=times), dataset_time_column="t")


@pytest.mark.parametrize(
    "columns", [{}, {"id": [f"u{i}" for i in range(ROWS)]}, {"none": [None] * ROWS}], ids=["none", "id", "all missing"]
)
def test_nothing_to_learn_from_is_refused(columns: dict[str, object], tmp_path: Path) -> None:
    """A table without a column to learn from is refused."""
    with pytest.raises(DataError, match="has no column to learn from beside the target"):
        _load(_csv(tmp_path, **columns))


def test_a_url_needs_a_query() -> None:
    """A DATASET that is a URL without DATASET_QUERY stops the program at start."""
    with pytest.raises(SettingsError, match=r"DATASET_QUERY='' .*DATASET is a URL: say which rows"):
        load_settings(dataset="sqlite:///rows.db")


@pytest.mark.parametrize("dataset", ["iris", "rows.csv"])
def test_a_query_needs_a_url(dataset: str) -> None:
    """DATASET_QUERY beside a table that is no URL stops the program at start."""
    with pytest.raises(SettingsError, match=r"DATASET_QUERY='select 1' .*only a DATASET that is a URL takes one"):
        load_settings(dataset=dataset, dataset_query="select 1")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cret@127.0.0.1:9/x",
        "postgresql+psycopg2://me:s3cret@127.0.0.1:9/x",
        "nosuch://me:s3cret@127.0.0.1:9/x",
        "://me:s3cret@127.0.0.1:9/x",
    ],
)
def test_a_password_is_never_shown(url: str) -> None:
    """A database that cannot be read is named without its login."""
    with pytest.raises(DataError, match="DATASET_QUERY failed") as refused:
        load_dataset(load_settings(dataset=url, dataset_query="select 1"))
    assert "s3cret" not in str(refused.value)


def test_a_password_is_not_shown_by_a_refused_setting() -> None:
    """Neither is it shown where the setting itself is refused."""
    with pytest.raises(SettingsError) as refused:
        load_settings(dataset="postgresql://me:s3cret@db/x")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("query", ["selct 1", "select * from gone", "create table t (a)"])
def test_a_failing_query_is_a_data_error(query: str, tmp_path: Path) -> None:
    """A query that fails, or yields no rows, is a DataError of one line."""
    settings = load_settings(dataset=f"sqlite:///{tmp_path}/rows.db", dataset_query=query)
    with pytest.raises(DataError, match="DATASET_QUERY failed: ") as refused:
        load_dataset(settings)
    assert "\n" not in str(refused.value)


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("values", "kind", "nullable"),
    [
        pytest.param(RNG.integers(0, 9, ROWS), "numeric", False, id="ints"),
        pytest.param([1, None] * 100, "numeric", True, id="ints with gaps"),
        pytest.param(RNG.normal(size=ROWS), "numeric", False, id="floats"),
        pytest.param([0.5, None] * 100, "numeric", True, id="floats with gaps"),
        pytest.param([0, 1] * 100, "numeric", False, id="zero and one"),
        pytest.param([1.0, np.inf] + [2.0] * 198, "numeric", True, id="infinite"),
        pytest.param([1.0, -np.inf] + [2.0] * 198, "numeric", True, id="minus infinite"),
        pytest.param([1.0, 1e300] + [2.0] * 198, "numeric", True, id="too large for trees"),
        pytest.param([7] * ROWS, "numeric", False, id="constant number"),
        pytest.param(["?" if i % 20 == 0 else str(i) for i in range(ROWS)], "numeric", True, id="? for missing"),
        pytest.param([True, False] * 100, "boolean", False, id="booleans"),
        pytest.param([True, False, None, True] * 50, "boolean", True, id="booleans with gaps"),
        pytest.param([True] * ROWS, "boolean", False, id="constant boolean"),
        pytest.param(["red", "green"] * 100, "categorical", False, id="text"),
        pytest.param(["red", None] * 100, "categorical", True, id="text with gaps"),
        pytest.param(["k"] * ROWS, "categorical", False, id="constant text"),
        pytest.param(["1", "2", "many", "few"] * 50, "categorical", False, id="half numbers, half text"),
        pytest.param(["may", "june"] * 100, "categorical", False, id="months by name"),
        pytest.param(["1.0.3", "1.1.0"] * 100, "categorical", False, id="versions"),
        pytest.param([f"c{i % 100}" for i in range(ROWS)], "categorical", False, id="100 categories"),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_what_a_column_is(values: list[object], kind: Kind, nullable: bool, ending: str, tmp_path: Path) -> None:
    """Kinds are inferred alike from CSV and Parquet; null is allowed where a value is missing, and only there."""
    column = pd.Series(values)
    write = _csv if ending == "csv" else _parquet
    feature, found = _only(_load(write(tmp_path, a=column)))
    assert feature == Feature("a", kind, nullable)
    assert pd.Series(found).isna().any() == nullable


@pytest.mark.parametrize(
    ("column", "kind", "nullable"),
    [
        pytest.param(pd.Categorical(["red", "green"] * 100), "categorical", False, id="category"),
        pytest.param(pd.Categorical(["red", None, "green", "red"] * 50), "categorical", True, id="category with gaps"),
        pytest.param(pd.array([True, None] * 100, dtype="boolean"), "boolean", True, id="nullable boolean"),
        pytest.param(pd.array([1, None] * 100, dtype="Int64"), "numeric", True, id="nullable integer"),
        pytest.param(pd.array(["a", None] * 100, dtype="string"), "categorical", True, id="nullable string"),
        pytest.param(np.arange(ROWS, dtype="uint8"), "numeric", False, id="uint8"),
        pytest.param(np.arange(ROWS, dtype="float32"), "numeric", False, id="float32"),
    ],
)
def test_what_a_typed_column_is(column: Any, kind: Kind, nullable: bool, tmp_path: Path) -> None:
    """Parquet's own types are taken for what they are, and end as float64 or text."""
    table = _load(_parquet(tmp_path, a=column))
    assert table.schema.features == (Feature("a", kind, nullable),)
    assert table.frame["a"].dtype == (object if kind == "categorical" else "float64")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        pytest.param([f"2026-01-{i % 28 + 1:02}" for i in range(ROWS)], "holds dates", id="dates as text"),
        pytest.param([f"{i % 12 + 1}/28/2026 10:30" for i in range(ROWS)], "holds dates", id="times as text"),
        pytest.param([f"u{i}" for i in range(ROWS)], "holds 200 different texts in 200 rows, as an id does", id="ids"),
        pytest.param([f"u{i % 101}" for i in range(ROWS)], "holds 101 different texts", id="nearly ids"),
        pytest.param(
            [f"{'word ' * 60}{i % 4}" for i in range(ROWS)], "holds free text of more than 256", id="free text"
        ),
        pytest.param([None] * ROWS, "holds no value at all", id="all missing"),
    ],
)
def test_what_is_no_feature_is_left_out(
    values: list[object], reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Dates, ids, free text and empty columns are left out, with a line in the log that says why."""
    with caplog.at_level(logging.WARNING, "crossfade.data"):
        table = _load(_csv(tmp_path, a=range(ROWS), other=values))
    assert table.features == ["a"]
    assert f"column other is left out: it {reason}" in caplog.text


@pytest.mark.parametrize(
    "column",
    [
        pd.date_range("2026-01-01", periods=ROWS),
        pd.date_range("2026-01-01", periods=ROWS).date,
        [[1]] * ROWS,
        [b"a"] * ROWS,
    ],
    ids=["datetime", "date", "lists", "bytes"],
)
def test_other_types_are_left_out(column: Any, tmp_path: Path) -> None:
    """Parquet columns of dates, lists or bytes are no features."""
    assert _load(_parquet(tmp_path, a=range(ROWS), other=column)).features == ["a"]


def test_values_that_are_lost_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Values that are taken as missing are counted in the log, with an example."""
    with caplog.at_level(logging.WARNING, "crossfade.data"):
        _load(_csv(tmp_path, a=["?" if i % 20 == 0 else str(i) for i in range(ROWS)]))
    assert "column a: 10 of 200 values, for example '?', are not a number and are taken as missing" in caplog.text


@pytest.mark.parametrize(
    ("labels", "expected", "dtype"),
    [
        (["yes", "no"], ["yes", "no"], object),
        ([3, -7], [3, -7], "int64"),
        ([1.0, 2.0], [1, 2], "int64"),
        ([True, False], [1, 0], "int64"),
        (["1", "x"], ["1", "x"], object),
    ],
    ids=["text", "whole numbers", "whole floats", "booleans", "mixed"],
)
def test_labels_have_one_type(labels: list[object], expected: list[object], dtype: object, tmp_path: Path) -> None:
    """Labels that are whole numbers become int64, all others stay text."""
    column = _load(_csv(tmp_path, a=range(ROWS), y=labels * 100)).frame["y"]
    assert (column.dtype, column.tolist()) == (dtype, expected * 100)


def test_rows_without_label_are_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rows without label are left out with a line in the log, and whole numbers stay whole numbers."""
    with caplog.at_level(logging.WARNING, "crossfade.data"):
        table = _load(_csv(tmp_path, a=range(ROWS), y=[0, 1, None, 1] * 50))
    assert table.frame["y"].tolist() == [0, 1, 1] * 50
    assert table.frame["y"].dtype == "int64"
    assert table.frame["a"].tolist() == [i for i in range(ROWS) if i % 4 != 2]
    assert "50 of 200 rows of" in caplog.text
    assert "have no y and are left out" in caplog.text


def test_missing_values_of_dropped_rows_do_not_count(tmp_path: Path) -> None:
    """A feature that is missing only where the label is, too, may not be null."""
    table = _load(_csv(tmp_path, a=[1.0, None] * 100, y=["x", None, "z", None] * 50))
    assert table.schema.features == (Feature("a"),)


def test_the_settings_choose_the_features(tmp_path: Path) -> None:
    """DATASET_FEATURES takes these columns, in this order, ids among them."""
    path = _csv(tmp_path, a=range(ROWS), b=range(ROWS), id=[f"u{i}" for i in range(ROWS)])
    table = _load(path, dataset_features=" id , b ")
    assert table.schema.features == (Feature("id", "categorical"), Feature("b"))


def test_a_feature_asked_for_that_is_none_is_refused(tmp_path: Path) -> None:
    """A column named in DATASET_FEATURES that cannot be one is refused, not silently left out."""
    path = _csv(tmp_path, a=range(ROWS), day=[f"2026-01-{i % 28 + 1:02}" for i in range(ROWS)])
    with pytest.raises(DataError, match="column day, named in DATASET_FEATURES, holds dates"):
        _load(path, dataset_features="a,day")


def test_time_and_id_are_no_features(tmp_path: Path) -> None:
    """The columns that order and name the rows are not learnt from."""
    path = _csv(tmp_path, t=range(ROWS), id=range(ROWS), a=range(ROWS))
    assert _load(path, dataset_time_column="t", dataset_id_column="id").features == ["a"]


@pytest.mark.parametrize(
    "times",
    [
        [3, 1, 2, 1],
        [30.5, 0.5, 2, 0.5],
        ["2026-03-01", "2026-01-01", "2026-02-01", "2026-01-01"],
        ["2026-01-01 02:00+00:00", "2026-01-01 02:00+02:00", "2026-01-01 01:00+00:00", "2026-01-01 00:00+00:00"],
    ],
    ids=["numbers", "fractions", "dates", "time zones"],
)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_rows_come_in_the_order_of_time(times: list[object], ending: str, tmp_path: Path) -> None:
    """Rows are sorted by DATASET_TIME_COLUMN; those of one time keep their order."""
    write = _csv if ending == "csv" else _parquet
    table = _load(write(tmp_path, a=[0, 1, 2, 3], t=times, y=["x", "z", "x", "z"]), dataset_time_column="t")
    assert table.ordered
    assert table.frame["a"].tolist() == [1.0, 3.0, 2.0, 0.0]
    assert table.frame["y"].tolist() == ["z", "z", "x", "x"]
    assert table.frame.index.tolist() == [0, 1, 2, 3]


def test_without_a_time_column_rows_keep_their_order(tmp_path: Path) -> None:
    """Without DATASET_TIME_COLUMN nothing is sorted, and nothing is said about order."""
    table = _load(_csv(tmp_path, a=[3, 1, 2, 1], y=["x", "z", "x", "z"]))
    assert (table.ordered, table.frame["a"].tolist()) == (False, [3.0, 1.0, 2.0, 1.0])


def test_same_seed_same_traffic() -> None:
    """The same seed draws the same rows."""
    pd.testing.assert_frame_equal(draw_traffic(IRIS, 50, 1.0, seed=7), draw_traffic(IRIS, 50, 1.0, seed=7))


def test_another_seed_draws_other_traffic() -> None:
    """Another seed draws other rows."""
    assert not draw_traffic(IRIS, 50, 1.0, seed=7).equals(draw_traffic(IRIS, 50, 1.0, seed=8))


def test_strength_shifts_every_feature() -> None:
    """Strength s moves every value by s standard deviations, and nothing else changes."""
    still, moved = (draw_traffic(IRIS, 200, strength, seed=1)[IRIS.features] for strength in (0.0, 2.0))
    spread = IRIS.frame[IRIS.features].std(ddof=0)
    assert np.allclose((moved - still) / spread, 2.0, atol=1e-3)


def test_no_strength_is_no_drift() -> None:
    """Without strength the means stay those of the table."""
    drawn = draw_traffic(IRIS, 20_000, 0.0, seed=1)
    spread = IRIS.frame[IRIS.features].std(ddof=0)
    off = (drawn[IRIS.features].mean() - IRIS.frame[IRIS.features].mean()) / spread
    assert off.abs().max() < 5 / np.sqrt(20_000)  # five standard errors


def test_labels_stay_those_of_the_drawn_rows() -> None:
    """A drifted row keeps the label of the row it was drawn from."""
    still, moved = (draw_traffic(IRIS, 300, strength, seed=3) for strength in (0.0, 3.0))
    assert moved["target"].tolist() == still["target"].tolist()
    spread = IRIS.frame[IRIS.features].std(ddof=0)
    nearest = [
        int(IRIS.frame["target"].iloc[(((IRIS.frame[IRIS.features] - row) / spread) ** 2).sum(axis=1).idxmin()])
        for _, row in still[IRIS.features].iterrows()
    ]
    assert np.mean(np.array(nearest) == still["target"]) > 0.9


def test_traffic_has_the_tables_columns() -> None:
    """Traffic has the table's columns, in its order, and leaves the table alone."""
    before = IRIS.frame.copy()
    assert draw_traffic(IRIS, 5, 1.0, seed=0).columns.tolist() == before.columns.tolist()
    pd.testing.assert_frame_equal(IRIS.frame, before)


@pytest.fixture(scope="module")
def mixed() -> Table:
    """A table of a number, a constant, a category and a boolean, some values missing."""
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "size": rng.normal(10, 3, 400),
            "one": 1.0,
            "colour": rng.choice(["blue", "green", "red"], 400, p=[0.1, 0.2, 0.7]).astype(object),
            "flag": rng.integers(0, 2, 400).astype(float),
            "y": rng.choice(["no", "yes"], 400),
        }
    )
    frame.loc[::10, ["colour", "flag", "size"]] = np.nan
    kinds: tuple[Kind, ...] = ("numeric", "numeric", "categorical", "boolean")
    schema = FeatureSchema(tuple(Feature(n, k) for n, k in zip(frame, kinds, strict=False)))
    return Table(frame, "y", schema.with_nulls_of(frame))


@pytest.mark.parametrize(("strength", "places"), [(0.2, 0), (0.5, 1), (1.0, 2), (1.5, 3), (-0.5, -1)])
def test_drifted_categories_are_misread(mixed: Table, strength: float, places: int) -> None:
    """Every category is recorded as the one round(2 * strength) places further on, by name."""
    still, moved = (draw_traffic(mixed, 1000, by, seed=1)["colour"] for by in (0.0, strength))
    names = ["blue", "green", "red"]
    expected = still.map({name: names[(i + places) % 3] for i, name in enumerate(names)})
    pd.testing.assert_series_equal(moved, expected)


def test_booleans_constants_and_gaps_stay(mixed: Table) -> None:
    """Whatever the strength, a boolean stays true or false, a constant does not move, and gaps stay gaps."""
    drawn = draw_traffic(mixed, 1000, 3.0, seed=2)
    assert set(drawn["flag"].dropna()) == {0.0, 1.0}
    assert set(drawn["one"]) == {1.0}
    assert 0.05 < drawn["flag"].isna().mean() < 0.15
    assert drawn.dtypes.equals(mixed.frame.dtypes)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_files_are_read_as_numbers(ending: str, tmp_path: Path) -> None:
    """A CSV or Parquet file gives its features as float64; other columns stay."""
    path, frame = tmp_path / f"t.{ending}", pd.DataFrame({"a": [1, 2], "b": [3, 4], "note": ["x", "y"]})
    frame.to_csv(path, index=False) if ending == "csv" else frame.to_parquet(path)
    read = read_table(path, AB)
    assert read[["a", "b"]].dtypes.tolist() == [np.dtype("float64")] * 2
    assert read["note"].tolist() == ["x", "y"]


def test_files_are_read_as_the_models_kinds(tmp_path: Path) -> None:
    """A category of digits stays text and a boolean becomes 0 or 1, as the model takes them."""
    (tmp_path / "t.csv").write_text("code,flag\n7,true\n,false\n9,\n")
    kinds = FeatureSchema((Feature("code", "categorical"), Feature("flag", "boolean")))
    read = read_table(tmp_path / "t.csv", kinds)
    assert read["code"].tolist() == ["7", pytest.approx(np.nan, nan_ok=True), "9"]
    assert read["flag"].tolist() == [1.0, 0.0, pytest.approx(np.nan, nan_ok=True)]


def test_a_file_that_is_not_there_is_a_data_error(tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(DataError, match=r"gone\.csv does not exist"):
        read_table(tmp_path / "gone.csv", AB)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_file_of_rows_that_is_none_is_a_data_error(name: str, tmp_path: Path) -> None:
    """A file that is no table is named."""
    (tmp_path / name).write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="cannot be read as a CSV or Parquet table"):
        read_table(tmp_path / name, AB)


def test_an_empty_file_is_a_data_error(tmp_path: Path) -> None:
    """An empty file is named."""
    (tmp_path / "t.csv").touch()
    with pytest.raises(DataError, match=r"t\.csv is empty"):
        read_table(tmp_path / "t.csv", AB)


def test_a_missing_feature_is_named(tmp_path: Path) -> None:
    """A file that lacks a feature is refused, naming it."""
    (tmp_path / "t.csv").write_text("a,c\n1,2\n")
    with pytest.raises(DataError, match="has no column b; the model takes b, a"):
        read_table(tmp_path / "t.csv", AB)


def test_text_for_a_number_is_a_data_error(tmp_path: Path) -> None:
    """A column of text where the model takes numbers is refused with an example."""
    (tmp_path / "t.csv").write_text("a,b\nred,1\n")
    with pytest.raises(DataError, match="column a holds 'red' where the model takes a number"):
        read_table(tmp_path / "t.csv", AB)


def test_a_few_unreadable_values_are_missing(tmp_path: Path) -> None:
    """Up to a tenth of a column may be unreadable: such values are missing."""
    (tmp_path / "t.csv").write_text("a,b\n" + "1,1\n" * 19 + "?,1\n")
    assert read_table(tmp_path / "t.csv", AB)["a"].isna().sum() == 1


def test_a_date_for_a_number_is_a_data_error(tmp_path: Path) -> None:
    """A Parquet column of dates where the model takes numbers is refused, too."""
    pd.DataFrame({"a": pd.to_datetime(["2026-01-01"]), "b": [1]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError):
        read_table(tmp_path / "t.parquet", AB)


def test_a_category_column_of_one_category_is_a_category(tmp_path: Path) -> None:
    """A pandas category of a single value is a constant category."""
    table = _load(_parquet(tmp_path, a=pd.Categorical(["k"] * ROWS)))
    assert table.schema.features == (Feature("a", "categorical"),)


def test_columns_of_one_name_in_a_csv_are_refused(tmp_path: Path) -> None:
    """Two columns of one name in a CSV are refused as those of a query are."""
    (tmp_path / "t.csv").write_text("a,a,y\n1,2,x\n3,4,z\n")
    with pytest.raises(DataError, match="two columns named a"):
        _load(tmp_path / "t.csv")


@pytest.mark.parametrize("name", ["request_id", "prediction", "probability"])
def test_a_column_of_a_name_that_is_ours_is_no_feature(name: str, tmp_path: Path) -> None:
    """A column named like one that Crossfade adds to rows is left out, or refused by name."""
    try:
        table = _load(_csv(tmp_path, **{name: RNG.normal(size=ROWS)}, a=range(ROWS)))
    except DataError as refused:
        assert name in str(refused)  # noqa: PT017 - refusing it by name is as good
    else:
        assert table.features == ["a"]


@pytest.mark.parametrize("features", ["a,y", "a,a", "a,t"], ids=["target", "twice", "time"])
def test_features_that_cannot_be_are_refused(features: str, tmp_path: Path) -> None:
    """DATASET_FEATURES that names the target, the time column or a column twice is refused."""
    with pytest.raises((DataError, SettingsError)):
        _load(_csv(tmp_path, a=range(ROWS), t=range(ROWS)), dataset_features=features, dataset_time_column="t")


def test_a_password_with_a_slash_is_not_shown() -> None:
    """A password that holds a slash is not shown either."""
    assert (
        "s3/cret" not in load_settings(dataset="postgresql://me:s3/cret@db/x", dataset_query="select 1").dataset_shown
    )


def test_a_url_that_cannot_be_read_is_a_data_error() -> None:
    """A URL with text for a port is a DataError, or refused at start."""
    with pytest.raises((DataError, SettingsError)):
        load_dataset(load_settings(dataset="postgresql://db:port/x", dataset_query="select 1"))


def test_numbers_that_are_codes_are_categories(tmp_path: Path) -> None:
    """DATASET_CATEGORICAL takes whole numbers for what they are: names."""
    path = _csv(tmp_path, zone=[1, 2, 3, None] * 50, a=range(ROWS))
    table = _load(path, dataset_categorical="zone")
    assert table.schema.features == (Feature("zone", "categorical", nullable=True), Feature("a"))
    assert table.frame["zone"].tolist()[:3] == ["1", "2", "3"]


def test_a_code_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A name that DATASET_CATEGORICAL has and the table lacks is a mistake, and said so."""
    with pytest.raises(DataError, match="DATASET_CATEGORICAL names zones, which is no feature column"):
        _load(_csv(tmp_path, a=range(ROWS)), dataset_categorical="zones")


def test_a_parquet_index_with_repeats_is_nothing(tmp_path: Path) -> None:
    """The index that pandas keeps in a Parquet file is no data: rows are sorted by their time all the same."""
    columns = {"a": [0, 1, 2, 3], "t": [3, 1, 2, 1], "y": ["x", "z", "x", "z"]}
    pd.DataFrame(columns, index=[7, 7, 8, 8]).to_parquet(tmp_path / "table.parquet")
    table = _load(tmp_path / "table.parquet", dataset_time_column="t")
    assert table.frame["a"].tolist() == [1.0, 3.0, 2.0, 0.0]
