"""Requests per second of the router, beside a hand-written one, other model servers, and servers that do nothing.

    .venv/bin/python benchmarks/serving.py [--rounds 3] [--seconds 5] [--only NAME,NAME] [--json] [--write]

All are on this machine, asked by wrk over 16 kept-alive connections: one row of Iris per request, and batches of 1,000.
Kept-alive connections may all land on one worker, which halves what a server does (our gunicorn shares them out); so
every round opens new ones, the servers take turns within a round, and ratios are taken round by round. Who is not
measured is asleep. What is compared with is in servers/ours.py and servers/peers.py; the other servers are installed
below --envs, each by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import requests
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from servers.ours import ALGORITHMS, OURS, Rows, mlflow_server, our_server, registry_is_up, run_models
from servers.peers import PEERS, NotInstalled, install, peer_server
from servers.processes import Process, Question, Server, StartFailed, prepare_to_measure, running
from servers.report import show, write
from servers.results import Measured, Result, ratios_of
from servers.wrk import USER, Load, load
from sklearn.datasets import load_iris

BATCH_ROWS = 1_000
WARM_UP_SECONDS = 1.0
MOST_BUSY = 10.0
"""Percent of all cores that other programs may use before a run says so."""

RIGHT_SHARE = 0.9
"""Of the rows that a server is asked before it is timed: two linear models are right on 97 % of Iris."""

NAMES = [one.name for one in (*OURS, *PEERS)]
_IRIS = load_iris()
ROWS: Rows = _IRIS.data.tolist()
LABELS: list[int] = _IRIS.target.tolist()


@dataclass
class Contest:
    """The servers that run, and what has been found about them."""

    seconds: float
    progress: Progress
    processes: list[Process] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Peers that could not be measured, and why."""
    problems: list[str] = field(default_factory=list)
    """What must not happen in a run that counts."""

    def add(self, stack: ExitStack, server: Server) -> None:
        """Start a server and send it to sleep. Raises StartFailed."""
        process = stack.enter_context(running(server, answers_rightly))
        process.pause()
        self.processes.append(process)
        self.say(f"{server.name} is up after {process.seconds:.1f} s")

    def say(self, line: str) -> None:
        """Tell what happens, beside the progress bar."""
        self.progress.console.print(line, highlight=False, markup=False)

    def measure(self, process: Process) -> Measured:
        """Wake a server, load it, and send it to sleep again."""
        server = process.server
        process.resume()
        single = self._load(server, server.single, [[row] for row in ROWS])
        memory = process.weigh()
        batch = self._load(server, server.batch, [_batch()]) if server.batch else None
        process.pause()
        rows = f", {batch.per_second * BATCH_ROWS:,.0f} rows/s in batches" if batch else ""
        self.say(f"  {server.name:17}{single.per_second:9,.0f} requests/s, p99 {single.p99_ms:.1f} ms{rows}")
        return Measured(single, batch, memory)

    def _load(self, server: Server, question: Question, asked: Sequence[Rows]) -> Load:
        """Check, warm up, load and check again."""
        url, bodies = server.url(question.path), [question.body(rows) for rows in asked]
        if not answers_rightly(server):
            self.problems.append(f"{server.name} answered wrongly before a round")
        load(url, bodies, WARM_UP_SECONDS)
        written = server.request_log.stat().st_size if server.request_log else 0
        found = load(url, bodies, self.seconds)
        if not answers_rightly(server):
            self.problems.append(f"{server.name} answered wrongly after a round")
        if found.not_2xx or found.broken:
            self.problems.append(f"{server.name}: {found.not_2xx} errors and {found.broken} requests without an answer")
        if server.request_log and (rows := _lines(server.request_log, written)) < found.requests * len(asked[0]):
            self.problems.append(f"{server.name} logged {rows} rows of {found.requests} requests")
        return found


def answers_rightly(server: Server) -> bool:
    """Ask a server single rows, as several users, and a batch where it takes any; tell whether it is right."""
    if server.is_constant:
        return _ask(server, server.single, ROWS[:1]) == [0]
    picked = range(0, len(ROWS), 5)
    right = sum(_ask(server, server.single, [ROWS[i]], f"check-{i}") == [LABELS[i]] for i in picked)
    if right < RIGHT_SHARE * len(picked):
        return False
    if server.batch is None:
        return True
    answers = _ask(server, server.batch, ROWS)
    return sum(a == b for a, b in zip(answers, LABELS, strict=True)) >= RIGHT_SHARE * len(LABELS)


def _ask(server: Server, question: Question, rows: Rows, user: str = "check") -> list[int]:
    body = question.body(rows).replace(USER, user)
    answer = requests.post(
        server.url(question.path), data=body, headers={"Content-Type": "application/json"}, timeout=30
    )
    answer.raise_for_status()
    return question.labels(answer.json())


