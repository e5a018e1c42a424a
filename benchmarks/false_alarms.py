"""How often the drift rule cries wolf, and what it finds: the project's rule beside the plain one.

    .venv/bin/python benchmarks/false_alarms.py [--windows 2000] [--processes 2] [--json]

A window has 20 features: 8 continuous, 4 discrete, 4 heavy-tailed, 4 categorical. Every window meets a reference
drawn anew, so that windows are independent and no single lucky or unlucky reference decides the outcome.

Without drift at most 1 % of the windows may be called drifted. With drift, one feature of the 20 is shifted as far as
makes its *true* PSI .25, and at least 95 % of windows of 2,000 rows must be called drifted, whatever kind of feature
it is. The true PSI is that of the two distributions themselves (no sample, no smoothing): over the deciles of the
reference's distribution, or over its categories. The plain rule is "any PSI > 0.2 or any KS p < .05".
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import optimize, stats

from crossfade.loop.drift import DriftRule, check_drift
from crossfade.loop.reference import ReferenceProfile
from crossfade.loop.window import Window, count_frame
from crossfade.stats.divergence import ks, psi
from crossfade.stats.profile import CategoricalProfile, NumericCounts, NumericProfile

REFERENCES, WINDOWS, SHIFTED_WINDOW = (500, 10_000), (200, 1_000, 10_000), 2_000
MOST_FALSE_ALARMS, LEAST_FOUND, TRUE_PSI = 0.01, 0.95, 0.25
BATCH = 25

Shares = npt.NDArray[np.float64]


def verdict_of(reference: ReferenceProfile, window: Window) -> str:
    """Return the project's verdict at its default settings."""
    return check_drift(reference, window, DriftRule()).verdict


def plain_verdict_of(reference: ReferenceProfile, window: Window) -> str:
    """Return the plain rule's; KS is left out where values have no order."""
    for name, counts in window.counts.items():
        profile = reference.columns[name]
        divergence = psi(profile, counts)
        if divergence and divergence.value > 0.2:
            return "drift"
        if isinstance(profile, NumericProfile) and isinstance(counts, NumericCounts):
            distance = ks(profile, counts)
            if distance and distance.p_value < 0.05:
                return "drift"
    return "stable"


@dataclass(frozen=True)
class Numbers:
    """A numeric feature: a scipy distribution for each shift in [0, 1); at 0 the reference's."""

    family: Callable[[float], Any]

    @cache  # noqa: B019 - twenty features, two shifts each; making a distribution takes longer than drawing from it
    def at(self, shift: float) -> Any:
        """Return the distribution."""
        return self.family(shift)

    def draw(self, rng: np.random.Generator, rows: int, shift: float) -> npt.NDArray[Any]:
        """Draw a column."""
        return np.asarray(self.at(shift).rvs(rows, random_state=rng), dtype=np.float64)

    def shares(self, shift: float) -> Shares:
        """Return the true shares of the bins between the reference's deciles."""
        edges = np.unique(self.at(0).ppf(np.arange(1, 10) / 10))
        return np.diff(self.at(shift).cdf(edges), prepend=0, append=1)


@dataclass(frozen=True)
class Categories:
    """A categorical feature; a shift favours each category over the one before it."""

    odds: Shares

    def draw(self, rng: np.random.Generator, rows: int, shift: float) -> npt.NDArray[Any]:
        """Draw a column."""
        names = np.array([f"category {i}" for i in range(len(self.odds))], dtype=object)
        return np.asarray(names[rng.choice(len(names), rows, p=self.shares(shift))])

    def shares(self, shift: float) -> Shares:
        """Return the true shares of the categories."""
        tilted = self.odds * np.exp(4 * shift * np.linspace(0, 1, len(self.odds)))
        return np.asarray(tilted / tilted.sum())


FEATURES: dict[tuple[str, str], Numbers | Categories] = {
    **{("continuous", f"normal {i}"): Numbers(stats.norm) for i in range(4)},
    **{("continuous", f"uniform {i}"): Numbers(lambda shift: stats.uniform(0, 1 + shift)) for i in range(1)},
    **{("continuous", f"exponential {i}"): Numbers(lambda shift: stats.expon(0, 1 + shift)) for i in range(1)},
    ("discrete", "yes or no"): Numbers(lambda shift: stats.bernoulli(0.3 + 0.6 * shift)),
    ("discrete", "five values"): Numbers(lambda shift: stats.binom(4, 0.5 + 0.4 * shift)),
    ("discrete", "small counts"): Numbers(lambda shift: stats.poisson(3 + 3 * shift)),
    ("discrete", "large counts"): Numbers(lambda shift: stats.poisson(100 + 10 * shift)),
    ("heavy-tailed", "Cauchy"): Numbers(stats.cauchy),
    ("heavy-tailed", "Student, 2 degrees"): Numbers(lambda shift: stats.t(2, shift)),
    ("heavy-tailed", "log-normal"): Numbers(lambda shift: stats.lognorm(2, 0, np.exp(2 * shift))),
    ("heavy-tailed", "Pareto"): Numbers(lambda shift: stats.pareto(1 / (1 + shift))),
    ("categorical", "even pair"): Categories(np.array([0.5, 0.5])),
    ("categorical", "uneven pair"): Categories(np.array([0.95, 0.05])),
    ("categorical", "five"): Categories(np.array([0.4, 0.3, 0.15, 0.1, 0.05])),
    ("categorical", "thirty, most of them rare"): Categories(1 / np.arange(1.0, 31)),
    ("categorical", "ninety, all alike"): Categories(np.ones(90)),
    ("categorical", "three hundred, most of them rare"): Categories(1 / np.arange(1.0, 301)),
}


