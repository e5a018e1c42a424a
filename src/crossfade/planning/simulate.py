"""Experiments that are made up and judged for real: simulated rows through the production gates, a look a day.

Every row is labelled, and the guardrails on recall, errors and latency are not simulated: they only ever hold a
promotion up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from crossfade.loop.evaluate import Arm, Evaluation, EvaluationRule, Experiment, Verdict, judge
from crossfade.loop.gates import GateName, ask_gates
from crossfade.loop.pairing import Pairs
from crossfade.stats.arms import design_effect
from crossfade.stats.proportions import Allocation, accuracy_interval, sample_ratio
from crossfade.stats.sieve import Floats, Ints

GATES: tuple[GateName, ...] = ("chi2", "anytime", "paired")

_KINDS = 512
"""Kinds of users: their accuracies are so many evenly spaced quantiles of a beta distribution."""

_BATCH = 10
"""Experiments that a process takes at once."""

_NOBODY = Experiment("simulated", "A", "B")


@dataclass(frozen=True)
class Traffic:
    """What an experiment looks like."""

    rows_per_day: int = 400
    """Labelled rows of both arms together."""
    days: int = 30
    split: float = 0.5
    """Share of users on B."""
    accuracy: float = 0.9
    """Of A."""
    difference: float = 0.0
    """Accuracy of B minus that of A."""
    rows_per_user: float = 1.0
    """Mean; at least 1."""
    icc: float = 0.0
    """Intra-class correlation of being right, among the rows of one user; in [0, 1)."""
    stay_days: int = 7
    """Days over which the requests of one user are spread."""
    agreement: float = 0.95
    """Share of rows on which both models are right or both wrong; as near to it as the accuracies allow."""
    taste: float = 0.0
    """Intra-class correlation of which model is right, among one user's rows on which they differ; in [0, 1)."""
    ramp: tuple[float, ...] = ()
    """Split of each day, the last one for all that follow; empty: `split`."""
    last_accuracy: float | None = None
    """Accuracy of A on the last day, where it goes to in a straight line; None: it stays."""
    true_split: float | None = None
    """Share of users that B really gets; None: as the log says."""

    def __post_init__(self) -> None:
        for accuracy in (self.accuracy, self.accuracy if self.last_accuracy is None else self.last_accuracy):
            if not 0 < accuracy < 1 or not 0 < accuracy + self.difference < 1:
                raise ValueError(f"accuracies of {accuracy} and {accuracy + self.difference:.3g}: both lie in (0, 1)")
        if not 0 <= self.taste < 1:
            raise ValueError(f"a correlation of {self.taste}: it lies in [0, 1)")
        if self.rows_per_user < 1 or not 0 <= self.icc < 1 or self.rows_per_day < 1 or self.days < 1:
            raise ValueError("rows per user, rows per day and days are 1 at least, the correlation is in [0, 1)")

    @property
    def splits(self) -> Floats:
        """Split that the log names, shape (days,)."""
        ramp = self.ramp or (self.split,)
        return np.array([ramp[min(day, len(ramp) - 1)] for day in range(self.days)])

    @property
    def accuracies(self) -> Floats:
        """Accuracy of A, shape (days,)."""
        last = self.accuracy if self.last_accuracy is None else self.last_accuracy
        return np.linspace(self.accuracy, last, self.days)


@dataclass(frozen=True)
class Rows:
    """The labelled rows of one experiment, oldest first."""

    day: Ints
    """From 0."""
    split: Floats
    """As logged."""
    is_b: npt.NDArray[np.bool_]
    a_right: npt.NDArray[np.bool_]
    """Whether A is right, or would have been."""
    b_right: npt.NDArray[np.bool_]
    unit: Ints
    """Number of the user."""

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether the row's own arm was right."""
        return np.where(self.is_b, self.b_right, self.a_right)

    def of(self, chosen: npt.NDArray[Any]) -> Rows:
        """Return some of them."""
        columns = (self.day, self.split, self.is_b, self.a_right, self.b_right, self.unit)
        return Rows(*(column[chosen] for column in columns))


@dataclass(frozen=True)
class Ending:
    """How an experiment ended under one gate."""

    verdict: Verdict
    """`keep` or `invalid`, that of the last look: the days were over."""
    day: int
    """Of the verdict, from 1."""
    rows: int
    """Labelled rows of both arms until then."""


@dataclass(frozen=True)
class Endings:
    """How many experiments ended under one gate."""

    endings: tuple[Ending, ...]

    def share(self, verdict: Verdict = "promote") -> tuple[float, float, float]:
        """Return the share of a verdict and its 95 % interval (Wilson)."""
        found = sum(ending.verdict == verdict for ending in self.endings)
        interval = accuracy_interval(found, len(self.endings))
        assert interval is not None, "an experiment at least"
        return found / len(self.endings), *interval

    def until_promoted(self, quantile: float, unit: str = "day") -> tuple[float, float, float]:
        """Return within how many days (or rows) this share of all experiments was promoted.

        The 95 % interval is that of order statistics; what was never promoted took infinitely long.
        """
        took = np.sort([getattr(end, unit) if end.verdict == "promote" else inf for end in self.endings])
        low, high = stats.binom.ppf([0.025, 0.975], len(took), quantile).astype(int)
        ranks = np.clip([int(np.ceil(quantile * len(took))) - 1, low - 1, high], 0, len(took) - 1)
        found, lowest, highest = (float(value) for value in took[ranks])
        return found, lowest, highest


