"""MLflow's scoring protocol, so that its clients work unchanged: `POST /invocations`, `GET /ping`.

https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/. Only the shape of the body is its own; split,
prediction and log are those of /predict. A body is always a batch, and what is wrong with it is a 400, as there.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from typing import Any

import msgspec
from flask import Blueprint, Request, Response, jsonify, request
from msgspec import UNSET, UnsetType, to_builtins
from werkzeug.exceptions import UnsupportedMediaType

from crossfade.errors import InvalidInput
from crossfade.schema import Feature, FeatureSchema, Value
from crossfade.serving.context import ask, guarded, remember, reply, router
from crossfade.serving.failures import describe
from crossfade.serving.messages import BrokenJson, PredictBody, decode, read_body

_MISSING = frozenset(
    ("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
     "NULL", "NaN", "None", "n/a", "nan", "null")
)  # fmt: skip
"""Cells that `pandas.read_csv`, and with it MLflow, takes for missing."""

_BOOLEANS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}

api = Blueprint("scoring", __name__)


class SplitFrame(msgspec.Struct, forbid_unknown_fields=True):
    """A data frame as pandas writes it with `orient="split"`."""

    columns: list[str]
    data: list[list[Any]]
    """Rows, each with a value per column."""
    index: list[Any] | None = None
    """Of no consequence."""


class Params(msgspec.Struct, forbid_unknown_fields=True):
    """What may be said beside the rows; the headers X-User-Id and X-Request-Id say the same."""

    user_id: int | str | None = None
    """All rows are answered by this user's arm; without one the request id is hashed."""
    request_id: str | None = None


class InvocationsBody(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /invocations`: rows under exactly one of the first four names."""

    dataframe_split: SplitFrame | UnsetType = UNSET
    dataframe_records: list[Any] | UnsetType = UNSET
    """Rows, each an object by feature name."""
    instances: list[Any] | UnsetType = UNSET
    """Rows, each an object by feature name, or a list in signature order."""
    inputs: dict[str, Any] | list[Any] | UnsetType = UNSET
    """A list of values per feature name, or rows as in `instances`."""
    params: Params | None = None


@api.get("/ping")
def ping() -> Response:
    """Say whether a model is loaded, as MLflow's clients ask it (503 while none is)."""
    return jsonify({"status": "ready", "prod": router().reloader.current.prod.version})


@api.post("/invocations")
@guarded("api_token")
def invocations() -> Response:
    """Answer rows in MLflow's scoring protocol."""
    place, rows, params = _read(request)
    for i, row in enumerate(rows):
        if not isinstance(row, (dict, list)):
            raise InvalidInput(f"{place}[{i}]", "is no row; send an object by feature name, or a list of values")
    if not rows:
        raise InvalidInput(place, "holds no rows; send one at least")
    user_id = params.user_id if params.user_id is not None else request.headers.get("X-User-Id")
    request_id = params.request_id if params.request_id is not None else request.headers.get("X-Request-Id")
    try:
        answer = ask(PredictBody([_without_nan(row) for row in rows], user_id, None, request_id))
        return jsonify(to_builtins(answer.body()))
    except InvalidInput as error:
        raise _moved(error, place) from None


@api.errorhandler(InvalidInput)
def _bad_body(error: InvalidInput) -> Response:
    remember(error)
    return reply(400, describe(error)[1])


def _read(sent: Request) -> tuple[str, list[Any], Params]:
    """Return what the rows are called in the body, the rows, and the parameters."""
    if sent.mimetype == "text/csv":
        return "csv", _csv_rows(read_body(sent), router().reloader.current.prod.loaded.model.schema), Params()
    if sent.mimetype != "application/json":
        kind = sent.content_type or "none"
        raise UnsupportedMediaType(f"the content type is {kind[:100]}; allowed: application/json, text/csv")
    body = decode(read_body(sent), InvocationsBody)
    names = ("dataframe_split", "dataframe_records", "instances", "inputs")
    given = [name for name in names if getattr(body, name) is not UNSET]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        raise InvalidInput("body", f"holds {found}; send the rows under exactly one of {', '.join(names)}")
    params = body.params or Params()
    if isinstance(body.dataframe_split, SplitFrame):
        return "dataframe_split.data", _split_rows(body.dataframe_split), params
    if isinstance(body.inputs, dict):
        return "inputs", _column_rows(body.inputs), params
    return given[0], getattr(body, given[0]), params


def _split_rows(frame: SplitFrame) -> list[dict[str, Any]]:
    if len(set(frame.columns)) != len(frame.columns):
        raise InvalidInput("dataframe_split.columns", "names a column twice; send each once")
    return list(_by_name(frame.columns, frame.data, lambda i: f"dataframe_split.data[{i}]"))


def _column_rows(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Turn a list of values per name, or one value per name, into rows."""
    lists = {name: values if isinstance(values, list) else [values] for name, values in columns.items()}
    lengths = {len(values) for values in lists.values()}
    if len(lengths) > 1:
        told = ", ".join(f"{name[:40]} has {len(values)}" for name, values in list(lists.items())[:10])
        raise InvalidInput("inputs", f"has lists of different lengths ({told}); send as many values of each feature")
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def _csv_rows(data: bytes, schema: FeatureSchema) -> list[dict[str, Any]]:
    """Read a table with a header; cells become what their feature's kind says, or stay text, which is then refused."""
    try:
        lines = list(csv.reader(data.decode("utf-8-sig").splitlines(), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BrokenJson(f"is no CSV in UTF-8: {str(error)[:200]}; send a header and a line per row") from None
    header, *cells = [line for line in lines if line] or [[]]
    if len(set(header)) != len(header):
        raise InvalidInput("csv", "names a column twice; send each once")
    features = {feature.name: feature for feature in schema.features}
    rows = []
    for row in _by_name(header, cells, lambda i: f"csv[{i}]"):
        row.pop("", None)  # the index, where pandas wrote one
        rows.append({name: _cell(text, features.get(name)) for name, text in row.items()})
    return rows


def _cell(text: str, feature: Feature | None) -> Value:
    """Read a cell."""
    if text in _MISSING:
        return None
    if feature is not None and feature.kind == "boolean":
        return _BOOLEANS.get(text.strip().lower(), text)
    if feature is not None and feature.kind == "numeric":
        try:
            return float(text)
        except ValueError:
            return text
    return text


def _by_name(names: list[str], rows: Iterable[list[Any]], place: Any) -> Iterable[dict[str, Any]]:
    for i, row in enumerate(rows):
        if len(row) != len(names):
            raise InvalidInput(place(i), f"has {len(row)} values for {len(names)} columns; send one for each")
        yield dict(zip(names, row, strict=True))


def _without_nan(row: dict[str, Any] | list[Any]) -> dict[str, Any] | list[Any]:
    """Put null in place of NaN, which is how a data frame says that a value is missing."""
    if isinstance(row, dict):
        return {name: None if _is_nan(value) else value for name, value in row.items()}
    return [None if _is_nan(value) else value for value in row]


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _moved(error: InvalidInput, place: str) -> InvalidInput:
    """Say where a value stands in this body, not in that of /predict."""
    problem = str(error).removeprefix(f"{error.field}: ")
    field = error.field
    return InvalidInput(place + field.removeprefix("features") if field.startswith("features") else field, problem)
