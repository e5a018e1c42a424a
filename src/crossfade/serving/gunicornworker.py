"""gunicorn's threads, each of which is given a request only when all of it is there.

A gthread worker reads requests in its few threads, and sees connections off in the loop that feeds them: as many
clients as it has threads, each with half a request, keep everybody else waiting for as long as they like. Here one
loop, which waits for nobody, does both for all connections.

Two kinds are handed over as soon as their headers are there: a body that is too long, which is refused unread, and a
stream, which holds its thread for as long as bytes come.

Workers share connections out evenly (siblings.py).
"""

from __future__ import annotations

import contextlib
import errno
import json
import selectors
import socket
import time
from functools import partial
from typing import Any, ClassVar

from gunicorn.http.errors import ExpectationFailed, LimitRequestHeaders, LimitRequestLine, NoMoreData, ParseException
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn, ThreadWorker

from crossfade.serving.arrival import Arrival
from crossfade.serving.siblings import Place, Siblings, exists

ARRIVAL_SECONDS = 20.0
"""Time for a request to arrive, from its first byte (of a new connection: from its begin) to its last."""

SILENCE_SECONDS = 10.0
"""Longest pause of a client while a thread reads a stream, or writes an answer."""

_LEAVE_SECONDS, _LEAVE_BYTES = 2.0, 2**16
"""What a client may still send after the last answer, so that it gets to read this."""

_DRAIN_SECONDS = 0.05

_LOOK_SECONDS = 0.1
"""Between two looks whether siblings need help; also between two signs of life for the master."""

_MOST_HEAD_BYTES = 2**16

_MOST_HELD_BYTES = 2**26
"""Of all requests of a worker that are not complete."""


class _Unreader(SocketUnreader):  # type: ignore[misc]  # gunicorn ships no types
    def chunk(self) -> bytes:
        try:
            return super().chunk()  # type: ignore[no-any-return]
        except TimeoutError:
            raise NoMoreData from None  # as if the client had gone: gunicorn closes the connection without a word


class _Connection(TConn):  # type: ignore[misc]
    """A connection with the request that arrives on it."""

    arrival: Arrival
    parser: Any
    left_bytes = 0

    def init(self) -> None:
        """Give the parser what arrived; called in a thread, before it parses a request."""
        is_new = not self.initialized
        super().init()
        if is_new:
            self.parser.unreader = _Unreader(self.sock)
        self.sock.settimeout(SILENCE_SECONDS)
        self.parser.unreader.unread(bytes(self.arrival.received))
        self.arrival.received.clear()


def _not_logged(*_: object) -> None:
    """Write no line per request, which gunicorn does as soon as its log is configured.

    The request log and the metrics know more, and a line would name the user of a Basic login: a token, maybe.
    """


