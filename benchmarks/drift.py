"""Drift check of many columns: counting on the reference's grid, beside scipy's KS and a quantile PSI per column.

    .venv/bin/python benchmarks/drift.py [--rows 1000000] [--columns 20] [--rounds 5]

Both sides run in turn in one process; the ratio is taken round by round. Every round both must find the same numbers.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import numpy.typing as npt
from scipy import stats

from crossfade.stats.divergence import SMOOTHING, ks, psi
from crossfade.stats.profile import NumericProfile

Column = npt.NDArray[np.float64]


def by_profile(profiles: list[NumericProfile], live: list[Column]) -> list[tuple[float, float]]:
    """Return KS and PSI per column by counting on the profile."""
    found = []
    for profile, column in zip(profiles, live, strict=True):
        counts = profile.count(column)
        distance, divergence = ks(profile, counts), psi(profile, counts)
        assert distance is not None
        assert divergence is not None
        found.append((distance.statistic, divergence.value))
    return found


def by_scipy(reference: list[Column], live: list[Column]) -> list[tuple[float, float]]:
    """Return KS by scipy and PSI by quantile bins."""
    found = []
    for known, column in zip(reference, live, strict=True):
        edges = np.quantile(known, np.arange(1, 10) / 10, method="inverted_cdf")
        p, q = (np.bincount(np.searchsorted(edges, side), minlength=10) + SMOOTHING for side in (known, column))
        p, q = p / p.sum(), q / q.sum()
        distance = stats.ks_2samp(known, column, method="asymp").statistic
        found.append((float(distance), float(((q - p) * np.log(q / p)).sum())))
    return found


def main() -> None:
    """Run both sides in turn and print the ratio with its spread."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    reference = [rng.normal(size=10_000) for _ in range(arguments.columns)]
    live = [rng.normal(0.1, 1.0, size=arguments.rows) for _ in range(arguments.columns)]
    profiles = [NumericProfile.of(column) for column in reference]
    ours, theirs = [], []
    for _ in range(arguments.rounds):
        started = time.perf_counter()
        found = by_profile(profiles, live)
        ours.append(time.perf_counter() - started)
        started = time.perf_counter()
        expected = by_scipy(reference, live)
        theirs.append(time.perf_counter() - started)
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    print(f"{arguments.columns} columns x {arguments.rows} rows, {arguments.rounds} rounds in turn (median)")
    print(f"counting on the profile   {statistics.median(ours):.3f} s")
    print(f"scipy KS + quantile PSI   {statistics.median(theirs):.3f} s")
    print(f"times faster              {statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})")


if __name__ == "__main__":
    main()
