"""Anything at all, sent to real routers on both servers: whatever comes, the next request is answered rightly.

CROSSFADE_FUZZ=20000 sends that many requests to each server in place of 1,500; --log-cli-level=INFO counts the answers.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossfade.logreader import read_log
from crossfade.requestlog import CsvRequestLog
from crossfade.settings import Settings
from crossfade.version import Version

_log = logging.getLogger(__name__)

REQUESTS = int(os.environ.get("CROSSFADE_FUZZ", "1500"))

AT_ONCE = 10
"""Requests of one example."""

SECONDS = 10.0
"""Within which every answer has to come."""

MODEL = "Fuzzed"
NAMES = ["sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"]
SETOSA, VIRGINICA = [5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    kind: str
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """A connection that sends what it is told to, and reads answers one by one."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
        self._file = self._socket.makefile("rb")

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def ask(self, request: bytes, more: bool = True) -> Answer | None:
        """Send a request and read its answer; None: the server has closed the connection."""
        try:
            self.send(request)
            if not more:
                self._socket.shutdown(socket.SHUT_WR)
            return self.answer()
        except TimeoutError:
            raise
        except OSError:
            return None

    def answer(self) -> Answer | None:
        """Read an answer; None: the server has closed the connection."""
        line = self._file.readline()
        if not line:
            return None
        headers = {}
        while (header := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = header.partition(b":")
            headers[name.lower()] = value.strip().decode("latin-1")
        status = int(line.split()[1])
        if status == 100:
            return self.answer()
        length = headers.get(b"content-length")
        body = self._file.read() if length is None and status != 204 else self._file.read(int(length or 0))
        return Answer(status, headers.get(b"content-type", ""), body)


@dataclass
class Target:
    """A router that runs, and what it was sent and answered."""

    settings: Settings
    process: subprocess.Popen[bytes]
    rows: Counter[str] = field(default_factory=Counter)
    """Ids of the rows that were answered with 200."""
    statuses: Counter[int | None] = field(default_factory=Counter)
    """Of all requests; None: the connection was closed without a word."""

    @property
    def sent(self) -> int:
        return sum(self.statuses.values())

    def connect(self) -> Wire:
        return Wire(self.settings.router_port)

    def check(self, path: str, answer: Answer | None) -> None:
        """Hold an answer to what is promised, and remember its rows."""
        self.statuses[answer and answer.status] += 1
        if answer is None:
            return
        assert answer.status < 500, answer
        if answer.status >= 400:
            told = answer.json
            assert isinstance(told["error"], str), answer
            assert path.startswith("/v2") or isinstance(told["detail"], str), answer
            assert b"Traceback" not in answer.body
            assert b".py" not in answer.body
        elif path == "/predict" and "prediction" in answer.json:
            self.rows[answer.json["request_id"]] += 1
        elif path in ("/predict", "/invocations"):
            self.rows.update(f"{answer.json['request_id']}.{i}" for i in range(len(answer.json["predictions"])))
        elif path.endswith("/infer"):
            self.rows.update(f"{answer.json['id']}.{i}" for i in range(answer.json["outputs"][0]["shape"][0]))

    def check_it_still_predicts(self) -> None:
        """The plainest request is answered at once, and rightly."""
        with closing(self.connect()) as wire:
            for row, label in ((SETOSA, 0), (VIRGINICA, 2)):
                wire.send(post("/predict", json.dumps({"features": row}).encode()))
                answer = wire.answer()
                assert answer is not None
                assert (answer.status, answer.json["prediction"]) == (200, label)
                self.check("/predict", answer)

    def check_log(self) -> None:
        """Every row that was answered is in the log, once, and nothing else than rows."""
        contents = read_log(CsvRequestLog(self.settings.request_log, self.settings.labels_log))
        logged = Counter(contents.rows["request_id"])
        assert {name: (n, logged[name]) for name, n in self.rows.items() if logged[name] != n} == {}
        assert contents.set_aside == 0
        with closing(self.connect()) as wire:
            wire.send(b"GET /monitor/basic?rows=10000 HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = wire.answer()
            assert answer is not None
            assert (answer.status, answer.json["set_aside"]) == (200, 0)


@pytest.fixture(scope="module", params=["gunicorn", "granian"])
def target(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    isolate: Any,
    serve_router: Any,
    mlflow_server: Settings,
    register_served: Callable[..., Version],
) -> Iterator[Target]:
    """A router as `crossfade serve` runs it, with two workers of four threads, both arms there."""
    name = f"{MODEL}-{request.param}"
    register_served(name, "prod")
    register_served(name, "staging", strength=0.1)
    home = tmp_path_factory.mktemp(request.param)
    uri = mlflow_server.mlflow_tracking_uri
    own, environment = isolate(home, ROUTER_SERVER=request.param, MLFLOW_TRACKING_URI=uri, REG_MODEL_NAME=name)
    with serve_router(own, environment) as process:
        running = Target(own, process)
        yield running
        _log.info("%s: %d requests, %s", request.param, running.sent, dict(running.statuses))


def post(path: str, body: bytes, kind: str = "application/json", *headers: str) -> bytes:
    """Write a request."""
    head = "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", f"Content-Type: {kind}", *headers])
    return f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


