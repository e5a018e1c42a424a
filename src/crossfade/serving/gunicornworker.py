"""gunicorn's threads, each of which is given a request only when all of it is there.

A gthread worker reads requests in its few threads, and sees connections off in the loop that feeds them: as many
clients as it has threads, each with half a request, keep everybody else waiting for as long as they like. Here one
loop, which waits for nobody, does both for all connections.

Two kinds are handed over as soon as their headers are there: a body that is too long, which is refused unread, and a
stream, which holds its thread for as long as bytes come.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import selectors
import socket
import time
from functools import partial
from typing import Any

from gunicorn.http.errors import ExpectationFailed, LimitRequestHeaders, LimitRequestLine, NoMoreData, ParseException
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn, ThreadWorker

ARRIVAL_SECONDS = 20.0
"""Time for a request to arrive, from its first byte (of a new connection: from its begin) to its last."""

SILENCE_SECONDS = 10.0
"""Longest pause of a client while a thread reads a stream, or writes an answer."""

_LEAVE_SECONDS, _LEAVE_BYTES = 2.0, 2**16
"""What a client may still send after the last answer, so that it gets to read this."""

_DRAIN_SECONDS = 0.05

_MOST_HEAD_BYTES = 2**16

_MOST_HELD_BYTES = 2**26
"""Of all requests of a worker that are not complete."""

_STREAM = b"POST /ingest/stream"
"""Begins requests that are read as they come."""

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect:", re.IGNORECASE)


class Arrival:
    r"""The bytes of one request so far.

    Parameters
    ----------
    most_body_bytes : int
        A longer body need not arrive: it will be refused.

    Examples
    --------
    >>> arrival = Arrival(100)
    >>> arrival.take(b"POST /predict HTTP/1.1\r\nContent-Length: 2\r\n\r\n{"), arrival.take(b"}")
    (False, True)
    """

    def __init__(self, most_body_bytes: int) -> None:
        self.received = bytearray()
        self.wants_to_be_asked = False
        """The client holds its body back until it is told to continue."""
        self._most_body_bytes = most_body_bytes
        self._body_at: int | None = None
        self._complete_at = 0
        self._chunk_at: int | None = None

    @property
    def has_head(self) -> bool:
        """Whether all headers are there."""
        return self._body_at is not None

    def take(self, data: bytes) -> bool:
        """Add bytes; tell whether a thread can do something with the request now."""
        start = max(0, len(self.received) - 3)
        self.received += data
        if self._body_at is None:
            end = self.received.find(b"\r\n\r\n", start)
            if end < 0:
                return False
            self._read_head(end + 4)
        if self._chunk_at is not None:
            return self._all_chunks_are_there()
        return len(self.received) >= self._complete_at

    def _read_head(self, end: int) -> None:
        head = bytes(self.received[:end])
        self._body_at = self._complete_at = end
        if head.startswith(_STREAM):
            return
        if _CHUNKED.search(head):
            self._chunk_at = end
        elif (length := _LENGTH.search(head)) and int(length[1]) <= self._most_body_bytes:
            self._complete_at += int(length[1])
        self.wants_to_be_asked = _EXPECT.search(head) is not None and len(self.received) == end < self._complete_at

    def _all_chunks_are_there(self) -> bool:
        """Walk on from chunk to chunk; one that is none is the parser's to refuse."""
        at = self._chunk_at or 0
        while (line_end := self.received.find(b"\r\n", at, at + 1024)) >= 0:
            try:
                size = int(self.received[at:line_end].partition(b";")[0], 16)
            except ValueError:
                return True
            if size <= 0:
                return self.received.find(b"\r\n\r\n", line_end) >= 0
            at = self._chunk_at = line_end + 2 + size + 2
        return len(self.received) > self._most_body_bytes or len(self.received) - at > 1024


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

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arriving: dict[_Connection, None] = {}
        """In the order in which their time is up, as the next."""
        self._leaving: dict[_Connection, None] = {}
        self._held_bytes = 0
        self.log.access = _not_logged

    def accept(self, listener: socket.socket) -> None:
        """Take a new connection."""
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK):
                raise
            return
        self.nr_conns += 1
        conn = _Connection(self.cfg, client, address, listener.getsockname())
        conn.data_ready = True  # when a thread gets it
        self._expect_request(conn)

    def on_client_socket_readable(self, conn: _Connection, client: socket.socket) -> None:
        """Receive the next request of a connection that was kept."""
        self.keepalived_conns.remove(conn)
        self.poller.unregister(client)
        self._expect_request(conn)
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
            self.poller.unregister(conn.sock)
            self._expect_request(conn)
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

    def _expect_request(self, conn: _Connection) -> None:
        settings = getattr(self.wsgi, "config", {})  # Flask's; another application sets no limit of its own
        conn.arrival = Arrival(settings.get("MAX_CONTENT_LENGTH") or _MOST_HEAD_BYTES)
        conn.timeout = time.monotonic() + ARRIVAL_SECONDS
        conn.sock.setblocking(False)
        self._arriving[conn] = None
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._receive, conn))

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
