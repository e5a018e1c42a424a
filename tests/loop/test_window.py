"""Windows of the request log, counted slice by slice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crossfade import csvslices
from crossfade.engine import Engine, open_engine
from crossfade.loop.reference import ReferenceProfile
from crossfade.loop.trend import COLUMNS, continued, trend_of
from crossfade.loop.window import Window, WindowCounter, count_frame
from crossfade.requestlog import CsvRequestLog, LogRow
from crossfade.schema import Feature, FeatureSchema

SCHEMA = FeatureSchema((Feature("size", nullable=True), Feature("colour", "categorical"), Feature("flag", "boolean")))


def _row(number: int, **changes: Any) -> LogRow:
    """An answer whose size is its number."""
    features = {"size": float(number), "colour": "red" if number % 3 else "blue", "flag": number % 2 == 0}
    values: dict[str, Any] = {
        "ts_utc": f"2026-01-02T00:{number // 60:02d}:{number % 60:02d}.000000+00:00",
        "request_id": f"r{number}",
        "user_id": "",
        "experiment_id": "",
        "variant": "A",
        "alias": "prod",
        "model": "m",
        "model_version": "2" if number % 4 else "1",
        "ab_split_b": 0.5,
        "features_json": json.dumps(features),
        "label": "",
        "prediction": str(number % 2),
        "probability": 0.5 + number / 10_000,
        "latency_ms": 1.0,
        "status": 200,
    }
    return LogRow(**{**values, **changes})


def _frame(numbers: range) -> pd.DataFrame:
    """What the log's rows of these numbers say."""
    rows = [_row(number) for number in numbers]
    frame = pd.DataFrame([json.loads(row.features_json) for row in rows]).astype({"flag": "float64"})
    mine = [row.model_version == "2" for row in rows]
    frame["prediction"] = pd.Series([row.prediction for row in rows], dtype=object).where(mine)
    frame["probability"] = pd.Series([row.probability for row in rows]).where(mine)
    return frame


REFERENCE = ReferenceProfile.of(
    _frame(range(100, 200))[list(SCHEMA.names)],
    pd.DataFrame({"prediction": ["0", "1"] * 50, "probability": np.linspace(0.5, 0.6, 100)}),
)
COUNTER = WindowCounter(REFERENCE, SCHEMA, "m", "2")


@pytest.fixture
def log(tmp_path: Path) -> CsvRequestLog:
    """300 answers, with rows of another model and failed ones between them."""
    log = CsvRequestLog(tmp_path / "requests.csv", tmp_path / "labels.csv")
    for number in range(300):
        log.append([_row(number), _row(number, model="other"), _row(number, status=500, prediction="")])
    return log


@pytest.fixture
def engine() -> Any:
    """The local engine."""
    with open_engine("local") as engine:
        yield engine


def _said(window: Window) -> Any:
    """Return everything that a window says, in a form that can be compared."""
    columns = {name: {k: np.asarray(v).tolist() for k, v in vars(c).items()} for name, c in window.counts.items()}
    return window.rows, json.dumps(columns, sort_keys=True, default=str), dict(window.misread)


