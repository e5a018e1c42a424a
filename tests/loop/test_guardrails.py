"""Guardrails: what B must not do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from crossfade.loop.champion import Scores
from crossfade.loop.guardrails import Guardrail, look


def _rows(arm: str, rows: int, failed: int = 0, latency_ms: float = 5.0, labeled: int | None = None) -> pd.DataFrame:
    known = rows - failed if labeled is None else labeled
    return pd.DataFrame(
        {
            "unit": [f"{arm}{i}" for i in range(rows)],
            "status": [200] * (rows - failed) + [500] * failed,
            "latency_ms": latency_ms,
            "minute": np.arange(rows) // 50,
            "known": np.arange(rows) < known,
        }
    )


def _looked(a: pd.DataFrame, b: pd.DataFrame, scores: dict[str, Any] | None = None) -> dict[str, Guardrail]:
    found = look({"A": a, "B": b}, scores or {"A": None, "B": None}, 0.05)
    return {g.name if g.name != "recall" else g.reason.split()[3][:-1]: g for g in found}


def test_equal_arms_breach_nothing() -> None:
    """Equal arms are within every guardrail."""
    assert not any(guardrail.breached for guardrail in _looked(_rows("A", 500, 5), _rows("B", 500, 5)).values())


def test_an_arm_without_rows_is_not_judged() -> None:
    """Before B has any traffic there is nothing to compare."""
    assert _looked(_rows("A", 500), _rows("B", 0)) == {}


@pytest.mark.parametrize(("failed", "breached"), [(3, False), (30, True)])
def test_failed_requests_end_the_experiment(failed: int, breached: bool) -> None:
    """A few failures more may be chance; many take B out of traffic."""
    found = _looked(_rows("A", 500, 2), _rows("B", 500, failed))["errors"]
    assert (found.breached, found.ends) == (breached, True)


def test_one_users_failures_are_one_users() -> None:
    """Forty failures of one user are one user's evidence."""
    b = _rows("B", 500, 40)
    b.loc[b["status"] == 500, "unit"] = "one"
    assert not _looked(_rows("A", 500), b)["errors"].breached


@pytest.mark.parametrize(("ms", "rows", "breached"), [(54.0, 500, False), (60.0, 500, True), (60.0, 150, False)])
def test_a_slow_challenger_waits(ms: float, rows: int, breached: bool) -> None:
    """B's 95th percentile above twice A's, and 50 ms above it, holds a promotion up, from 200 rows of each on."""
    found = _looked(_rows("A", rows), _rows("B", rows, latency_ms=ms))["latency"]
    assert (found.breached, found.ends) == (breached, False)


def _late(minutes: int, share: float, rng: np.random.Generator) -> pd.DataFrame:
    """Answers of 5 ms, 50 a minute; in a share of the minutes the machine is busy, and each takes 90 ms."""
    rows = _rows("B", 50 * minutes)
    rows["latency_ms"] = np.where((rng.random(minutes) < share)[rows["minute"]], 90.0, 5.0)
    return rows


@pytest.mark.parametrize("minutes", [5, 60])
def test_a_busy_spell_is_no_slow_challenger(minutes: int) -> None:
    """When the machine itself was busy for a minute, B waits for nothing, though its 95th percentile says so."""
    b = _rows("B", 50 * minutes)
    b["latency_ms"] = np.where(b["minute"] < max(1, minutes // 15), 90.0, 5.0)
    found = _looked(_rows("A", 50 * minutes), b)["latency"]
    assert "B 90.0 ms" in found.reason
    assert not found.breached
    assert "busy machine" in found.reason


def test_a_slow_tail_is_noticed_when_it_lasts() -> None:
    """An answer in five that is late, minute after minute, is the challenger's own."""
    a, b = _rows("A", 1000), _rows("B", 1000)
    b["latency_ms"] = np.where(np.arange(1000) % 5 == 0, 90.0, 5.0)
    assert _looked(a, b)["latency"].breached
    b["minute"] = 0
    assert not _looked(a, b)["latency"].breached


def test_busy_machines_rarely_look_like_slow_challengers() -> None:
    """With every twentieth minute busy, at most 1 % of 300 experiments of 30 minutes are held up."""
    rng, a = np.random.default_rng(0), _rows("A", 1500)
    assert sum(_looked(a, _late(30, 0.05, rng))["latency"].breached for _ in range(300)) <= 3


@pytest.mark.parametrize(("labeled", "breached"), [(240, False), (120, True), (400, True)])
def test_labels_must_come_alike(labeled: int, breached: bool) -> None:
    """Where labels are known of one arm's rows far more often, the arms cannot be compared."""
    found = _looked(_rows("A", 500, labeled=250), _rows("B", 500, labeled=labeled))["labels"]
    assert (found.breached, found.ends) == (breached, False)


def _scores(right_of_c: int, said_c_wrongly: int) -> Scores:
    truth = ["c"] * 200 + ["d"] * 400
    answers = ["c"] * right_of_c + ["d"] * (200 - right_of_c) + ["c"] * said_c_wrongly + ["d"] * (400 - said_c_wrongly)
    found = Scores.of(truth, answers)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("right", "wrongly", "breached"),
    [
        (180, 20, False),
        (171, 20, False),  # within the margin
        (140, 20, True),
        (140, 0, True),
    ],
)
def test_no_class_pays(right: int, wrongly: int, breached: bool) -> None:
    """A class whose recall falls by more than the margin, surely, ends the experiment."""
    scores = {"A": _scores(180, 20), "B": _scores(right, wrongly)}
    found = _looked(_rows("A", 600), _rows("B", 600), scores)
    assert (found["c"].breached, found["c"].ends) == (breached, True)
    assert not found["d"].breached


def test_recall_by_over_answering_is_not_protected() -> None:
    """A champion that answers everything with one class has a recall of 1 there that nobody has to match."""
    scores = {"A": _scores(200, 400), "B": _scores(170, 20)}
    assert not _looked(_rows("A", 600), _rows("B", 600), scores)["c"].breached


def test_guardrails_rarely_cry_wolf() -> None:
    """Equal arms breach a guardrail in at most 1 % of 1,000 looks."""
    rng, called = np.random.default_rng(0), 0
    for _ in range(1000):
        arms = []
        for arm in "AB":
            rows = _rows(arm, 400)
            rows["status"] = np.where(rng.random(400) < 0.02, 500, 200)
            rows["latency_ms"] = rng.lognormal(1, 1, 400)
            rows["known"] = (rng.random(400) < 0.5) & (rows["status"] == 200)
            arms.append(rows)
        called += any(guardrail.breached for guardrail in _looked(*arms).values())
    assert called <= 10
