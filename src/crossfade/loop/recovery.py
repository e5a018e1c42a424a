"""What a killed run or somebody else left behind: told in the audit, and put right, before anybody moves on.

Everything here starts from what is found now, changes nothing that is as it should be, and may itself be killed
anywhere. No verdict is carried out here: a promotion that had not moved `prod` is evaluated anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from crossfade.loop.audit import BY_OTHERS, FINISHED, NOT_MOVED, SEEN, TAGGED, Audit, Event
from crossfade.loop.evaluate import Experiment
from crossfade.loop.moves import DECIDED_BY, EVIDENCE_RUN, EXPERIMENT, Aliases, Cause, Mover, number_at
from crossfade.registry import Registry
from crossfade.version import STATUS, Version

Swap = tuple[str, str]
"""Version taken out of production by a roll-back, and the one put back."""

_UNDECIDED = ("", "candidate", "staging")
"""Status of a version that nothing was decided about."""

_SOMEBODY = "somebody else"


def catch_up(registry: Registry, aliases: Aliases, audit: Audit | None) -> Swap | None:
    """Tell of what nobody told, and finish what was begun.

    Returns
    -------
    tuple of str or None
        The roll-back that was finished, if one was.
    """
    if audit is None:
        found = _Found.of(registry, aliases, _numbers(registry, aliases), None)
    else:
        found = _Found.of(registry, aliases, notice(registry, aliases, audit), audit)
    _finish_bootstrap(found)
    _finish_promotion(found)
    _finish_challenge(found)
    _adopt(found)
    _free_previous(found)
    return _finish_roll_back(found)


def notice(registry: Registry, aliases: Aliases, audit: Audit) -> dict[str, str | None]:
    """Compare where every alias is with where the audit left it, and tell how it got there.

    Returns
    -------
    dict
        Alias to the number of its version; None where it is not set.
    """
    found, known = _numbers(registry, aliases), audit.read().whereabouts(registry.name)
    for alias, now in found.items():
        then = known.get(alias)
        if then is None:
            if now is not None:
                _tell(registry, audit, SEEN, alias, None, now, "it was there when the audit began")
        elif then.begun and now in (then.begun["from"], then.begun["to"]):
            event = FINISHED if now == then.begun["to"] else NOT_MOVED
            told = {name: value for name, value in then.begun.items() if name != "ts_utc"}
            audit.append({**told, "event": event, "reason": f"its run was killed meanwhile; it had: {told['reason']}"})
        elif now != then.at:
            _tell(registry, audit, BY_OTHERS, alias, then.at, now, "not by Crossfade (MLflow's UI or API)")
    return found


def _numbers(registry: Registry, aliases: Aliases) -> dict[str, str | None]:
    return {alias: number_at(registry, alias) for alias in aliases.all()}


def _tell(
    registry: Registry, audit: Audit, event: str, alias: str, origin: str | None, to: str | None, reason: str
) -> None:
    audit.append(
        {"event": event, "model": registry.name, "alias": alias, "from": origin, "to": to}
        | {"reason": reason, "decided_by": _SOMEBODY}
    )


@dataclass(frozen=True)
class _Found:
    """The registry and the audit as they are now; `notice` has made them agree."""

    registry: Registry
    aliases: Aliases
    audit: Audit | None
    versions: dict[str, Version]
    prod: str | None
    staging: str | None
    previous: str | None
    last: dict[str, Event]
    """How each alias got where it is; empty without an audit."""

    @classmethod
    def of(cls, registry: Registry, aliases: Aliases, now: dict[str, str | None], audit: Audit | None) -> _Found:
        known = audit.read().whereabouts(registry.name) if audit else {}
        return cls(
            registry,
            aliases,
            audit,
            {version.number: version for version in registry.versions()},
            now[aliases.prod],
            now[aliases.staging],
            now[aliases.previous],
            {alias: where.last for alias, where in known.items() if where.last},
        )

    def how(self, alias: str) -> Event:
        """Tell how an alias got where it is; empty when nobody knows."""
        return self.last.get(alias, {})

    def by_others(self, alias: str) -> bool:
        """Whether it was not a run of ours."""
        return self.how(alias).get("event") == BY_OTHERS

    def action(self, alias: str) -> str:
        """Return what moved it; empty when it was not a run of ours."""
        return str(self.how(alias).get("action", ""))

    def status(self, number: str | None) -> str | None:
        """Return a version's status; None when it is deleted, or there is none."""
        return self.versions[number].status if number in self.versions else None

    def describe(self, event: Event, number: str, tags: dict[str, str]) -> None:
        """Set the tags that a killed run did not get to set, and tell so."""
        self.registry.tag(number, tags)
        if self.audit is not None:
            reason = f"version {number} is tagged {tags[STATUS]}, which whoever moved the alias had not done"
            told = {name: value for name, value in event.items() if name not in ("ts_utc", "event")}
            self.audit.append({**told, "event": TAGGED, "version": number, "reason": reason})

    def repair(self, reason: str) -> Mover:
        """Return what moves an alias back to where it belongs."""
        return Mover(self.registry, self.audit, Cause("repair", reason))


