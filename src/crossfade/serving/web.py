"""The HTTP side: the calls about predictions, and every error as ``{"error": code, "detail": sentence}``."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict
from datetime import UTC, datetime
from typing import cast

from flask import Blueprint, Flask, Response, current_app, g, jsonify, request
from msgspec import to_builtins
from werkzeug.exceptions import HTTPException

from crossfade import __version__
from crossfade.errors import CrossfadeError, InvalidInput, NoModel
from crossfade.requestlog import LateLabel, utc_now
from crossfade.schema import label_text, plain_text
from crossfade.serving import apidocs, inference, ingest, scoring
from crossfade.serving.context import Router, ask, guarded, remember, reply, router
from crossfade.serving.exposition import CONTENT_TYPE
from crossfade.serving.failures import UNEXPECTED, describe
from crossfade.serving.hotpath import HotPath
from crossfade.serving.messages import ConfigBody, FeedbackBody, PredictBody, parse

_log = logging.getLogger(__name__)

api = Blueprint("api", __name__)

_PREDICTING = {"api.predict", "scoring.invocations", "inference.infer"}


@api.post("/predict")
@guarded("api_token")
def predict() -> Response:
    """Answer one row or a batch."""
    return jsonify(to_builtins(ask(parse(request, PredictBody)).body()))


@api.post("/feedback")
@guarded("api_token")
def feedback() -> Response:
    """Take labels that come later, one or a list."""
    body = parse(request, cast(type[FeedbackBody | list[FeedbackBody]], FeedbackBody | list[FeedbackBody]))
    given = body if isinstance(body, list) else [body]
    now = utc_now()
    places = [f"[{i}]." if isinstance(body, list) else "" for i in range(len(given))]
    labels = [
        LateLabel(now, plain_text(one.request_id, f"{place}request_id"), label_text(one.label, f"{place}label"))
        for one, place in zip(given, places, strict=True)
    ]
    if labels:
        router().log.append_labels(labels)
        router().metrics.labeled(len(labels))
    return jsonify({"accepted": len(labels)})


@api.get("/config")
def show_config() -> Response:
    """Show the split in force."""
    return jsonify({"ab_split_b": router().config.split_b})


@api.post("/config")
@guarded("admin_token")
def change_config() -> Response:
    """Put a new split in force, in every worker, before this answers."""
    share = parse(request, ConfigBody).ab_split_b
    if not 0 <= share <= 1:
        raise InvalidInput("ab_split_b", f"is {share}; allowed: a number from 0 to 1")
    router().config.split_b = share
    router().config.settle()
    return show_config()


@api.post("/reload")
@guarded("admin_token")
def reload() -> Response:
    """Look at the registry now, here and in every other worker and replica."""
    reloader = router().reloader
    reloader.refresh(try_again=True)
    reloader.tell_other_workers()
    reloader.tell_other_machines()
    return health()


@api.get("/health")
def health() -> Response:
    """Say that this worker lives, what it and its siblings serve, and what is wrong."""
    parts = router()
    try:
        deployment = parts.reloader.current
    except NoModel:
        deployment = None
    split_b = parts.config.split_b
    look = parts.reloader.last_look
    seen = datetime.fromtimestamp(look.at, UTC).isoformat(timespec="seconds") if look.at else None
    return jsonify(
        {
            "status": "ok",
            "worker": os.getpid(),
            "prod": deployment and deployment.prod.version,
            "staging": deployment and deployment.staging and deployment.staging.version,
            "experiment_id": deployment and deployment.experiment_id,
            "ab_split_b": split_b,
            "registry_seen_utc": seen,
            "workers": [asdict(worker) for worker in parts.metrics.workers()],
            "problems": [problem for problem in (look.problem, parts.config.problem, parts.log.problem) if problem],
        }
    )


@api.get("/ready")
def ready() -> Response:
    """Say whether a model is loaded (503 while none is)."""
    return jsonify({"status": "ready", "prod": router().reloader.current.prod.version})


@api.get("/version")
def version() -> Response:
    """Say which model answers on which arm, and which router this is."""
    deployment = router().reloader.current
    arms = {
        arm.variant: {
            "alias": arm.alias,
            "model": deployment.model_name,
            "model_version": arm.version,
            "run_id": arm.loaded.version.run_id,
            "digest": arm.loaded.digest,
            "runtime": arm.loaded.model.tier,
        }
        for arm in (deployment.prod, deployment.staging)
        if arm is not None
    }
    return jsonify({"router": __version__, "experiment_id": deployment.experiment_id, "arms": arms})


@api.get("/metrics")
def metrics() -> Response:
    """Tell Prometheus what all workers have counted."""
    return Response(
        router().metrics.text(router().config.split_b, router().log.waiting_bytes), content_type=CONTENT_TYPE
    )


@api.get("/monitor/basic")
@guarded("api_token")
def monitor() -> Response:
    """Show what the newest rows of the request log look like: features, predictions per arm, labels."""
    return jsonify(asdict(router().monitor.window(request.args.get("rows", "1000"))))


def install(app: Flask, parts: Router) -> None:
    """Put the routes and error pages into an app."""
    app.extensions["crossfade"] = parts
    app.wsgi_app = HotPath(app.wsgi_app, parts, app.config["MAX_CONTENT_LENGTH"])  # type: ignore[method-assign]
    for blueprint in (api, ingest.api, scoring.api, inference.api, apidocs.api):
        app.register_blueprint(blueprint)
    app.after_request(_count_failure)
    app.register_error_handler(CrossfadeError, _crossfade_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected_error)


def _count_failure(response: Response) -> Response:
    error = g.get("error")
    if request.endpoint in _PREDICTING and response.status_code >= 400:
        router().metrics.failed(response.status_code, error)
    elif request.endpoint == "api.feedback":
        router().metrics.noticed(error)
    return response


def _crossfade_error(error: CrossfadeError) -> Response:
    remember(error)
    return reply(*describe(error))


def _http_error(error: HTTPException) -> Response:
    code = (error.name or "error").lower().replace(" ", "_")
    details = {
        404: f"there is no {request.path[:100]}; see /docs for what there is",
        405: f"{request.path[:100]} does not take {request.method}",
        413: f"the body is too large; allowed: {current_app.config['MAX_CONTENT_LENGTH']} bytes",
    }
    status = error.code or 500
    response = reply(status, {"error": code, "detail": details.get(status, error.description or code)})
    if error.code == 405:
        response.headers["Allow"] = ", ".join(getattr(error, "valid_methods", None) or ())
    return response


def _unexpected_error(_error_seen: Exception) -> Response:
    _log.exception("unexpected error on %s %s", request.method, request.path)
    return reply(*UNEXPECTED)
