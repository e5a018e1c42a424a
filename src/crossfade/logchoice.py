"""Which rows of a log are wanted, and slices that give those only."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from crossfade.requestlog import LogSlice


@dataclass(frozen=True)
class Choice:
    """Which rows of a log are wanted: a store that can leaves the others where they are."""

    equal: tuple[tuple[str, str], ...] = ()
    """Columns, and what each must hold, as text."""
    strangers: tuple[str, ...] = ()
    """Model versions whose rows are left out."""

    @classmethod
    def of(cls, strangers: Sequence[str] = (), **equal: str) -> Choice:
        """Choose by columns.

        Examples
        --------
        >>> Choice.of(model="IrisClassifier", status="200").columns
        ('model', 'status')
        """
        return cls(tuple(equal.items()), tuple(strangers))

    @property
    def columns(self) -> tuple[str, ...]:
        """What has to be read to tell."""
        return (*dict(self.equal), *(("model_version",) if self.strangers else ()))


EVERY = Choice()
"""All rows."""


def choose(parts: Sequence[LogSlice], choice: Choice) -> Sequence[LogSlice]:
    """Make slices give the chosen rows only."""
    return parts if choice == EVERY else [ChosenSlice(part, choice) for part in parts]


@dataclass(frozen=True)
class ChosenSlice:
    """Some rows of a slice, chosen after it was read: for stores that cannot choose."""

    part: LogSlice
    choice: Choice

    @property
    def beginning(self) -> Hashable:
        """As the slice has it."""
        return self.part.beginning

    @property
    def mark(self) -> Hashable:
        """As the slice has it."""
        return self.part.mark

    def read(self, wanted: Sequence[str]) -> tuple[pa.Table, int]:
        """Read some columns of the chosen rows. Raises LogUnavailable."""
        import pyarrow as pa
        import pyarrow.compute as pc

        table, set_aside = self.part.read(sorted({*wanted, *self.choice.columns}))
        tests = [pc.equal(table[name], value) for name, value in self.choice.equal]
        if self.choice.strangers:
            theirs = pc.is_in(table["model_version"], pa.array(self.choice.strangers))
            tests.append(pc.invert(theirs))
        return keep(table.select(list(wanted)), reduce(pc.and_, tests)), set_aside


def keep(table: pa.Table, test: pa.ChunkedArray | pa.Array) -> pa.Table:
    """Take the rows that pass a test, without a copy where that is all of them."""
    import pyarrow.compute as pc

    return table if pc.all(test).as_py() else table.filter(test)
