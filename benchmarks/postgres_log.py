"""What the request log costs the router: in a file, in a file that is synced before each answer, and in PostgreSQL.

    .venv/bin/python benchmarks/postgres_log.py [--servers gunicorn,granian] [--rounds 3] [--seconds 5] [--threads 4]

The same router and models, asked by wrk over 16 kept-alive connections for one row of Iris per request. The logs take
turns within a round, and ratios are taken round by round against the file that is not synced. PostgreSQL is Debian's,
private, on the same machine and disk, with fsync on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import psycopg
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from servers.ours import ALGORITHMS, Ours, mlflow_server, our_server, registry_is_up, run_models
from servers.processes import StartFailed, prepare_to_measure, running
from servers.results import Measured
from serving import Contest, rounds

from crossfade.errors import ServiceError
from crossfade.postgres.address import DatabaseUrl
from crossfade.postgres.private import PrivateServer

BASE = "csv"


def logs_of(database: DatabaseUrl) -> dict[str, dict[str, Any]]:
    """Return the settings of each kind of log."""
    return {
        BASE: {"log_fsync": "never"},
        "csv-fsync": {"log_fsync": "always"},
        "postgres": {"request_log": database.dsn},
    }


def run(arguments: argparse.Namespace, progress: Progress) -> tuple[list[dict[str, Measured]], list[str]]:
    """Start everything, measure, stop everything; return what each round found, and what must not happen."""
    contest = Contest(arguments.seconds, progress)
    with tempfile.TemporaryDirectory(prefix="crossfade-bench-") as folder, ExitStack() as stack:
        home = Path(folder)
        postgres = stack.enter_context(PrivateServer())
        registry = stack.enter_context(running(mlflow_server(home / "registry"), registry_is_up))
        tracking_uri = registry.server.url("")
        contest.say("training the models")
        run_models(registry.server.folder, tracking_uri, "linear", "trained", *ALGORITHMS["linear"])
        databases = {server: postgres.create(f"log_{server}") for server in arguments.servers}
        for server, database in databases.items():
            for log, changes in logs_of(database).items():
                name = f"{server} {log}"
                one = Ours(name, f"Crossfade, ROUTER_SERVER={server}, log: {log}", server, "linear")
                place = home / name.replace(" ", "-")
                contest.add(stack, our_server(one, place, tracking_uri, router_threads=arguments.threads, **changes))
        measured = list(rounds(contest, arguments.rounds))
        for server, database in databases.items():
            contest.problems += _missing(database, [found[f"{server} postgres"] for found in measured])
    return measured, contest.problems


def _missing(database: DatabaseUrl, measured: Sequence[Measured]) -> list[str]:
    """Say so if fewer rows are committed than requests were answered."""
    with psycopg.connect(database.dsn) as connection:
        (rows,) = connection.execute("select count(*) from crossfade_rows").fetchone() or (0,)
    answered = sum(one.single.requests for one in measured)
    return [f"{rows} rows are stored of {answered} answered requests"] if rows < answered else []


def show(servers: Sequence[str], measured: Sequence[dict[str, Measured]]) -> None:
    """Print each log's numbers, median of the rounds, and its ratio to the file's with the spread over the rounds."""
    print(f"{'':22}{'requests/s':>12}{'p99 ms':>9}   {'beside the file (range)':34}")
    for server in servers:
        for name in (name for name in measured[0] if name.startswith(server)):
            per_second = [found[name].single.per_second for found in measured]
            p99 = [found[name].single.p99_ms for found in measured]
            ratios = [found[name].single.per_second / found[f"{server} {BASE}"].single.per_second for found in measured]
            spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"{name:22}{median(per_second):12,.0f}{median(p99):9.1f}   {spread}")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--servers", default="gunicorn,granian", help="of gunicorn, granian")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of load on a router, per round")
    parser.add_argument("--threads", type=int, default=4, help="of each of its two workers")
    arguments = parser.parse_args()
    arguments.servers = arguments.servers.split(",")
    return arguments


def main() -> None:
    """Measure, and print the table."""
    arguments = parse()
    prepare_to_measure()
    console = Console(stderr=True)
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console, transient=True) as progress:
        try:
            measured, problems = run(arguments, progress)
        except (StartFailed, ServiceError) as reason:
            sys.exit(f"error: {reason}")
    show(arguments.servers, measured)
    for problem in problems:
        print("problem:", problem)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
