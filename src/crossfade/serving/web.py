"""The HTTP side: blueprints, tokens, and every error as ``{"error": code, "detail": sentence}``."""

from __future__ import annotations

import hmac
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from typing import Any, cast

from flask import Blueprint, Flask, Response, current_app, jsonify, request
from pydantic import SecretStr
from werkzeug.exceptions import HTTPException

from crossfade import __version__
from crossfade.errors import CrossfadeError, InvalidInput, LogUnavailable, NoModel
from crossfade.requestlog import LateLabel, RequestLog, utc_now
from crossfade.schema import label_text, plain_text
from crossfade.serving.config import SplitConfig
from crossfade.serving.messages import ConfigBody, FeedbackBody, PredictBody, parse
from crossfade.serving.predictor import PredictionFailed, Predictor
from crossfade.serving.reload import Reloader

_log = logging.getLogger(__name__)

_STATUS: dict[type[CrossfadeError], tuple[int, str]] = {
    InvalidInput: (422, "invalid_input"),
    NoModel: (503, "no_model"),
    LogUnavailable: (503, "log_unavailable"),
    PredictionFailed: (500, "prediction_failed"),
}

View = Callable[[], Response]


@dataclass(frozen=True)
class Router:
    """The parts that the views work with."""

    predictor: Predictor
    reloader: Reloader
    config: SplitConfig
    log: RequestLog
    api_token: SecretStr | None
    admin_token: SecretStr | None


api = Blueprint("api", __name__)


def _router() -> Router:
    return cast(Router, current_app.extensions["crossfade"])


def _guarded(token_name: str) -> Callable[[View], View]:
    """Ask for a bearer token where one is set."""

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded() -> Response:
            token: SecretStr | None = getattr(_router(), token_name)
            if token is not None:
                scheme, _, sent = request.headers.get("Authorization", "").partition(" ")
                right = hmac.compare_digest(sent.strip().encode(), token.get_secret_value().encode())
                if scheme.lower() != "bearer" or not right:
                    return _error(
                        401, "unauthorized", "send the header `Authorization: Bearer <token>` with the right token"
                    )
            return view()

        return guarded

    return decorate


@api.post("/predict")
@_guarded("api_token")
def predict() -> Response:
    """Answer one row or a batch."""
    return jsonify(_router().predictor.answer(parse(request, PredictBody)).to_dict())


@api.post("/feedback")
@_guarded("api_token")
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
        _router().log.append_labels(labels)
    return jsonify({"accepted": len(labels)})


@api.get("/config")
def show_config() -> Response:
    """Show the split in force."""
    return jsonify({"ab_split_b": _router().config.split_b})


@api.post("/config")
@_guarded("admin_token")
def change_config() -> Response:
    """Put a new split in force, in every worker, before this answers."""
    share = parse(request, ConfigBody).ab_split_b
    if not 0 <= share <= 1:
        raise InvalidInput("ab_split_b", f"is {share}; allowed: a number from 0 to 1")
    _router().config.split_b = share
    return show_config()


@api.post("/reload")
@_guarded("admin_token")
def reload() -> Response:
    """Look at the registry now, here and in every other worker."""
    reloader = _router().reloader
    reloader.refresh(try_again=True)
    reloader.tell_other_workers()
    return health()


@api.get("/health")
def health() -> Response:
    """Say that this worker lives, what it serves, and what is wrong."""
    router = _router()
    try:
        deployment = router.reloader.current
    except NoModel:
        deployment = None
    split_b = router.config.split_b
    look = router.reloader.last_look
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
            "problems": [problem for problem in (look.problem, router.config.problem) if problem],
        }
    )


@api.get("/ready")
def ready() -> Response:
    """Say whether a model is loaded (503 while none is)."""
    return jsonify({"status": "ready", "prod": _router().reloader.current.prod.version})


@api.get("/version")
def version() -> Response:
    """Say which model answers on which arm, and which router this is."""
    deployment = _router().reloader.current
    arms = {
        arm.variant: {
            "alias": arm.alias,
            "model": deployment.model_name,
            "model_version": arm.version,
            "run_id": arm.loaded.version.run_id,
            "digest": arm.loaded.digest,
        }
        for arm in (deployment.prod, deployment.staging)
        if arm is not None
    }
    return jsonify({"router": __version__, "experiment_id": deployment.experiment_id, "arms": arms})


def install(app: Flask, router: Router) -> None:
    """Put the routes and error pages into an app."""
    app.extensions["crossfade"] = router
    app.register_blueprint(api)
    app.register_error_handler(CrossfadeError, _crossfade_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected_error)


def _crossfade_error(error: CrossfadeError) -> Response:
    status, code = _STATUS.get(type(error), (500, "internal"))
    body: dict[str, Any] = {"error": code, "detail": str(error)}
    if isinstance(error, InvalidInput):
        body["field"] = error.field
    return _reply(status, body)


def _http_error(error: HTTPException) -> Response:
    code = (error.name or "error").lower().replace(" ", "_")
    details = {
        404: f"there is no {request.path[:100]}; see the README for what there is",
        405: f"{request.path[:100]} does not take {request.method}",
        413: f"the body is too large; allowed: {current_app.config['MAX_CONTENT_LENGTH']} bytes",
    }
    response = _error(error.code or 500, code, details.get(error.code or 500, error.description or code))
    if error.code == 405:
        response.headers["Allow"] = ", ".join(getattr(error, "valid_methods", None) or ())
    return response


def _unexpected_error(_error_seen: Exception) -> Response:
    _log.exception("unexpected error on %s %s", request.method, request.path)
    return _error(500, "internal", "the router failed on this request; its log says why")


def _error(status: int, code: str, detail: str) -> Response:
    return _reply(status, {"error": code, "detail": detail})


def _reply(status: int, body: dict[str, Any]) -> Response:
    response = jsonify(body)
    response.status_code = status
    return response
