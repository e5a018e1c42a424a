"""`GET /openapi.json` and `GET /docs`: every route described, by types that the real bodies and answers fit."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr
from werkzeug.test import TestResponse

from app import create_app
from crossfade.registry import Registry
from crossfade.serving.operations import OPERATIONS, Operation
from crossfade.settings import Settings

WITH_BODY = {name: operation for name, operation in OPERATIONS.items() if operation.body is not None}


@pytest.fixture(scope="module")
def document(served: Any) -> dict[str, Any]:
    """The description, as the app gives it."""
    told: dict[str, Any] = served.client.get("/openapi.json").json
    return told


def _calls(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, told) for path, calls in document["paths"].items() for method, told in calls.items()]


def _address(path: str, told: dict[str, Any]) -> str:
    """Put the examples of the parameters into a path."""
    examples = {p["name"]: p["example"] for p in told.get("parameters", ()) if p["in"] == "path"}
    return path.format(**examples)


def _send(client: Any, path: str, method: str, told: dict[str, Any]) -> list[TestResponse]:
    """Send each example of a call, or the call without a body."""
    bodies = told.get("requestBody", {}).get("content", {})
    if not bodies:
        return [client.open(_address(path, told), method=method.upper())]
    replies = []
    for kind, body in bodies.items():
        data = body["example"] if isinstance(body["example"], str) else msgspec.json.encode(body["example"])
        replies.append(client.open(_address(path, told), method=method.upper(), data=data, content_type=kind))
    return replies


def _fits(body: Any, shape: Any) -> bool:
    try:
        msgspec.convert(body, type=shape)
    except msgspec.ValidationError:
        return False
    return True


def _several(shape: Any) -> tuple[Any, ...]:
    return shape if isinstance(shape, tuple) else (shape,)


def test_every_route_is_described(served: Any, document: dict[str, Any]) -> None:
    """A route that somebody adds without a description fails here."""
    rules = [rule for rule in served.app.url_map.iter_rules() if rule.endpoint != "static"]
    assert {rule.endpoint for rule in rules} == set(OPERATIONS)
    routes = {
        (re.sub(r"<(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in rules
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert {(path, method) for path, method, _ in _calls(document)} == routes


def test_every_call_says_what_it_does(document: dict[str, Any]) -> None:
    """Each has a sentence, a name of its own, and an answer."""
    calls = _calls(document)
    assert all(told["summary"].endswith(".") and "200" in told["responses"] for _, _, told in calls)
    assert len({told["operationId"] for _, _, told in calls}) == len(calls)


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    """No schema is missing, and none is there for nothing."""
    text = msgspec.json.encode(document).decode()
    assert set(re.findall(r'"#/components/schemas/(\w+)"', text)) == set(document["components"]["schemas"])


def test_fields_are_explained(document: dict[str, Any]) -> None:
    """What stands below a field in the code stands in its schema."""
    fields = document["components"]["schemas"]["PredictBody"]["properties"]
    assert fields["features"]["description"].startswith("One row (an object by name")


def test_every_example_works_and_every_answer_fits(served: Any, document: dict[str, Any]) -> None:
    """Each call, sent as its example says, is answered with 200 by a body of the type that is described."""
    urls = served.app.url_map.bind("localhost")
    for path, method, told in _calls(document):
        operation = OPERATIONS[urls.match(_address(path, told), method.upper())[0]]
        for reply in _send(served.client, path, method, told):
            if "/versions/" in path and method == "post" and reply.status_code == 409:
                continue  # its users may belong to the other arm
            assert reply.status_code == 200, (path, reply.text)
            if operation.answer is not None:
                assert any(_fits(reply.json, shape) for shape in _several(operation.answer)), (path, reply.json)


@pytest.mark.parametrize("name", WITH_BODY)
def test_a_refused_body_is_answered_as_described(served: Any, document: dict[str, Any], name: str) -> None:
    """An empty object is refused with a status and a body that the description has."""
    operation: Operation = WITH_BODY[name]
    rule = next(rule for rule in served.app.url_map.iter_rules() if rule.endpoint == name)
    address = rule.rule.replace("<model>", "IrisClassifier").replace("<version>", "1")
    reply = served.client.post(address, data="{}", content_type=operation.kind)
    assert reply.status_code in operation.failures
    assert any(_fits(reply.json, shape) for shape in _several(operation.error)), reply.json


def test_it_says_which_calls_ask_for_a_token(settings: Settings, registry: Registry) -> None:
    """With both tokens set, exactly the calls that are described so answer 401 without one."""
    tokens = {name: SecretStr("secret") for name in ("router_api_token", "router_admin_token")}
    client = create_app(settings.model_copy(update=tokens), registry=registry, follow=False).test_client()
    for path, method, told in _calls(client.get("/openapi.json").json):
        for reply in _send(client, path, method, told):
            assert (reply.status_code == 401) == ("security" in told), path
            assert ("401" in told["responses"]) == ("security" in told), path


def test_the_page_needs_nobody_else(served: Any) -> None:
    """Every part of /docs comes from the router, and the browser is told to ask nobody else."""
    page = served.client.get("/docs")
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    parts = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(parts) == 4
    for part in parts:
        assert "//" not in part
        assert served.client.get(f"/{part}").status_code == 200


def test_the_page_loads_the_description(served: Any) -> None:
    """The page starts Swagger UI on /openapi.json, without its online validator."""
    assert served.client.get("/docs/start.js").text.startswith('SwaggerUIBundle({url: "openapi.json"')
    assert "validatorUrl: null" in served.client.get("/docs/start.js").text


@pytest.mark.parametrize("name", ["index.html", "..%2f__init__.py", "LICENSE"])
def test_other_files_of_the_package_are_not_served(served: Any, name: str) -> None:
    """Only the parts of the page are given out."""
    assert served.client.get(f"/docs/{name}").status_code == 404


def test_an_unknown_path_points_to_the_page(served: Any) -> None:
    """Who mistypes a path is told where all of them stand."""
    reply = served.client.get("/predictions")
    assert reply.status_code == 404
    assert "/docs" in reply.json["detail"]
