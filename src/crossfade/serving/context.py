"""What every view works with: the router's parts, its tokens, and replies."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, cast

from flask import Response, current_app, g, jsonify, request
from pydantic import SecretStr

from crossfade.errors import CrossfadeError
from crossfade.requestlog import RequestLog
from crossfade.serving.config import SplitConfig
from crossfade.serving.ingestor import Ingestor
from crossfade.serving.messages import PredictBody
from crossfade.serving.metrics import Metrics
from crossfade.serving.monitor import Monitor
from crossfade.serving.predictor import Answer, Predictor
from crossfade.serving.reload import Reloader

View = Callable[..., Response]


class Unauthorized(CrossfadeError):
    """The token is missing or wrong."""


@dataclass(frozen=True)
class Router:
    """The parts that the views work with."""

    predictor: Predictor
    reloader: Reloader
    config: SplitConfig
    log: RequestLog
    ingestor: Ingestor
    api_token: SecretStr | None
    admin_token: SecretStr | None
    metrics: Metrics
    monitor: Monitor


def router() -> Router:
    """Return the parts of the app that answers this request."""
    return cast(Router, current_app.extensions["crossfade"])


def guarded(token_name: str) -> Callable[[View], View]:
    """Ask for a bearer token where one is set."""

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded_view(**parts: str) -> Response:
            check_token(getattr(router(), token_name), request.headers.get("Authorization", ""))
            return view(**parts)

        guarded_view.__dict__["token"] = token_name  # the API's description says so
        return guarded_view

    return decorate


def check_token(token: SecretStr | None, header: str) -> None:
    """Raise Unauthorized unless no token is set, or the Authorization header brings it."""
    if token is None:
        return
    scheme, _, sent = header.partition(" ")
    right = hmac.compare_digest(sent.strip().encode(), token.get_secret_value().encode())
    if scheme.lower() != "bearer" or not right:
        raise Unauthorized("send the header `Authorization: Bearer <token>` with the right token")


def ask(body: PredictBody) -> Answer:
    """Answer a request for a prediction, and count it."""
    started = time.perf_counter()
    parts = router()
    answer = parts.predictor.answer(body)
    parts.metrics.answered(answer, time.perf_counter() - started)
    return answer


def remember(error: CrossfadeError) -> None:
    """Keep in mind why this request was not answered, for the metrics."""
    g.error = error


def reply(status: int, body: dict[str, Any]) -> Response:
    """Answer with a status and a JSON body."""
    response = jsonify(body)
    response.status_code = status
    return response
