"""When a request has arrived: its bytes so far, and whether a thread can do something with them."""

from __future__ import annotations

import re

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
