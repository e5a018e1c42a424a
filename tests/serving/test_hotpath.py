"""`POST /predict` answered in front of Flask, beside Flask's own view of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossfade.data import load_dataset
from crossfade.settings import Settings

ROW = load_dataset(Settings()).frame.drop(columns="target").iloc[100].to_dict()
CHUNKED = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
"""A body without a length is left to Flask."""

BODIES: dict[str, bytes | str | dict[str, Any]] = {
    "a row": {"features": ROW, "request_id": "same", "user_id": "anna"},
    "a batch": {"features": [ROW, ROW], "request_id": "same", "user_id": "anna", "label": [1, None]},
    "a list": {"features": list(ROW.values()), "request_id": "same"},
    "text of all kinds": {"features": ROW, "request_id": "naïve ☃ 𝄞", "user_id": 'ü,"x"'},
    "no features": {},
    "a feature too few": {"features": dict(list(ROW.items())[:3])},
    "text for a number": {"features": {**ROW, "sepal length (cm)": "5.1"}},
    "an unknown key": {"features": ROW, "user": 1},
    "too many rows": {"features": [ROW] * 6},
    "NaN": json.dumps({"features": {**ROW, "sepal length (cm)": float("nan")}}),
    "no JSON": b"{",
    "no UTF-8": b'{"user_id": "\xff"}',
    "nested too deeply": b"[" * 100_000,
    "empty": b"",
}


def _both(served: Any, body: bytes | str | dict[str, Any], **headers: str) -> list[tuple[int, dict[str, Any], str]]:
    """Post to the hot path, and to the view behind it; leave out what is a request's own."""
    data = json.dumps(body) if isinstance(body, dict) else body
    found = []
    for overrides in ({}, CHUNKED):
        reply = served.client.post(
            "/predict",
            data=data,
            content_type="application/json",
            headers=headers,
            environ_overrides=overrides,  # type: ignore[arg-type]
        )
        told = {name: value for name, value in reply.json.items() if name != "latency_ms"}
        if isinstance(body, dict) and "request_id" not in body:
            told.pop("request_id", None)
        found.append((reply.status_code, told, reply.content_type))
    return found


def test_the_app_has_it_in_front(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain requests do not reach Flask; others do."""

    def refuse(_environ: Any) -> Any:
        raise AssertionError("Flask was asked")

    monkeypatch.setattr(served.app, "request_context", refuse)
    assert served.client.post("/predict", json={"features": ROW}).status_code == 200
    with pytest.raises(AssertionError, match="Flask was asked"):
        served.client.get("/health")


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_both_answer_alike(served: Any, body: bytes | str | dict[str, Any]) -> None:
    """Status, body and content type are the view's, whatever was sent."""
    hot, flask = _both(served, body)
    assert hot == flask


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from([*ROW, "x"]), inner, max_size=5),
    max_leaves=8,
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(features=VALUES, user=VALUES, label=VALUES)
def test_anything_is_answered_alike(served: Any, features: Any, user: Any, label: Any) -> None:
    """No body is answered by one and refused by the other, and none with a 5xx."""
    hot, flask = _both(served, {"features": features, "user_id": user, "label": label, "request_id": "any"})
    assert hot == flask
    assert hot[0] < 500


def test_what_is_not_plain_goes_on_to_flask(served: Any) -> None:
    """Another content type, another method and a body that is too long are refused as everywhere."""
    client = served.client
    assert client.post("/predict", data="{}", content_type="text/plain").status_code == 415
    assert client.get("/predict").status_code == 405
    endless = {"CONTENT_LENGTH": "9" * 5000}
    assert client.post(
        "/predict", data=b"{}", content_type="application/json", environ_overrides=endless
    ).status_code in (400, 413)
    too_long = b'{"user_id": "' + b"x" * served.settings.router_max_body_bytes + b'"}'
    assert client.post("/predict", data=too_long, content_type="application/json").status_code == 413


def test_a_body_that_breaks_off_is_refused(served: Any) -> None:
    """Fewer bytes than were announced are no request: nothing is answered, nothing logged."""
    reply = served.client.post(
        "/predict", data=b'{"features": 1}', content_type="application/json", environ_overrides={"CONTENT_LENGTH": "99"}
    )
    assert reply.status_code == 400
    assert reply.json == {"error": "bad_request", "detail": "the body ended after 15 of 99 bytes: send it again"}
