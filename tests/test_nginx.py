"""The proxy's configuration, on a real nginx with two small servers behind it, of which one is killed."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests

INFRA = Path(__file__).parents[1] / "infra"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
MOST_BYTES = 20_000

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: apt-get install nginx)")

_SERVER = """
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with open(sys.argv[2], "a") as seen:
            seen.write(self.headers.get("X-Request-Id", "-") + "\\n")
        if self.path == "/drop":
            self.close_connection = True
            return
        headers = {name: value for name, value in self.headers.items()}
        body = json.dumps({"port": int(sys.argv[1]), "headers": headers}).encode()
        self.send_response(503 if self.path == "/unwell" and sys.argv[1] == self.headers["X-Unwell"] else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *arguments):
        pass

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Server:
    """One of the servers behind the proxy, and the ids of the requests that it has read."""

    port: int
    file: Path
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", _SERVER, str(self.port), str(self.file)])
        _wait_for(lambda: _listens(self.port))

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def seen(self) -> list[str]:
        return self.file.read_text().split() if self.file.exists() else []


@dataclass(frozen=True)
class Proxy:
    """nginx, and what is behind it."""

    url: str
    servers: tuple[Server, Server]

    def who(self, method: str = "POST", path: str = "/predict", **headers: str) -> requests.Response:
        """Send a request on a connection of its own."""
        return requests.request(method, self.url + path, headers=headers, json={}, timeout=10)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """nginx.sh in front of two servers."""
    folder, port = tmp_path_factory.mktemp("nginx"), _free_port()
    servers = Server(_free_port(), folder / "a"), Server(_free_port(), folder / "b")
    environment = {
        "PATH": f"{Path(str(NGINX)).parent}:{os.environ['PATH']}",
        "ROUTERS": " ".join(f"127.0.0.1:{server.port}" for server in servers),
        "ROUTER_MAX_BODY_BYTES": str(MOST_BYTES),
        "LISTEN": f"127.0.0.1:{port}",
        "RUN": str(folder / "run"),
    }
    with ExitStack() as ended:
        for server in servers:
            ended.callback(server.kill)
            server.start()
        nginx = subprocess.Popen(["sh", str(INFRA / "nginx.sh")], env=environment)
        ended.callback(nginx.wait, 30)
        ended.callback(nginx.terminate)
        _wait_for(lambda: _listens(port))
        yield Proxy(f"http://127.0.0.1:{port}", servers)


def test_a_killed_server_costs_the_requests_in_flight_only(proxy: Proxy) -> None:
    """Of 8 clients that never pause, each loses one request at most; nothing is sent twice; the server comes back."""
    first, second = proxy.servers
    stop, answered, lost = threading.Event(), [Counter[int]() for _ in range(8)], [Counter[int]() for _ in range(8)]

    def run(client: int) -> None:
        session = requests.Session()
        for i in itertools.count():
            if stop.is_set():
                return
            reply = session.post(proxy.url + "/predict", headers={"X-Request-Id": f"{client}-{i}"}, json={}, timeout=10)
            (answered if reply.status_code == 200 else lost)[client][i] += 1

    def all_go_on(more: int) -> Callable[[], bool]:
        goals = [counter.total() + more for counter in answered]
        return lambda: all(counter.total() >= goal for counter, goal in zip(answered, goals, strict=True))

    threads = [threading.Thread(target=run, args=(client,)) for client in range(8)]
    for thread in threads:
        thread.start()
    try:
        _wait_for(all_go_on(20))
        first.kill()
        _wait_for(all_go_on(50))
        before = len(first.seen())
        first.start()
        _wait_for(lambda: len(first.seen()) > before + 20)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert all(counter.total() <= 1 for counter in lost)
    read = Counter(first.seen() + second.seen())
    assert set(read.values()) == {1}
    assert all(f"{client}-{i}" in read for client, counter in enumerate(answered) for i in counter)


def test_a_post_that_was_read_is_not_sent_again(proxy: Proxy) -> None:
    """A server that dies over a POST may have logged it: the client is told, in JSON, and no other server is asked."""
    reply = proxy.who("POST", "/drop", **{"X-Request-Id": "once"})
    assert (reply.status_code, reply.json()["error"]) == (502, "no_router")
    assert (proxy.servers[0].seen() + proxy.servers[1].seen()).count("once") == 1


def test_what_reads_only_is_asked_of_the_next(proxy: Proxy) -> None:
    """A GET that one server cannot answer now is answered by the other."""
    unwell = str(proxy.servers[0].port)
    for _ in range(4):
        reply = proxy.who("GET", "/unwell", **{"X-Unwell": unwell})
        assert (reply.status_code, reply.json()["port"]) == (200, proxy.servers[1].port)


def test_servers_learn_who_asked_and_share_the_requests(proxy: Proxy) -> None:
    """The request id, the host and the client's address are passed on; both servers get requests."""
    _wait_for(lambda: len({proxy.who().json()["port"] for _ in range(4)}) == 2)
    headers = proxy.who(**{"X-Request-Id": "order-1", "X-Forwarded-For": "10.1.2.3"}).json()["headers"]
    assert headers["X-Request-Id"] == "order-1"
    assert headers["X-Forwarded-For"] == "10.1.2.3, 127.0.0.1"
    assert headers["X-Real-IP"] == "127.0.0.1"
    assert f"http://{headers['Host']}" == proxy.url


def test_too_long_a_body_is_refused_as_the_router_does(proxy: Proxy) -> None:
    """The limit is the routers' own and the answer theirs; a stream has none."""
    at_limit, above = b"x" * MOST_BYTES, b"x" * (MOST_BYTES + 1)
    assert requests.post(proxy.url + "/predict", data=at_limit, timeout=10).status_code == 200
    refused = requests.post(proxy.url + "/predict", data=above, timeout=10)
    assert (refused.status_code, refused.json()["error"]) == (413, "request_entity_too_large")
    assert requests.post(proxy.url + "/ingest/stream", data=above, timeout=10).status_code == 200