def draw(traffic: Traffic, rng: np.random.Generator) -> Rows:
    """Make up the rows of one experiment."""
    days, unit = _visits(traffic, rng)
    users = int(unit.max(initial=-1)) + 1
    bucket, kind = rng.random(users), rng.integers(0, _KINDS, users)
    split = traffic.splits[days]
    cells, toss = _cells(traffic)[days, kind[unit]], rng.random(len(days))
    if traffic.taste:
        cells[:, 1] = cells[:, 2] - (cells[:, 2] - cells[:, 0]) * _shares_of_b(traffic, kind, rng)[unit]
    both, a_right, either = toss < cells[:, 0], toss < cells[:, 1], toss < cells[:, 2]
    real = split if traffic.true_split is None else traffic.true_split
    return Rows(days, split, bucket[unit] < real, a_right, both | (either & ~a_right), unit)


def _shares_of_b(traffic: Traffic, kind: Ints, rng: np.random.Generator) -> Floats:
    """Return, for each user, on which share of the rows where the models differ it is B that is right."""
    cells = _cells(traffic)[0, kind]
    differ = cells[:, 2] - cells[:, 0]
    mean = np.divide(cells[:, 2] - cells[:, 1], differ, out=np.full(len(kind), 0.5), where=differ > 0)
    size, mean = 1 / traffic.taste - 1, np.clip(mean, 1e-6, 1 - 1e-6)
    return rng.beta(mean * size, (1 - mean) * size)


