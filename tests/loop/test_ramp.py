"""The ramp: what a look does to B's share."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crossfade.loop.evaluate import Evaluation, EvaluationRule, Experiment
from crossfade.loop.guardrails import Guardrail
from crossfade.loop.ramp import next_step
from crossfade.stats.arms import Stratum

RAMP = [0.05, 0.2, 0.5]
FINE = Guardrail("errors", False, True, "no errors")


def looked(*strata: tuple[float, int], guardrails: tuple[Guardrail, ...] = (FINE,)) -> Evaluation:
    """Return a look at an open experiment with so many labelled rows of B under each share."""
    found = tuple(Stratum(share, 100, 90, rows, rows) for share, rows in strata)
    experiment = Experiment("m-v1-v2", "1", "2")
    return Evaluation(
        "keep", ("open",), experiment, EvaluationRule(), {}, None, found, {}, guardrails, None, 0, None, 0
    )


@pytest.mark.parametrize(
    ("share", "rows", "to"), [(0.05, 30, 0.2), (0.05, 29, None), (0.2, 30, 0.5), (0.5, 900, None), (0.1, 30, 0.2)]
)
def test_a_clean_look_goes_one_step_further(share: float, rows: int, to: float | None) -> None:
    """The next higher share, once AB_MIN_LABELED rows of B tell of the present one; the last is the end."""
    step = next_step(RAMP, share, looked((share, rows)))
    assert (step.to if step else None) == to


def test_rows_of_an_earlier_share_do_not_count() -> None:
    """What was seen at 5 % says nothing of 20 %."""
    assert next_step(RAMP, 0.2, looked((0.05, 500), (0.2, 3))) is None


@pytest.mark.parametrize("name", ["latency", "labels"])
def test_a_breach_takes_b_out_at_once(name: str) -> None:
    """Whatever the rows: a breached guardrail puts B's share to 0, and says which."""
    slow = Guardrail(name, True, False, "B is too slow")  # type: ignore[arg-type]
    step = next_step(RAMP, 0.2, looked((0.2, 3), guardrails=(FINE, slow)))
    assert step is not None
    assert (step.origin, step.to, step.reason) == (0.2, 0.0, "B is out of traffic: B is too slow")


def test_a_broken_split_takes_b_out() -> None:
    """Where the numbers cannot be trusted, nobody is exposed to B."""
    step = next_step(RAMP, 0.2, replace(looked((0.2, 300)), verdict="invalid", reasons=("the split is broken",)))
    assert step is not None
    assert (step.to, step.reason) == (0.0, "B is out of traffic: the split is broken")


@pytest.mark.parametrize("verdict", ["promote", "reject"])
def test_a_decided_experiment_has_no_share(verdict: str) -> None:
    """The aliases move: nothing is left to split."""
    assert next_step(RAMP, 0.05, replace(looked((0.05, 300)), verdict=verdict)) is None  # type: ignore[arg-type]


def test_a_share_of_none_stays() -> None:
    """Only a person puts B back into traffic."""
    assert next_step(RAMP, 0.0, looked((0.05, 300))) is None
