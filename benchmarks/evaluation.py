"""An A/B evaluation of a million labelled rows of log, beside plain pandas and scikit-learn on the same file.

    .venv/bin/python benchmarks/evaluation.py [--rows 1000000] [--rounds 3] [--json]

Both sides run in turn in one process; the ratio is taken round by round. Every round both must find the same numbers.
Ours also checks the split by user, clusters the variance by user, and asks the guardrails.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from crossfade.logreader import read_log
from crossfade.loop.evaluate import Evaluation, EvaluationRule, Experiment, evaluate
from crossfade.loop.steps import EVALUATED_COLUMNS
from crossfade.requestlog import COLUMNS, CsvRequestLog

TARGET = 3.0
"""Times faster than pandas and scikit-learn."""

EXPERIMENT = Experiment("IrisClassifier-v1-v2", "1", "2")


def write_log(path: Path, rows: int) -> None:
    """Write a labelled log of one experiment as the router does: 100,000 users, accuracy .900 and .905."""
    rng = np.random.default_rng(0)
    user = rng.integers(0, 100_000, rows)
    is_b = rng.random(100_000)[user] < 0.5
    label = rng.integers(0, 3, rows)
    right = rng.random(rows) < np.where(is_b, 0.905, 0.9)
    answer, start = np.where(right, label, (label + 1) % 3), datetime(2026, 1, 1, tzinfo=UTC)
    sent = '{"sepal length (cm)":5.13,"sepal width (cm)":4.87,"petal length (cm)":5.64,"petal width (cm)":5.1}'
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for i, (u, b, known, said) in enumerate(
            zip(user.tolist(), is_b.tolist(), label.tolist(), answer.tolist(), strict=True)
        ):
            when = (start + timedelta(seconds=i / 10)).isoformat(timespec="microseconds")
            arm = ("B", "staging", "IrisClassifier", "2") if b else ("A", "prod", "IrisClassifier", "1")
            writer.writerow((when, f"{i:032x}", f"u{u}", EXPERIMENT.id, *arm, 0.5, sent, known, said, 0.9, 1.25, 200))


def by_hand(path: Path) -> dict[str, float]:
    """Evaluate as one would by hand: accuracy, precision, recall and F1 per arm, and chi-square."""
    rows = pd.read_csv(path)
    rows = rows[(rows["experiment_id"] == EXPERIMENT.id) & (rows["status"] == 200) & rows["label"].notna()]
    rows = rows.drop_duplicates("request_id", keep="last")
    found, table = {}, []
    for variant, arm in rows.groupby("variant"):
        found[f"accuracy_{variant}"] = accuracy_score(arm["label"], arm["prediction"])
        scores = precision_recall_fscore_support(arm["label"], arm["prediction"], average="macro", zero_division=0)
        found[f"f1_{variant}"] = scores[2]
        right = int((arm["label"] == arm["prediction"]).sum())
        table.append([right, len(arm) - right])
    return {**found, "p_value": stats.chi2_contingency(table).pvalue}


def agree(ours: Evaluation, theirs: dict[str, float]) -> None:
    """Make sure that both found the same."""
    assert ours.chi_square is not None
    np.testing.assert_allclose(ours.chi_square.p_value, theirs["p_value"], rtol=1e-9)
    for variant, arm in ours.arms.items():
        assert arm.scores is not None
        np.testing.assert_allclose(arm.scores.accuracy, theirs[f"accuracy_{variant}"])
        np.testing.assert_allclose(arm.scores.f1_macro, theirs[f"f1_{variant}"])


def main() -> None:
    """Run both sides in turn and print the ratio with its spread."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="make the last line JSON")
    arguments = parser.parse_args()
    ours, theirs, peak = [], [], 0
    with tempfile.TemporaryDirectory(prefix="crossfade-bench-") as folder:
        path = Path(folder) / "requests.csv"
        write_log(path, arguments.rows)
        log = CsvRequestLog(path, path.with_name("labels.csv"))
        for _ in range(arguments.rounds):
            started = time.perf_counter()
            found = evaluate(
                read_log(log, EVALUATED_COLUMNS, experiment_id=EXPERIMENT.id), EXPERIMENT, EvaluationRule()
            )
            middle = time.perf_counter()
            peak = peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # before pandas has its turn
            by_pandas = by_hand(path)
            ours.append(middle - started)
            theirs.append(time.perf_counter() - middle)
            agree(found, by_pandas)
    ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    ratio = statistics.median(ratios)
    print(f"{arguments.rows:,} labelled rows of log, {arguments.rounds} rounds in turn (median)")
    print(f"Crossfade                {statistics.median(ours):.2f} s, peak {peak} MB")
    print(f"pandas and scikit-learn  {statistics.median(theirs):.2f} s")
    print(f"times faster             {ratio:.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f}; target {TARGET:.0f})")
    if arguments.json:
        print(json.dumps({"ok": ratio >= TARGET, "ratios": {"pandas+sklearn": round(ratio, 2)}, "peak_mb": peak}))


if __name__ == "__main__":
    main()
