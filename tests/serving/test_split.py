"""1. The split."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as tuned
from hypothesis import strategies as st
from scipy.stats import chi2, chi2_contingency

from crossfade.serving.split import assign, bucket

SHARES = st.floats(0, 1)
USERS = [f"user-{i}" for i in range(20_000)]


def _growthbook_js(seed: str, unit: str) -> float:
    """GrowthBook's JavaScript SDK, over UTF-16 code units and with its shifts in place of the product."""

    def fnv(text: str) -> int:
        value, data = 0x811C9DC5, text.encode("utf-16-le")
        for low, high in zip(data[::2], data[1::2], strict=True):
            value ^= low | high << 8
            value = (value + sum(value << shift for shift in (1, 4, 7, 8, 24))) % 2**32
        return value

    return fnv(str(fnv(seed + unit))) % 10_000 / 10_000


@pytest.mark.parametrize(
    ("seed", "unit", "expected"), [("seed", "a", 0.0505), ("seed", "b", 0.2696), ("foo", "ab", 0.2575)]
)
def test_bucket_is_growthbooks(seed: str, unit: str, expected: float) -> None:
    """The bucket is the one that GrowthBook's published vectors give."""
    assert bucket(seed, unit) == expected


@pytest.mark.parametrize("unit", ["josé", "Жанна", "日本の利用者", "naïve€"])
def test_bucket_of_a_non_ascii_user_is_growthbooks(unit: str) -> None:
    """A user id beyond ASCII lands in the bucket that GrowthBook's SDK puts it in."""
    assert bucket("IrisClassifier-v1-v2", unit) == _growthbook_js("IrisClassifier-v1-v2", unit)


@given(st.text(), st.text())
@tuned(deadline=None, database=None)
def test_bucket_is_a_step_from_zero_to_one(seed: str, unit: str) -> None:
    """Any text at all has a bucket in [0, 1), a whole multiple of 0.0001."""
    found = bucket(seed, unit)
    assert 0 <= found < 1
    assert found == round(found * 10_000) / 10_000


@given(st.text(), st.text(), SHARES, SHARES)
@tuned(deadline=None, database=None, max_examples=300)
def test_raising_the_split_only_adds_users_to_b(seed: str, unit: str, one: float, other: float) -> None:
    """Whoever is on B stays on B when the split is raised."""
    low, high = sorted((one, other))
    if assign(seed, unit, low) == "B":
        assert assign(seed, unit, high) == "B"


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("seed", ["IrisClassifier-v1-v2", "IrisClassifier-v2-v3"])
def test_share_of_b_is_the_split(seed: str, share: float) -> None:
    """Of 20,000 users the share on B is the split, within three standard errors."""
    on_b = np.mean([assign(seed, user, share) == "B" for user in USERS])
    assert abs(on_b - share) < 3 * math.sqrt(share * (1 - share) / len(USERS))


def test_share_of_b_is_the_split_for_counted_users() -> None:
    """Users that are plain running numbers are split as asked for, too."""
    on_b = np.mean([assign("IrisClassifier-v1-v2", str(i), 0.5) == "B" for i in range(20_000)])
    assert abs(on_b - 0.5) < 3 * math.sqrt(0.25 / 20_000)


def test_buckets_are_even() -> None:
    """Users spread over 100 equal slices of the buckets as chance would have it (chi-square below its 99.9 % point)."""
    counts = np.bincount([int(bucket("IrisClassifier-v1-v2", user) * 100) for user in USERS], minlength=100)
    assert ((counts - 200) ** 2 / 200).sum() < chi2.ppf(0.999, 99)


@pytest.mark.parametrize("pair", [("IrisClassifier-v1-v2", "IrisClassifier-v1-v3"), ("m-v2-v3", "m-v3-v2"), ("a", "b")])
def test_two_experiments_are_uncorrelated(pair: tuple[str, str]) -> None:
    """A user's bucket in one experiment tells nothing of that in another (independence of deciles, p > 0.001)."""
    first, second = ([int(bucket(seed, user) * 10) for user in USERS] for seed in pair)
    table = np.zeros((10, 10))
    np.add.at(table, (first, second), 1)
    assert chi2_contingency(table).pvalue > 0.001


def test_a_split_of_zero_puts_everybody_on_a() -> None:
    """At 0 nobody is on B, not even who has bucket 0."""
    assert min(bucket("seed", user) for user in USERS) == 0
    assert {assign("seed", user, 0) for user in USERS} == {"A"}


def test_a_split_of_one_puts_everybody_on_b() -> None:
    """At 1 nobody is on A, not even who has the last bucket."""
    assert max(bucket("seed", user) for user in USERS) == 0.9999
    assert {assign("seed", user, 1) for user in USERS} == {"B"}


def test_the_bucket_itself_is_not_below_the_split() -> None:
    """A user whose bucket equals the split is on A: B is strictly below."""
    assert (assign("seed", "a", 0.0505), assign("seed", "a", 0.0506)) == ("A", "B")
