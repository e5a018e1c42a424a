"""A drift check over a million rows of request log, beside pandas and json reading the same file.

    .venv/bin/python benchmarks/log_reading.py [--rows 1000000] [--rounds 3] [--json]

Both sides run in turn in one process; the ratio is taken round by round. Every round both must find the same counts.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from crossfade.data import load_dataset
from crossfade.engine import open_engine
from crossfade.logreader import read_log
from crossfade.loop.reference import ReferenceProfile
from crossfade.loop.window import Window, WindowCounter, count_frame
from crossfade.requestlog import COLUMNS, CsvRequestLog, LogSlice
from crossfade.settings import Settings
from crossfade.unpack import Unpacked, unpack

TARGET = 5.0
"""Times faster than pandas and json; the labels are read as well."""

IRIS = load_dataset(Settings())
REFERENCE = ReferenceProfile.of(
    IRIS.frame[IRIS.features],
    pd.DataFrame({"prediction": ["0", "1", "2"] * 50, "probability": np.linspace(0.3, 1, 150)}),
)
COUNTER = WindowCounter(REFERENCE, IRIS.schema, "IrisClassifier", "1")


def write_log(path: Path, rows: int) -> None:
    """Write a log as the router does; every fiftieth row has its label."""
    rng = np.random.default_rng(0)
    features = rng.normal(5, 1, (rows, len(IRIS.features))).round(2).tolist()
    labels, probabilities = rng.integers(0, 3, rows).tolist(), rng.random(rows).tolist()
    users, start = rng.integers(0, 50_000, rows).tolist(), datetime(2026, 1, 1, tzinfo=UTC)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for i in range(rows):
            sent = json.dumps(dict(zip(IRIS.features, features[i], strict=True)), separators=(",", ":"))
            when = (start + timedelta(seconds=i / 10)).isoformat(timespec="microseconds")
            known = (when, f"{i:032x}", f"u{users[i]}", "", "A", "prod", "IrisClassifier", "1", 0.5, sent)
            writer.writerow((*known, labels[i] if i % 50 == 0 else "", labels[i], probabilities[i], 1.25, 200))


def check(log: CsvRequestLog, rows: int) -> Window:
    """Do what a drift check reads: the window, and every labelled row."""
    with open_engine("local") as engine:
        (window,) = COUNTER.windows(log, rows, 1, engine)
    read_log(log, ("user_id", "model_version", "features_json", "prediction"), labeled=True, model="IrisClassifier")
    return window


def by_pandas(path: Path) -> pd.DataFrame:
    """Read the same rows as one would by hand."""
    read = pd.read_csv(path)
    return pd.DataFrame([json.loads(text) for text in read["features_json"]])


def read_slice(part: LogSlice) -> Unpacked:
    """Read the features of a slice without counting them."""
    return unpack(part.read(("features_json",))[0]["features_json"], IRIS.schema)


def split(log: CsvRequestLog) -> tuple[float, float]:
    """Time reading and counting of the features, one after the other; seconds."""
    with open_engine("local") as engine:
        started = time.perf_counter()
        read = engine.map(read_slice, log.slices())
        middle = time.perf_counter()
        engine.map(lambda unpacked: count_frame(REFERENCE, unpacked.frame), read)
        return middle - started, time.perf_counter() - middle


def main() -> None:
    """Run both sides in turn and print the ratio with its spread."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="make the last line JSON")
    arguments = parser.parse_args()
    ours, theirs, parts = [], [], []
    with tempfile.TemporaryDirectory(prefix="crossfade-bench-") as folder:
        path = Path(folder) / "requests.csv"
        write_log(path, arguments.rows)
        log = CsvRequestLog(path, path.with_name("labels.csv"))
        for _ in range(arguments.rounds):
            started = time.perf_counter()
            window = check(log, arguments.rows)
            middle = time.perf_counter()
            frame = by_pandas(path)
            ours.append(middle - started)
            theirs.append(time.perf_counter() - middle)
            parts.append(split(log))
            expected = count_frame(REFERENCE, frame)
            for name in IRIS.features:
                np.testing.assert_array_equal(window.counts[name].below, expected.counts[name].below)  # type: ignore[union-attr]
    ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    reading, counting = (statistics.median(side) for side in zip(*parts, strict=True))
    print(f"{arguments.rows:,} rows of log, {arguments.rounds} rounds in turn (median)")
    print(f"drift check: window and labels  {statistics.median(ours):.2f} s")
    print(f"  reading the features alone    {reading:.2f} s")
    print(f"  counting them alone           {counting:.2f} s")
    print(f"pandas.read_csv + json.loads    {statistics.median(theirs):.2f} s")
    ratio = statistics.median(ratios)
    print(f"times faster                    {ratio:.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f}; target {TARGET:.0f})")
    if arguments.json:
        print(json.dumps({"ok": ratio >= TARGET, "ratios": {"pandas+json": round(ratio, 2)}}))


if __name__ == "__main__":
    main()
