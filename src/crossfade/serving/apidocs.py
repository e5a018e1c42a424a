"""`GET /openapi.json` and `GET /docs`: the API described from its own routes and types, and tried in a browser.

Swagger UI comes with the package flask-swagger-ui: nothing is fetched from elsewhere.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from http import HTTPStatus
from importlib.resources import as_file, files
from itertools import pairwise
from typing import Any

import msgspec
from flask import Blueprint, Flask, Response, current_app, jsonify, send_from_directory
from werkzeug.exceptions import NotFound
from werkzeug.routing import Rule

from crossfade import __version__, ingested
from crossfade.serving import answers, ingestor, intake, messages, monitor, scoring
from crossfade.serving.operations import JSON, OPERATIONS, Operation

_ABOUT = (
    "Answers rows from the version in production (arm A) or its challenger (arm B), logs each answer before it leaves, "
    "and takes labels that come later. Errors are `{error, detail}`; `detail` says what to do next."
)
_ASSETS = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")
_TOKENS = {"api_token": "ROUTER_API_TOKEN", "admin_token": "ROUTER_ADMIN_TOKEN"}
_MODULES = (answers, ingested, ingestor, intake, messages, monitor, scoring)
"""Where the types are."""

_PARAMETERS = {"model": "IrisClassifier", "version": "1", "name": "swagger-ui.css"}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Crossfade router: API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" href="docs/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null});\n'
_OWN_ONLY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
"""Content security policy: the page may not ask anybody else."""

api = Blueprint("apidocs", __name__)


@api.get("/openapi.json")
def openapi() -> Response:
    """Describe the whole API (OpenAPI 3.1)."""
    return jsonify(describe_api(current_app))


@api.get("/docs")
def docs() -> Response:
    """Show that description as a page to try the API on."""
    return Response(_PAGE, content_type="text/html; charset=utf-8", headers={"Content-Security-Policy": _OWN_ONLY})


@api.get("/docs/<name>")
def asset(name: str) -> Response:
    """Return a part of that page."""
    if name == "start.js":
        return Response(_START, content_type="text/javascript; charset=utf-8")
    if name not in _ASSETS:
        raise NotFound
    with as_file(files("flask_swagger_ui") / "dist") as folder:
        return send_from_directory(folder, name, max_age=3600)


def describe_api(app: Flask) -> dict[str, Any]:
    """Describe an app's routes as OpenAPI.

    Raises
    ------
    KeyError
        A route is not among the `OPERATIONS`.
    """
    rules = [rule for rule in app.url_map.iter_rules() if rule.endpoint != "static"]
    types = [shape for operation in OPERATIONS.values() for shape in _types(operation)]
    schemas, components = msgspec.json.schema_components(
        types, schema_hook=lambda _object: {"description": "any value"}, ref_template="#/components/schemas/{name}"
    )
    _explain_fields(components)
    schema_of = {str(shape): schema for shape, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for rule in sorted(rules, key=lambda rule: (list(OPERATIONS).index(rule.endpoint), len(rule.rule))):
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            told = _operation(rule, method, app.view_functions[rule.endpoint], schema_of)
            paths.setdefault(re.sub(r"<(\w+)>", r"{\1}", rule.rule), {})[method.lower()] = told
    return {
        "openapi": "3.1.0",
        "info": {"title": "Crossfade router", "version": __version__, "description": _ABOUT},
        "servers": [{"url": "./"}],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(rule: Rule, method: str, view: Any, schema_of: dict[str, Any]) -> dict[str, Any]:
    operation = OPERATIONS[rule.endpoint]
    named = "_".join([method.lower(), *re.findall(r"\w+", rule.rule)])
    told: dict[str, Any] = {
        "operationId": named,
        "tags": [operation.tag],
        "summary": inspect.getdoc(view) or "",
        "responses": _responses(operation, schema_of),
    }
    if parameters := [*_path_parameters(rule), *_parameters(operation)]:
        told["parameters"] = parameters
    if operation.body is not None:
        told["requestBody"] = {"required": True, "content": _bodies(operation, schema_of)}
    if (token := view.__dict__.get("token")) is not None:
        told["security"] = [{}, {"bearer": []}]
        told["description"] = f"Asks for the bearer token of {_TOKENS[token]} where that is set."
    return told


def _path_parameters(rule: Rule) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}, "example": _PARAMETERS[name]}
        for name in re.findall(r"<(\w+)>", rule.rule)
    ]


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    query = [
        {"name": name, "in": "query", "description": meaning, "schema": msgspec.json.schema(kind)}
        for name, kind, meaning in operation.query
    ]
    return query + [
        {"name": name, "in": "header", "description": meaning, "schema": {"type": "string"}}
        for name, meaning in operation.headers
    ]


def _bodies(operation: Operation, schema_of: dict[str, Any]) -> dict[str, Any]:
    shown = {"example": operation.example}
    if operation.kind == JSON:
        shown["schema"] = schema_of[str(operation.body)]
    else:
        shown["schema"] = {"type": "string", "description": "one JSON object per line"}
        shown["x-line-schema"] = schema_of[str(operation.body)]  # OpenAPI 3.2 has a word for it
    others = {kind: {"schema": {"type": "string"}, "example": example} for kind, example in operation.also}
    return {operation.kind: shown, **others}


def _responses(operation: Operation, schema_of: dict[str, Any]) -> dict[str, Any]:
    answer = {"type": "string"} if operation.answer is None else _any_of(operation.answer, schema_of)
    good = {"description": "OK", "content": {operation.answer_kind: {"schema": answer}}}
    error = {JSON: {"schema": _any_of(operation.error, schema_of)}}
    bad = {str(code): {"description": HTTPStatus(code).phrase, "content": error} for code in operation.failures}
    return {"200": good, **bad}


def _types(operation: Operation) -> list[Any]:
    given = [operation.body, *_several(operation.answer), *_several(operation.error)]
    return [shape for shape in given if shape is not None]


def _several(shape: Any) -> tuple[Any, ...]:
    return shape if isinstance(shape, tuple) else (shape,)


def _any_of(shape: Any, schema_of: dict[str, Any]) -> dict[str, Any]:
    schemas: list[dict[str, Any]] = [schema_of[str(one)] for one in _several(shape)]
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _explain_fields(components: dict[str, Any]) -> None:
    """Put the docstrings of the types' fields, which msgspec does not see, into their schemas."""
    for shape in (shape for module in _MODULES for shape in vars(module).values() if isinstance(shape, type)):
        properties = components.get(shape.__name__, {}).get("properties", {})
        for name, meaning in _field_docs(shape).items() if properties else ():
            if name in properties:
                properties[name]["description"] = meaning


def _field_docs(shape: type) -> dict[str, str]:
    """Read the text below each field of a class."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(shape))).body[0]
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    docs = {}
    for field, below in pairwise(body):
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            docs[field.target.id] = inspect.cleandoc(str(below.value.value))  # type: ignore[attr-defined]
    return docs
