"""`GET /monitor/basic`: a look at the end of the request log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app import create_app
from crossfade.errors import InvalidInput, LogUnavailable
from crossfade.newestrows import NewestInFiles
from crossfade.registry import Registry
from crossfade.requestlog import CsvRequestLog, LateLabel, LogRow
from crossfade.serving.monitor import Monitor
from crossfade.settings import Settings

ROW = LogRow(
    ts_utc="2026-11-20T10:00:00.000000+00:00", request_id="r", user_id="u", experiment_id="e", variant="A",
    alias="prod", model="M", model_version="1", ab_split_b=0.5, label="", prediction="0", probability=0.9,
    latency_ms=1.0, status=200, features_json='{"size": 1.0, "colour": "red", "new": true}',
)  # fmt: skip


@pytest.fixture
def log(tmp_path: Path) -> CsvRequestLog:
    return CsvRequestLog(tmp_path / "requests.csv", tmp_path / "labels.csv")


@pytest.fixture
def monitor(tmp_path: Path) -> Monitor:
    return Monitor(NewestInFiles(tmp_path / "requests.csv", tmp_path / "labels.csv"))


def _features(size: Any = 1.0, colour: Any = '"red"', new: Any = "true") -> str:
    return f'{{"size": {size}, "colour": {colour}, "new": {new}}}'


def test_an_empty_log_is_an_empty_window(monitor: Monitor) -> None:
    """Without a log there is nothing to say, and that is no error."""
    window = monitor.window("10")
    assert (window.rows, window.label_share, window.features, window.arms) == (0, None, {}, {})


def test_numbers_have_means_and_categories_have_counts(log: CsvRequestLog, monitor: Monitor) -> None:
    """Numeric features are averaged, text and true/false counted, missing values counted apart."""
    texts = [_features(1), _features(2.5, '"blue"'), _features("null", '"red"', "false"), _features(4.5, "null")]
    log.append([ROW._replace(features_json=text) for text in texts])
    features = monitor.window("10").features
    size, colour, new = features["size"], features["colour"], features["new"]
    assert (size.kind, size.mean, size.min, size.max, size.missing) == ("numeric", 8 / 3, 1.0, 4.5, 1)
    assert (colour.kind, colour.top, colour.distinct, colour.missing) == ("categorical", {"red": 2, "blue": 1}, 2, 1)
    assert (new.kind, new.top, new.missing) == ("categorical", {"true": 3, "false": 1}, 0)


def test_the_ten_most_frequent_categories_are_named(log: CsvRequestLog, monitor: Monitor) -> None:
    """Of many categories the first ten are named, and all are counted."""
    log.append([ROW._replace(features_json=_features(1, f'"c{i % 30}"')) for i in range(45)])
    colour = monitor.window("45").features["colour"]
    assert colour.top == {f"c{i}": 2 for i in range(10)}
    assert colour.distinct == 30


def test_a_feature_that_is_always_missing_is_empty(log: CsvRequestLog, monitor: Monitor) -> None:
    """A feature without a value has neither mean nor categories."""
    log.append([ROW._replace(features_json=_features("null"))] * 3)
    assert monitor.window("9").features["size"].kind == "empty"


def test_arms_are_counted_apart(log: CsvRequestLog, monitor: Monitor) -> None:
    """Each arm has its versions, predictions, failures, labels and accuracy."""
    b = ROW._replace(variant="B", model_version="2", prediction="1")
    failed = b._replace(status=500, prediction="", label="1")
    log.append([ROW._replace(label="0"), ROW._replace(label="2"), ROW, b, b, failed])
    arms = monitor.window("10").arms
    first, second = arms["A"], arms["B"]
    assert (first.rows, first.failed, first.predictions, first.model_versions) == (3, 0, {"0": 3}, {"1": 3})
    assert (first.labeled, first.label_share, first.accuracy) == (2, 2 / 3, 0.5)
    assert (second.rows, second.failed, second.predictions, second.labeled) == (3, 1, {"1": 2}, 0)
    assert (second.label_share, second.accuracy) == (0.0, None)


def test_late_labels_count(log: CsvRequestLog, monitor: Monitor) -> None:
    """A label that came later is counted, and the last one of a request wins."""
    log.append([ROW._replace(request_id="a", label="1"), ROW._replace(request_id="b")])
    log.append_labels([LateLabel("t", "a", "5"), LateLabel("t", "a", "0"), LateLabel("t", "b", "0")])
    window = monitor.window("10")
    assert (window.labeled, window.label_share, window.arms["A"].accuracy) == (2, 1.0, 1.0)


@pytest.mark.parametrize("asked", [1, 7, 1000, 9_999])
def test_only_the_newest_rows_are_in_the_window(log: CsvRequestLog, monitor: Monitor, asked: int) -> None:
    """However long the rows are, the window ends with the newest and has as many as were asked for."""
    rows = [ROW._replace(features_json=_features(i, '"' + "x" * (i % 200) + '"')) for i in range(10_000)]
    log.append(rows)
    window = monitor.window(str(asked))
    assert (window.rows, window.asked, window.set_aside) == (asked, asked, 0)
    assert (window.features["size"].min, window.features["size"].max) == (10_000 - asked, 9_999)


def test_a_window_larger_than_the_log_has_all_rows(log: CsvRequestLog, monitor: Monitor) -> None:
    """The header is no row."""
    log.append([ROW] * 3)
    assert (monitor.window("10").rows, monitor.window("10").set_aside) == (3, 0)


@pytest.mark.parametrize("torn", [b'2026,"', b"1,2,3\n", b"\xff" * 40 + b"\n", b",".join([b"x"] * 15) + b"\n"], ids=str)
def test_torn_lines_are_set_aside_and_counted(
    log: CsvRequestLog, monitor: Monitor, tmp_path: Path, torn: bytes
) -> None:
    """A line that is no row spoils itself only."""
    log.append([ROW])
    with (tmp_path / "requests.csv").open("ab") as file:
        file.write(torn)
    log.append([ROW])
    window = monitor.window("10")
    assert (window.rows, window.set_aside) == (2, 1)


def test_a_line_being_written_is_set_aside(log: CsvRequestLog, monitor: Monitor, tmp_path: Path) -> None:
    """The last line without its end is counted, not read."""
    log.append([ROW])
    with (tmp_path / "requests.csv").open("ab") as file:
        file.write(b"2026-11-20T10:00:00.000000+00:00,r,u")
    window = monitor.window("10")
    assert (window.rows, window.set_aside) == (1, 1)


@pytest.mark.parametrize("asked", ["0", "-1", "10001", "1.5", "ten", "", "9" * 5000, "١"])
def test_a_size_out_of_bounds_is_refused(monitor: Monitor, asked: str) -> None:
    """Windows have 1 to 10,000 rows."""
    with pytest.raises(InvalidInput, match=r"rows: .* allowed: a whole number from 1 to 10000"):
        monitor.window(asked)


def test_a_log_that_cannot_be_read_is_said(monitor: Monitor, tmp_path: Path) -> None:
    """What to do stands in the error."""
    (tmp_path / "requests.csv").mkdir()
    with pytest.raises(LogUnavailable, match="Fix its rights"):
        monitor.window("1")


def test_the_call_shows_what_was_answered(served: Any) -> None:
    """What /predict answered stands in the window of /monitor/basic, over both arms."""
    before = served.client.get("/monitor/basic?rows=10000").json["rows"]
    for variant in ("A", "A", "B"):
        body = {"features": [5.1, 3.5, 1.4, 0.2], "user_id": served.user_on(variant), "label": 0}
        served.client.post("/predict", json=body)
    told = served.client.get("/monitor/basic?rows=3").json
    assert served.client.get("/monitor/basic?rows=10000").json["rows"] == before + 3
    assert {arm: (window["rows"], window["labeled"]) for arm, window in told["arms"].items()} == {
        "A": (2, 2),
        "B": (1, 1),
    }
    assert told["features"]["sepal length (cm)"]["mean"] == pytest.approx(5.1)


def test_a_bad_size_is_422(served: Any) -> None:
    """The call names the parameter."""
    reply = served.client.get("/monitor/basic?rows=many")
    assert (reply.status_code, reply.json["field"]) == (422, "rows")


def test_the_api_token_guards_it(settings: Settings, registry: Registry) -> None:
    """It shows data, so it asks for the token."""
    guarded = settings.model_copy(update={"router_api_token": SecretStr("secret")})
    client = create_app(guarded, registry=registry, follow=False).test_client()
    assert client.get("/monitor/basic").status_code == 401
    assert client.get("/monitor/basic", headers={"Authorization": "Bearer secret"}).status_code == 200
