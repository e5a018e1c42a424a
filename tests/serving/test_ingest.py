"""Labelled rows from elsewhere: `/ingest/batch`, `/ingest/stream` and `/ingest/stats`."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from werkzeug.test import TestResponse

from app import create_app
from crossfade.featurestore import FeatureStore
from crossfade.registry import Registry
from crossfade.schema import Feature, FeatureSchema
from crossfade.settings import Settings, load_settings
from crossfade.signature import signature_of

Eventually = Callable[[Callable[[], bool]], bool]

SCHEMA = FeatureSchema(
    (Feature("age"), Feature("city", "categorical", nullable=True), Feature("member", "boolean", nullable=True))
)
ROW = {"age": 31, "city": "Bern", "member": True}
MOST_ROWS, MOST_BYTES = 50, 20_000


def _register_prod(registry: Registry) -> None:
    """Train a pipeline on a mixed table and put it under prod."""
    rows: list[list[Any]] = [[20.0 + i, ["Bern", "Rom", None][i % 3], [True, False, None][i % 3]] for i in range(60)]
    features, labels = SCHEMA.frame_of(rows), ["yes" if i % 2 else "no" for i in range(60)]
    encode = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["city"]), remainder="passthrough")
    model = make_pipeline(encode.set_output(transform="default"), HistGradientBoostingClassifier(max_iter=2))
    encode.set_params(sparse_threshold=0)
    with mlflow.start_run() as run:
        info = mlflow.sklearn.log_model(
            model.fit(features, pd.Series(labels)),
            name="model",
            serialization_format="cloudpickle",
            pip_requirements=["scikit-learn"],
            signature=signature_of(SCHEMA, text_labels=True),
            metadata={"classes": ["no", "yes"]},
        )
    registry.move("prod", registry.register(run.info.run_id, info.model_uri, {}).number, expected=None)


@dataclass(frozen=True)
class Shop:
    """A running app over that model; tests share it and keep to batch ids of their own."""

    app: Flask
    settings: Settings
    store: FeatureStore

    @property
    def client(self) -> FlaskClient:
        return self.app.test_client()

    def batch(self, **body: Any) -> TestResponse:
        return self.client.post("/ingest/batch", json=body)

    def stream(self, *lines: Any, batch_id: str | None = None, **options: Any) -> TestResponse:
        """Send lines, as they are or as JSON."""
        data = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
        query = {} if batch_id is None else {"batch_id": batch_id}
        options = {"content_type": "application/x-ndjson", "query_string": query, **options}
        return self.client.post("/ingest/stream", data=data, **options)

    def stored(self, batch_id: str) -> dict[int, tuple[Any, str]]:
        """Return the features and label of each row of a batch, by position."""
        return _stored(self.store, batch_id)


def _stored(store: FeatureStore, batch_id: str) -> dict[int, tuple[Any, str]]:
    found = store.labeled("IrisClassifier")
    mine = found[found["request_id"].str.startswith(f"ingest:{batch_id}.")]
    cells = zip(mine["request_id"], mine["features_json"], mine["label"], strict=True)
    return {int(name.rpartition(".")[2]): (json.loads(text), label) for name, text, label in cells}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Shop:
    """One app for all tests of this module, with small limits."""
    home = tmp_path_factory.mktemp("shop")
    shutil.copy(empty_database, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as environment:
        for name in Settings.model_fields:
            environment.delenv(name.upper(), raising=False)
        settings = load_settings(
            crossfade_home=home,
            mlflow_tracking_uri=f"sqlite:///{home}/mlflow.db",
            router_max_batch_rows=MOST_ROWS,
            router_max_body_bytes=MOST_BYTES,
        )
    registry = Registry(settings.mlflow_tracking_uri, settings.reg_model_name)
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("shop", f"file://{home}/mlruns"))
    _register_prod(registry)
    app = create_app(settings, registry=registry, follow=False)
    return Shop(app, settings, FeatureStore(settings.feature_store))


def _line(**changes: Any) -> dict[str, Any]:
    return {"features": ROW, "label": "yes", **changes}


class TestBatch:
    """`POST /ingest/batch`."""

    def test_a_batch_is_stored(self, shop: Shop) -> None:
        """Rows by name and in signature order are stored alike, with their labels as text."""
        reply = shop.batch(features=[ROW, [40, "Rom", False]], labels=["yes", 2], batch_id="by-name")
        assert (reply.status_code, reply.json) == (
            200,
            {"batch_id": "by-name", "rows": 2, "stored": 2, "duplicate": False},
        )
        assert shop.stored("by-name") == {
            0: ({"age": 31.0, "city": "Bern", "member": True}, "yes"),
            1: ({"age": 40.0, "city": "Rom", "member": False}, "2"),
        }

    def test_without_a_batch_id_one_is_made_up(self, shop: Shop) -> None:
        """The answer names the batch, and two batches without an id are two."""
        names = [shop.batch(features=[ROW], labels=["yes"]).json["batch_id"] for _ in range(2)]
        assert names[0] != names[1]
        assert [len(shop.stored(name)) for name in names] == [1, 1]

    def test_a_batch_sent_again_is_a_duplicate(self, shop: Shop) -> None:
        """The same rows under the same id are stored once, however they are written."""
        shop.batch(features=[ROW], labels=["yes"], batch_id="again")
        reply = shop.batch(features=[[31.0, "Bern", 1]], labels=["yes"], batch_id="again")
        assert reply.json == {"batch_id": "again", "rows": 1, "stored": 0, "duplicate": True}
        assert len(shop.stored("again")) == 1

    def test_other_rows_under_the_same_id_are_409(self, shop: Shop) -> None:
        """An id that is taken by other rows is a conflict, and nothing changes."""
        shop.batch(features=[ROW], labels=["yes"], batch_id="taken")
        reply = shop.batch(features=[ROW], labels=["no"], batch_id="taken")
        assert (reply.status_code, reply.json["error"]) == (409, "batch_conflict")
        assert shop.stored("taken")[0][1] == "yes"

    def test_null_is_taken_where_training_had_it(self, shop: Shop) -> None:
        """A nullable feature may be null, and is stored as null."""
        assert shop.batch(features=[[31, None, None]], labels=["no"], batch_id="nulls").status_code == 200
        assert shop.stored("nulls") == {0: ({"age": 31.0, "city": None, "member": None}, "no")}

    def test_bad_rows_are_named_and_nothing_is_stored(self, shop: Shop) -> None:
        """One bad row refuses the batch; every problem says which row, which field, and what is wrong."""
        features = [ROW, {**ROW, "age": None}, {**ROW, "city": 7}, {**ROW, "member": "yes"}, [1, "Rom"], 5, ROW, ROW]
        labels = ["yes"] * 6 + [None, True]
        reply = shop.batch(features=features, labels=labels, batch_id="bad")
        assert (reply.status_code, reply.json["error"], reply.json["bad_rows"]) == (422, "invalid_input", 7)
        assert [(problem["row"], problem["field"]) for problem in reply.json["problems"]] == [
            (1, "features.age"),
            (2, "features.city"),
            (3, "features.member"),
            (4, "features"),
            (5, "features"),
            (6, "label"),
            (7, "label"),
        ]
        assert reply.json["problems"][0]["problem"].startswith("is null; allowed: a number")
        assert reply.json["detail"].startswith("7 of 8 rows are bad, so none is stored; row 1: features.age is null")
        assert shop.stored("bad") == {}

    def test_twenty_problems_are_listed_and_all_counted(self, shop: Shop) -> None:
        """A batch of bad rows only is answered with the first twenty."""
        reply = shop.batch(features=[[None, "Rom", True]] * 40, labels=["yes"] * 40)
        assert (reply.json["bad_rows"], len(reply.json["problems"])) == (40, 20)

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"features": [], "labels": []}, "features"),
            ({"features": [ROW] * (MOST_ROWS + 1), "labels": ["yes"] * (MOST_ROWS + 1)}, "features"),
            ({"features": ROW, "labels": ["yes"]}, "features"),
            ({"features": [ROW, ROW], "labels": ["yes"]}, "labels"),
            ({"features": [ROW], "labels": None}, "labels"),
            ({"features": [ROW]}, "body"),
            ({"features": [ROW], "labels": ["yes"], "batch_id": ""}, "batch_id"),
            ({"features": [ROW], "labels": ["yes"], "batch_id": 7}, "batch_id"),
            ({"features": [ROW], "labels": ["yes"], "batch": "a"}, "body"),
        ],
    )
    def test_a_body_of_another_shape_is_422(self, shop: Shop, body: Any, field: str) -> None:
        """A batch that is none, too long, or lacks labels is refused, and the field named."""
        reply = shop.client.post("/ingest/batch", json=body)
        assert (reply.status_code, reply.json["error"], reply.json["field"]) == (422, "invalid_input", field)

    def test_too_large_a_body_is_413(self, shop: Shop) -> None:
        """The limit on a body holds for a batch as it does for a prediction."""
        reply = shop.client.post("/ingest/batch", data=b" " * (MOST_BYTES + 1), content_type="application/json")
        assert (reply.status_code, str(MOST_BYTES) in reply.json["detail"]) == (413, True)

    def test_broken_json_is_400_and_another_type_415(self, shop: Shop) -> None:
        """A body that is no JSON, or does not say so, is refused like a prediction's."""
        assert shop.client.post("/ingest/batch", data=b"{", content_type="application/json").status_code == 400
        assert shop.client.post("/ingest/batch", data=b"{}", content_type="text/csv").status_code == 415


