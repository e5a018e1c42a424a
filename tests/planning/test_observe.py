"""What the log tells of the traffic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from crossfade.logreader import LogContents
from crossfade.loop.pairing import Pairs
from crossfade.planning.observe import intra_class_correlation, observe


def contents(rows: int = 300, days: float = 3.0, right: float = 0.8, **changes: Any) -> LogContents:
    """Rows at an even pace, every second one on B and labelled, of users who come three times."""
    number = np.arange(rows)
    frame = pd.DataFrame(
        {
            "ts_utc": pd.Timestamp("2026-01-01", tz="UTC")
            + pd.to_timedelta(number * days / max(rows - 1, 1), unit="D"),
            "request_id": number.astype(str),
            "user_id": (number // 3).astype(str),
            "experiment_id": "m-v1-v2",
            "variant": np.where(number % 2, "B", "A"),
            "model_version": np.where(number % 2, "2", "1"),
            "ab_split_b": 0.3,
            "label": "1",
            "prediction": np.where(number < rows * right, "1", "0"),
            "status": 200,
        }
    )
    return LogContents(frame.assign(**changes), 0)


def joined(*parts: LogContents) -> LogContents:
    rows = pd.concat([part.rows for part in parts], ignore_index=True)
    return LogContents(rows.assign(request_id=np.arange(len(rows)).astype(str)), 0)


def test_an_experiment_is_measured() -> None:
    """Accuracy of A, split, labelled rows a day and per user are those of the experiment."""
    found = observe(contents(), 0.5)
    assert (found.accuracy, found.split) == (pytest.approx(0.8), 0.3)
    assert found.rows_per_day == pytest.approx(100)
    assert found.rows_per_user == 3
    assert set(found.measured) == {"split", "accuracy", "traffic", "users"}


def test_rows_without_a_label_do_not_count() -> None:
    """Only labelled rows are traffic."""
    whole = contents()
    found = observe(LogContents(whole.rows.assign(label=whole.rows["label"].where(whole.rows.index % 4 < 2)), 0), 0.5)
    assert found.rows_per_day == pytest.approx(50, rel=0.02)


def test_less_than_a_day_is_taken_for_one() -> None:
    """A minute of traffic is no promise of more."""
    assert observe(contents(days=0.001), 0.5).rows_per_day == 300


def test_an_empty_log_is_assumed() -> None:
    """Nothing is measured, and what is assumed is said; too few rows are as good as none."""
    for few in (contents(0), contents(20)):
        found = observe(few, 0.4)
        assert (found.accuracy, found.rows_per_day, found.measured) == (0.9, None, ())
        assert found.split == 0.4


def test_the_newest_experiment_counts() -> None:
    """Older experiments and rows of none do not; without an experiment, all rows do."""
    old, new = contents(right=0.5), contents(experiment_id="m-v2-v3", ab_split_b=0.1)
    assert observe(joined(old, new), 0.5).split == 0.1
    assert observe(joined(old, new), 0.5).accuracy == pytest.approx(0.8)
    alone = contents(experiment_id="", variant="A", ab_split_b=0.7)
    assert observe(alone, 0.5).split == 0.5
    assert observe(alone, 0.5).rows_per_day == pytest.approx(100)
    just_opened = joined(old, contents(10, experiment_id="m-v2-v3", ab_split_b=0.1))
    assert observe(just_opened, 0.5).split == 0.3


def test_a_version_without_a_mistake_is_not_certain() -> None:
    """Accuracy stays below 1: no plan could be made for it."""
    assert observe(contents(right=1.0), 0.5).accuracy == pytest.approx(1 - 1 / 300)


def test_agreement_is_measured_from_pairs() -> None:
    """From the rows that both models answered, if there are some."""
    assert observe(contents(), 0.5, Pairs(200, 3, 5)).agreement == pytest.approx(0.96)
    assert observe(contents(), 0.5, Pairs(5, 3, 1)).agreement == 0.95


def test_users_who_are_always_or_never_right() -> None:
    """Correlation 1 is found (nearly), independence is none, and single rows tell nothing."""
    rng = np.random.default_rng(0)
    unit = np.repeat(np.arange(400), 5)
    alike = pd.DataFrame({"unit": unit, "correct": np.repeat(rng.random(400) < 0.8, 5)})
    assert intra_class_correlation(alike) == 0.99
    assert intra_class_correlation(alike.assign(correct=rng.random(2000) < 0.8)) < 0.05
    assert intra_class_correlation(alike.assign(unit=np.arange(2000))) == 0
