"""Drift check of long columns: counting on the reference's grid, beside other libraries doing the like.

    .venv/bin/python benchmarks/drift.py [--rows 1000000] [--rounds 5] [--peer-python PYTHON] [--json]

The reference has 10,000 rows. Both sides run in turn on the same data, and the ratio is taken round by round; where
they compute the same thing they must find the same numbers, every round. Fitting to the reference is left out on all
sides. alibi-detect and NannyML are no dependencies of the project: each is taken from the environment of PYTHON
(default: this one) and left out where it is not installed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from peers import REFERENCE_ROWS, Table, data

from crossfade.stats.divergence import ks, psi
from crossfade.stats.profile import NumericCounts, NumericProfile, Profile, count_columns

STREAM_ROWS, STREAM_COLUMNS, STREAM_CHUNK = 10_000_000, 20, 250_000
MOST_MEMORY_MB = 1_500


@dataclass(frozen=True)
class Contest:
    """One library to be faster than."""

    peer: str
    columns: int
    at_least: float
    """Times faster."""
    tolerance: float | None
    """Largest difference of the KS distances; None where the peer's numbers are others."""


CONTESTS = (
    Contest("scipy", 20, 5, 1e-12),
    Contest("alibi-detect", 20, 3, 1e-6),  # it rounds to 32 bits
    Contest("nannyml", 20, 2, None),
    Contest("evidently", 4, 40, None),
)


def check(profiles: dict[str, Profile], live: dict[str, Any]) -> dict[str, list[float]]:
    """Return KS and PSI per column by counting on the profiles."""
    found: dict[str, list[float]] = {"ks": [], "psi": []}
    for name, counts in count_columns(profiles, live).items():
        profile = profiles[name]
        assert isinstance(profile, NumericProfile)
        assert isinstance(counts, NumericCounts)
        distance, divergence = ks(profile, counts), psi(profile, counts)
        assert distance is not None
        assert divergence is not None
        found["ks"].append(distance.statistic)
        found["psi"].append(divergence.value)
    return found


def profiles_of(reference: Table) -> dict[str, Profile]:
    """Profile the reference."""
    return {f"x{i}": NumericProfile.of(column) for i, column in enumerate(reference)}


@contextmanager
def peer_process(contest: Contest, rows: int, python: str) -> Iterator[subprocess.Popen[str]]:
    """Start a library in a process of its own, and stop it at the end."""
    command = [python, str(Path(__file__).with_name("peers.py")), contest.peer, str(rows), str(contest.columns)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def ask(process: subprocess.Popen[str], line: str = "") -> dict[str, Any]:
    """Have a library work once; with no line, read whether it is there."""
    assert process.stdin is not None
    assert process.stdout is not None
    if line:
        print(line, file=process.stdin, flush=True)
    answer = process.stdout.readline()
    if not answer:
        raise SystemExit(f"{process.args!r} died")
    return dict(json.loads(answer))


def race(contest: Contest, rows: int, rounds: int, python: str) -> list[float] | None:
    """Return how many times faster we are, ascending; None when the library is not installed."""
    with peer_process(contest, rows, python) as process:
        if missing := ask(process).get("missing"):
            print(f"{contest.peer:14}{missing}")
            return None
        reference, columns = data(rows, contest.columns)
        profiles, live = profiles_of(reference), {f"x{i}": column for i, column in enumerate(columns)}
        ours, theirs = [], []
        for _ in range(rounds):
            started = time.perf_counter()
            found = check(profiles, live)
            ours.append(time.perf_counter() - started)
            answer = ask(process, "again")
            theirs.append(answer["seconds"])
            if contest.tolerance is not None:
                np.testing.assert_allclose(found["ks"], answer["ks"], rtol=0, atol=contest.tolerance)
            if "psi" in answer:
                np.testing.assert_allclose(found["psi"], answer["psi"], rtol=1e-9)
    ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    print(
        f"{contest.peer:14}{contest.columns:2} columns x {rows:,} rows: {statistics.median(theirs):7.3f} s, "
        f"Crossfade {statistics.median(ours):.3f} s: {statistics.median(ratios):.1f} times faster "
        f"({ratios[0]:.1f} to {ratios[-1]:.1f}; target {contest.at_least:g})"
    )
    return ratios


def stream() -> None:
    """Count many rows, drawn chunk by chunk; print the seconds spent counting and this process's peak memory."""
    rng, seconds = np.random.default_rng(1), 0.0
    profiles = profiles_of([rng.normal(size=REFERENCE_ROWS) for _ in range(STREAM_COLUMNS)])
    sums: dict[str, Any] = count_columns(profiles, dict.fromkeys(profiles, ()))
    for _ in range(STREAM_ROWS // STREAM_CHUNK):
        live = {name: rng.normal(size=STREAM_CHUNK) for name in profiles}
        started = time.perf_counter()
        sums = {name: sums[name] + counts for name, counts in count_columns(profiles, live).items()}
        seconds += time.perf_counter() - started
    assert all(counts.rows == STREAM_ROWS for counts in sums.values())
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"seconds": seconds, "peak_mb": int(peak.split()[1]) / 1024}))


def main() -> None:
    """Run every contest and print the ratios with their spread."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter with alibi-detect and nannyml")
    parser.add_argument("--json", action="store_true", help="close with one line of JSON")
    parser.add_argument("--stream", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stream:
        stream()
        return
    ran = subprocess.run([sys.executable, __file__, "--stream"], check=True, text=True, stdout=subprocess.PIPE)
    streamed = json.loads(ran.stdout)
    print(
        f"memory        {STREAM_COLUMNS} columns x {STREAM_ROWS:,} rows, chunk by chunk: peak "
        f"{streamed['peak_mb']:,.0f} MB (target {MOST_MEMORY_MB:,}), counted in {streamed['seconds']:.1f} s"
    )
    ok, ratios = streamed["peak_mb"] < MOST_MEMORY_MB, {}
    for contest in CONTESTS:
        foreign = contest.peer in ("alibi-detect", "nannyml")
        found = race(contest, arguments.rows, arguments.rounds, arguments.peer_python if foreign else sys.executable)
        if found:
            ratios[contest.peer] = round(statistics.median(found), 2)
            ok &= ratios[contest.peer] >= contest.at_least
    if arguments.json:
        print(json.dumps({"ok": ok, "ratios": ratios, "peak_mb": round(streamed["peak_mb"])}))


if __name__ == "__main__":
    main()
