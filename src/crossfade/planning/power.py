"""How many labelled requests each gate needs to see a difference: said before the experiment, without simulating."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil, inf, log, sqrt
from typing import Any

import numpy as np
from scipy import optimize, stats
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import proportion_effectsize

from crossfade.loop.evaluate import EvaluationRule
from crossfade.loop.gates import GateName
from crossfade.stats.sequential import Evidence, anytime, paired

DIFFERENCES = (0.01, 0.02, 0.05)
POWER = 0.8

_MOST_LOOKS = 150
"""More than these are taken together: it makes next to no difference."""

_PER_STEP = 10
"""Grid points per standard deviation of what one look adds."""


@dataclass(frozen=True)
class Situation:
    """What is known before the experiment."""

    accuracy: float
    """Of A; in (0, 1)."""
    split: float
    """Share of users on B; in (0, 1)."""
    rows_per_day: float | None
    """Labelled rows a day, both arms together; None when there is no traffic yet."""
    agreement: float = 0.95
    """Share of rows on which both models are right or both wrong."""
    rows_per_user: float = 1.0
    icc: float = 0.0
    """Intra-class correlation of being right, among the rows of one user."""
    measured: tuple[str, ...] = ()
    """Which of these were measured; the others are assumed."""

    @property
    def design_effect(self) -> float:
        """How much larger the variance is than that of independent rows; at least 1."""
        return 1 + max(self.rows_per_user - 1, 0) * self.icc

    def one_per_user(self) -> Situation:
        """Return the situation in which only the first row of each user counts."""
        a_day = None if self.rows_per_day is None else self.rows_per_day / self.rows_per_user
        return replace(self, rows_per_day=a_day, rows_per_user=1.0, icc=0.0)


@dataclass(frozen=True)
class Need:
    """What one gate needs for one difference."""

    gate: GateName
    difference: float
    """B's accuracy minus A's, as it truly is."""
    rows: int | None
    """Labelled rows, both arms together, by which 80 % of such experiments are promoted; None: never, see `note`."""
    days: int | None
    """None: never, or without traffic nobody knows."""
    note: str = ""
    """Why it is never promoted, or which limit ends the experiment before."""


@dataclass(frozen=True)
class Plan:
    """What each gate needs for each difference."""

    situation: Situation
    deciding: GateName
    power: float
    needs: tuple[Need, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)

    def of(self, gate: GateName) -> list[Need]:
        """Return the needs of one gate, by difference."""
        return [need for need in self.needs if need.gate == gate]

    def lines(self) -> list[str]:
        """Say it in one sentence per gate."""
        said = [
            f"{gate}{' (decides)' if gate == self.deciding else ''}: "
            + "; ".join(_said(need) for need in self.of(gate))
            for gate in dict.fromkeys(need.gate for need in self.needs)
        ]
        return [f"labelled requests for {self.power:.0%} power, {describe(self.situation)}", *said]


def describe(situation: Situation) -> str:
    """Name what a plan is made for."""
    traffic = "unknown" if situation.rows_per_day is None else f"{situation.rows_per_day:,.0f}"
    known = ", ".join(situation.measured)
    return (
        f"A right on {situation.accuracy:.1%}, {situation.split:.0%} of users on B, {traffic} labelled requests a day, "
        f"{situation.rows_per_user:.1f} per user (correlation {situation.icc:.2f}), models agreeing on "
        f"{situation.agreement:.1%} of rows" + (f"; measured: {known}" if known else "; all assumed")
    )


def _said(need: Need) -> str:
    if need.rows is None:
        return f"{need.difference:+.0%} never ({need.note})"
    days = "" if need.days is None else f" in {need.days:,} day{'s' * (need.days != 1)}"
    return f"{need.difference:+.0%} {need.rows:,}{days}" + (f" ({need.note})" if need.note else "")


def plan(
    situation: Situation, rule: EvaluationRule, differences: Sequence[float] = DIFFERENCES, power: float = POWER
) -> Plan:
    """Say what each gate needs.

    `chi2` is looked at once, when it has its rows. The two others are looked at daily; without traffic so often that it
    makes no difference. AB_MAX_DAYS and AB_MAX_LABELED are not taken into account but noted where they come first.

    Parameters
    ----------
    situation : Situation
        What is known.
    rule : EvaluationRule
        Level, least rows, limits.
    differences : sequence of float
        B's accuracy minus A's.
    power : float
        Share of experiments that are to be promoted; in (0, 1).

    Examples
    --------
    >>> plan(Situation(0.9, 0.5, 400), EvaluationRule(), (0.05,)).of("chi2")[0].rows
    926
    """
    gates: dict[GateName, Callable[[Situation, float, EvaluationRule, float], float]] = {
        "chi2": rows_chi2,
        "anytime": rows_anytime,
        "paired": rows_paired,
    }
    needs = tuple(
        _need(gate, rows, situation, difference, rule, power)
        for gate, rows in gates.items()
        for difference in differences
    )
    return Plan(situation, rule.test, power, needs)


def _need(
    gate: GateName,
    rows_of: Callable[[Situation, float, EvaluationRule, float], float],
    situation: Situation,
    difference: float,
    rule: EvaluationRule,
    power: float,
) -> Need:
    if situation.accuracy + difference >= 1:
        return Need(gate, difference, None, None, "accuracy above 1")
    if difference <= rule.min_delta_accuracy:
        return Need(gate, difference, None, None, "below AB_MIN_DELTA_ACC")
    smaller = min(situation.split, 1 - situation.split)
    if smaller <= 0:
        return Need(gate, difference, None, None, "one arm has no users")
    counted = situation.one_per_user() if rule.one_per_user else situation
    rows = ceil(max(rows_of(counted, difference, rule, power), _least(counted, rule)))
    days = None if counted.rows_per_day is None else ceil(rows / counted.rows_per_day)
    too_long = "AB_MAX_DAYS first" if days is not None and days > rule.max_days else ""
    note = "AB_MAX_LABELED first" if rows * smaller > rule.max_labeled else too_long
    asked = ceil(rows * situation.rows_per_user) if rule.one_per_user else rows
    return Need(gate, difference, asked, days, note)


def rows_chi2(situation: Situation, difference: float, rule: EvaluationRule, power: float) -> float:
    """Return the rows of both arms that one look of the chi-square test needs.

    Normal approximation on the arcsine scale (statsmodels), enlarged for Yates' correction (Fleiss, Tytun and Ury,
    Biometrics 36, 1980). The test takes rows for independent, so that users are not taken into account.
    """
    a, ratio = situation.accuracy, situation.split / (1 - situation.split)
    effect = proportion_effectsize(a + difference, a)
    rows_a = float(NormalIndPower().solve_power(effect, alpha=rule.alpha, power=power, ratio=ratio))
    rows_a *= (1 + sqrt(1 + 2 * (ratio + 1) / (rows_a * ratio * difference))) ** 2 / 4
    return rows_a * (1 + ratio)


def rows_anytime(situation: Situation, difference: float, rule: EvaluationRule, power: float) -> float:
    """Return the rows of both arms by which the anytime gate has promoted with this chance."""
    a, b, split = situation.accuracy, situation.accuracy + difference, situation.split
    variance = (a * (1 - a) / (1 - split) + b * (1 - b) / split) * situation.design_effect

    def needed(rows: float) -> float:
        if rows < _least(situation, rule):
            return inf

        def short(z: float) -> float:
            return _log_e(anytime(z, 1.0, round(rows), rule.alpha)) + log(rule.alpha)

        return float(optimize.brentq(short, 0, 1000))

    return _rows_until(difference / sqrt(variance), needed, situation.rows_per_day, power)


def rows_paired(situation: Situation, difference: float, rule: EvaluationRule, power: float) -> float:
    """Return the rows of both arms by which the paired gate has promoted with this chance."""
    a = situation.accuracy
    differ = min(max(1 - situation.agreement, difference), 2 - 2 * a - difference)
    deviation = sqrt(differ - difference**2)

    def enough(lead: int, rows: float) -> bool:
        """Tell whether B's lead is; it was most likely won on so many rows on which the models differ."""
        n = max(lead, round(rows * differ + (lead - rows * difference) * difference / differ))
        only_b = (n + lead + 1) // 2
        return _log_e(paired(only_b, n - only_b)) >= -log(rule.alpha)

    def needed(rows: float) -> float:
        if rows < _least(situation, rule):
            return inf
        low, high = 0, 10 + ceil(rows)
        while low < high:
            half = (low + high) // 2
            low, high = (low, half) if enough(half, rows) else (half + 1, high)
        return (low - 0.5) / (deviation * sqrt(rows))  # leads are whole

    return _rows_until(difference / deviation, needed, situation.rows_per_day, power)


