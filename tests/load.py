"""Clients that keep a router busy, and remember what they were told."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count, pairwise

ROW = [5.1, 3.5, 1.4, 0.2]


@dataclass
class Load:
    """Clients that keep their connections, number their requests and remember every answer."""

    port: int
    host: str = "127.0.0.1"
    answers: dict[str, tuple[float, float, str]] = field(default_factory=dict)
    """When the request of an id was sent and answered with 200, and the version that answered."""
    refused: Counter[int] = field(default_factory=Counter)
    """Other answers, by status."""

    def __post_init__(self) -> None:
        self._numbers, self._stopped = count(), threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(4)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def next_answer(self, after: float) -> float:
        """Wait for the answer to a request that was sent after a moment; return when it came."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            found = [answered for sent, answered, _ in list(self.answers.values())[-100:] if sent > after]
            if found:
                return min(found)
            time.sleep(0.01)
        raise AssertionError(f"no answer for two minutes; refused were {self.refused}")

    def longest_silence(self) -> float:
        """Seconds in which nobody was answered."""
        moments = sorted(answered for _, answered, _ in self.answers.values())
        return max(later - sooner for sooner, later in pairwise(moments))

    def _send(self) -> None:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        while not self._stopped.is_set():
            name, sent = f"r{next(self._numbers)}", time.monotonic()
            body = json.dumps({"request_id": name, "user_id": name, "features": ROW})
            try:
                connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
                reply = connection.getresponse()
                told = json.loads(reply.read())
            except (OSError, http.client.HTTPException):
                connection.close()
                time.sleep(0.01)
                continue
            if reply.status == 200:
                self.answers[name] = (sent, time.monotonic(), told["model_version"])
            else:
                self.refused[reply.status] += 1
        connection.close()
