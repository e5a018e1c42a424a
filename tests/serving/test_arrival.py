"""When the bytes of a request are enough for a thread to begin."""

from __future__ import annotations

import pytest

from crossfade.serving.arrival import Arrival

MOST = 100
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

WHOLE = {
    "no body": b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
    "a body": HEAD + b"Content-Length: 4\r\n\r\n1234",
    "a length in other letters": HEAD + b"CONTENT-LENGTH:4 \r\n\r\n1234",
    "chunks": CHUNKED + b"3\r\n123\r\nA;x=y\r\n1234567890\r\n0\r\n\r\n",
    "chunks and a trailer": CHUNKED + b"3\r\n123\r\n0\r\nDigest: z\r\n\r\n",
    "chunks whose data looks like an end": CHUNKED + b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("whole", WHOLE.values(), ids=WHOLE.keys())
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_request_is_handed_over_with_its_last_byte(whole: bytes, step: int) -> None:
    """However it was cut on its way: not before, and then at once."""
    arrival = Arrival(MOST)
    pieces = [whole[i : i + step] for i in range(0, len(whole), step)]
    assert [arrival.take(piece) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert arrival.received == whole


EARLY = {
    "a body that is too long": HEAD + b"Content-Length: 101\r\n\r\n",
    "chunks that are too much": CHUNKED + b"ff\r\n" + b"x" * 101,
    "no chunk": CHUNKED + b"size\r\n",
    "a chunk's line without an end": CHUNKED + b"0" * 1025,
    "a length that is no number": HEAD + b"Content-Length: -1\r\n\r\n",
    "a stream": b"POST /ingest/stream HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
}


@pytest.mark.parametrize("start", EARLY.values(), ids=EARLY.keys())
def test_what_need_not_be_waited_for_is_handed_over_at_once(start: bytes) -> None:
    """A stream is read as it comes; what will be refused anyway is refused now."""
    assert Arrival(MOST).take(start)


def test_a_client_that_waits_to_be_asked_for_its_body_is_asked() -> None:
    """`Expect: 100-continue` without the body: the client is told to go on; with the body it need not be."""
    waiting, going_on = Arrival(MOST), Arrival(MOST)
    head = HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    assert (waiting.take(head), waiting.wants_to_be_asked) == (False, True)
    assert (going_on.take(head + b"{}"), going_on.wants_to_be_asked) == (True, False)


def test_what_came_behind_a_request_is_kept() -> None:
    """Bytes of the next request stay with those of the first: the parser takes them apart."""
    arrival = Arrival(MOST)
    assert arrival.take(WHOLE["a body"] + WHOLE["no body"])
    assert arrival.received == WHOLE["a body"] + WHOLE["no body"]