def _batch() -> Rows:
    return [ROWS[i % len(ROWS)] for i in range(BATCH_ROWS)]


def _lines(path: Path, start: int) -> int:
    """Count the lines of a file from an offset on."""
    with path.open("rb") as file:
        file.seek(start)
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(2**20), b""))


def _tier(server: Server) -> str:
    """Return how the models of both arms are evaluated, as the router itself says."""
    arms = requests.get(server.url("/version"), timeout=10).json()["arms"]
    return "/".join(sorted({arm["runtime"] for arm in arms.values()})) + f" x {len(arms)}"


def start_ours(contest: Contest, stack: ExitStack, home: Path, names: Sequence[str]) -> None:
    """Start an MLflow server, train the models, and start those of ours that are asked for."""
    wanted = [one for one in OURS if one.name in names]
    if not wanted:
        return
    registry = stack.enter_context(running(mlflow_server(home / "registry"), registry_is_up))
    tracking_uri = registry.server.url("")
    for family in sorted({one.family for one in wanted if one.family}):
        contest.say(f"training the {family} models")
        run_models(registry.server.folder, tracking_uri, family, "trained", *ALGORITHMS[family])
    for one in wanted:
        contest.add(stack, our_server(one, home / one.name, tracking_uri))


def start_peers(contest: Contest, stack: ExitStack, home: Path, environments: Path, names: Sequence[str]) -> None:
    """Install and start the peers that are asked for; those that will not are left out."""
    wanted = [peer for peer in PEERS if peer.name in names]
    if wanted:
        run_models(home, "", "plain", "plain", str(home))
    for peer in wanted:
        try:
            contest.say(f"{peer.name}: {', '.join(peer.packages)}")
            contest.add(stack, peer_server(peer, install(peer, environments), home))
        except (NotInstalled, StartFailed) as reason:
            contest.left_out[peer.name] = str(reason)
            contest.say(f"{peer.name} is left out: {reason}")


def rounds(contest: Contest, count: int) -> Iterator[dict[str, Measured]]:
    """Measure every server in turn, so many times."""
    task = contest.progress.add_task("measuring", total=count * len(contest.processes))
    for number in range(1, count + 1):
        contest.say(f"round {number} of {count}")
        found = {}
        for process in contest.processes:
            found[process.server.name] = contest.measure(process)
            contest.progress.advance(task)
        yield found


def run(arguments: argparse.Namespace, progress: Progress) -> Result:
    """Start everything, measure, stop everything."""
    contest, busy = Contest(arguments.seconds, progress), psutil.cpu_percent(interval=2)
    if busy > MOST_BUSY:
        contest.say(f"the machine is busy with other things ({busy:.0f} %): expect lower numbers, and other ratios")
    with tempfile.TemporaryDirectory(prefix="crossfade-bench-") as folder, ExitStack() as stack:
        start_ours(contest, stack, Path(folder), arguments.only)
        start_peers(contest, stack, Path(folder), arguments.envs, arguments.only)
        tiers = {}
        for process in contest.processes:
            if process.server.has_version:
                process.resume()
                tiers[process.server.name] = _tier(process.server)
                process.pause()
        measured = list(rounds(contest, arguments.rounds))
    servers = {process.server.name: process.server.what for process in contest.processes}
    return Result(servers, tiers, measured, contest.left_out, contest.problems, busy)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of load on a server, per round and kind of request")
    parser.add_argument("--only", default=",".join(NAMES), metavar="NAME,NAME", help="of " + ", ".join(NAMES))
    parser.add_argument("--envs", type=Path, default=_cache(), help="folder of the other servers' environments")
    parser.add_argument("--json", action="store_true", help="close with one line of JSON")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    arguments.only = arguments.only.split(",")
    if unknown := set(arguments.only) - set(NAMES):
        parser.error(f"--only: {', '.join(sorted(unknown))} unknown; there are {', '.join(NAMES)}")
    return arguments


def _cache() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "crossfade-benchmarks"


def main() -> None:
    """Measure, and print the table and the ratios with their spread."""
    arguments = parse()
    prepare_to_measure()
    with Progress(
        *Progress.get_default_columns(), TimeElapsedColumn(), console=Console(stderr=True), transient=True
    ) as progress:
        try:
            result = run(arguments, progress)
        except StartFailed as reason:
            sys.exit(f"error: a server of ours did not start: {reason}")
    ratios = ratios_of(result)
    show(result, ratios)
    if arguments.write:
        write(result, ratios, " ".join([".venv/bin/python benchmarks/serving.py", *sys.argv[1:]]))
    if arguments.json:
        ok = not result.problems and all(ratio.kept for ratio in ratios)
        told = {ratio.key: round(ratio.median, 3) for ratio in ratios if ratio.values}
        print(json.dumps({"ok": ok, **told, "left_out": result.left_out, "problems": result.problems}))


if __name__ == "__main__":
    main()