class PatientWorker(ThreadWorker):  # type: ignore[misc]
    """A gthread worker that no slow client can keep from answering others."""

    _siblings: ClassVar[Siblings | None] = None
    _placed: ClassVar[dict[int, PatientWorker]] = {}
    """By place, who had it last. Both are the master's; a worker has them as they were when it was forked."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._place = self._find_place()
        self._look_due = 0.0
        self._arriving: dict[_Connection, None] = {}
        """In the order in which their time is up, as the next."""
        self._leaving: dict[_Connection, None] = {}
        self._held_bytes = 0
        self.log.access = _not_logged

    def run(self) -> None:
        """Work until told to stop."""
        if self._place is not None:
            self.poller.register(self._place.mailbox, selectors.EVENT_READ, self._take_over)
        super().run()

    def notify(self) -> None:
        """Tell the master, and the siblings, that one lives; look at how they do."""
        self._tell()
        now = time.monotonic()
        if now < self._look_due:
            return
        self._look_due = now + _LOOK_SECONDS
        super().notify()
        if self._place is not None:
            for client, kept in self._place.take_orphans():
                self._begin(client, kept)
            self._even_out(self._place)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for events, a second at most: a worker that ends has to let idle connections go, too."""
        super().wait_for_and_dispatch_events(min(timeout, 1.0))

    def set_accept_enabled(self, enabled: bool) -> None:
        """Accept new connections, or no longer; a worker that ends takes no more from its siblings either."""
        super().set_accept_enabled(enabled)
        if self._place is not None and not self.alive:
            self._place.leave()

    def accept(self, listener: socket.socket) -> None:
        """Take a new connection, or give it to a sibling that has fewer."""
        try:
            client, _ = listener.accept()
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK):
                raise
            return
        if self._place is not None and (other := self._place.lightest()):
            place, load = other
            if load < self.nr_conns and self._place.pass_on(client, place, kept=False):
                return
        self._begin(client, kept=False)

    def on_client_socket_readable(self, conn: _Connection, client: socket.socket) -> None:
        """Receive the next request of a connection that was kept."""
        self.keepalived_conns.remove(conn)
        self._expect_request(conn, is_polled=True)
        self._receive(conn, client)

    def finish_request(self, conn: _Connection, fs: Any) -> None:
        """Keep the connection, or let it end; go on at once with a request that came behind the last one."""
        keep = not fs.cancelled() and fs.exception() is None and fs.result() and self.alive
        if not keep:
            self._leave(conn)
            return
        super().finish_request(conn, fs)
        if behind := conn.parser.unreader.take_buffered():
            self.keepalived_conns.remove(conn)
            self._expect_request(conn, is_polled=True)
            self._take(conn, behind)

    def murder_pending(self) -> None:
        """End connections whose time is up."""
        now = time.monotonic()
        for waiting in (self._arriving, self._leaving):
            while waiting and (conn := next(iter(waiting))).timeout < now:
                self._drop(conn, waiting)

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:
        """Answer what is no HTTP, as the router answers all errors, and log it without its bytes."""
        if not isinstance(exc, ParseException):
            super().handle_error(req, client, addr, exc)
            return
        status, phrase = 400, "Bad Request"
        if isinstance(exc, LimitRequestHeaders):
            status, phrase = 431, "Request Header Fields Too Large"
        elif isinstance(exc, LimitRequestLine):
            status, phrase = 414, "URI Too Long"
        elif isinstance(exc, ExpectationFailed):
            status, phrase = 417, "Expectation Failed"
        self.log.warning("refused a request from %s: %s", (addr or ["?"])[0], type(exc).__name__)
        self._say(client, status, phrase, f"the request is not HTTP as it should be ({type(exc).__name__})")

    def _keepalive_after(self, conn: _Connection, keepalive: bool) -> bool:
        """Whether the connection can be kept: what is left of a body that was refused unread is not waited for."""
        return keepalive and bool(conn.parser.finish_body(deadline=time.monotonic() + _DRAIN_SECONDS))

    def _find_place(self) -> Place | None:
        """Return a place that is free; called in the master, before the worker is forked."""
        if self.cfg.workers < 2 or self.cfg.is_ssl:  # what was agreed on with a client stays in its worker
            return None
        cls, places = type(self), 2 * self.cfg.workers + 2  # workers that end have theirs still
        if cls._siblings is None:
            cls._siblings = Siblings(places)
        for number in range(len(cls._siblings.mailboxes)):
            before = cls._placed.get(number)
            if before is None or (isinstance(before.pid, int) and not exists(before.pid)):  # else it is being forked
                cls._placed[number] = self
                return Place(cls._siblings, number)
        return None

    def _take_over(self, _: socket.socket) -> None:
        assert self._place is not None
        for client, kept in self._place.take():
            self._begin(client, kept)

    def _begin(self, client: socket.socket, kept: bool) -> None:
        """Wait for the first request of a connection, or for the next one of one that a sibling kept."""
        try:
            conn = _Connection(self.cfg, client, client.getpeername(), client.getsockname())
        except OSError:  # the client has gone
            client.close()
            return
        self.nr_conns += 1
        conn.data_ready = True  # when a thread gets it
        if kept:
            conn.set_timeout()
            self.keepalived_conns.append(conn)
            self.poller.register(client, selectors.EVENT_READ, partial(self.on_client_socket_readable, conn))
        else:
            self._expect_request(conn)
        self._tell()

    def _tell(self) -> None:
        if self._place is not None and self.alive:
            self._place.tell(self.nr_conns)

    def _even_out(self, place: Place) -> None:
        """Give idle connections to a sibling that has fewer, such as one that was started anew."""
        while self.keepalived_conns and (other := place.lightest()) and other[1] + 2 <= self.nr_conns:
            conn = self.keepalived_conns.popleft()
            self.poller.unregister(conn.sock)
            if not place.pass_on(conn.sock, other[0], kept=True):
                self.keepalived_conns.appendleft(conn)
                self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_client_socket_readable, conn))
                return
            self.nr_conns -= 1

    def _expect_request(self, conn: _Connection, is_polled: bool = False) -> None:
        settings = getattr(self.wsgi, "config", {})  # Flask's; another application sets no limit of its own
        conn.arrival = Arrival(settings.get("MAX_CONTENT_LENGTH") or _MOST_HEAD_BYTES)
        conn.timeout = time.monotonic() + ARRIVAL_SECONDS
        self._arriving[conn] = None
        watch = self.poller.modify if is_polled else self.poller.register
        watch(conn.sock, selectors.EVENT_READ, partial(self._receive, conn))

    def _receive(self, conn: _Connection, client: socket.socket) -> None:
        try:
            data = client.recv(2**18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._take(conn, data)
        else:
            self._drop(conn, self._arriving)

    def _take(self, conn: _Connection, data: bytes) -> None:
        self._held_bytes += len(data)
        arrival = conn.arrival
        if arrival.take(data):
            self._forget(conn, self._arriving)
            self.enqueue_req(conn)
            return
        if arrival.wants_to_be_asked:
            arrival.wants_to_be_asked = False
            with contextlib.suppress(OSError):
                conn.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not arrival.has_head and len(arrival.received) > _MOST_HEAD_BYTES:
            self._forget(conn, self._arriving)
            self.handle_error(None, conn.sock, conn.client, LimitRequestHeaders("too long"))
            self._leave(conn)
        while self._held_bytes > _MOST_HELD_BYTES:
            self._drop(next(iter(self._arriving)), self._arriving)

    def _leave(self, conn: _Connection) -> None:
        """Say that nothing more will come, and let the client read to the end before the connection is closed."""
        conn.timeout = time.monotonic() + _LEAVE_SECONDS
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._discard, conn))
        except (OSError, ValueError):  # it is gone
            self.nr_conns -= 1
            conn.close()
            return
        self._leaving[conn] = None

    def _discard(self, conn: _Connection, client: socket.socket) -> None:
        try:
            data = client.recv(2**16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        conn.left_bytes += len(data)
        if not data or conn.left_bytes > _LEAVE_BYTES:
            self._drop(conn, self._leaving)

    def _drop(self, conn: _Connection, waiting: dict[_Connection, None]) -> None:
        """Close a connection that is not waited for any longer."""
        started = waiting is self._arriving and bool(conn.arrival.received)
        self._forget(conn, waiting)
        if started:
            self._say(
                conn.sock, 408, "Request Timeout", "the request did not arrive whole, or not in time; send it again"
            )
        self.nr_conns -= 1
        conn.close()

    def _forget(self, conn: _Connection, waiting: dict[_Connection, None]) -> None:
        del waiting[conn]
        self.poller.unregister(conn.sock)
        if waiting is self._arriving:
            self._held_bytes -= len(conn.arrival.received)

    @staticmethod
    def _say(client: socket.socket, status: int, phrase: str, detail: str) -> None:
        """Answer by an error, if the client takes it at once."""
        body = json.dumps({"error": phrase.lower().replace(" ", "_"), "detail": detail})
        head = f"HTTP/1.1 {status} {phrase}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        with contextlib.suppress(OSError):
            client.setblocking(False)
            client.send(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
