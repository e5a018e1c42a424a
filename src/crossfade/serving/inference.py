"""The Open Inference Protocol, version 2 (KServe, Triton, Seldon): tensors in, tensors out.

https://github.com/kserve/open-inference-protocol. Only the shapes are its own; split, prediction and log are those
of /predict. The `id` is the request id, and `parameters` may name the `user_id`. Errors are ``{"error": sentence}``.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from flask import Blueprint, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from crossfade import __version__
from crossfade.errors import CrossfadeError, InvalidInput
from crossfade.serving.context import ask, guarded, remember, reply, router
from crossfade.serving.deployment import Arm, Deployment
from crossfade.serving.failures import describe
from crossfade.serving.messages import InferBody, PredictBody, Tensor, parse
from crossfade.serving.predictor import Answer

_DATATYPES = {"numeric": "FP64", "categorical": "BYTES", "boolean": "BOOL"}
_ALLOWED = ("BOOL", "BYTES", "FP32", "FP64", *(f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)))

api = Blueprint("inference", __name__, url_prefix="/v2")


class NotServed(CrossfadeError):
    """The request names a model or a version that no arm serves."""


class OtherArm(CrossfadeError):
    """The request names a version that serves the other arm than its user's."""


@api.get("")
def server() -> Response:
    """Say what server this is."""
    return jsonify({"name": "crossfade", "version": __version__, "extensions": []})


@api.get("/health/live")
def live() -> Response:
    """Say that this worker lives."""
    return jsonify({"live": True})


@api.get("/health/ready")
def ready() -> Response:
    """Say whether a model is loaded (503 while none is)."""
    return jsonify({"ready": bool(router().reloader.current)})


@api.get("/models/<model>/ready")
@api.get("/models/<model>/versions/<version>/ready")
def model_ready(model: str, version: str | None = None) -> Response:
    """Say that a model, or this very version of it, serves."""
    _arm(model, version)
    return jsonify({"name": model, "ready": True})


@api.get("/models/<model>")
@api.get("/models/<model>/versions/<version>")
@guarded("api_token")
def metadata(model: str, version: str | None = None) -> Response:
    """Say what a model takes and gives."""
    deployment, arm = _arm(model, version)
    loaded = arm.loaded.model
    inputs = [{"name": f.name, "datatype": _DATATYPES[f.kind], "shape": [-1]} for f in loaded.schema.features]
    outputs = [("prediction", _label_type(loaded.classes)), ("probability", "FP64")]
    return jsonify(
        {
            "name": model,
            "versions": [served.version for served in _arms(deployment)],
            "platform": "crossfade",
            "inputs": inputs,
            "outputs": [{"name": name, "datatype": datatype, "shape": [-1]} for name, datatype in outputs],
        }
    )


@api.post("/models/<model>/infer")
@api.post("/models/<model>/versions/<version>/infer")
@guarded("api_token")
def infer(model: str, version: str | None = None) -> Response:
    """Answer rows; a version that is named must be the one that the split gives this user."""
    body = parse(request, InferBody)
    deployment, arm = _arm(model, version)
    user_id = body.parameters.user_id if body.parameters else None
    request_id = uuid.uuid4().hex if body.id is None else body.id
    assigned = deployment.route(request_id if user_id is None else str(user_id), router().config.recent_split_b)
    if version is not None and assigned.version != version:
        raise OtherArm(
            f"version {version} serves arm {arm.variant}, and the split puts this request on arm {assigned.variant} "
            f"(version {assigned.version}): leave the version out, an experiment needs its users where they belong"
        )
    wanted = [output.name for output in body.outputs or ()] or ["prediction", "probability"]
    if unknown := set(wanted) - {"prediction", "probability"}:
        raise InvalidInput("outputs", f"names {sorted(unknown)[0][:40]!r}; allowed: prediction, probability")
    rows = _rows(body.inputs, deployment.prod.loaded.model.schema.names)
    return jsonify(_answered(ask(PredictBody(rows, user_id, None, request_id)), wanted))


