"""Promotion and roll-back against a real registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from crossfade.errors import AliasMoved, NoModel
from crossfade.logreader import read_log
from crossfade.loop.evaluate import Evaluation, EvaluationRule, Experiment, Verdict, evaluate
from crossfade.loop.promote import Aliases, apply, bootstrap, finish, number_at, roll_back, stage
from crossfade.memorylog import MemoryRequestLog
from crossfade.registry import Registry
from crossfade.version import STATUS, Version

ALIASES = Aliases("prod", "staging", "previous")
Register = Callable[..., Version]


def _verdict(verdict: Verdict, a: str = "1", b: str = "2") -> Evaluation:
    experiment = Experiment.between("IrisClassifier", a, b)
    found = evaluate(read_log(MemoryRequestLog()), experiment, EvaluationRule())
    return replace(found, verdict=verdict, reasons=("because",))


def _aliases(registry: Registry) -> tuple[str | None, str | None, str | None]:
    return (number_at(registry, "prod"), number_at(registry, "staging"), number_at(registry, "previous"))


@pytest.fixture
def running(registry: Registry, register: Register) -> Registry:
    """An experiment of version 1 (prod) against version 2 (staging)."""
    register("prod")
    register("staging")
    return registry


def test_bootstrap_puts_the_first_version_into_production(registry: Registry, register: Register) -> None:
    """The first version becomes prod and is tagged so."""
    bootstrap(registry, ALIASES, register())
    assert _aliases(registry) == ("1", None, None)
    assert registry.get("1").status == "prod"
    assert registry.get("1").tags["crossfade.decided_by"] == "bootstrap"


def test_stage_makes_a_challenger(registry: Registry, register: Register) -> None:
    """A version gets the experiment it opens; the challenger it displaces is out, and says by whom."""
    register("prod")
    register("staging")
    experiment = stage(registry, ALIASES, register().number)
    assert experiment == Experiment("IrisClassifier-v1-v3", "1", "3")
    assert _aliases(registry) == ("1", "3", None)
    assert registry.get("3").tags[STATUS] == "staging"
    assert registry.get("3").tags["crossfade.experiment"] == experiment.id
    assert registry.get("2").tags[STATUS] == "rejected"
    assert registry.get("2").tags["crossfade.decided_by"] == "superseded by 3"
    assert stage(registry, ALIASES, "3") == experiment


def test_without_prod_a_challenger_has_no_experiment(registry: Registry, register: Register) -> None:
    """The first version of all is no challenger of anything."""
    assert stage(registry, ALIASES, register().number) is None
    assert _aliases(registry) == (None, "1", None)


def test_promote_moves_prod_and_keeps_previous(running: Registry) -> None:
    """Promotion moves prod to the challenger and remembers what prod was."""
    assert apply(running, ALIASES, _verdict("promote"), "run-7")
    assert _aliases(running) == ("2", "2", "1")


def test_promote_tags_both_versions(running: Registry) -> None:
    """The promoted version carries the evidence; the old one is retired."""
    apply(running, ALIASES, _verdict("promote"), "run-7")
    new = running.get("2")
    assert new.status == "prod"
    assert new.tags["crossfade.experiment"] == "IrisClassifier-v1-v2"
    assert new.tags["crossfade.decided_by"] == "chi2"
    assert new.tags["crossfade.evidence_run"] == "run-7"
    assert running.get("1").status == "retired"


def test_a_promotion_that_was_cut_short_is_finished(running: Registry) -> None:
    """Aliases that moved without their tags get them at the next look, and only then."""
    running.tag("2", {STATUS: "staging"})
    finish(running, ALIASES)
    assert running.get("2").status == "staging"
    apply(running, ALIASES, _verdict("promote"), "run-7")
    running.tag("2", {STATUS: "staging"})
    running.tag("1", {STATUS: "prod"})
    finish(running, ALIASES)
    assert (running.get("2").status, running.get("1").status) == ("prod", "retired")


@pytest.mark.parametrize("verdict", ["keep", "invalid"])
def test_keep_and_invalid_move_nothing(running: Registry, verdict: Verdict) -> None:
    """Other verdicts move no alias and say so."""
    assert not apply(running, ALIASES, _verdict(verdict), "run-7")
    assert _aliases(running) == ("1", "2", None)


def test_without_an_experiment_nothing_moves(running: Registry) -> None:
    """An evaluation without an experiment moves nothing."""
    assert not apply(running, ALIASES, _verdict("keep", "1", "1"), "run-7")
    assert _aliases(running) == ("1", "2", None)


def test_reject_drops_staging(running: Registry) -> None:
    """Rejection takes the challenger out of traffic and leaves prod alone."""
    assert apply(running, ALIASES, _verdict("reject"), "run-7")
    assert _aliases(running) == ("1", None, None)
    assert running.get("2").status == "rejected"
    assert running.get("2").tags["crossfade.evidence_run"] == "run-7"


def test_prod_moved_by_somebody_else_is_left_alone(running: Registry, register: Register) -> None:
    """When prod was moved since the evaluation looked, it is not moved again."""
    running.move("prod", register().number, expected="1")
    with pytest.raises(AliasMoved, match="alias prod points at version 3, not at 1"):
        apply(running, ALIASES, _verdict("promote"), "run-7")
    assert number_at(running, "prod") == "3"
    assert running.get("2").status != "prod"


def test_a_promotion_that_is_refused_leaves_previous_alone(running: Registry, register: Register) -> None:
    """A promotion refused after a roll-back does not make the version just taken out the one to go back to."""
    apply(running, ALIASES, _verdict("promote"), "run-7")
    register("staging-3")
    running.move("staging", "3", expected="2")
    roll_back(running, ALIASES)  # somebody, while version 3 was being evaluated against 2
    with pytest.raises(AliasMoved):
        apply(running, ALIASES, _verdict("promote", "2", "3"), "run-8")
    assert number_at(running, "previous") is None


def test_staging_moved_by_somebody_else_is_not_dropped(running: Registry, register: Register) -> None:
    """When staging was moved since the evaluation looked, the new challenger keeps it."""
    running.move("staging", register().number, expected="2")
    with pytest.raises(AliasMoved):
        apply(running, ALIASES, _verdict("reject"), "run-7")
    assert number_at(running, "staging") == "3"


def test_a_promotion_cut_short_before_prod_is_finished_by_the_next(running: Registry) -> None:
    """A run killed after it set previous is simply run again."""
    running.move("previous", "1", expected=None)
    assert apply(running, ALIASES, _verdict("promote"), "run-7")
    assert _aliases(running) == ("2", "2", "1")


def test_roll_back_puts_previous_back(running: Registry) -> None:
    """Roll-back serves the version before again, and the one taken out gets no traffic at all."""
    apply(running, ALIASES, _verdict("promote"), "run-7")
    assert roll_back(running, ALIASES) == ("2", "1")
    assert _aliases(running) == ("1", None, None)
    assert (running.get("1").status, running.get("2").status) == ("prod", "rejected")
    assert running.get("2").tags["crossfade.decided_by"] == "rollback"


def test_roll_back_leaves_another_challenger(running: Registry, register: Register) -> None:
    """A newer challenger in staging is not the rolled-back version's fault: it stays."""
    apply(running, ALIASES, _verdict("promote"), "run-7")
    running.move("staging", register().number, expected="2")
    roll_back(running, ALIASES)
    assert _aliases(running) == ("1", "3", None)


def test_a_second_roll_back_is_refused(running: Registry) -> None:
    """A second roll-back has nothing to go back to and changes nothing."""
    apply(running, ALIASES, _verdict("promote"), "run-7")
    roll_back(running, ALIASES)
    with pytest.raises(NoModel, match="alias previous is not set"):
        roll_back(running, ALIASES)
    assert _aliases(running) == ("1", None, None)


def test_roll_back_without_any_model_is_refused(registry: Registry) -> None:
    """Without a model in production there is nothing to take out."""
    with pytest.raises(NoModel, match="alias prod is not set"):
        roll_back(registry, ALIASES)
