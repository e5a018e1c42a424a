"""The ramp: B's share of the users is raised step by step, while nothing speaks against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crossfade.loop.evaluate import Evaluation


@dataclass(frozen=True)
class Step:
    """A change of B's share."""

    origin: float
    to: float
    """In [0, 1]."""
    reason: str


def next_step(ramp: Sequence[float], share: float, evaluation: Evaluation) -> Step | None:
    """Say what a look that leaves an experiment open does to B's share.

    A breach of a guardrail takes B out of traffic at once: a share of 0 stays until somebody raises it, or AB_MAX_DAYS
    end the experiment. The share is raised when no guardrail is breached and enough labels tell of the present one.

    Parameters
    ----------
    ramp : sequence of float
        The shares to go through, rising.
    share : float
        In force now. One that is none of the ramp's (somebody set it by hand) goes on with the next higher one.
    evaluation : Evaluation
        The look.

    Returns
    -------
    Step or None
        None where the share stays.
    """
    if evaluation.verdict not in ("keep", "invalid") or not share:
        return None
    breached = [guardrail.reason for guardrail in evaluation.guardrails if guardrail.breached]
    if evaluation.verdict == "invalid":
        breached.insert(0, evaluation.reasons[0])
    if breached:
        return Step(share, 0.0, f"B is out of traffic: {'; '.join(breached)}")
    higher = [step for step in ramp if step > share]
    labeled = sum(stratum.rows_b for stratum in evaluation.strata if stratum.split_b == share)
    if not higher or labeled < evaluation.rule.min_labeled:
        return None
    return Step(
        share, higher[0], f"no guardrail is breached after {labeled} labelled rows of B at {share:.0%} of users"
    )
