"""What the router refuses, how it says so, and that nothing of it is stored."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app import create_app
from crossfade.registry import Registry
from crossfade.settings import Settings

NAMES = ["sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"]
ROW = dict(zip(NAMES, [5.1, 3.5, 1.4, 0.2], strict=True))
LIST = list(ROW.values())
JSON = "application/json"


@dataclass(frozen=True)
class Case:
    """A body that is refused."""

    body: bytes
    status: int = 422
    field: str | None = None
    mentions: str = ""
    """What the sentence has to name."""
    content_type: str | None = JSON


def _bad(field: str, mentions: str = "", /, **body: Any) -> Case:
    """Refused with 422 for a field; the rest of the body is right."""
    return Case(json.dumps({"features": ROW, **body}).encode(), 422, field, mentions)


def _raw(feature: str) -> bytes:
    """A body whose last feature is written as given."""
    return json.dumps({"features": {**ROW, NAMES[3]: "@"}}).replace('"@"', feature).encode()


def _row(value: Any) -> dict[str, Any]:
    return {**ROW, NAMES[3]: value}


DEEP = b"[" * 100_000 + b"]" * 100_000

PREDICT = {
    "wrong feature name": _bad("features.petal", features={**dict.fromkeys(NAMES[:3], 1), "petal": 1}),
    "missing feature": _bad("features.petal width (cm)", "missing", features=dict.fromkeys(NAMES[:3], 1)),
    "extra feature": _bad("features.colour", features={**ROW, "colour": 1}),
    "no features at all": _bad("features.sepal length (cm)", "missing", features={}),
    "NaN": Case(_raw("NaN"), 422, "features.petal width (cm)"),
    "Infinity": Case(_raw("Infinity"), 422, "features.petal width (cm)"),
    "-Infinity": Case(_raw("-Infinity"), 422, "features.petal width (cm)"),
    "1e400": Case(_raw("1e400"), 422, "features.petal width (cm)"),
    "huge integer": Case(_raw("1" + "0" * 400), 422, "features.petal width (cm)"),
    "integer of 5000 digits": Case(_raw("9" * 5000), 422, "features.petal width (cm)"),
    "null feature": _bad("features.petal width (cm)", "null", features=_row(None)),
    "text for a number": _bad("features.petal width (cm)", "1.5", features=_row("1.5")),
    "boolean for a number": _bad("features.petal width (cm)", "true", features=_row(True)),
    "list for a number": _bad("features.petal width (cm)", "list", features=_row([0.2])),
    "object for a number": _bad("features.petal width (cm)", "object", features=_row({"cm": 0.2})),
    "list within a list": _bad("features.petal width (cm)", "list", features=[*LIST[:3], [0.2]]),
    "null within a list": _bad("features.petal width (cm)", "null", features=[*LIST[:3], None]),
    "NaN within a list": _bad("features.petal width (cm)", features=[*LIST[:3], float("nan")]),
    "list too short": _bad("features", "4", features=LIST[:3]),
    "list too long": _bad("features", "4", features=[*LIST, 1.0]),
    "empty list": _bad("features", "4", features=[]),
    "features null": _bad("features", features=None),
    "features text": _bad("features", features="5.1,3.5,1.4,0.2"),
    "features a number": _bad("features", features=5.1),
    "features missing": Case(b'{"user_id": 7}', 422, "body", "features"),
    "unknown key": _bad("body", "userid", userid=7),
    "array for the body": Case(json.dumps([ROW]).encode(), 422, "body", "array"),
    "text for the body": Case(b'"features"', 422, "body"),
    "null for the body": Case(b"null", 422, "body"),
    "empty body": Case(b"", 400),
    "broken JSON": Case(b'{"features": [5.1, 3.5,', 400),
    "two documents": Case(json.dumps({"features": ROW}).encode() * 2, 400),
    "single quotes": Case(b"{'features': [5.1, 3.5, 1.4, 0.2]}", 400),
    "invalid UTF-8": Case(b'{"features": [5.1, 3.5, 1.4, 0.2], "user_id": "\xff"}', 400),
    "deeply nested": Case(b'{"features": ' + DEEP + b"}", 400),
    "deeply nested user": Case(b'{"features": [1,2,3,4], "user_id": ' + DEEP + b"}", 422, "user_id"),
    "deeply nested unknown key": Case(b'{"x": ' + DEEP + b"}", 422, "body", "x"),
    "wrong content type": Case(json.dumps({"features": ROW}).encode(), 415, content_type="text/plain"),
    "a form": Case(b"features=1", 415, content_type="application/x-www-form-urlencoded"),
    "no content type": Case(json.dumps({"features": ROW}).encode(), 415, content_type=None),
    "too large a body": Case(b" " * (4 * 2**20 + 1), 413),
    "batch with a short row": _bad("features[1]", "4", features=[LIST, LIST[:3]]),
    "batch with an empty row": _bad("features[0]", "4", features=[[], LIST]),
    "batch with a missing feature": _bad(
        "features[2].petal width (cm)", features=[ROW, ROW, dict.fromkeys(NAMES[:3], 1)]
    ),
    "batch with an unknown feature": _bad("features[1].colour", features=[ROW, {**ROW, "colour": 1}]),
    "batch with text for a number": _bad("features[1].petal width (cm)", features=[LIST, [*LIST[:3], "0.2"]]),
    "batch with NaN": _bad("features[1].petal width (cm)", features=[ROW, _row(float("nan"))]),
    "batch with a null row": _bad("features[1]", "null", features=[LIST, None]),
    "batch with a number for a row": _bad("features[2]", "5.1", features=[LIST, LIST, 5.1]),
    "batch too long": _bad("features", "6 rows", features=[LIST] * 6),
    "batch with one label": _bad("label", "list of 2", features=[LIST, LIST], label=1),
    "batch with a label too few": _bad("label", "list of 2", features=[LIST, LIST], label=[1]),
    "batch with a label too many": _bad("label", "list of 2", features=[LIST, LIST], label=[1, 2, 0]),
    "batch with a label object": _bad("label[1]", features=[LIST, LIST], label=[1, {"class": 2}]),
    "batch with half a class": _bad("label[1]", "1.5", features=[LIST, LIST], label=[1, 1.5]),
    "label list for one row": _bad("label", "list", label=[1]),
    "label object": _bad("label", label={"class": 1}),
    "label boolean": _bad("label", label=True),
    "label between two classes": _bad("label", "1.5", label=1.5),
    "label NaN": _bad("label", label=float("nan")),
    "label empty": _bad("label", label=""),
    "label with a newline": _bad("label", label="seto\nsa"),
    "label too long": _bad("label", "256", label="x" * 257),
    "label number too long": _bad("label", label=10**400),
    "user_id object": _bad("user_id", "object", user_id={"id": 7}),
    "user_id array": _bad("user_id", "array", user_id=[7]),
    "user_id fraction": _bad("user_id", "float", user_id=7.5),
    "user_id boolean": _bad("user_id", "bool", user_id=True),
    "user_id NaN": _bad("user_id", user_id=float("nan")),
    "user_id empty": _bad("user_id", user_id=""),
    "user_id too long": _bad("user_id", "256", user_id="u" * 257),
    "user_id number too long": _bad("user_id", user_id=10**300),
    "user_id with a newline": _bad("user_id", user_id="7\n8"),
    "user_id with a null byte": _bad("user_id", user_id="7\0"),
    "user_id lone surrogate": Case(b'{"features": [5.1, 3.5, 1.4, 0.2], "user_id": "\\ud800"}', 422, "user_id"),
    "request_id number": _bad("request_id", "int", request_id=5),
    "request_id empty": _bad("request_id", request_id=""),
    "request_id with a newline": _bad("request_id", request_id="a\nb"),
    "request_id with a carriage return": _bad("request_id", request_id="a\rb"),
    "request_id too long": _bad("request_id", "256", request_id="r" * 257),
}


def _json(body: Any, field: str, mentions: str = "") -> Case:
    return Case(json.dumps(body).encode(), 422, field, mentions)


GOOD = {"request_id": "r1", "label": 1}

FEEDBACK = {
    "unknown key": _json({**GOOD, "lable": 1}, "body", "lable"),
    "missing label": _json({"request_id": "r1"}, "body", "label"),
    "missing request_id": _json({"label": 1}, "body", "request_id"),
    "label object": _json({**GOOD, "label": {"class": 1}}, "label"),
    "label list": _json({**GOOD, "label": [1]}, "label"),
    "label null": _json({**GOOD, "label": None}, "label"),
    "label boolean": _json({**GOOD, "label": True}, "label"),
    "label between two classes": _json({**GOOD, "label": 1.5}, "label", "1.5"),
    "label NaN": _json({**GOOD, "label": float("nan")}, "label"),
    "label with a newline": _json({**GOOD, "label": "1\n2"}, "label"),
    "label number too long": _json({**GOOD, "label": 10**400}, "label"),
    "request_id number": _json({**GOOD, "request_id": 5}, "request_id"),
    "request_id empty": _json({**GOOD, "request_id": ""}, "request_id"),
    "request_id with a newline": _json({**GOOD, "request_id": "a\nb"}, "request_id"),
    "list with a label missing": _json([GOOD, {"request_id": "r2"}], "[1]", "label"),
    "list with a bad label": _json([GOOD, {"request_id": "r2", "label": 1.5}], "[1].label", "1.5"),
    "list with a bad request_id": _json([GOOD, GOOD, {"request_id": "", "label": 1}], "[2].request_id"),
    "list with a number": _json([GOOD, 5], "[1]"),
    "text": _json("r1", "body"),
    "broken JSON": Case(b'[{"request_id": "r1", "label": 1}', 400),
    "deeply nested": Case(b'{"request_id": "r1", "label": ' + DEEP + b"}", 422, "label"),
    "invalid UTF-8": Case(b'{"request_id": "\xff", "label": 1}', 400),
    "wrong content type": Case(json.dumps(GOOD).encode(), 415, content_type="text/csv"),
    "too large a body": Case(b" " * (4 * 2**20 + 1), 413),
}

CONFIG = {
    "above one": _json({"ab_split_b": 1.5}, "ab_split_b", "1.5"),
    "just above one": _json({"ab_split_b": 1.0000001}, "ab_split_b"),
    "negative": _json({"ab_split_b": -0.1}, "ab_split_b", "-0.1"),
    "per cent": _json({"ab_split_b": 50}, "ab_split_b", "50"),
    "text": _json({"ab_split_b": "0.5"}, "ab_split_b"),
    "boolean": _json({"ab_split_b": True}, "ab_split_b"),
    "null": _json({"ab_split_b": None}, "ab_split_b"),
    "list": _json({"ab_split_b": [0.5]}, "ab_split_b"),
    "NaN": _json({"ab_split_b": float("nan")}, "ab_split_b"),
    "Infinity": _json({"ab_split_b": float("inf")}, "ab_split_b"),
    "1e400": Case(b'{"ab_split_b": 1e400}', 422, "ab_split_b"),
    "missing": _json({}, "body", "ab_split_b"),
    "unknown key": _json({"ab_split_b": 0.5, "split": 0.5}, "body", "split"),
    "a bare number": _json(0.5, "body"),
    "broken JSON": Case(b'{"ab_split_b": 0.', 400),
    "empty body": Case(b"", 400),
    "no content type": Case(b'{"ab_split_b": 0.2}', 415, content_type=None),
}


def _check(reply: TestResponse, case: Case) -> None:
    """Hold a refusal to the documented shape."""
    assert reply.status_code == case.status, reply.text
    assert reply.content_type == JSON
    assert set(reply.json) == {"error", "detail"} | ({"field"} if case.field else set())
    assert reply.json.get("field") == case.field
    assert (case.field or "") in reply.json["detail"]
    assert case.mentions in reply.json["detail"]
    assert "Traceback" not in reply.text
    assert "File " not in reply.text


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


@pytest.mark.parametrize("case", PREDICT.values(), ids=PREDICT.keys())
def test_predict_refuses(served: Any, case: Case) -> None:
    """A request that is not as documented is refused by status and field, in JSON, and leaves no row in the log."""
    before = _bytes(served.settings.request_log)
    reply = served.client.post("/predict", data=case.body, content_type=case.content_type)
    _check(reply, case)
    assert _bytes(served.settings.request_log) == before


@pytest.mark.parametrize("case", FEEDBACK.values(), ids=FEEDBACK.keys())
def test_feedback_refuses(served: Any, case: Case) -> None:
    """Feedback that is not as documented, in whole or in one element, is refused and nothing of it stored."""
    before = _bytes(served.settings.labels_log)
    reply = served.client.post("/feedback", data=case.body, content_type=case.content_type)
    _check(reply, case)
    assert _bytes(served.settings.labels_log) == before


@pytest.mark.parametrize("case", CONFIG.values(), ids=CONFIG.keys())
def test_config_refuses(served: Any, case: Case) -> None:
    """A split that is no share is refused, and the split stays what it was."""
    reply = served.client.post("/config", data=case.body, content_type=case.content_type)
    _check(reply, case)
    assert served.client.get("/config").json == {"ab_split_b": 0.5}
    assert not served.settings.router_config.exists()


def test_a_body_of_the_largest_size_is_taken(served: Any) -> None:
    """A body of exactly ROUTER_MAX_BODY_BYTES is answered."""
    body = json.dumps({"features": ROW}).encode().ljust(served.settings.router_max_body_bytes)
    assert served.client.post("/predict", data=body, content_type=JSON).status_code == 200


def test_a_batch_of_the_longest_length_is_taken(served: Any) -> None:
    """A batch of exactly ROUTER_MAX_BATCH_ROWS rows is answered."""
    assert served.client.post("/predict", json={"features": [LIST] * 5}).status_code == 200


def test_ids_of_the_longest_length_are_taken(served: Any) -> None:
    """User, request and label of 256 characters are answered."""
    body = {"features": ROW, "user_id": "u" * 256, "request_id": "r" * 256, "label": "l" * 256}
    assert served.client.post("/predict", json=body).status_code == 200


def test_a_json_content_type_may_name_its_charset(served: Any) -> None:
    """`application/json; charset=utf-8` is JSON."""
    body = json.dumps({"features": ROW})
    assert served.client.post("/predict", data=body, content_type=f"{JSON}; charset=utf-8").status_code == 200


@pytest.mark.parametrize("path", ["/", "/predictions", "/predict/"])
def test_an_unknown_path_is_404_in_json(served: Any, path: str) -> None:
    """A path that does not exist is answered with 404 that names it."""
    reply = served.client.get(path)
    _check(reply, Case(b"", 404, mentions=path))
    assert reply.json["error"] == "not_found"


@pytest.mark.parametrize(("method", "path"), [("GET", "/predict"), ("DELETE", "/config"), ("POST", "/health")])
def test_a_wrong_method_is_405_in_json(served: Any, method: str, path: str) -> None:
    """A method that a path does not take is answered with 405 that names both."""
    reply = served.client.open(path, method=method)
    _check(reply, Case(b"", 405, mentions=method))
    assert path in reply.json["detail"]


def test_a_wrong_method_is_told_the_right_ones(served: Any) -> None:
    """A 405 lists the methods that are taken in its Allow header."""
    allowed = served.client.get("/predict").headers["Allow"]
    assert {method.strip() for method in allowed.split(",")} == {"POST", "OPTIONS"}


class TestWithoutAModel:
    """A router whose registry is empty."""

    @pytest.fixture
    def client(self, settings: Settings, registry: Registry) -> FlaskClient:
        """A client of it."""
        return create_app(settings, registry=registry, follow=False).test_client()

    def test_predict_is_503_with_what_to_do(self, client: FlaskClient) -> None:
        """Before there is a model a prediction is answered with 503 that says what to trigger."""
        reply = client.post("/predict", json={"features": ROW})
        _check(reply, Case(b"", 503, mentions="Trigger the DAG drift_retrain_ab_pipeline"))
        assert reply.json["error"] == "no_model"

    def test_predict_logs_nothing(self, client: FlaskClient, settings: Settings) -> None:
        """A request that nobody could answer is not in the log."""
        client.post("/predict", json={"features": ROW})
        assert not settings.request_log.exists()

    @pytest.mark.parametrize("path", ["/ready", "/version"])
    def test_questions_about_it_are_503(self, client: FlaskClient, path: str) -> None:
        """What can only be said of a model is answered with 503 that says what to trigger."""
        _check(client.get(path), Case(b"", 503, mentions="Trigger the DAG"))