@pytest.mark.parametrize("slice_bytes", [300, 5000, 2**24])
@pytest.mark.parametrize(
    ("rows", "most"), [(50, 1), (50, 3), (100, 3), (100, 10), (70, 2), (299, 2), (300, 5), (1000, 1)]
)
def test_windows_are_the_newest_rows(
    log: CsvRequestLog, engine: Engine, rows: int, most: int, slice_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Window k holds the k-th newest `rows` answers of the model, wherever the log is cut into slices."""
    monkeypatch.setattr(csvslices, "_SLICE_BYTES", slice_bytes)
    found = COUNTER.windows(log, rows, most, engine)
    ends = list(range(300, 0, -rows))[:most]
    assert [window.rows for window in found] == [min(rows, stop) for stop in ends]
    for window, stop in zip(found, ends, strict=True):
        numbers = range(max(0, stop - rows), stop)
        expected = count_frame(REFERENCE, _frame(numbers))
        assert window.counts.keys() == expected.counts.keys()
        for name, counts in expected.counts.items():
            mine = window.counts[name]
            assert (mine.rows, mine.missing) == (counts.rows, counts.missing)
        assert np.array_equal(window.counts["size"].below, expected.counts["size"].below)  # type: ignore[union-attr]
        assert window.counts["colour"].counts == expected.counts["colour"].counts  # type: ignore[union-attr]
        assert (window.first_ts, window.last_ts) == (_row(numbers[0]).ts_utc, _row(numbers[-1]).ts_utc)


def test_outputs_are_those_of_the_version(log: CsvRequestLog, engine: Engine) -> None:
    """Predictions and probabilities of another version are left out, its features are not."""
    (window,) = COUNTER.windows(log, 100, 1, engine)
    assert (window.counts["size"].rows, window.counts["prediction"].rows, window.counts["probability"].rows) == (
        100,
        75,
        75,
    )


def test_rows_of_versions_with_other_features_are_left_out(log: CsvRequestLog, engine: Engine) -> None:
    """What an older version with other features answered is no drift of the newer one's."""
    counter = WindowCounter(REFERENCE, SCHEMA, "m", "2", strangers=("1",))
    (window,) = counter.windows(log, 100, 1, engine)
    assert (window.rows, window.counts["size"].rows, window.counts["prediction"].rows) == (100, 100, 100)


def test_an_empty_log_has_no_window(tmp_path: Path, engine: Engine) -> None:
    """Without rows there is no window, and an empty sample has every feature."""
    log = CsvRequestLog(tmp_path / "requests.csv", tmp_path / "labels.csv")
    assert COUNTER.windows(log, 100, 3, engine) == []
    assert COUNTER.sample(log, 10).columns.tolist() == list(SCHEMA.names)


def test_values_of_another_kind_are_counted_in_their_window(log: CsvRequestLog, engine: Engine) -> None:
    """A value of another kind is missing in its own window, and counted there."""
    log.append([_row(300, features_json='{"size": "large", "colour": "red", "flag": true}')])
    newest, before = COUNTER.windows(log, 10, 2, engine)
    assert (newest.misread["size"], newest.counts["size"].missing) == (1, 1)
    assert not before.misread.get("size")


@pytest.mark.parametrize("slice_bytes", [300, 2**24])
def test_a_sample_is_the_newest_rows(log: CsvRequestLog, slice_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample for the pictures holds the newest answers, oldest first."""
    monkeypatch.setattr(csvslices, "_SLICE_BYTES", slice_bytes)
    assert COUNTER.sample(log, 7)["size"].tolist() == [float(number) for number in range(293, 300)]


@pytest.mark.parametrize("name", ["dask", "spark"])
def test_every_engine_finds_the_same(log: CsvRequestLog, name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster of two workers finds what threads find, to the last digit."""
    monkeypatch.setattr(csvslices, "_SLICE_BYTES", 5000)
    with open_engine("local") as local:
        expected = COUNTER.windows(log, 70, 3, local)
    with open_engine(name) as cluster:
        found = COUNTER.windows(log, 70, 3, cluster)
    assert list(map(_said, found)) == list(map(_said, expected))


class TestTrend:
    """PSI over the windows."""

    def test_a_line_per_window_and_feature(self, log: CsvRequestLog, engine: Engine) -> None:
        """Oldest window first; a window that is too short to judge is left out, and so are the outputs."""
        windows = COUNTER.windows(log, 120, 5, engine)
        trend = trend_of(REFERENCE, windows, "m", "2", min_rows=100)
        assert trend.columns.tolist() == list(COLUMNS)
        assert trend["feature"].tolist() == list(SCHEMA.names) * 2
        assert trend["rows"].unique().tolist() == [120]
        assert trend["last_ts"].is_monotonic_increasing
        size = trend[trend["feature"] == "size"]["psi"].tolist()
        assert size[1] > size[0] > 0.2  # rows 180 to 299 lie beyond the reference, 60 to 179 mostly within

    def test_windows_of_earlier_checks_are_kept(self, tmp_path: Path) -> None:
        """Windows before the newest ones stay, those that overlap with them are replaced, and the oldest go."""
        path = tmp_path / "drift_trend.csv"

        def trend(*days: int, feature: str = "size") -> pd.DataFrame:
            lines = [
                ("m", "1", number, f"2026-01-{d:02d}T00", f"2026-01-{d:02d}T23", 100, feature, d / 7)
                for number, d in enumerate(days)
            ]
            return pd.DataFrame(lines, columns=list(COLUMNS))

        assert continued(path, trend(5, 6), "m", most=4).equals(trend(5, 6))
        trend(1, 2, 3, 5).to_csv(path, index=False)
        assert continued(path, trend(4, 6), "m", most=4).equals(trend(2, 3, 4, 6))
        assert continued(path, trend(4, 6), "other", most=4).equals(trend(4, 6))
        assert continued(path, trend(), "m", most=3).equals(trend(2, 3, 5))  # nothing to judge: nothing is lost
        trend(1, feature="NA").to_csv(path, index=False)
        assert continued(path, trend(2), "m", most=4)["feature"].tolist() == ["NA", "size"]

    def test_windows_of_one_time_are_several(self, tmp_path: Path) -> None:
        """The rows of a batch have one time; its windows are counted all the same."""
        lines = [("m", "1", n, "2026-01-01", "2026-01-01", 100, "size", 0.1) for n in range(6)]
        assert len(continued(tmp_path / "no.csv", pd.DataFrame(lines, columns=list(COLUMNS)), "m", most=4)) == 4

    @pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "\0\0\0", ",".join(COLUMNS) + "\nm,1,x,a,b,1,size,0.1\n"])
    def test_a_broken_trend_is_started_anew(self, tmp_path: Path, text: str) -> None:
        """A file that a crash spoiled does not stop every later check."""
        path = tmp_path / "drift_trend.csv"
        path.write_text(text)
        newest = pd.DataFrame([("m", "1", 0, "2026-01-01", "2026-01-02", 100, "size", 0.1)], columns=list(COLUMNS))
        assert continued(path, newest, "m", most=4).equals(newest)
