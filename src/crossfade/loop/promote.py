"""8. Promotion: move the aliases as the evaluation said, and as the registry still allows.

Every move is compared with what the evaluation saw. The order is such that a run killed anywhere leaves a `prod` that
some complete evaluation chose: `previous` and the evidence first, then `prod`, then the tags that only describe.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from crossfade.errors import NoModel
from crossfade.loop.evaluate import Evaluation
from crossfade.registry import STATUS, Registry, Version

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Aliases:
    """Names of the three aliases (they are settings)."""

    prod: str
    staging: str
    previous: str


def number_at(registry: Registry, alias: str) -> str | None:
    """Return the number of the version that an alias points at; None when it is not set."""
    found = registry.at(alias)
    return found.number if found else None


def bootstrap(registry: Registry, aliases: Aliases, version: Version) -> None:
    """Put the first version into production."""
    registry.move(aliases.prod, version.number, expected=None)
    registry.tag(version.number, {STATUS: "prod", "crossfade.decided_by": "bootstrap"})


def apply(registry: Registry, aliases: Aliases, evaluation: Evaluation, evidence_run: str) -> bool:
    """Carry out a verdict; tell whether an alias moved.

    Raises
    ------
    AliasMoved
        An alias is no longer where the evaluation saw it.
    """
    experiment = evaluation.experiment
    if experiment is None or evaluation.verdict in ("keep", "invalid"):
        return False
    evidence = {
        "crossfade.experiment": experiment.id,
        "crossfade.decided_by": evaluation.rule.test,
        "crossfade.evidence_run": evidence_run,
    }
    old, new = experiment.version_a, experiment.version_b
    if evaluation.verdict == "reject":
        registry.drop(aliases.staging, expected=new)
        registry.tag(new, {STATUS: "rejected", **evidence})
        return True
    registry.expect(aliases.prod, old)  # before anything moves: a refused promotion leaves no trace
    registry.expect(aliases.staging, new)
    previous = number_at(registry, aliases.previous)
    if previous != old:
        registry.move(aliases.previous, old, expected=previous)
    registry.tag(new, evidence)
    registry.move(aliases.prod, new, expected=old)
    _describe(registry, new, old)
    return True


def finish(registry: Registry, aliases: Aliases) -> None:
    """Set the tags of a promotion that was cut short after `prod` had moved."""
    prod, previous = registry.at(aliases.prod), registry.at(aliases.previous)
    if prod is not None and previous is not None and prod.status == "staging" and prod.number != previous.number:
        _describe(registry, prod.number, previous.number)


def _describe(registry: Registry, new: str, old: str) -> None:
    registry.tag(new, {STATUS: "prod"})
    registry.tag(old, {STATUS: "retired"})


def roll_back(registry: Registry, aliases: Aliases) -> tuple[str, str]:
    """Put `previous` back into production.

    The version taken out is tagged `rejected` and loses `staging`, so that it gets no traffic at all; `previous` is
    used up, so that a second roll-back cannot bring it back by surprise.

    Returns
    -------
    tuple of str
        The version taken out, and the one put back.

    Raises
    ------
    NoModel
        There is nothing to go back to.
    """
    prod, previous = registry.at(aliases.prod), registry.at(aliases.previous)
    if prod is None or previous is None:
        raise NoModel(f"alias {aliases.previous if prod else aliases.prod} is not set: there is nothing to go back to")
    if number_at(registry, aliases.staging) == prod.number != previous.number:
        registry.drop(aliases.staging, expected=prod.number)  # first: prod must never meet it as a challenger
    registry.move(aliases.prod, previous.number, expected=prod.number)
    registry.drop(aliases.previous, expected=previous.number)
    if prod.number != previous.number:  # else a roll-back that was cut short is finished
        registry.tag(prod.number, {STATUS: "rejected", "crossfade.decided_by": "rollback"})
    registry.tag(previous.number, {STATUS: "prod"})
    return prod.number, previous.number