def _finish_bootstrap(found: _Found) -> None:
    prod = found.aliases.prod
    if found.prod and found.action(prod) == "bootstrap" and found.status(found.prod) in _UNDECIDED:
        found.describe(found.how(prod), found.prod, {DECIDED_BY: "bootstrap", STATUS: "prod"})


def _finish_promotion(found: _Found) -> None:
    """Set the tags of a promotion; the evidence on the new version tells that there was one."""
    new, old = found.versions.get(found.prod or ""), found.versions.get(found.previous or "")
    experiment = Experiment.between(found.registry.name, found.previous, found.prod)
    if new is None or experiment is None or new.tags.get(EXPERIMENT) != experiment.id or EVIDENCE_RUN not in new.tags:
        return
    if old is not None and old.status == "prod":
        found.describe(found.how(found.aliases.prod), old.number, {STATUS: "retired"})
    if new.status != "prod":
        found.describe(found.how(found.aliases.prod), new.number, {STATUS: "prod"})


def _finish_challenge(found: _Found) -> None:
    """Set the tags of a challenger that was rejected, or displaced by another."""
    how, action = found.how(found.aliases.staging), found.action(found.aliases.staging)
    origin, now = how.get("from"), how.get("to")
    out = origin if found.status(origin) in _UNDECIDED and origin != found.prod else None
    if action == "reject" and out:
        evidence = {
            EXPERIMENT: how["experiment_id"],
            DECIDED_BY: how["decided_by"],
            EVIDENCE_RUN: how["run_id"],
        }
        found.describe(how, out, {**evidence, STATUS: "rejected"})
    if action == "stage" and out:
        found.describe(how, out, {DECIDED_BY: f"superseded by {now}", STATUS: "rejected"})
    experiment = Experiment.between(found.registry.name, found.prod, now)
    if action == "stage" and experiment and found.status(now) in ("", "candidate"):
        found.describe(how, experiment.version_b, {EXPERIMENT: experiment.id, STATUS: "staging"})


def _adopt(found: _Found) -> None:
    """Take what somebody else decided for decided: no experiment of before may undo it."""
    prod, staging = found.aliases.prod, found.aliases.staging
    if found.by_others(prod) and found.prod:
        _adopt_prod(found, found.prod, found.how(prod))
    if found.by_others(staging):
        how = found.how(staging)
        origin, experiment = how["from"], Experiment.between(found.registry.name, found.prod, found.staging)
        if experiment and found.status(found.staging) != "staging":
            tags = {EXPERIMENT: experiment.id, DECIDED_BY: _SOMEBODY, STATUS: "staging"}
            found.describe(how, experiment.version_b, tags)
        if origin != found.prod and found.status(origin) == "staging":
            found.describe(how, origin, {DECIDED_BY: _SOMEBODY, STATUS: "rejected"})


def _adopt_prod(found: _Found, now: str, how: Event) -> None:
    out, staging = how["from"], found.aliases.staging
    if found.status(now) != "prod":
        found.describe(how, now, {DECIDED_BY: _SOMEBODY, STATUS: "prod"})
    put_there_since = found.by_others(staging) and found.how(staging)["ts_utc"] >= how["ts_utc"]
    if out and out == found.staging != now and not put_there_since:
        why = f"somebody else took version {out} out of production: its experiment must not put it back"
        found.repair(why).move(staging, None, expected=out)
    if found.status(out) == "prod":
        back = int(now) < int(out)
        found.describe(how, out, {DECIDED_BY: "rollback", STATUS: "rejected"} if back else {STATUS: "retired"})


def _free_previous(found: _Found) -> None:
    """Take `previous` off the version in production, where a promotion put it that did not come to move `prod`."""
    alias, prod = found.aliases.previous, found.aliases.prod
    unused = found.previous is not None and found.previous == found.prod
    if not unused or found.action(alias) != "promote" or found.action(prod) == "rollback":
        return
    if found.by_others(prod):
        to, why = None, "somebody else put this version back into production: previous is used up"
    else:
        origin = found.how(alias)["from"]
        to, why = origin if origin in found.versions else None, "the promotion that moved it was killed before prod"
    found.repair(why).move(alias, to, expected=found.previous)


def _finish_roll_back(found: _Found) -> Swap | None:
    prod, previous = found.aliases.prod, found.aliases.previous
    if found.action(prod) != "rollback":
        return None
    how = found.how(prod)
    out, back = str(how["from"]), str(how["to"])
    used_up = found.previous != back or found.by_others(previous)
    if used_up and found.status(out) != "prod" and found.status(back) == "prod":
        return None
    if not used_up:
        found.repair(f"the roll-back to version {back} was cut short").move(previous, None, expected=back)
    if found.status(out) == "prod":
        found.describe(how, out, {DECIDED_BY: "rollback", STATUS: "rejected"})
    if found.status(back) != "prod":
        found.describe(how, back, {STATUS: "prod"})
    return out, back
