"""One thread of a worker answers and the others stand by, as long as it gets on (the leader/followers pattern).

Granian gives requests to whichever of its threads is free, and threads of one interpreter that are busy at once take
each other's time: of four, one request in a hundred waits twice as long as with one. But a worker with one thread is
silent when that one waits, for a disk that hangs or a client that stops in the middle of a body.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from threading import Condition, Lock, get_ident
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_PATIENCE_SECONDS = 0.02
"""A leader that has begun no request for so long waits for something, or there is none: the others are free."""

_GRANIAN = "Granian"
"""gunicorn has a use for its threads after `close()`, and a loop of its own that gives them requests."""


class Leader:
    """WSGI middleware that lets one of Granian's threads at a time answer `/predict`.

    A thread that meets a leader answers the request that it has, for nobody else can, and then stays in the `close()`
    of its answer, of which the client has all by then. Whatever else than `/predict` is asked runs beside it.

    Parameters
    ----------
    app : WSGI application
        What answers.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app
        self._leader: int | None = None
        self._begun = 0.0
        """When the leader began its last request."""
        self._resigned = Condition()
        self._watch = Lock()
        """Held by the one that looks now and then whether the leader gets on: each look takes the leader's time."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        if environ["PATH_INFO"] != "/predict" or environ.get("SERVER_SOFTWARE") != _GRANIAN:
            self._resign()
            return self._app(environ, start_response)
        me, now = get_ident(), time.monotonic()
        if self._leader != me:
            if self._gets_on(now):
                return _Follower(self._app(environ, start_response), self)
            self._leader = me  # where two do this at once, the second one leads
        self._begun = now
        return self._app(environ, start_response)

    def stand_by(self) -> None:
        """Return when a thread is needed, or may be."""
        with self._watch, self._resigned:
            while self._gets_on(time.monotonic()):
                self._resigned.wait(_PATIENCE_SECONDS)

    def _gets_on(self, now: float) -> bool:
        return self._leader is not None and now - self._begun < _PATIENCE_SECONDS

    def _resign(self) -> None:
        """Let another thread lead: this one may take its time."""
        if self._leader == get_ident():
            with self._resigned:
                self._leader = None
                self._resigned.notify()


class _Follower:
    """The answer of a thread that stands by after it."""

    def __init__(self, answer: Iterable[bytes], leader: Leader) -> None:
        self._answer = answer
        self._leader = leader

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._answer)

    def close(self) -> None:
        close = getattr(self._answer, "close", None)
        if close:
            close()
        self._leader.stand_by()
