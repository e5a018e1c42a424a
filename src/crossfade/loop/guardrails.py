"""Guardrails: what B must not do, however many answers it gets right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from crossfade.logreader import where
from crossfade.loop.champion import Scores
from crossfade.loop.quality import share_of_answers
from crossfade.stats.proportions import exceeding_share, worse_share

_ALPHA = 0.001
"""Level of each guardrail: they are looked at as often as the experiment is."""

_FEWEST_FOR_LATENCY = 200
_SLOWER = 2.0
"""Times A's 95th percentile..."""
_SLOWER_MS = 50.0
"""...and so many milliseconds above it: B is too slow. A compiled model takes .1 ms, so twice that is nothing yet."""
_TAIL = 0.05
"""Share of the answers beyond a 95th percentile."""


@dataclass(frozen=True)
class Guardrail:
    """One thing that was looked at."""

    name: Literal["errors", "recall", "latency", "labels"]
    breached: bool
    ends: bool
    """A breach takes B out of traffic; otherwise it only holds a promotion up."""
    reason: str


def look(arms: Mapping[str, pd.DataFrame], scores: Mapping[str, Scores | None], margin: float) -> list[Guardrail]:
    """Check every guardrail.

    Parameters
    ----------
    arms : mapping of variant to DataFrame
        All rows of both arms: `unit`, `status`, `latency_ms`, the `minute` they came in, and whether the label is
        `known`.
    scores : mapping of variant to Scores or None
        On the labelled rows.
    margin : float
        Recall that a class may lose before its Youden's J is looked at.
    """
    if not all(map(len, arms.values())):
        return []
    return [_errors(arms), _labels(arms), _latency(arms), *_recall(scores, margin)]


def _errors(arms: Mapping[str, pd.DataFrame]) -> Guardrail:
    a, b = (share_of_answers(arm["unit"], arm["status"] == 200) for arm in (arms["A"], arms["B"]))
    said = f"failed requests: {1 - a.value:.2%} of A's, {1 - b.value:.2%} of B's"
    return Guardrail("errors", worse_share(b, a) < _ALPHA, True, said)


def _labels(arms: Mapping[str, pd.DataFrame]) -> Guardrail:
    shares = []
    for arm in (arms["A"], arms["B"]):
        answered = where(arm, arm["status"] == 200)
        shares.append(share_of_answers(answered["unit"], answered["known"]) if len(answered) else None)
    a, b = shares
    if a is None or b is None:
        return Guardrail("labels", False, False, "an arm has no answer")
    p_value = 2 * min(worse_share(a, b), worse_share(b, a))
    return Guardrail(
        "labels", p_value < _ALPHA, False, f"labels known of {a.value:.1%} of A's rows, {b.value:.1%} of B's"
    )


def _latency(arms: Mapping[str, pd.DataFrame]) -> Guardrail:
    """Tell whether B is too slow: its typical answer, or surely more than one in twenty.

    A busy machine makes every answer late for a while, and those of a model that computes longer more than others'. So
    late answers of one minute are one observation, and a tail is judged when it has lasted; a median is not moved so
    easily.
    """
    a, b = arms["A"]["latency_ms"], arms["B"]["latency_ms"]
    tail_a, tail_b = (float(np.nanpercentile(arm, 100 * (1 - _TAIL))) for arm in (a, b))
    said = f"95th percentile of the latency: A {tail_a:.1f} ms, B {tail_b:.1f} ms"
    limit = max(_SLOWER * tail_a, tail_a + _SLOWER_MS)
    if min(len(a), len(b)) < _FEWEST_FOR_LATENCY or tail_b <= limit:
        return Guardrail("latency", False, False, said)
    if float(np.nanmedian(b)) > limit:
        return Guardrail("latency", True, False, f"{said}, half of B's above {limit:.1f} ms")
    minutes = int(arms["B"]["minute"].nunique())
    late = share_of_answers(arms["B"]["minute"], b > limit)
    said = f"{said}, {late.value:.1%} of B's above {limit:.1f} ms in {minutes} min of traffic"
    lasting = minutes > 1 and exceeding_share(late, _TAIL, minutes) < _ALPHA
    return Guardrail("latency", lasting, False, said if lasting else f"{said}: this may be a busy machine")


def _recall(scores: Mapping[str, Scores | None], margin: float) -> list[Guardrail]:
    a, b = scores["A"], scores["B"]
    if a is None or b is None:
        return []
    found = []
    for name in sorted(set(a.recall) & set(b.recall)):
        before, now = a.share_of_class(name), b.share_of_class(name)
        lost = before.value - now.value > margin and b.youden_j[name] < a.youden_j[name]
        said = f"recall of class {name}: A {before.value:.3f}, B {now.value:.3f}"
        found.append(Guardrail("recall", lost and worse_share(now, before) < _ALPHA, True, said))
    return found
