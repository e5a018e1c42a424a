"""What every view works with: the router's parts, its tokens, and replies."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, cast

from flask import Response, current_app, jsonify, request
from pydantic import SecretStr

from crossfade.requestlog import RequestLog
from crossfade.serving.config import SplitConfig
from crossfade.serving.ingestor import Ingestor
from crossfade.serving.predictor import Predictor
from crossfade.serving.reload import Reloader

View = Callable[[], Response]


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


def router() -> Router:
    """Return the parts of the app that answers this request."""
    return cast(Router, current_app.extensions["crossfade"])


def guarded(token_name: str) -> Callable[[View], View]:
    """Ask for a bearer token where one is set."""

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded_view() -> Response:
            token: SecretStr | None = getattr(router(), token_name)
            if token is not None:
                scheme, _, sent = request.headers.get("Authorization", "").partition(" ")
                right = hmac.compare_digest(sent.strip().encode(), token.get_secret_value().encode())
                if scheme.lower() != "bearer" or not right:
                    return refusal(
                        401, "unauthorized", "send the header `Authorization: Bearer <token>` with the right token"
                    )
            return view()

        return guarded_view

    return decorate


def refusal(status: int, code: str, detail: str, **more: Any) -> Response:
    """Answer with an error."""
    response = jsonify({"error": code, "detail": detail, **more})
    response.status_code = status
    return response
