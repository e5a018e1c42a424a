"""Moves of an alias that the audit tells of: before, and after."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from crossfade.errors import AliasMoved
from crossfade.loop.audit import BEGUN, MOVED, REFUSED, Audit
from crossfade.registry import Registry

EXPERIMENT = "crossfade.experiment"
"""Tag: the experiment that a version was, or is, the challenger of."""

DECIDED_BY = "crossfade.decided_by"
"""Tag: the gate, or who else decided on its status."""

EVIDENCE_RUN = "crossfade.evidence_run"
"""Tag: MLflow run of the evaluation that decided."""

Action = Literal["bootstrap", "stage", "promote", "reject", "rollback", "repair"]


@dataclass(frozen=True)
class Aliases:
    """Names of the three aliases (they are settings)."""

    prod: str
    staging: str
    previous: str

    def all(self) -> tuple[str, str, str]:
        """Return the three."""
        return (self.prod, self.staging, self.previous)


@dataclass(frozen=True)
class Cause:
    """Why an alias moves; told with every event of the move."""

    action: Action
    reason: str
    decided_by: str = ""
    """Gate, or who asked for it."""
    experiment_id: str = ""
    run_id: str = ""
    """MLflow run that holds the evidence."""


class Mover:
    """Moves aliases for one cause.

    Parameters
    ----------
    registry : Registry
        Whose aliases.
    audit : Audit or None
        None tells nobody.
    cause : Cause
        Why.
    """

    def __init__(self, registry: Registry, audit: Audit | None, cause: Cause) -> None:
        self._registry = registry
        self._audit = audit
        self._cause = cause

    def expect(self, alias: str, expected: str | None) -> None:
        """Raise AliasMoved, and tell so, unless an alias is where it was seen."""
        try:
            self._registry.expect(alias, expected)
        except AliasMoved as error:
            self._refused(alias, expected, expected, error)
            raise

    def move(self, alias: str, to: str | None, expected: str | None) -> None:
        """Point an alias at a version, or take it away, if it is where it was seen.

        Raises
        ------
        AliasMoved
            It is not: it was left alone.
        LogUnavailable
            The audit cannot be written: the alias was left alone, or its move will be told by the next run.
        """
        self.tell(BEGUN, alias, expected, to)
        try:
            if to is not None:
                self._registry.move(alias, to, expected)
            elif expected is not None:
                self._registry.drop(alias, expected)
        except AliasMoved as error:
            self._refused(alias, expected, to, error)
            raise
        self.tell(MOVED, alias, expected, to)

    def tell(self, event: str, alias: str, origin: str | None, to: str | None, **more: str | None) -> None:
        """Write an event about an alias."""
        if self._audit is not None:
            moved = {"model": self._registry.name, "alias": alias, "from": origin, "to": to}
            self._audit.append({"event": event, **moved, **asdict(self._cause), **more})

    def _refused(self, alias: str, expected: str | None, to: str | None, error: AliasMoved) -> None:
        self.tell(REFUSED, alias, expected, to, found=number_at(self._registry, alias), reason=str(error))


def number_at(registry: Registry, alias: str) -> str | None:
    """Return the number of the version that an alias points at; None when it is not set."""
    found = registry.at(alias)
    return found.number if found else None
