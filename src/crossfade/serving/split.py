"""1. Which arm answers: a pure function of the experiment, the user and the split.

The hash is GrowthBook's public version 2 (FNV-1a, 32 bit, taken twice; see their SDK's `hash` specification), so that
any of their SDKs assigns the same users. Raising the split only adds users to B: a user's bucket does not depend on it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

Variant = Literal["A", "B"]

_OFFSET, _PRIME, _MASK = 0x811C9DC5, 0x01000193, 0xFFFFFFFF


def _fnv1a_32(text: str, value: int = _OFFSET) -> int:
    """Hash a text, or go on with one: `value` is the hash of what stands before it."""
    for code in text.encode() if text.isascii() else map(ord, text):  # the same numbers, bytes are quicker
        value = ((value ^ code) * _PRIME) & _MASK
    return value


_hash_of_seed = lru_cache(maxsize=16)(_fnv1a_32)


def bucket(seed: str, unit: str) -> float:
    """Place a unit in one of 10,000 buckets.

    Parameters
    ----------
    seed : str
        The experiment id: another experiment shuffles the users anew.
    unit : str
        The user id, or the request id where no user is known.

    Returns
    -------
    float
        In [0, 1), in steps of 0.0001.

    Examples
    --------
    >>> bucket("seed", "a"), bucket("seed", "b"), bucket("foo", "ab")
    (0.0505, 0.2696, 0.2575)
    """
    return _fnv1a_32(str(_fnv1a_32(unit, _hash_of_seed(seed)))) % 10_000 / 10_000


def assign(seed: str, unit: str, split_b: float) -> Variant:
    """Assign a unit to B when its bucket lies below the share of B, else to A."""
    return "B" if bucket(seed, unit) < split_b else "A"
