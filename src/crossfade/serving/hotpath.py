"""`POST /predict` in front of Flask: the same answer, for a fraction of what a framework costs per request.

What is not plain (a body without a length, too long, or of another content type) goes on to Flask's own view of the
same path, which has a word for each of these cases.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from crossfade.errors import CrossfadeError
from crossfade.serving.context import Router, check_token
from crossfade.serving.failures import UNEXPECTED, describe
from crossfade.serving.messages import BrokenJson, PredictBody, decode
from crossfade.serving.predictor import Answer

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_log = logging.getLogger(__name__)

_REASONS = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}

_MOST_DIGITS = 19
"""Of a length; Python refuses to read thousands."""

_encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode


class HotPath:
    """WSGI middleware that answers plain `POST /predict` by itself.

    Parameters
    ----------
    app : WSGI application
        Answers everything else.
    parts : Router
        The router's parts, as the views get them.
    max_body_bytes : int
        Longest body that is read here.
    """

    def __init__(self, app: WSGIApplication, parts: Router, max_body_bytes: int) -> None:
        self._app = app
        self._parts = parts
        self._max_body_bytes = max_body_bytes

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        if environ["PATH_INFO"] != "/predict" or environ["REQUEST_METHOD"] != "POST" or not self._is_plain(environ):
            return self._app(environ, start_response)
        started, metrics = time.perf_counter(), self._parts.metrics
        try:
            answer = self._predict(environ)
            status, body = 200, _encode(answer.body())
            metrics.answered(answer, time.perf_counter() - started)
        except CrossfadeError as error:
            status, told = describe(error)
            body = _encode(told)
            metrics.failed(status, error)
        except Exception as error:  # noqa: BLE001 - as Flask's own last resort: a caller gets JSON, whatever happens
            _log.exception("unexpected error on POST /predict")
            status, body = UNEXPECTED[0], _encode(UNEXPECTED[1])
            metrics.failed(status, error)
        start_response(_REASONS[status], [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    def _is_plain(self, environ: WSGIEnvironment) -> bool:
        length = environ.get("CONTENT_LENGTH") or ""
        kind = environ.get("CONTENT_TYPE") or ""
        return (
            kind.partition(";")[0].strip().lower() == "application/json"
            and length.isascii()
            and length.isdigit()
            and len(length) < _MOST_DIGITS
            and int(length) <= self._max_body_bytes
            and "HTTP_TRANSFER_ENCODING" not in environ
        )

    def _predict(self, environ: WSGIEnvironment) -> Answer:
        check_token(self._parts.api_token, environ.get("HTTP_AUTHORIZATION", ""))
        length = int(environ["CONTENT_LENGTH"])
        try:
            data = environ["wsgi.input"].read(length)
        except OSError as error:
            raise BrokenJson(f"did not arrive: {type(error).__name__}. Send it again") from error
        if len(data) < length:
            raise BrokenJson(f"ended after {len(data)} of {length} bytes: send it again")
        return self._parts.predictor.answer(decode(data, PredictBody))