def _visits(traffic: Traffic, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Return the day and the user of every row: users come, and come back on the days after.

    The first of them came before the experiment began, so that its first days are like the later ones.
    """
    per_user = traffic.rows_per_user
    stay = traffic.stay_days if per_user > 1 else 1
    arrivals = np.diff(np.rint(np.arange(traffic.days + stay) * traffic.rows_per_day / per_user).astype(np.int64))
    arrived = np.repeat(np.arange(1 - stay, traffic.days), arrivals)
    rows = 1 + rng.poisson(per_user - 1, len(arrived))
    unit = np.repeat(np.arange(len(arrived)), rows)
    day = arrived[unit] + rng.integers(0, stay, len(unit))
    inside = (day >= 0) & (day < traffic.days)
    day, unit = day[inside], unit[inside]
    order = np.argsort(day, kind="stable")
    return day[order], unit[order]


@lru_cache(maxsize=8)
def _cells(traffic: Traffic) -> Floats:
    """Chances that both are right, and cumulated: or only A, or only B; shape (days, kinds, 3).

    Users for whom A is good are those for whom B is. The more the models disagree, the nearer each user's chance of
    disagreement is to the largest that their accuracies allow.
    """
    quantiles = (np.arange(_KINDS) + 0.5) / _KINDS

    def of_users(mean: Floats) -> Floats:
        if not traffic.icc:
            return np.repeat(mean[:, None], _KINDS, axis=1)
        size, each = 1 / traffic.icc - 1, np.unique(mean)
        table = np.array([stats.beta.ppf(quantiles, value * size, (1 - value) * size) for value in each])
        found = table[np.searchsorted(each, mean)]
        return np.asarray(np.clip(found + (mean - found.mean(axis=1))[:, None], 0, 1))  # what a grid misses of the mean

    a, b = of_users(traffic.accuracies), of_users(traffic.accuracies + traffic.difference)
    least, most = np.abs(b - a), np.minimum(a + b, 2 - a - b)
    wanted = 1 - traffic.agreement - least.mean(axis=1)
    room = (most - least).mean(axis=1)
    share = np.clip(np.divide(wanted, room, out=np.zeros_like(room), where=room > 0), 0, 1)
    differ = least + share[:, None] * (most - least)
    only_a, only_b = (differ - (b - a)) / 2, (differ + (b - a)) / 2
    both = a - only_a
    return np.asarray(np.stack([both, both + only_a, both + only_a + only_b], axis=-1))


def judge_daily(rows: Rows, rule: EvaluationRule, looks: Sequence[int] = ()) -> dict[GateName, Ending]:
    """Look at an experiment at the end of each day until every gate promotes or rejects, or the days are over.

    Parameters
    ----------
    rows : Rows
        All there will be.
    rule : EvaluationRule
        When B's lead counts; its `test` is tried with every gate.
    looks : sequence of int
        Days to look on, from 1, in order; none: all.
    """
    labeled = rows.of(np.sort(np.unique(rows.unit, return_index=True)[1])) if rule.one_per_user else rows
    correct, users = labeled.correct, _Users(rows)
    only_a = np.cumsum(labeled.a_right & ~labeled.b_right)
    only_b = np.cumsum(labeled.b_right & ~labeled.a_right)
    lead = labeled.b_right.astype(np.int64) - labeled.a_right
    ended: dict[GateName, Ending] = {}
    newest: dict[GateName, Ending] = {}
    last = int(rows.day.max(initial=0)) + 1
    for day in looks or range(1, last + 1):
        n = int(np.searchsorted(labeled.day, day))
        ratio = sample_ratio(users.until(int(np.searchsorted(rows.day, day))))
        effect = design_effect(lead[:n], labeled.unit[:n])
        pairs = Pairs(n, int(only_a[n - 1]), int(only_b[n - 1]), effect) if n else Pairs(0, 0, 0)
        columns = (labeled.split[:n], labeled.is_b[:n], correct[:n], labeled.unit[:n])
        asked = ask_gates(*columns, pairs, rule.alpha)
        arms = {name: _arm(name, correct[:n][mine]) for name, mine in (("A", ~columns[1]), ("B", columns[1]))}
        found = Evaluation("keep", (), _NOBODY, rule, arms, *asked, (), ratio, 0, pairs, 0)
        for gate in GATES:
            if gate in ended:
                continue
            verdict, _ = judge(replace(found, rule=replace(rule, test=gate)))
            if verdict == "keep" and rule.spent(day, min(arm.labeled for arm in arms.values())):
                verdict = "reject"
            newest[gate] = Ending(verdict, day, n)
            if verdict in ("promote", "reject"):  # `invalid` is looked at again the next day
                ended[gate] = newest[gate]
        if len(ended) == len(GATES):
            break
    return newest


class _Users:
    """Users in the order in which they came, each under the first split that they met, as `evaluate` counts them."""

    def __init__(self, rows: Rows) -> None:
        first = np.sort(np.unique(rows.unit, return_index=True)[1])
        self._came, self._split, self._is_b = first, rows.split[first], rows.is_b[first]

    def until(self, row: int) -> list[Allocation]:
        """Count the users of the rows before this one."""
        seen = int(np.searchsorted(self._came, row))
        split, is_b = self._split[:seen], self._is_b[:seen]
        values, number = np.unique(split, return_inverse=True)
        counts = np.bincount(number * 2 + is_b, minlength=2 * len(values)).reshape(-1, 2)
        return [Allocation(float(value), int(a), int(b)) for value, (a, b) in zip(values, counts, strict=True)]


def _arm(name: str, correct: npt.NDArray[np.bool_]) -> Arm:
    """Return an arm with the counts that `judge` looks at."""
    rows = len(correct)
    return Arm(name, rows, 0, rows, rows, int(correct.sum()), None, None, None)


@dataclass(frozen=True)
class _Batch:
    traffic: Traffic
    rule: EvaluationRule
    looks: tuple[int, ...]
    seed: tuple[int, ...]
    experiments: int

    def play(self) -> list[dict[GateName, Ending]]:
        rng = np.random.default_rng(self.seed)
        return [judge_daily(draw(self.traffic, rng), self.rule, self.looks) for _ in range(self.experiments)]


def simulate(
    traffic: Traffic,
    rule: EvaluationRule,
    experiments: int,
    seed: int = 0,
    processes: int = 1,
    looks: Sequence[int] = (),
    tick: Callable[[int], None] | None = None,
) -> dict[GateName, Endings]:
    """Simulate experiments, and say how they ended under each gate.

    The outcome depends on the seed, and not on the number of processes.

    Parameters
    ----------
    traffic : Traffic
        What they look like.
    rule : EvaluationRule
        When B's lead counts.
    experiments : int
        How many; at least 1.
    seed : int
        Same seed, same experiments.
    processes : int
        1: this one.
    looks : sequence of int
        Days to look on, from 1; none: all.
    tick : callable or None
        Is told, now and then, how many more are done.

    Examples
    --------
    >>> found = simulate(Traffic(days=3, difference=0.09), EvaluationRule(), experiments=10)
    >>> found["paired"].share()[0]
    1.0
    """
    batches = [
        _Batch(traffic, rule, tuple(looks), (seed, number), min(_BATCH, experiments - start))
        for number, start in enumerate(range(0, experiments, _BATCH))
    ]
    played: list[dict[GateName, Ending]] = []

    def take(part: list[dict[GateName, Ending]]) -> None:
        played.extend(part)
        if tick is not None:
            tick(len(part))

    if processes == 1:
        for batch in batches:
            take(batch.play())
    else:
        with ProcessPoolExecutor(processes) as pool:
            for part in pool.map(_Batch.play, batches):
                take(part)
    return {gate: Endings(tuple(each[gate] for each in played)) for gate in GATES}