class TestStream:
    """`POST /ingest/stream`."""

    def test_a_stream_is_stored(self, shop: Shop) -> None:
        """Each line is a row; positions count from 0."""
        reply = shop.stream(_line(), _line(features=[40, None, False], label="no"), batch_id="lines")
        assert (reply.status_code, reply.json) == (
            200,
            {"batch_id": "lines", "rows": 2, "stored": 2, "duplicates": 0, "rejected": 0, "problems": []},
        )
        assert {place: label for place, (_, label) in shop.stored("lines").items()} == {0: "yes", 1: "no"}

    @pytest.mark.parametrize("kind", ["application/x-ndjson; charset=utf-8", "application/ndjson", "application/jsonl"])
    def test_the_usual_names_of_the_type_are_taken(self, shop: Shop, kind: str) -> None:
        """NDJSON goes by several names."""
        assert shop.stream(_line(), content_type=kind).status_code == 200

    @pytest.mark.parametrize("kind", ["application/json", "text/csv", None])
    def test_another_type_is_415(self, shop: Shop, kind: str | None) -> None:
        """A body that does not say it is NDJSON is refused, and told what is allowed."""
        reply = shop.stream(_line(), content_type=kind)
        assert (reply.status_code, "application/x-ndjson" in reply.json["detail"]) == (415, True)

    def test_the_batch_id_may_come_in_the_header(self, shop: Shop) -> None:
        """`X-Batch-Id` names the batch, unless the query does."""
        header = {"X-Batch-Id": "in-header"}
        assert shop.stream(_line(), headers=header).json["batch_id"] == "in-header"
        assert shop.stream(_line(), headers=header, batch_id="in-query").json["batch_id"] == "in-query"

    def test_without_a_batch_id_one_is_made_up(self, shop: Shop) -> None:
        """The answer names the batch under which the rows stand."""
        assert len(shop.stored(shop.stream(_line()).json["batch_id"])) == 1

    def test_a_line_may_name_its_own_batch(self, shop: Shop) -> None:
        """Rows of several batches are counted each in its own."""
        shop.stream(_line(), _line(batch_id="mine"), _line(), _line(batch_id="mine"), batch_id="theirs")
        assert (set(shop.stored("theirs")), set(shop.stored("mine"))) == ({0, 1}, {0, 1})

    def test_a_line_may_hold_several_rows(self, shop: Shop) -> None:
        """Rows with `labels` take one place each, as on lines of their own."""
        reply = shop.stream(_line(), {"features": [ROW, ROW], "labels": ["no", "yes"]}, _line(), batch_id="several")
        assert reply.json["stored"] == 4
        assert [label for _, label in shop.stored("several").values()] == ["yes", "no", "yes", "yes"]
        lines = [_line(), _line(label="no"), _line(), _line()]
        assert shop.stream(*lines, batch_id="several").json["duplicates"] == 4

    def test_other_rows_under_a_used_batch_id_are_told(self, shop: Shop) -> None:
        """Rows that are not those the batch id stands for are refused line by line, never passed off as duplicates."""
        shop.stream(_line(), _line(), batch_id="used")
        lines = [_line(), {"features": [{**ROW, "age": 32}, ROW], "labels": ["yes", "no"]}]
        reply = shop.stream(*lines, batch_id="used")
        counts = [reply.json[name] for name in ("rows", "stored", "duplicates", "rejected")]
        assert (reply.status_code, counts) == (200, [3, 1, 1, 1])
        assert [(problem["line"], problem["row"]) for problem in reply.json["problems"]] == [(2, 0)]
        assert "'used' stands for other rows" in reply.json["problems"][0]["problem"]
        assert [features["age"] for features, _ in shop.stored("used").values()] == [31, 31, 31]

    def test_a_batch_stored_whole_is_not_added_to(self, shop: Shop) -> None:
        """What is streamed under the id of a batch is that batch's row, or is refused."""
        shop.batch(features=[ROW], labels=["yes"], batch_id="whole")
        reply = shop.stream(_line(), _line(), batch_id="whole")
        assert [reply.json[name] for name in ("stored", "duplicates", "rejected")] == [0, 1, 1]

    def test_blank_lines_are_nothing(self, shop: Shop) -> None:
        """Empty lines and line ends of Windows are no rows; line numbers are those of the file."""
        reply = shop.stream(b"", _line(), b"\r", b"  ", _line(label=None), b"", batch_id="blank")
        assert (reply.json["rows"], reply.json["stored"]) == (2, 1)
        assert reply.json["problems"][0]["line"] == 5
        assert set(shop.stored("blank")) == {0}

    def test_bad_lines_are_named_and_the_good_ones_kept(self, shop: Shop) -> None:
        """Of a stream with bad lines the good ones are stored, and the bad ones told: line, row, field, problem."""
        lines = [
            _line(),
            b'{"features": ',
            _line(features={**ROW, "age": "31"}),
            b'{"features": {"age": NaN, "city": "Rom", "member": true}, "label": 1}',
            {"features": ROW},
            {"features": [ROW, {**ROW, "city": ""}], "labels": ["no", "no"]},
            {"features": [ROW, ROW], "labels": ["no"]},
            _line(colour="red"),
            _line(batch_id=""),
            b"\xff\xfe",
            b"[" * 5000,
            _line(label=""),
            b'{"features": "' + b"x" * MOST_BYTES + b'"}',
            _line(),
        ]
        reply = shop.stream(*lines, batch_id="mixed")
        assert (reply.status_code, reply.json["rows"], reply.json["stored"], reply.json["rejected"]) == (200, 16, 3, 13)
        told = [(problem["line"], problem.get("row"), problem["field"]) for problem in reply.json["problems"]]
        assert told == [
            (2, None, "line"),
            (3, None, "features.age"),
            (4, None, "features.age"),
            (5, None, "label"),
            (6, 1, "features.city"),
            (7, None, "labels"),
            (8, None, "line"),
            (9, None, "batch_id"),
            (10, None, "line"),
            (11, None, "line"),
            (12, None, "label"),
            (13, None, "line"),
        ]
        assert set(shop.stored("mixed")) == {0, 5, 15}

    def test_a_corrected_stream_fills_the_gaps(self, shop: Shop) -> None:
        """Bad lines keep their places: the stream sent again without mistakes stores each row once."""
        good = [_line(label=f"row {i}") for i in range(6)]
        bad = [good[0], b'{"features": [', good[2], _line(label=None), good[4], good[5]]
        first, second = shop.stream(*bad, batch_id="mended"), shop.stream(*good, batch_id="mended")
        assert (first.json["stored"], second.json["stored"], second.json["duplicates"]) == (4, 2, 4)
        assert {place: label for place, (_, label) in shop.stored("mended").items()} == {
            i: f"row {i}" for i in range(6)
        }

    def test_a_bad_line_counts_in_the_batch_it_names(self, shop: Shop) -> None:
        """A broken line with a batch id takes a place there, even where it is no JSON."""
        own = b'{"batch_id": "own", "features": [31, "Rom", true], "label": '
        mixed = [own, _line(label="a"), _line(batch_id="own", colour=1), _line(label="b"), _line(batch_id="own")]
        assert shop.stream(*mixed, batch_id="rest").json["stored"] == 3
        assert (set(shop.stored("rest")), set(shop.stored("own"))) == ({0, 1}, {2})

    def test_a_stream_without_a_good_row_is_422(self, shop: Shop) -> None:
        """When every line is bad the answer is an error that lists why, and nothing is remembered."""
        reply = shop.stream(*[_line(label=None)] * 30, batch_id="hopeless")
        assert (reply.status_code, reply.json["error"], reply.json["rejected"]) == (422, "invalid_input", 30)
        assert len(reply.json["problems"]) == 20
        newest = shop.client.get("/ingest/stats").json["newest_batches"]
        assert "hopeless" not in {batch["batch_id"] for batch in newest}

    @pytest.mark.parametrize("body", [b"", b"\n\n  \n"])
    def test_an_empty_stream_is_422(self, shop: Shop, body: bytes) -> None:
        """A stream without any line is refused."""
        reply = shop.stream(body)
        assert (reply.status_code, reply.json["field"]) == (422, "body")

    @pytest.mark.parametrize("batch_id", ["", "x" * 257, "a\nb"])
    def test_a_bad_batch_id_is_422(self, shop: Shop, batch_id: str) -> None:
        """An id that cannot be one is refused before any line is read."""
        assert shop.stream(_line(), batch_id=batch_id).json["field"] == "batch_id"

    def test_a_stream_may_be_longer_than_a_body(self, shop: Shop) -> None:
        """The limit on bodies holds for a line, not for the stream."""
        reply = shop.stream(*[_line()] * 2500, batch_id="long")
        assert (reply.status_code, reply.json["stored"]) == (200, 2500)

    def test_a_line_that_was_cut_is_no_row(self, shop: Shop) -> None:
        """Of a stream that ends before its length the whole lines are stored, the last one is not."""
        whole = json.dumps(_line()).encode() + b"\n"
        sent = whole * 3 + whole[:-1]
        cut = {"CONTENT_LENGTH": str(len(sent) + 100), "wsgi.input": io.BytesIO(sent)}
        reply = shop.stream(batch_id="cut", environ_overrides=cut)
        assert (reply.status_code, reply.json["error"]) == (400, "stream_cut")
        assert "3 new rows are stored: send the whole stream again with batch_id=cut" in reply.json["detail"]
        assert set(shop.stored("cut")) == {0, 1, 2}
        assert shop.stream(whole * 4, batch_id="cut").json["stored"] == 1

    def test_memory_does_not_grow_with_the_stream(self, shop: Shop) -> None:
        """A stream five times as long needs no more memory."""

        def peak(lines: int, name: str) -> int:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            body = io.BufferedReader(_Endless(json.dumps(_line()).encode() + b"\n", lines))
            reply = shop.stream(batch_id=name, environ_overrides={"wsgi.input": body, "wsgi.input_terminated": True})
            assert reply.json["stored"] == lines
            return tracemalloc.get_traced_memory()[1] - before

        tracemalloc.start()
        try:
            peak(2000, "warm-up")
            short, long = peak(4000, "short"), peak(20_000, "five times as long")
        finally:
            tracemalloc.stop()
        assert long < 1.3 * short


