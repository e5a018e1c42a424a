"""The table of the serving benchmark, on the screen and as docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from crossfade import __version__
from servers.results import Measured, Ratio, Result

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"

COLUMNS = ("server", "requests/s", "p50 ms", "p99 ms", "memory MB", "two workers MB", "failed", "tier")
BATCH_COLUMNS = ("server", "rows/s in batches of 1,000", "p50 ms", "p99 ms")
RATIO_COLUMNS = ("ratio", "median", "spread", "target", "")


def show(result: Result, ratios: Sequence[Ratio]) -> None:
    """Print the tables."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=130)  # a file is as wide as it needs to be
    tables = ((COLUMNS, single_lines(result)), (BATCH_COLUMNS, batch_lines(result)), (RATIO_COLUMNS, _lines(ratios)))
    for columns, lines in tables:
        table = Table(*columns)
        for column in table.columns[1:]:
            column.justify = "right"
        for line in lines:
            table.add_row(*line)
        if lines:
            console.print(table)
    for remark in _remarks(result):
        console.print(remark, highlight=False, markup=False)


def single_lines(result: Result) -> list[list[str]]:
    """Return the first table: medians over the rounds, with the spread of the throughput."""
    return [_single(name, [found[name] for found in result.rounds], result.tiers) for name in result.servers]


def _single(name: str, measured: Sequence[Measured], tiers: dict[str, str]) -> list[str]:
    def median(of: Callable[[Measured], float]) -> float:
        return statistics.median(map(of, measured))

    workers = f"{median(lambda m: m.memory.two_workers):,.0f}" if name in tiers else ""
    return [
        name,
        _with_spread([m.single.per_second for m in measured]),
        f"{median(lambda m: m.single.p50_ms):.2f}",
        f"{median(lambda m: m.single.p99_ms):.2f}",
        f"{median(lambda m: m.memory.total):,.0f}",
        workers,
        str(sum(m.single.not_2xx + m.single.broken for m in measured)),
        tiers.get(name, ""),
    ]


def batch_lines(result: Result) -> list[list[str]]:
    """Return the second table: who was asked for batches."""
    lines = []
    for name in result.servers:
        loads = [found[name].batch for found in result.rounds]
        known = [batch for batch in loads if batch is not None]
        if known:
            p50, p99 = (
                statistics.median(values) for values in zip(*((b.p50_ms, b.p99_ms) for b in known), strict=True)
            )
            rows = _with_spread([batch.per_second * 1000 for batch in known])
            lines.append([name, rows, f"{p50:.1f}", f"{p99:.1f}"])
    return lines


def _with_spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def _lines(ratios: Sequence[Ratio]) -> list[list[str]]:
    return [
        [
            ratio.title,
            f"{ratio.median:,.2f} {ratio.unit}",
            f"{ratio.values[0]:,.2f} to {ratio.values[-1]:,.2f}",
            ratio.target,
            "" if not ratio.target else "kept" if ratio.kept else "NOT KEPT",
        ]
        for ratio in ratios
        if ratio.values
    ]


def _remarks(result: Result) -> list[str]:
    left_out = [f"left out: {name}: {reason}" for name, reason in result.left_out.items()]
    return left_out + [f"problem: {problem}" for problem in result.problems]


def write(result: Result, ratios: Sequence[Ratio], command: str) -> None:
    """Write the page."""
    whats = [[name, what] for name, what in result.servers.items()]
    remarks = "\n".join(f"- {line}" for line in _remarks(result)) or "Nothing was left out, and nothing went wrong."
    PAGE.write_text(
        TEMPLATE.format(
            command=command,
            machine=machine(),
            busy=result.busy,
            rounds=len(result.rounds),
            what=_markdown(("server", "what answers"), whats),
            single=_markdown(COLUMNS, single_lines(result)),
            batch=_markdown(BATCH_COLUMNS, batch_lines(result)),
            ratios=_markdown(RATIO_COLUMNS, _lines(ratios)),
            remarks=remarks,
        )
    )


def machine() -> str:
    """Say in a line what this runs on."""
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{os.cpu_count()} cores ({_processor()}), {memory:.0f} GB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, Crossfade {__version__}"
    )


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _markdown(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [columns, ["---"] * len(columns), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


TEMPLATE = """\
# Benchmarks: serving

This page is written by the benchmark itself:

```
{command}
```

On {machine}.
Other programs used {busy:.0f} % of its cores before the run. Rounds: {rounds}; medians of them, with the least and the
most in brackets.

wrk asks one row of Iris per request over 16 kept-alive connections, each request as another user. It runs on the same
cores as what it measures, so the numbers are for comparing, not for sizing. Within a round the servers take turns; who
is not measured is asleep. Before and after each turn a server is asked rows whose labels are known; every answer to wrk
must be a success (`failed` counts the others), and where there is a log, it must have grown by a row per answer.

## One row per request

{single}

Memory is the proportional set size of all processes of the server, as if no other program used the same libraries;
`two workers` is without what supervises them. `tier` is what `GET /version` calls `runtime`, and the number of arms.

{what}

## Batches of 1,000 rows per request

{batch}

## Ratios, taken round by round

{ratios}

The best peer of each round is the fastest of `mlflow`, `mlserver`, `litserve` and `bentoml`. The promises are about
linear models; for random forests the ratios are just told.

{remarks}

## What to make of it

- Ours do more than the others: they split users over two versions, write every answer to the log before it leaves, and
  serve what PyCaret trained. The peers serve a bare scikit-learn model to everybody and write nothing.
- More than half of what `straightforward` spends is PyCaret's pipeline: about 2 ms for a row. It is compiled here
  ([compiled-models.md](compiled-models.md)); with `MODEL_RUNTIME=pipeline` that part of the difference is gone.
  gunicorn's sync workers close every connection as well, so `straightforward` pays for a new one per request.
- `constant-...` is the same server with the same settings around an application that does nothing: the distance to it
  is what all of our work costs.
- With so few connections the system may give most of them to one of two workers. Then a server does about half of what
  it could; the spread shows it, and more rounds even it out. Ours under gunicorn share them out evenly.
- Threads of one interpreter that are busy at once take each other's time. Under Granian one of them answers `/predict`
  as long as it gets on, and the others take over when it has begun nothing for 20 ms: because a disk hangs, or the rest
  of a body does not come. So four threads are about as fast as one (`granian-1-thread`), and a worker is not silent.
  Where answers wait for a commit (`LOG_FSYNC=always`, a log in PostgreSQL) all of them answer at once, and share
  commits.
- The peers have two workers and no access log, and otherwise what was fastest in trials on two cores: MLServer without
  parallel workers, LitServe with one API server, BentoML and FastAPI with `async def`, MLflow without a signature and
  asked by `dataframe_split`. None batches requests that arrive together: one row at a time is what is compared.
"""