TEXTS = st.text(max_size=12) | st.sampled_from(
    ["\ud800", "\0", "a\nb", "a\r\nb", '","', '"', "=1+1", "@x", "\u2028", "x" * 256, "x" * 257, "naïve", "𝄞", "7", ""]
)
NUMBERS = st.sampled_from([0, -1, 2**63, 2**64, 10**400, 1e308, -0.0, 5e-324, float("nan"), float("inf")]) | st.floats()
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*NAMES, "x"]), inner, max_size=4),
    max_leaves=5,
)
GOOD = st.sampled_from([SETOSA, VIRGINICA, dict(zip(NAMES, SETOSA, strict=True))])
ROWS = GOOD | st.tuples(st.integers(0, 3), VALUES).map(lambda at: [*SETOSA[: at[0]], at[1], *SETOSA[at[0] + 1 :]])
FEATURES = GOOD | ROWS | st.lists(GOOD, min_size=1, max_size=4) | st.lists(ROWS, max_size=3) | VALUES
LABELS = st.sampled_from([None, 0, 2, "1"]) | VALUES
IDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=9) | TEXTS | VALUES


def _objects(must: dict[str, Any], may: dict[str, Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(must, optional={**may, "x": VALUES}) | st.fixed_dictionaries(must, optional=may)


PREDICT = _objects({"features": FEATURES}, {"user_id": IDS, "request_id": IDS, "label": LABELS})
BATCHES = st.lists(GOOD, max_size=3)
FRAMES = st.fixed_dictionaries({"columns": st.just(NAMES), "data": st.lists(GOOD | VALUES, max_size=3)})
TENSORS = _objects(
    {"name": TEXTS, "shape": st.just([1, 4]) | st.lists(NUMBERS, max_size=3)},
    {"datatype": st.just("FP64") | TEXTS, "data": st.just(SETOSA) | st.lists(VALUES, max_size=5)},
)
BODIES: dict[str, st.SearchStrategy[Any]] = {
    "/predict": PREDICT,
    "/feedback": _objects({"request_id": IDS, "label": LABELS}, {}),
    "/config": _objects({"ab_split_b": st.floats(0, 1) | VALUES}, {}),
    "/invocations": _objects(
        {},
        {
            "instances": BATCHES | VALUES,
            "dataframe_split": FRAMES,
            "inputs": VALUES,
            "params": _objects({}, {"user_id": IDS}),
        },
    ),
    f"/v2/models/{MODEL}-@/infer": _objects(
        {"inputs": st.lists(TENSORS, max_size=2)}, {"id": IDS, "parameters": _objects({}, {"user_id": IDS})}
    ),
    "/ingest/batch": _objects(
        {"features": BATCHES | VALUES, "labels": st.lists(LABELS, max_size=3)}, {"batch_id": IDS}
    ),
}


@st.composite
def broken(draw: st.DrawFn, text: bytes) -> bytes:
    """Bytes that were JSON before something happened to them."""
    at = draw(st.integers(0, len(text)))
    return draw(
        st.sampled_from(
            [
                text[:at],
                text[:at] + b"\xff" + text[at:],
                text[:at] + b"[" * 50_000 + text[at:],
                text[:at] + b"9" * 5_000 + text[at:],
                text[:at] + text[at + 1 :],
                b"\xef\xbb\xbf" + text,
                text + text,
                text.decode().encode("utf-16"),
            ]
        )
        | st.binary(max_size=60)
        | st.binary(max_size=4).map(lambda more: text[:at] + more + text[at:])
    )


KINDS = st.sampled_from(["application/json; charset=utf-8", "text/csv", "application/x-ndjson", "", "a/b", "\u00e9;=,"])
HEADERS = st.lists(
    st.sampled_from(
        ["X-User-Id: u", "X-User-Id: \u00e9", "X-Request-Id: " + "r" * 300, "Authorization: Bearer \u00ff", "Accept: ,",
         "Expect: 100-continue", "Connection: close", "Upgrade: h2c", "Cookie: =;;", "X: " + "x" * 5000]
    ),
    max_size=2,
)  # fmt: skip


@st.composite
def polite(draw: st.DrawFn) -> tuple[str, bytes]:
    """A request whose body is anything, and whose head is as it should be, more or less."""
    path = draw(st.sampled_from([*["/predict"] * 8, *BODIES]))
    text = json.dumps(draw(BODIES[path])).encode()
    body = draw(broken(text)) if draw(st.integers(0, 3)) == 0 else text
    kind = draw(KINDS) if draw(st.integers(0, 9)) == 0 else "application/json"
    return path, post(path, body, kind, *draw(HEADERS) if draw(st.integers(0, 4)) == 0 else ())


LENGTHS = ["-1", "+5", "5, 5", "5\r\nContent-Length: 6", "1e3", "0x10", "9" * 30, "", "0005", " 5 ", "5;", "4194305"]
CODINGS = [
    "chunked",
    "gzip",
    "gzip, chunked",
    "chunked, chunked",
    "identity",
    "xchunked",
    " chunked",
    "chunked\r\nContent-Length: 3",
]
CHUNKS = [
    "5\r\nabcde\r\n0\r\n\r\n",
    "0\r\n\r\n",
    "z\r\n",
    "-1\r\n",
    "5\r\nabc",
    "fffffffffffffffffffff\r\n",
    "5;x\r\n{\r\n",
    "0\r\nA: b\r\n\r\n",
]


@st.composite
def rude(draw: st.DrawFn) -> bytes:
    """Bytes that are hardly HTTP."""
    line = draw(
        st.sampled_from(
            ["POST /predict HTTP/1.1"] * 4 + ["GET /%0aforged HTTP/1.1", "PRI * HTTP/2.0", "POST /predict HTTP/1.0"]
        )
        | st.tuples(st.text(max_size=5), st.text(max_size=20), st.sampled_from(["HTTP/1.1", "HTTP/9", ""])).map(
            " ".join
        )
    )
    framing = draw(
        st.sampled_from(LENGTHS).map("Content-Length: {}".format)
        | st.sampled_from(CODINGS).map("Transfer-Encoding: {}".format)
        | st.sampled_from(
            [
                "Host: x\r\nHost: y",
                "X" * 70_000,
                "a: b\r\n" * 150 + "c: d",
                " folded",
                ": empty",
                "no colon",
                "n\u00e4me: x",
            ]
        )
        | st.text(max_size=30)
    )
    body = draw(
        st.sampled_from([*CHUNKS, json.dumps({"features": SETOSA, "request_id": "rude"})]) | st.text(max_size=20)
    )
    kind = draw(st.sampled_from(["Content-Type: application/json", "Content-Type: text/csv", "Host: x"]))
    whole = f"{line}\r\n{kind}\r\n{framing}\r\n\r\n{body}".encode("utf-8", "surrogatepass")
    return draw(st.just(whole) | st.integers(0, len(whole)).map(lambda end: whole[:end]) | st.binary(max_size=200))


def _fuzz(share: float) -> Any:
    return settings(
        max_examples=max(1, int(REQUESTS * share / AT_ONCE)),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def test_any_body_is_answered_and_what_is_answered_is_logged(target: Target) -> None:
    """On kept connections every body gets one answer below 500, in JSON; every row of a 200 is in the log once."""

    @_fuzz(0.8)
    @given(requests=st.lists(polite(), min_size=AT_ONCE, max_size=AT_ONCE))
    def send(requests: list[tuple[str, bytes]]) -> None:
        wire, refused = target.connect(), False
        for path, request in requests:
            path, request = path.replace("@", server), request.replace(b"-@/", f"-{server}/".encode())
            answer = wire.ask(request)
            if answer is None and refused:  # it may hang up after a refusal, with the body not read to its end
                wire = target.connect()
                answer = wire.ask(request)
            assert answer is not None, request
            target.check(path, answer)
            refused = answer.status >= 400
            if b"\r\nConnection: close" in request:
                wire.close()
                wire = target.connect()
        wire.close()
        target.check_it_still_predicts()

    server = target.settings.router_server
    send()
    target.check_log()


def test_what_is_no_http_is_refused_or_hung_up_on(target: Target) -> None:
    """Whatever the head says, the server answers below 500 or closes the connection, and goes on serving."""

    @_fuzz(0.2)
    @given(attempts=st.lists(rude(), min_size=AT_ONCE, max_size=AT_ONCE))
    def send(attempts: list[bytes]) -> None:
        for attempt in attempts:
            with closing(target.connect()) as wire:
                answer = wire.ask(attempt, more=False)
            target.statuses[answer and answer.status] += 1
            assert answer is None or answer.status < 500, (attempt, answer)
        target.check_it_still_predicts()

    send()
    target.check_log()


def test_requests_sent_without_waiting_are_answered_in_order(target: Target) -> None:
    """Twenty requests in one piece, good and bad, get twenty answers on that connection, in their order."""
    bodies = [{"features": SETOSA if i % 3 else [1], "request_id": f"pipelined-{i}"} for i in range(20)]
    with closing(target.connect()) as wire:
        wire.send(b"".join(post("/predict", json.dumps(body).encode()) for body in bodies))
        answers = [wire.answer() for _ in bodies]
    for answer in answers:
        target.check("/predict", answer)
    told = [answer and (answer.json.get("request_id") or answer.status) for answer in answers]
    assert told == [f"pipelined-{i}" if i % 3 else 422 for i in range(20)]
    target.check_log()


def test_chunks_may_be_cut_anywhere(target: Target) -> None:
    """A body in chunks of one byte, each sent by itself, is answered like any other."""
    body = json.dumps({"features": VIRGINICA, "request_id": "chunked"}).encode()
    with closing(target.connect()) as wire:
        wire.send(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for byte in body:
            wire.send(b"1\r\n%c\r\n" % byte)
        wire.send(b"0\r\n\r\n")
        answer = wire.answer()
    assert answer is not None
    assert (answer.status, answer.json["prediction"]) == (200, 2)
    target.check("/predict", answer)