def true_psi(feature: Numbers | Categories, shift: float) -> float:
    """Return the PSI of the distributions themselves."""
    p, q = feature.shares(0), feature.shares(shift)
    p, q = p[p > 0], q[p > 0]
    return float(((q - p) * np.log(q / p)).sum())


@cache
def shift_of(name: str) -> float:
    """Return how far a feature is shifted when its true PSI is `TRUE_PSI`."""
    feature = next(feature for (_, known), feature in FEATURES.items() if known == name)
    return float(optimize.brentq(lambda shift: true_psi(feature, shift) - TRUE_PSI, 0, 0.99))


@dataclass(frozen=True)
class Batch:
    """Windows that are drawn alike."""

    reference_rows: int
    window_rows: int
    kind: str
    """Of the feature that is shifted; empty when none is."""
    shifted: str
    seed: int

    @property
    def line(self) -> tuple[str, int, int]:
        """The line of the table that they count on."""
        return self.kind, self.reference_rows, self.window_rows

    def judge(self) -> tuple[int, int]:
        """Return how many of the `BATCH` windows the project's rule and the plain one call drifted."""
        rng, found = np.random.default_rng([self.seed, self.reference_rows, self.window_rows]), [0, 0]
        for _ in range(BATCH):
            profiles, live = {}, {}
            for (_, name), feature in FEATURES.items():
                kind = CategoricalProfile if isinstance(feature, Categories) else NumericProfile
                profiles[name] = kind.of(feature.draw(rng, self.reference_rows, 0))
                live[name] = feature.draw(rng, self.window_rows, shift_of(name) if name == self.shifted else 0)
            reference = ReferenceProfile(profiles)
            window = count_frame(reference, pd.DataFrame(live))
            found[0] += verdict_of(reference, window) == "drift"
            found[1] += plain_verdict_of(reference, window) == "drift"
        return found[0], found[1]


def batches(windows: int) -> list[Batch]:
    """List what is to be judged, line by line; of each kind, its features are shifted in turn."""
    listed = [Batch(rows, live, "", "", seed) for rows in REFERENCES for live in WINDOWS for seed in _seeds(windows)]
    for kind, group in groupby(FEATURES, lambda feature: feature[0]):
        names = [name for _, name in group]
        listed += [
            Batch(rows, SHIFTED_WINDOW, kind, names[seed % len(names)], seed)
            for rows in REFERENCES
            for seed in _seeds(windows // 4)
        ]
    return listed


def _seeds(windows: int) -> range:
    return range(-(-windows // BATCH))


def interval(found: int, windows: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Clopper and Pearson)."""
    low = float(stats.beta.ppf(0.025, found, windows - found + 1)) if found else 0.0
    return low, float(stats.beta.ppf(0.975, found + 1, windows - found)) if found < windows else 1.0


def main() -> None:
    """Judge every window and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=2_000, help="without drift per line, with drift per reference")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="close with one line of JSON")
    arguments = parser.parse_args()
    listed = batches(arguments.windows)
    with ProcessPoolExecutor(arguments.processes) as pool:
        judged = list(pool.map(Batch.judge, listed))
    print("| drift | reference rows | window rows | windows | Crossfade says drift (95 % interval) | plain rule |")
    print("|---|---|---|---|---|---|")
    ok, shares = True, {}
    for line, group in groupby(zip(listed, judged, strict=True), lambda pair: pair[0].line):
        results = [result for _, result in group]
        windows, (ours, plain) = len(results) * BATCH, np.sum(results, axis=0).tolist()
        (kind, rows, live), (low, high) = line, interval(ours, windows)
        ok &= ours / windows >= LEAST_FOUND if kind else ours / windows <= MOST_FALSE_ALARMS
        what = f"one {kind} feature of 20" if kind else "none"
        share = f"{ours / windows:.2%} ({low:.2%} to {high:.2%})"
        print(f"| {what} | {rows:,} | {live:,} | {windows:,} | {share} | {plain / windows:.1%} |")
        shares[f"{kind or 'none'}/{rows}/{live}"] = ours / windows
    if arguments.json:
        print(json.dumps({"ok": bool(ok), "ratios": shares}))


if __name__ == "__main__":
    main()