@api.errorhandler(CrossfadeError)
def _crossfade_error(error: CrossfadeError) -> Response:
    remember(error)
    status, told = describe(error)
    mine: dict[type[CrossfadeError], int] = {InvalidInput: 400, NotServed: 404, OtherArm: 409}
    return reply(mine.get(type(error), status), {"error": told["detail"]})


@api.errorhandler(HTTPException)
def _http_error(error: HTTPException) -> Response:
    return reply(error.code or 500, {"error": error.description or error.name})


def _arms(deployment: Deployment) -> list[Arm]:
    return [arm for arm in (deployment.prod, deployment.staging) if arm is not None]


def _arm(model: str, version: str | None) -> tuple[Deployment, Arm]:
    """Return the deployment, and the arm that a version serves (prod's where none is named)."""
    deployment = router().reloader.current
    if model != deployment.model_name:
        raise NotServed(f"model {model[:100]!r} is not served here; {deployment.model_name!r} is")
    arms = _arms(deployment)
    for arm in arms:
        if version in (None, arm.version):
            return deployment, arm
    told = " and ".join(f"{arm.version} (arm {arm.variant})" for arm in arms)
    raise NotServed(f"version {str(version)[:40]!r} serves no arm of {model}; these do: {told}")


def _rows(tensors: list[Tensor], names: tuple[str, ...]) -> list[Any]:
    """Turn tensors into rows."""
    flat = [_flat(tensor) for tensor in tensors]
    if len(tensors) == 1 and tensors[0].name not in names and len(tensors[0].shape) == 2:
        width = tensors[0].shape[1]
        return [flat[0][i : i + width] for i in range(0, len(flat[0]), width)]
    if any(tensor.shape[1:] not in ([], [1]) for tensor in tensors) or len({len(values) for values in flat}) != 1:
        raise InvalidInput("inputs", "must be one tensor per feature, all of shape [n] or [n, 1], or one [n, features]")
    by_name = {tensor.name: values for tensor, values in zip(tensors, flat, strict=True)}
    if len(by_name) < len(tensors):
        raise InvalidInput("inputs", "names a feature twice; send each once")
    return [dict(zip(by_name, row, strict=True)) for row in zip(*by_name.values(), strict=True)]


def _flat(tensor: Tensor) -> list[Any]:
    """Return a tensor's values in one list, and make sure that they are as many as its shape says."""
    place = f"inputs.{tensor.name[:40]}"
    if tensor.datatype not in _ALLOWED:
        raise InvalidInput(f"{place}.datatype", f"is {tensor.datatype[:20]!r}; allowed: {', '.join(_ALLOWED)}")
    values = [one for row in tensor.data for one in (row if isinstance(row, list) else [row])]
    length, width = [*tensor.shape, 1, 1][:2]
    if not 1 <= len(tensor.shape) <= 2 or length < 1 or width < 1 or len(values) != length * width:
        raise InvalidInput(place, f"has {len(values)} values and the shape {tensor.shape[:9]}; they do not fit")
    return values


def _answered(answer: Answer, wanted: list[str]) -> dict[str, Any]:
    told = answer.body()
    labels, probabilities = answer.predictions.labels, answer.predictions.probabilities
    columns: dict[str, tuple[str, Sequence[Any]]] = {"prediction": (_label_type(labels), labels)}
    if None not in probabilities:
        columns["probability"] = ("FP64", probabilities)
    outputs = [
        {"name": name, "shape": [len(values)], "datatype": datatype, "data": values}
        for name, (datatype, values) in columns.items()
        if name in wanted
    ]
    told_beside = ("variant", "alias", "experiment_id", "ab_split_b", "latency_ms")
    return {
        "model_name": answer.model,
        "model_version": answer.arm.version,
        "id": answer.request_id,
        "parameters": {name: getattr(told, name) for name in told_beside},
        "outputs": outputs,
    }


def _label_type(labels: Any) -> str:
    return "INT64" if all(isinstance(label, int) for label in labels) else "BYTES"
