"""Tables, and traffic drawn from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crossfade.data import draw_traffic, load_table, read_table
from crossfade.errors import DataError

IRIS = load_table("iris", "target")


@pytest.mark.parametrize(
    ("name", "rows", "features"), [("iris", 150, 4), ("wine", 178, 13), ("breast_cancer", 569, 30)]
)
def test_bundled_tables_load(name: str, rows: int, features: int) -> None:
    """Every DATASET that the settings allow loads, with float features and the label."""
    table = load_table(name, "target")
    assert table.frame.shape == (rows, features + 1)
    assert len(table.features) == features
    assert set(table.frame[table.features].dtypes) == {np.dtype("float64")}


def test_a_wrong_target_is_refused() -> None:
    """A TARGET that is no column is refused, with the columns there are."""
    with pytest.raises(DataError, match=r"TARGET='species' is no column of iris.*target"):
        load_table("iris", "species")


def test_an_unknown_table_is_refused() -> None:
    """A table that is not known is refused, with those that are."""
    with pytest.raises(DataError, match=r"'titanic'.*iris, wine, breast_cancer"):
        load_table("titanic", "target")


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


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_files_are_read_as_numbers(ending: str, tmp_path: Path) -> None:
    """A CSV or Parquet file gives its features as float64; other columns stay."""
    path, frame = tmp_path / f"t.{ending}", pd.DataFrame({"a": [1, 2], "b": [3, 4], "note": ["x", "y"]})
    frame.to_csv(path, index=False) if ending == "csv" else frame.to_parquet(path)
    read = read_table(path, ["b", "a"])
    assert read[["a", "b"]].dtypes.tolist() == [np.dtype("float64")] * 2
    assert read["note"].tolist() == ["x", "y"]


def test_a_file_that_is_not_there_is_a_data_error(tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(DataError, match=r"gone\.csv cannot be read"):
        read_table(tmp_path / "gone.csv", ["a"])


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_file_that_is_no_table_is_a_data_error(name: str, tmp_path: Path) -> None:
    """A file that is no table is named."""
    (tmp_path / name).write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="cannot be read as a CSV or Parquet table"):
        read_table(tmp_path / name, ["a"])


def test_an_empty_file_is_a_data_error(tmp_path: Path) -> None:
    """An empty file is named."""
    (tmp_path / "t.csv").touch()
    with pytest.raises(DataError, match=r"t\.csv cannot be read"):
        read_table(tmp_path / "t.csv", ["a"])


def test_a_missing_feature_is_named(tmp_path: Path) -> None:
    """A file that lacks a feature is refused, naming it."""
    (tmp_path / "t.csv").write_text("a,c\n1,2\n")
    with pytest.raises(DataError, match="has no column b"):
        read_table(tmp_path / "t.csv", ["a", "b"])


def test_text_for_a_number_is_a_data_error(tmp_path: Path) -> None:
    """Text where the model takes numbers is refused."""
    (tmp_path / "t.csv").write_text("a\nred\n")
    with pytest.raises(DataError, match="text where the model takes numbers"):
        read_table(tmp_path / "t.csv", ["a"])


def test_a_date_for_a_number_is_a_data_error(tmp_path: Path) -> None:
    """A Parquet column of dates where the model takes numbers is refused, too."""
    pd.DataFrame({"a": pd.to_datetime(["2026-01-01"])}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError):
        read_table(tmp_path / "t.parquet", ["a"])
