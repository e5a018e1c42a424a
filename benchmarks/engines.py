"""A drift window of a million rows, counted by threads, by Dask and by Spark, from files and from PostgreSQL.

    .venv/bin/python benchmarks/engines.py [--rows 1000000] [--rounds 3] [--engines local,dask,spark] [--json]

Everybody counts the same window of the same rows, in turn, and must come to the same numbers to the last digit. A
cluster is two worker processes on this machine; its start is told apart, for a real one is there already. Without Java
Spark is left out, without Debian's package postgresql the database, and either is said.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import psycopg
from log_reading import COUNTER, write_log

from crossfade.engine import Engine, EngineError, open_engine
from crossfade.errors import ServiceError
from crossfade.loop.window import Window
from crossfade.postgres.address import DatabaseUrl
from crossfade.postgres.log import PostgresRequestLog
from crossfade.postgres.private import PrivateServer
from crossfade.requestlog import COLUMNS, CsvRequestLog, RequestLog

WORKERS = 2


def load(path: Path, url: DatabaseUrl) -> None:
    """Copy a file's rows into the table that routers write to."""
    columns = ", ".join(("writer", "seq", *COLUMNS))
    texts = ", ".join(sorted({*COLUMNS} - {"ts_utc", "ab_split_b", "probability", "latency_ms", "status"}))
    writer = uuid.uuid4()
    with psycopg.connect(url.dsn) as connection, connection.cursor() as cursor, path.open() as lines:
        next(lines)
        query = f"copy crossfade_rows ({columns}) from stdin with (format csv, force_not_null ({texts}))"
        with cursor.copy(query) as copy:
            for seq, line in enumerate(lines):
                copy.write(f"{writer},{seq},{line}")


@contextlib.contextmanager
def stores(rows: int) -> Iterator[dict[str, RequestLog]]:
    """Write the same rows into a log of every kind that this machine has."""
    with contextlib.ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="crossfade-bench-")))
        path = folder / "requests.csv"
        write_log(path, rows)
        found: dict[str, RequestLog] = {"files": CsvRequestLog(path, folder / "labels.csv")}
        try:
            url = opened.enter_context(PrivateServer()).url()
        except ServiceError as error:
            print(f"PostgreSQL left out: {error}")
        else:
            database = PostgresRequestLog(url, folder / "spool")
            database.open()
            load(path, url)
            found["PostgreSQL"] = database
        yield found


@contextlib.contextmanager
def engines(names: list[str]) -> Iterator[dict[str, Engine]]:
    """Open every engine that this machine has, and tell how long that took."""
    with contextlib.ExitStack() as opened:
        found: dict[str, Engine] = {}
        for name in names:
            started = time.perf_counter()
            try:
                found[name] = opened.enter_context(open_engine(name, workers=WORKERS))  # type: ignore[arg-type]  # an option
            except EngineError as error:
                print(f"{name} left out: {error}")
            else:
                print(f"{name} started in {time.perf_counter() - started:.1f} s")
        yield found


def said(window: Window) -> str:
    """Everything that was counted, to the last digit."""
    return f"{window.rows} {window.counts!r}"


def main() -> None:
    """Count in turn, and print rows a second with their spread."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", default="local,dask,spark")
    parser.add_argument("--json", action="store_true", help="make the last line JSON")
    arguments = parser.parse_args()
    speeds, numbers = defaultdict[tuple[str, str], list[float]](list), defaultdict[str, set[str]](set)
    with stores(arguments.rows) as logs, engines(arguments.engines.split(",")) as opened:
        for turn in range(arguments.rounds + 1):
            for store, log in logs.items():
                for name, engine in opened.items():
                    started = time.perf_counter()
                    (window,) = COUNTER.windows(log, arguments.rows, 1, engine)
                    seconds = time.perf_counter() - started
                    numbers[store].add(said(window))
                    if turn:  # the first is for caches, and for what workers import
                        speeds[store, name].append(arguments.rows / seconds)
    if any(len(found) != 1 for found in numbers.values()):
        raise SystemExit("the engines disagree")
    print(f"{arguments.rows:,} rows, {arguments.rounds} rounds in turn; the numbers are equal to the last digit")
    for (store, name), found in speeds.items():
        middle = statistics.median(found)
        print(f"{store:11} {name:6} {middle:10,.0f} rows/s ({min(found):,.0f} to {max(found):,.0f})")
    if arguments.json:
        ratios = {f"{store}/{name}": round(statistics.median(found)) for (store, name), found in speeds.items()}
        print(json.dumps({"ok": True, "rows_per_second": ratios}))


if __name__ == "__main__":
    main()
