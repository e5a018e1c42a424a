"""An A/B evaluation of a million labelled rows from files and from PostgreSQL, in turn, each in a process of its own.

    .venv/bin/python benchmarks/postgres_reading.py [--rows 1000000] [--rounds 3] [--json]

It needs Debian's PostgreSQL (apt-get install postgresql); the server is its own. Both must give the same report.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from evaluation import EXPERIMENT, write_log

from crossfade.logreader import read_log
from crossfade.loop.evaluate import EvaluationRule, evaluate
from crossfade.loop.steps import EVALUATED_COLUMNS
from crossfade.postgres.address import DatabaseUrl, is_url
from crossfade.postgres.lines import ROWS
from crossfade.postgres.link import opened
from crossfade.postgres.log import PostgresRequestLog
from crossfade.postgres.private import PrivateServer
from crossfade.requestlog import CsvRequestLog, RequestLog


def fill(url: DatabaseUrl, path: Path) -> None:
    """Copy the rows of a file into the table."""
    names = ", ".join(ROWS.columns)
    with opened(url) as link, path.open("rb") as file:
        link.execute("create temp table lines (like crossfade_rows)")
        for name in ("id", "writer", "seq", "xid"):
            link.execute(f"alter table lines drop column {name} cascade")
        with link.cursor() as cursor, cursor.copy(f"copy lines ({names}) from stdin with (format csv, header)") as copy:
            while block := file.read(2**20):
                copy.write(block)
        numbers = "gen_random_uuid(), row_number() over ()"
        link.execute(f"insert into crossfade_rows (writer, seq, {names}) select {numbers}, {names} from lines")
        link.execute("analyze crossfade_rows")


def look(where: str) -> None:
    """Evaluate, and print the report's seconds, peak memory and figures."""
    place = Path(where)
    log: RequestLog = CsvRequestLog(place, place.with_name("labels.csv"))
    if is_url(where):
        log = PostgresRequestLog(DatabaseUrl(where), Path(tempfile.gettempdir()))
    started = time.perf_counter()
    found = evaluate(read_log(log, EVALUATED_COLUMNS, experiment_id=EXPERIMENT.id), EXPERIMENT, EvaluationRule())
    seconds = time.perf_counter() - started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb, "report": found.to_dict()}))


def main() -> None:
    """Look at both in turn and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="make the last line JSON")
    parser.add_argument("--look", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.look:
        look(arguments.look)
        return
    found: dict[str, list[dict[str, float]]] = {"files": [], "PostgreSQL": []}
    with tempfile.TemporaryDirectory(prefix="crossfade-bench-") as folder, PrivateServer() as server:
        path, url = Path(folder) / "requests.csv", server.create("log")
        write_log(path, arguments.rows)
        fill(url, path)
        for _ in range(arguments.rounds):
            reports = []
            for name, where in (("files", str(path)), ("PostgreSQL", url.dsn)):
                command = [sys.executable, __file__, "--look", where]
                said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                reports.append(said.pop("report"))
                found[name].append(said)
            assert reports[0] == reports[1], "the same rows, the same report"
    print(f"{arguments.rows:,} labelled rows evaluated, {arguments.rounds} rounds in turn (median), the same report")
    told = {}
    for name, looks in found.items():
        seconds = sorted(one["seconds"] for one in looks)
        told[name] = {"seconds": round(statistics.median(seconds), 2), "peak_mb": max(one["peak_mb"] for one in looks)}
        spread = f"({seconds[0]:.2f} to {seconds[-1]:.2f})"
        print(f"{name:10s} {told[name]['seconds']:.2f} s {spread}, peak {told[name]['peak_mb']} MB")
    if arguments.json:
        print(json.dumps({"ok": True, **told}))


if __name__ == "__main__":
    main()
