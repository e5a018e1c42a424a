"""The three gates: what each makes of the same rows. One of them decides (AB_TEST), all three are reported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from crossfade.stats.arms import Difference, Stratum, difference, stratified_test
from crossfade.stats.proportions import ChiSquare
from crossfade.stats.sequential import Evidence, anytime, paired
from crossfade.stats.sieve import Floats, Ints

if TYPE_CHECKING:
    from crossfade.loop.pairing import Pairs

Bools = npt.NDArray[np.bool_]

GateName = Literal["chi2", "anytime", "paired"]

_MOST_E = 1e15
"""More says no more, and a database's JSON makes of a much larger float a whole number that Airflow cannot read."""


@dataclass(frozen=True)
class Gate:
    """What one gate says of B."""

    name: GateName
    says: Literal["better", "worse", "open", "not available"]
    reason: str
    difference: float | None = None
    """B's accuracy minus A's, as this gate measures it."""
    p_value: float | None = None
    """That B is better (anytime, paired), or that the arms differ (chi2); in [0, 1]."""
    p_value_worse: float | None = None
    """That B is worse; None for chi2, whose p-value has two sides."""
    e_value: float | None = None
    """That B is better, 1e15 at most; None for chi2."""


def ask_gates(
    split: Floats, is_b: Bools, correct: Bools, unit: Ints, pairs: Pairs | None, alpha: float
) -> tuple[ChiSquare | None, tuple[Stratum, ...], dict[GateName, Gate]]:
    """Ask every gate about the labelled rows of an experiment.

    Parameters
    ----------
    split, is_b, correct, unit : array
        Shape (rows,): the split in force, the row's arm, whether it was answered rightly, number of its user.
    pairs : Pairs or None
        How both versions answer them; None when that is not known.
    alpha : float
        Level of each gate.

    Returns
    -------
    tuple
        The chi-square test, the strata that it is over (one per split), and what each gate says.
    """
    values, stratum = np.unique(split, return_inverse=True)
    cells = np.bincount(stratum * 4 + is_b * 2 + correct, minlength=4 * len(values)).reshape(-1, 2, 2)
    strata = tuple(
        Stratum(float(value), int(a.sum()), int(a[1]), int(b.sum()), int(b[1]))
        for value, (a, b) in zip(values, cells, strict=True)
    )
    test, found = stratified_test(strata), difference(stratum, is_b, correct, unit)
    gates = (chi2_gate(test, found, alpha), anytime_gate(found, alpha), paired_gate(pairs, alpha))
    return test, strata, {gate.name: gate for gate in gates}


def chi2_gate(test: ChiSquare | None, found: Difference | None, alpha: float) -> Gate:
    """Chi-square on right and wrong answers per arm: for one look at the end of an experiment.

    Looked at daily it promotes an equal model far more often than alpha says.
    """
    if test is None or found is None:
        return Gate("chi2", "open", "both arms were right (or wrong) every time: nothing tells them apart")
    seen = f"chi-square p = {test.p_value:.3g}"
    if test.p_value >= alpha:
        return Gate(
            "chi2", "open", f"{seen}: not below {alpha}, the difference may be chance", found.value, test.p_value
        )
    if found.value == 0:
        return Gate("chi2", "open", f"{seen}: neither arm is ahead", 0.0, test.p_value)
    ahead = found.value > 0
    said = f"{seen}: B is {'better' if ahead else 'worse'}"
    return Gate("chi2", "better" if ahead else "worse", said, found.value, test.p_value)


def anytime_gate(found: Difference | None, alpha: float) -> Gate:
    """Difference in accuracy, clustered by user: safe to look at every day."""
    better = anytime(found.value, found.variance, found.rows, alpha) if found else None
    worse = anytime(-found.value, found.variance, found.rows, alpha) if found else None
    if found is None or better is None or worse is None:
        return Gate("anytime", "open", "an arm has no labelled row: nothing to compare")
    return _sequential("anytime", "anytime-valid", found.value, better, worse, alpha)


def paired_gate(pairs: Pairs | None, alpha: float) -> Gate:
    """Rows that exactly one version answers rightly: safe to look at every day, and needs the fewest labels."""
    if pairs is None:
        return Gate("paired", "not available", "a version cannot be loaded, so its answers cannot be compared")
    if not pairs.rows:
        return Gate("paired", "open", "no labelled row was answered by both versions")
    only_b, only_a = (round(count / pairs.design_effect) for count in (pairs.only_b, pairs.only_a))
    better, worse = paired(only_b, only_a), paired(only_a, only_b)
    name = f"of {pairs.rows} rows B alone is right on {pairs.only_b}, A alone on {pairs.only_a}, paired"
    return _sequential("paired", name, (pairs.only_b - pairs.only_a) / pairs.rows, better, worse, alpha)


def _sequential(name: GateName, shown: str, difference: float, better: Evidence, worse: Evidence, alpha: float) -> Gate:
    numbers = (difference, better.p_value, worse.p_value, min(better.e_value, _MOST_E))
    if better.p_value <= alpha:
        return Gate(name, "better", f"{shown} p = {better.p_value:.3g}: B is better", *numbers)
    if worse.p_value <= alpha:
        return Gate(name, "worse", f"{shown} p = {worse.p_value:.3g}: B is worse", *numbers)
    said = f"{shown} p = {better.p_value:.3g}: not below {alpha}, the difference may be chance"
    return Gate(name, "open", said, *numbers)