def _least(situation: Situation, rule: EvaluationRule) -> float:
    """Return the rows of both arms by which each has AB_MIN_LABELED."""
    return rule.min_labeled / min(situation.split, 1 - situation.split)


def _log_e(evidence: Evidence | None) -> float:
    assert evidence is not None, "rows and a variance are given"
    return evidence.log_e


def _rows_until(drift: float, needed: Callable[[float], float], rows_per_day: float | None, power: float) -> float:
    """Return the rows by which a sequential test has been passed with this chance.

    The standardised sum is taken for a Brownian motion with drift, and its density followed from look to look, less
    what has passed the bound on either side (Armitage, McPherson and Rowe, JRSS A 132, 1969).

    Parameters
    ----------
    drift : float
        Mean of the sum per row, in standard deviations of a row; > 0.
    needed : callable
        z that the test needs after so many rows.
    rows_per_day : float or None
        Rows between two looks; None: looked at all the time.
    power : float
        The chance; in (0, 1).
    """
    at_most = _rows_of_one_look(drift, needed, power)
    step = at_most / _MOST_LOOKS
    if rows_per_day is not None:
        step = rows_per_day * ceil(step / rows_per_day)
    width = 1 / _PER_STEP  # in units of the step's own standard deviation
    reach = ceil((sqrt(_MOST_LOOKS) * 5 + drift * sqrt(step) * _MOST_LOOKS) / width)
    place = np.arange(-reach, reach + 1) * width
    added = np.arange(-5 * _PER_STEP, 5 * _PER_STEP + 1 + ceil(drift * sqrt(step) / width)) * width
    kernel = stats.norm.pdf(added, drift * sqrt(step)) * width
    density, shift = np.zeros(len(place)), 5 * _PER_STEP
    density[reach] = 1.0
    passed, look = 0.0, 0
    while passed < power and look < 2 * _MOST_LOOKS:
        look += 1
        density = np.convolve(density, kernel)[shift : shift + len(place)]
        bound = needed(look * step) * sqrt(look)
        passed += float(density[place >= bound].sum())
        density[np.abs(place) >= bound] = 0
    return look * step


def _rows_of_one_look(drift: float, needed: Callable[[float], float], power: float) -> float:
    """Return the rows that one single look would need: more than many looks do."""
    margin = float(stats.norm.ppf(power))
    rows = 1.0
    while drift * sqrt(rows) < needed(rows) + max(margin, 0):
        rows *= 1.1
    return rows