class _Endless(io.RawIOBase):
    """A line so many times, made while it is read."""

    def __init__(self, line: bytes, times: int) -> None:
        super().__init__()
        self._line = line
        self._left = len(line) * times
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), self._left)
        repeated = self._line * (size // len(self._line) + 2)
        buffer[:size] = repeated[self._at : self._at + size]
        self._at, self._left = (self._at + size) % len(self._line), self._left - size
        return size


def test_stats_show_what_is_stored(shop: Shop) -> None:
    """The stats count rows and labels, and list what came last with its bad rows."""
    before = shop.client.get("/ingest/stats").json
    shop.stream(_line(label="seldom"), _line(label=None), batch_id="counted")
    after = shop.client.get("/ingest/stats").json
    assert (after["rows"], after["batches"]) == (before["rows"] + 1, before["batches"] + 1)
    assert after["labels"]["seldom"] == 1
    newest = after["newest_batches"][0]
    assert (newest["batch_id"], newest["stored"], newest["rejected"]) == ("counted", 1, 1)
    assert before["last_ts_utc"] < newest["ts_utc"] <= after["last_ts_utc"]


CALLS = [
    ("POST", "/ingest/batch", {"json": {"features": [ROW], "labels": ["yes"]}}),
    ("POST", "/ingest/stream", {"data": json.dumps(_line()), "content_type": "application/x-ndjson"}),
    ("GET", "/ingest/stats", {}),
]


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_the_token_guards_every_call(shop: Shop, method: str, path: str, body: dict[str, Any]) -> None:
    """With ROUTER_API_TOKEN set, only who sends it gets in."""
    settings = Settings(**{**shop.settings.model_dump(), "router_api_token": "token-of-api"})
    client = create_app(settings, follow=False).test_client()
    assert client.open(path, method=method, **body).status_code == 401
    header = {"Authorization": "Bearer token-of-api"}
    assert client.open(path, method=method, headers=header, **body).status_code == 200


@pytest.mark.parametrize(("method", "path", "body"), CALLS[:2])
def test_without_a_model_rows_are_503(
    settings: Settings, registry: Registry, method: str, path: str, body: dict[str, Any]
) -> None:
    """Before the first model nobody knows what a row is: 503, and no store is made."""
    client = create_app(settings, registry=registry, follow=False).test_client()
    reply = client.open(path, method=method, **body)
    assert (reply.status_code, reply.json["error"]) == (503, "no_model")
    assert client.get("/ingest/stats").json["rows"] == 0
    assert not (settings.var / "features.db").exists()


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_a_store_that_cannot_be_used_is_503(
    shop: Shop, tmp_path: Path, method: str, path: str, body: dict[str, Any]
) -> None:
    """Rows are never accepted without being stored."""
    (tmp_path / "features.db").write_text("no database" * 100)
    store = FeatureStore(f"sqlite:///{tmp_path}/features.db")
    client = create_app(shop.settings, store=store, follow=False).test_client()
    reply = client.open(path, method=method, **body)
    assert (reply.status_code, reply.json["error"]) == (503, "store_unavailable")


@dataclass(frozen=True)
class Served:
    """A router under a server, with one worker, over the same model and a store of its own."""

    url: str
    store: FeatureStore

    def stream(self, batch_id: str, body: bytes | Iterable[bytes]) -> requests.Response:
        header = {"Content-Type": "application/x-ndjson"}
        return requests.post(f"{self.url}/ingest/stream?batch_id={batch_id}", data=body, headers=header, timeout=60)

    def is_ready(self) -> bool:
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{self.url}/ready", timeout=60).ok
        return False

    def send_and_hang_up(self, head: str, body: bytes) -> None:
        """Send the start of a request, then close the connection."""
        host, port = self.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            kind = "Content-Type: application/x-ndjson"
            connection.sendall(f"POST {head}\r\nHost: {host}\r\n{kind}\r\n\r\n".replace("|", "\r\n").encode() + body)


@pytest.fixture(scope="module", params=["gunicorn", "granian"])
def server(
    request: pytest.FixtureRequest,
    shop: Shop,
    isolate: Any,
    serve_router: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    """Start it as `crossfade serve` does."""
    home = tmp_path_factory.mktemp(request.param)
    given = {"MLFLOW_TRACKING_URI": shop.settings.mlflow_tracking_uri, "ROUTER_WORKERS": "1"}
    settings, environment = isolate(home, ROUTER_SERVER=request.param, **given)
    with serve_router(settings, environment):
        yield Served(f"http://127.0.0.1:{settings.router_port}", FeatureStore(settings.feature_store))


def _wait(holds: Callable[[], bool], seconds: float) -> None:
    tick = threading.Event()
    for _ in range(int(seconds / 0.1)):
        if holds():
            return
        tick.wait(0.1)
    pytest.fail(f"not within {seconds} s")


LINE = json.dumps(_line()).encode() + b"\n"


def test_a_server_takes_a_chunked_stream(server: Served) -> None:
    """A body without a length, cut into chunks anywhere, is stored row by row."""
    body = LINE * 500
    reply = server.stream("chunked", (body[i : i + 37] for i in range(0, len(body), 37)))
    assert (reply.status_code, reply.json()["stored"]) == (200, 500)
    assert set(_stored(server.store, "chunked")) == set(range(500))


CUT = {
    "length": ("Content-Length: 100000", LINE * 3 + LINE[:-5]),
    "chunks": ("Transfer-Encoding: chunked", b"%x\r\n" % (len(LINE) * 3 + 9) + LINE * 3 + LINE[:9] + b"\r\n"),
    "half-a-chunk": ("Transfer-Encoding: chunked", b"fffff\r\n" + LINE * 3 + LINE[:9]),
}


@pytest.mark.parametrize("how", CUT)
def test_a_server_stores_no_torn_line_of_a_client_that_died(server: Served, how: str) -> None:
    """When the connection breaks the torn line is not stored, and a re-send stores each row once."""
    head, body = CUT[how]
    server.send_and_hang_up(f"/ingest/stream?batch_id={how} HTTP/1.1|{head}", body)
    if how == "length":  # of chunks a server may drop what it holds
        _wait(lambda: set(_stored(server.store, how)) == {0, 1, 2}, 120)
    reply = server.stream(how, LINE * 5).json()
    assert (reply["stored"] + reply["duplicates"], reply["rejected"]) == (5, 0)
    assert set(_stored(server.store, how)) == set(range(5))


def test_a_worker_killed_in_the_middle_loses_and_doubles_nothing(server: Served) -> None:
    """After kill -9 in the middle of a stream, the stream sent again stands in the store once, row by row."""
    rows = 6000
    lines = [json.dumps(_line(label=f"row {i}")).encode() + b"\n" for i in range(rows)]
    worker = requests.get(f"{server.url}/health", timeout=60).json()["worker"]

    def until_killed() -> Iterator[bytes]:
        yield from lines[: rows // 2]
        _wait(lambda: len(_stored(server.store, "killed")) >= 1000, 120)
        os.kill(worker, signal.SIGKILL)
        yield from lines[rows // 2 :]

    with pytest.raises(requests.RequestException):
        server.stream("killed", until_killed())
    before = len(_stored(server.store, "killed"))
    assert 1000 <= before < rows
    _wait(server.is_ready, 120)
    reply = server.stream("killed", b"".join(lines)).json()
    assert (reply["stored"], reply["duplicates"]) == (rows - before, before)
    stored = _stored(server.store, "killed")
    assert {place: label for place, (_, label) in stored.items()} == {i: f"row {i}" for i in range(rows)}
    labeled = server.store.labeled("IrisClassifier")["request_id"]
    assert labeled.is_unique
