"""Does a compiled model answer exactly like the pipeline?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crossfade.compiled.encoding import Value
from crossfade.compiled.model import CompiledModel
from crossfade.model import Prediction

TOLERANCE = 1e-5
"""Largest difference of the chosen label's probability."""

_ALONE = 1000
"""Rows that are also answered one by one, where an answer alone takes the same way as one among many."""


@dataclass(frozen=True)
class Parity:
    """How the answers of two models to the same rows compare."""

    rows: int
    differing: int
    """Rows with another label, or with a probability where the other has none."""
    largest: float
    """Largest difference between the probabilities of labels that agree, in [0, 1]."""

    @property
    def holds(self) -> bool:
        """Whether the models answer alike."""
        return not self.differing and self.largest <= TOLERANCE

    def __str__(self) -> str:
        return (
            f"{self.differing} of {self.rows} answers differ, "
            f"probabilities of the others by up to {self.largest:.2g} (allowed: none, {TOLERANCE:g})"
        )


def parity(model: CompiledModel, rows: Sequence[Sequence[Value]], expected: Sequence[Prediction]) -> Parity:
    """Compare a compiled model's answers to rows of shape (n, features) with what the pipeline answered.

    All rows are answered together, and then one by one, for this may be another piece of code: all of them in tier
    plain, an even choice of them elsewhere.
    """
    apart = range(0, len(rows), 1 if model.tier == "plain" else max(1, len(rows) // _ALONE))
    together = compared(model.predict(rows), expected)
    alone = compared([model.predict([rows[i]])[0] for i in apart], [expected[i] for i in apart])
    return max(together, alone, key=lambda found: (found.differing, found.largest))


def compared(found: Sequence[Prediction], expected: Sequence[Prediction]) -> Parity:
    """Compare answers to the same rows, both of shape (n,)."""
    pairs = list(zip(found, expected, strict=True))
    alike = [
        one.label == other.label
        and type(one.label) is type(other.label)
        and (one.probability is None) == (other.probability is None)
        for one, other in pairs
    ]
    gaps = [
        abs(one.probability - other.probability)
        for (one, other), same in zip(pairs, alike, strict=True)
        if same and one.probability is not None and other.probability is not None
    ]
    return Parity(len(pairs), int(len(pairs) - np.sum(alike)), max(gaps, default=0.0))
