"""Load on one server by wrk: 16 kept-alive connections that ask as fast as they are answered."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CONNECTIONS = 16
USER = "@USER@"
"""Stands in a body where each request gets another user id."""
MOST_USERS = 10_000
MOST_BYTES = 2**24
"""Of the requests that are written beforehand."""

SCRIPT = """
local bodies = {%s}
local requests = {}
local n = 0
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"

-- Written beforehand: what the client takes of the two cores, the servers lack.
init = function()
  for i = 1, %d do
    local body = bodies[i %% #bodies + 1]
    requests[i] = wrk.format(nil, nil, nil, body[2] and body[1] .. "user-" .. i .. body[2] or body[1])
  end
end

request = function()
  n = n %% #requests + 1
  return requests[n]
end

done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %%d, "microseconds": %%d, "p50": %%d, "p99": %%d, "not_2xx": %%d, "broken": %%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), errors.status,
    errors.connect + errors.read + errors.write + errors.timeout
  ))
end
"""


@dataclass(frozen=True)
class Load:
    """What one server did under load."""

    requests: int
    per_second: float
    p50_ms: float
    p99_ms: float
    not_2xx: int
    """Answers that were no success."""
    broken: int
    """Requests that got no answer: connection refused or cut, or nothing within 30 s."""


def load(url: str, bodies: Sequence[str], seconds: float) -> Load:
    """Send the bodies in turn for so long, on new connections."""
    with tempfile.TemporaryDirectory(prefix="crossfade-wrk-") as folder:
        script = Path(folder) / "load.lua"
        users = max(len(bodies), min(MOST_USERS, MOST_BYTES // len(bodies[0])))
        script.write_text(SCRIPT % (", ".join(map(_lua, bodies)), users))
        # One thread: it can ask for more than any of these servers can answer, and leaves them the other core.
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "--timeout", "30s", "-s", str(script), url]
        ran = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
    found = json.loads(ran.stdout.splitlines()[-1])
    return Load(
        requests=found["requests"],
        per_second=found["requests"] / found["microseconds"] * 1e6,
        p50_ms=found["p50"] / 1000,
        p99_ms=found["p99"] / 1000,
        not_2xx=found["not_2xx"],
        broken=found["broken"],
    )


def _lua(body: str) -> str:
    """Write a body as a Lua table: one text, or what stands before and after the user id."""
    return "{" + ", ".join(f"[==[{part}]==]" for part in body.split(USER)) + "}"
