"""A WSGI application that does nothing: what the HTTP server itself can do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

ANSWER = b'{"prediction":0}'
HEADERS = [("Content-Type", "application/json"), ("Content-Length", str(len(ANSWER)))]


def create_app() -> Callable[..., Iterable[bytes]]:
    """Return an application that reads the body, as whoever answers it must, and says always the same."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response("200 OK", HEADERS)
        return [ANSWER]

    return app
