"""Placing most values of a long column on a grid without sorting them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CHUNK = 131_072
"""Live values counted at a time: they stay in the processor's cache, and memory does not grow with the column."""

_CELLS = 262_144


class Sieve:
    """Counts the values that need no sorting to be placed on a grid, and holds back those that do.

    The grid's range is cut into equal cells, and one open cell at each end. A value in a cell that no grid value lies
    in is placed by its cell alone: the cell of a value is a monotone function of it, rounding included.
    """

    def __init__(self, grid: Floats, longest: int) -> None:
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            self._lowest, self._per_unit = grid[0], _CELLS / (grid[-1] - grid[0])
        self.usable = bool(np.isfinite(self._per_unit) and self._per_unit > 0)
        if self.usable:
            self._passed = np.zeros(_CELLS + 3, dtype=np.int64)
            self._holds = np.zeros(len(self._passed), dtype=bool)
            longest = max(longest, len(grid))
            self._scaled, self._found = np.empty(longest), np.empty(longest, dtype=np.intp)
            self._of_grid = self._cells(grid).copy()
            self._holds[self._of_grid] = True

    @classmethod
    def worth_it(cls, grid: Floats, sample: npt.NDArray[Any]) -> Sieve | None:
        """Return a sieve for a long sample of which it would hold less than half."""
        if len(sample) <= CHUNK or len(grid) < 2:
            return None
        some = sample[:: -(-len(sample) // 1000)].astype(np.float64)
        some = some[~np.isnan(some)]
        sieve = cls(grid, max(CHUNK, len(some)))
        return sieve if sieve.usable and sieve._holds[sieve._cells(some)].sum() * 2 < len(some) else None

    def hold(self, chunk: Floats) -> Floats:
        """Count the values that need no sorting; return the others. None may be NaN."""
        cells = self._cells(chunk)
        self._passed += np.bincount(cells, minlength=len(self._passed))
        held: Floats = chunk[self._holds[cells]]
        return held

    def passed_below_grid(self) -> Ints:
        """How many of the values counted lie below each grid value."""
        below: Ints = np.cumsum(np.where(self._holds, 0, self._passed))[self._of_grid]
        return below

    def _cells(self, values: Floats) -> npt.NDArray[np.intp]:
        """Find the cell of each value, in memory that the next call uses again."""
        scaled, cells = self._scaled[: len(values)], self._found[: len(values)]
        with np.errstate(over="ignore"):
            np.subtract(values, self._lowest, out=scaled)
            scaled *= self._per_unit
        scaled += 1  # the first cell is what lies below the range
        np.copyto(cells, np.clip(scaled, 0, _CELLS + 2, out=scaled), casting="unsafe")
        return cells
