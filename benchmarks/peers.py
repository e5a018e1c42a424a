"""Other libraries doing what the drift check does, each in a process of its own, in turn with the benchmark.

    PYTHON benchmarks/peers.py NAME ROWS COLUMNS

Says on its first line whether the library is there, then works once for each line it reads and answers with the
seconds and what it found, as JSON. Needs nothing of the project, so that PYTHON may be of another environment.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

REFERENCE_ROWS = 10_000

Table = list[npt.NDArray[np.float64]]
Work = Callable[[], dict[str, list[float]]]


def data(rows: int, columns: int) -> tuple[Table, Table]:
    """Draw reference and live columns: the same for everyone."""
    rng = np.random.default_rng(0)
    reference = [rng.normal(size=REFERENCE_ROWS) for _ in range(columns)]
    return reference, [rng.normal(0.1, 1.0, size=rows) for _ in range(columns)]


def scipy(reference: Table, live: Table) -> Work:
    """KS by ``ks_2samp``, and PSI over the reference's deciles, column by column."""
    from scipy import stats

    def work() -> dict[str, list[float]]:
        found: dict[str, list[float]] = {"ks": [], "psi": []}
        for known, column in zip(reference, live, strict=True):
            edges = np.quantile(known, np.arange(1, 10) / 10, method="inverted_cdf")
            p, q = (np.bincount(np.searchsorted(edges, side), minlength=10) + 0.5 for side in (known, column))
            p, q = p / p.sum(), q / q.sum()
            found["ks"].append(float(stats.ks_2samp(known, column, method="asymp").statistic))
            found["psi"].append(float(((q - p) * np.log(q / p)).sum()))
        return found

    return work


def alibi_detect(reference: Table, live: Table) -> Work:
    """KSDrift as it comes."""
    from alibi_detect.cd import KSDrift

    detector, window = KSDrift(np.column_stack(reference)), np.column_stack(live)
    return lambda: {"ks": [float(distance) for distance in detector.predict(window)["data"]["distance"]]}


def nannyml(reference: Table, live: Table) -> Work:
    """Univariate drift by KS; the window is one chunk. (From 10,000 reference rows on its KS is an estimate.)"""
    import nannyml as nml

    names = [f"x{i}" for i in range(len(reference))]
    method = nml.UnivariateDriftCalculator(names, continuous_methods=["kolmogorov_smirnov"], chunk_number=1)
    fitted, window = method.fit(_frame(reference)), _frame(live)

    def work() -> dict[str, list[float]]:
        fitted.calculate(window)
        return {}

    return work


def evidently(reference: Table, live: Table) -> Work:
    """DataDriftPreset as it comes."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    names = [f"x{i}" for i in range(len(reference))]
    known, window = (Dataset.from_pandas(_frame(t), DataDefinition(numerical_columns=names)) for t in (reference, live))

    def work() -> dict[str, list[float]]:
        Report([DataDriftPreset()]).run(window, known).dict()
        return {}

    return work


PEERS = {"scipy": scipy, "alibi-detect": alibi_detect, "nannyml": nannyml, "evidently": evidently}


def _frame(table: Table) -> Any:
    import pandas as pd

    return pd.DataFrame({f"x{i}": column for i, column in enumerate(table)})


def main() -> None:
    """Answer one line for each line read; what the library prints goes to stderr."""
    name, rows, columns = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        try:
            importlib.import_module(name.replace("-", "_"))
        except ImportError as error:
            print(json.dumps({"missing": f"not installed: pip install {name} ({error})"}), file=answers, flush=True)
            return
        work = PEERS[name](*data(rows, columns))
        print(json.dumps({}), file=answers, flush=True)
        for _ in sys.stdin:
            started = time.perf_counter()
            found = work()
            print(json.dumps({"seconds": time.perf_counter() - started, **found}), file=answers, flush=True)


if __name__ == "__main__":
    main()
