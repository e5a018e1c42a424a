"""8. Promotion: move the aliases as the evaluation said, and as the registry still allows.

Every move is compared with what the evaluation saw. The order is such that a run killed anywhere leaves a `prod` that
some complete evaluation chose: `previous` and the evidence first, then `prod`, then the tags that only describe.
Whoever moves next first takes up what a killed run, or a hand in MLflow's UI, left behind (loop/recovery.py). With an
audit, one run at a time moves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from crossfade.errors import NoModel
from crossfade.loop.audit import Audit
from crossfade.loop.evaluate import Evaluation, Experiment
from crossfade.loop.moves import DECIDED_BY, EVIDENCE_RUN, EXPERIMENT, Aliases, Cause, Mover, number_at
from crossfade.loop.recovery import Swap, catch_up, notice
from crossfade.registry import Registry
from crossfade.version import STATUS, Version

__all__ = ["Aliases", "Swap", "apply", "bootstrap", "explain", "finish", "number_at", "roll_back", "stage"]


def stage(
    registry: Registry, aliases: Aliases, number: str, audit: Audit | None = None, run_id: str = ""
) -> Experiment | None:
    """Make a version the challenger; the one it displaces is out.

    Parameters
    ----------
    registry : Registry
        Whose aliases.
    aliases : Aliases
        Their names.
    number : str
        The version.
    audit : Audit or None
        Where it is told.
    run_id : str
        MLflow run that trained it.

    Returns
    -------
    Experiment or None
        What it opens; None without another version in production.
    """
    with _turn(registry, aliases, audit):
        prod, displaced = number_at(registry, aliases.prod), number_at(registry, aliases.staging)
        experiment = Experiment.between(registry.name, prod, number)
        if displaced != number:
            cause = Cause(
                "stage",
                "it passed the champion gate",
                decided_by="champion gate",
                experiment_id=experiment.id if experiment else "",
                run_id=run_id,
            )
            Mover(registry, audit, cause).move(aliases.staging, number, expected=displaced)
            if displaced is not None and displaced != prod:
                registry.tag(displaced, {DECIDED_BY: f"superseded by {number}", STATUS: "rejected"})
        if experiment is not None:
            registry.tag(number, {EXPERIMENT: experiment.id, STATUS: "staging"})
    return experiment


def bootstrap(registry: Registry, aliases: Aliases, version: Version, audit: Audit | None = None) -> None:
    """Put the first version into production."""
    with _turn(registry, aliases, audit):
        cause = Cause("bootstrap", "no version was in production", decided_by="bootstrap", run_id=version.run_id)
        Mover(registry, audit, cause).move(aliases.prod, version.number, expected=None)
        registry.tag(version.number, {DECIDED_BY: "bootstrap", STATUS: "prod"})


def apply(
    registry: Registry, aliases: Aliases, evaluation: Evaluation, evidence_run: str, audit: Audit | None = None
) -> bool:
    """Carry out a verdict; tell whether an alias moved.

    Raises
    ------
    AliasMoved
        An alias is no longer where the evaluation saw it.
    """
    experiment = evaluation.experiment
    if experiment is None or evaluation.verdict not in ("promote", "reject"):
        return False
    reason = evaluation.reasons[0] if evaluation.reasons else ""
    cause = Cause(evaluation.verdict, reason, evaluation.rule.test, experiment.id, evidence_run)
    evidence = {EXPERIMENT: experiment.id, DECIDED_BY: cause.decided_by, EVIDENCE_RUN: evidence_run}
    old, new = experiment.version_a, experiment.version_b
    with _turn(registry, aliases, audit):
        mover = Mover(registry, audit, cause)
        mover.expect(aliases.prod, old)  # before anything moves: what is refused leaves no trace
        mover.expect(aliases.staging, new)
        if evaluation.verdict == "reject":
            mover.move(aliases.staging, None, expected=new)
            registry.tag(new, {**evidence, STATUS: "rejected"})
            return True
        previous = number_at(registry, aliases.previous)
        if previous != old:
            mover.move(aliases.previous, old, expected=previous)
        registry.tag(new, evidence)
        mover.move(aliases.prod, new, expected=old)
        registry.tag(old, {STATUS: "retired"})
        registry.tag(new, {STATUS: "prod"})
    return True


def finish(registry: Registry, aliases: Aliases, audit: Audit | None = None) -> None:
    """Take up what a killed run, or somebody at MLflow's UI, left half done; nothing to do is the usual case."""
    with _turn(registry, aliases, audit):
        pass


def explain(registry: Registry, audit: Audit, aliases: Aliases) -> None:
    """Tell the audit, once, of every alias that is not where a run of ours left it; `finish` does so too."""
    with audit.turn():
        notice(registry, aliases, audit)


def roll_back(
    registry: Registry, aliases: Aliases, audit: Audit | None = None, reason: str = "asked for by hand"
) -> Swap:
    """Put `previous` back into production.

    The version taken out is tagged `rejected` and loses `staging`, so that it gets no traffic at all; `previous` is
    used up, so that a second roll-back cannot bring it back by surprise. One that was cut short is finished.

    Returns
    -------
    tuple of str
        The version taken out, and the one put back.

    Raises
    ------
    NoModel
        There is nothing to go back to.
    """
    with _turn(registry, aliases, audit) as cut_short:
        if cut_short is not None:
            return cut_short
        out, back = number_at(registry, aliases.prod), number_at(registry, aliases.previous)
        if out is None or back is None:
            raise NoModel(
                f"alias {aliases.previous if out else aliases.prod} is not set: there is nothing to go back to"
            )
        mover = Mover(registry, audit, Cause("rollback", reason, decided_by="rollback"))
        if number_at(registry, aliases.staging) == out != back:
            mover.move(aliases.staging, None, expected=out)  # first: prod must never meet it as a challenger
        if out != back:  # else a roll-back that was cut short, and no audit tells which version it took out
            mover.move(aliases.prod, back, expected=out)
        mover.move(aliases.previous, None, expected=back)
        if out != back:
            registry.tag(out, {DECIDED_BY: "rollback", STATUS: "rejected"})
        registry.tag(back, {STATUS: "prod"})
    return out, back


@contextmanager
def _turn(registry: Registry, aliases: Aliases, audit: Audit | None) -> Iterator[Swap | None]:
    """Be the only one that moves, with everything before told and finished; give a roll-back that was cut short."""
    if audit is None:
        yield catch_up(registry, aliases, None)
        return
    with audit.turn():
        yield catch_up(registry, aliases, audit)
