"""Runs killed at every step, two at once, and aliases moved by hand, on a real MLflow database."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from crossfade.errors import AliasMoved, LogUnavailable, NoModel
from crossfade.logreader import read_log
from crossfade.loop.audit import BY_OTHERS, LOOK, Audit, FileAudit
from crossfade.loop.evaluate import Evaluation, EvaluationRule, Experiment, Verdict, evaluate
from crossfade.loop.moves import Aliases, number_at
from crossfade.loop.promote import apply, bootstrap, explain, finish, roll_back, stage
from crossfade.memorylog import MemoryRequestLog
from crossfade.registry import Registry
from crossfade.settings import Settings
from crossfade.version import STATUS

ALIASES = Aliases("prod", "staging", "previous")
_WRITES = ("set_registered_model_alias", "delete_registered_model_alias", "set_model_version_tag")
_names = itertools.count()


class Killed(KeyboardInterrupt):
    """The process is gone: no `except Exception` holds it up."""


class Life:
    """So many more steps, each a write to MLflow or to the audit."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise Killed


class MortalClient:
    """MLflow's client, killed when its life is over: after the step before, and before this one."""

    def __init__(self, client: MlflowClient, life: Life) -> None:
        self._client = client
        self._life = life

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if name not in _WRITES:
            return found

        def write(*args: Any, **kwargs: Any) -> Any:
            self._life.step()
            return found(*args, **kwargs)

        return write


class MortalAudit(FileAudit):
    """An audit whose writer is killed when its life is over."""

    def __init__(self, path: Path, life: Life) -> None:
        super().__init__(path)
        self._life = life

    def append(self, event: Mapping[str, Any]) -> None:
        self._life.step()
        super().append(event)


class World:
    """One model: its versions, made without training, and its audit."""

    def __init__(self, settings: Settings) -> None:
        self.uri = settings.mlflow_tracking_uri
        self.name = f"M{next(_names)}"
        self.client = MlflowClient(self.uri, self.uri)
        self.client.create_registered_model(self.name)
        self.registry = Registry(self.uri, self.name)
        self.audit = FileAudit(settings.report_dir / self.name / "decisions.jsonl")

    def make(self, status: str = "candidate") -> str:
        return str(self.client.create_model_version(self.name, "file:///nowhere", tags={STATUS: status}).version)

    def by_hand(self, alias: str, to: str | None) -> None:
        """What somebody does in MLflow's UI."""
        if to is None:
            self.client.delete_registered_model_alias(self.name, alias)
        else:
            self.client.set_registered_model_alias(self.name, alias, to)

    def mortal(self, steps: int) -> tuple[Registry, Audit]:
        """The registry and the audit as a process has them that is killed after so many steps."""
        life, registry = Life(steps), Registry(self.uri, self.name)
        registry._client = MortalClient(registry._client, life)  # type: ignore[assignment]
        return registry, MortalAudit(self.audit.path, life)

    def verdict(self, verdict: Verdict, a: str, b: str) -> Evaluation:
        experiment = Experiment.between(self.name, a, b)
        found = evaluate(read_log(MemoryRequestLog()), experiment, EvaluationRule())
        return replace(found, verdict=verdict, reasons=("because",))

    def look(self, verdict: Verdict, run: str) -> bool:
        """One evaluation of what is running, as the pipeline makes it; tell whether there was something to decide."""
        finish(self.registry, ALIASES, self.audit)
        prod, staging = (number_at(self.registry, alias) for alias in ("prod", "staging"))
        if Experiment.between(self.name, prod, staging) is None:
            return False
        found = self.verdict(verdict, str(prod), str(staging))
        self.audit.append({"event": LOOK, **found.to_dict(), "run_id": run})
        return apply(self.registry, ALIASES, found, run, self.audit)

    @property
    def aliases(self) -> tuple[str | None, ...]:
        return tuple(number_at(self.registry, alias) for alias in ALIASES.all())

    @property
    def status(self) -> dict[str, str]:
        return {version.number: version.status for version in self.registry.versions()}

    def events(self, kind: str | None = None) -> list[Mapping[str, Any]]:
        return [e for e in self.audit.read().events if kind in (None, e["event"])]

    def told(self, kind: str) -> list[tuple[str, str | None, str | None]]:
        return [(e["alias"], e["from"], e["to"]) for e in self.events(kind)]

    def assert_explained(self) -> None:
        """The audit leads to where the aliases are, step by step, and nobody else had a hand in it."""
        known = self.audit.read().whereabouts(self.name)
        assert tuple(known[alias].at if alias in known else None for alias in ALIASES.all()) == self.aliases
        assert not any(where.begun for where in known.values())
        assert self.events(BY_OTHERS) == []


@pytest.fixture
def world(settings: Settings) -> World:
    """Nothing but a name."""
    return World(settings)


def running(settings: Settings, with_previous: bool = False) -> World:
    """Make version 2 in production, 3 its challenger; 1 was in production before, or never."""
    world = World(settings)
    for status in ("retired" if with_previous else "rejected", "prod", "staging"):
        world.make(status)
    for alias, number in (("prod", "2"), ("staging", "3"), *([("previous", "1")] if with_previous else [])):
        world.by_hand(alias, number)
    explain(world.registry, world.audit, ALIASES)
    return world


@pytest.fixture(params=[False, True], ids=["no-previous", "previous"])
def with_previous(request: pytest.FixtureRequest) -> bool:
    """Whether something was in production before."""
    return bool(request.param)


Do = Callable[[Registry, Audit], object]


def killed_at_every_step(make: Callable[[], World], do: Callable[[World], Do]) -> Iterator[tuple[int, World]]:
    """Kill an action after none, one, two... of its steps, each time in a new world, until it comes to its end."""
    for steps in itertools.count():
        world = make()
        action = do(world)
        try:
            action(*world.mortal(steps))
        except Killed:
            yield steps, world
        else:
            assert steps > 3  # it was killed at all
            return


def promotion(world: World) -> Do:
    verdict = world.verdict("promote", "2", "3")
    world.audit.append({"event": LOOK, **verdict.to_dict(), "run_id": "run-7"})
    return lambda registry, audit: apply(registry, ALIASES, verdict, "run-7", audit)


def rejection(world: World) -> Do:
    verdict = world.verdict("reject", "2", "3")
    return lambda registry, audit: apply(registry, ALIASES, verdict, "run-7", audit)


def test_the_run_after_a_killed_promotion_continues(settings: Settings, with_previous: bool) -> None:
    """After a kill at any step prod is a version that an evaluation chose, `finish` makes the promotion all done or
    all undone, and the next evaluation ends where an unhindered one would have."""
    old, first = ("1", {"1": "retired"}) if with_previous else (None, {"1": "rejected"})
    undone = (("2", "3", old), {**first, "2": "prod", "3": "staging"})
    done = (("3", "3", "2"), {**first, "2": "retired", "3": "prod"})
    outcomes = []
    for steps, world in killed_at_every_step(lambda: running(settings, with_previous), promotion):
        chosen = world.aliases[0] == "3"
        outcomes.append(chosen)
        finish(world.registry, ALIASES, world.audit)
        assert (world.aliases, world.status) == (done if chosen else undone), steps
        world.assert_explained()
        assert world.look("promote", "run-8") is not chosen
        assert (world.aliases, world.status) == done, steps
        evidence = world.registry.get("3").tags["crossfade.evidence_run"]
        assert evidence == ("run-7" if chosen else "run-8")
        assert evidence in [look["run_id"] for look in world.events(LOOK)]
        world.assert_explained()
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {False, True}


def test_another_verdict_after_a_killed_promotion_leaves_no_trace(settings: Settings) -> None:
    """When the next evaluation rejects what a killed run had begun to promote, `previous` is as it was."""
    for steps, world in killed_at_every_step(lambda: running(settings, with_previous=True), promotion):
        if world.aliases[0] == "2":
            assert world.look("reject", "run-8")
            assert world.aliases == ("2", None, "1"), steps
            assert world.status["3"] == "rejected"
            world.assert_explained()


def test_a_rejection_killed_at_any_step_is_finished(settings: Settings) -> None:
    """Rejected or still tested: never out of traffic without a reason on it, which a repeated task would bring back."""
    evidence = {"crossfade.evidence_run": "run-7", "crossfade.decided_by": "chi2"}
    for steps, world in killed_at_every_step(lambda: running(settings), rejection):
        dropped = world.aliases[1] is None
        finish(world.registry, ALIASES, world.audit)
        assert world.aliases == ("2", None if dropped else "3", None), steps
        assert world.status["3"] == ("rejected" if dropped else "staging"), steps
        assert not dropped or evidence.items() <= world.registry.get("3").tags.items()
        world.assert_explained()
        world.look("reject", "run-8")
        assert (world.aliases, world.status["3"]) == (("2", None, None), "rejected")


def test_a_roll_back_killed_at_any_step_is_finished_by_the_next(settings: Settings) -> None:
    """Asked again, it says the same and leaves the same."""
    promoted = lambda: _promoted(settings)  # noqa: E731
    for steps, world in killed_at_every_step(promoted, lambda _: lambda r, a: roll_back(r, ALIASES, a)):
        assert world.aliases[0] in ("2", "3")
        try:
            assert roll_back(world.registry, ALIASES, world.audit) == ("3", "2"), steps
        except NoModel:
            pytest.fail(f"killed after {steps} steps, it cannot be repeated")
        _assert_rolled_back(world)


def test_a_roll_back_killed_at_any_step_does_not_stop_the_loop(settings: Settings) -> None:
    """The next evaluation finds either the old state or the new one, and never puts the version back."""
    promoted = lambda: _promoted(settings)  # noqa: E731
    for steps, world in killed_at_every_step(promoted, lambda _: lambda r, a: roll_back(r, ALIASES, a)):
        prod = world.aliases[0]
        assert not world.look("promote", "run-9"), steps
        assert world.aliases[0] == prod
        if prod == "2":
            _assert_rolled_back(world)
        else:
            assert world.aliases[2] == "2"
            assert (world.status["2"], world.status["3"]) == ("retired", "prod"), steps
        world.assert_explained()


def _promoted(settings: Settings) -> World:
    world = running(settings, with_previous=True)
    assert world.look("promote", "run-7")
    return world


def _assert_rolled_back(world: World) -> None:
    assert world.aliases == ("2", None, None)
    assert (world.status["2"], world.status["3"]) == ("prod", "rejected")
    assert world.registry.get("3").tags["crossfade.decided_by"] == "rollback"
    world.assert_explained()


def test_a_bootstrap_killed_at_any_step_is_finished(settings: Settings) -> None:
    """The first version is in production with its tags, or not in production yet."""

    def do(world: World) -> Do:
        version = world.registry.get(world.make())
        return lambda registry, audit: bootstrap(registry, ALIASES, version, audit)

    for steps, world in killed_at_every_step(lambda: World(settings), do):
        finish(world.registry, ALIASES, world.audit)
        prod = world.aliases[0]
        assert world.status == {"1": "prod" if prod else "candidate"}, steps
        world.assert_explained()


def test_a_staging_killed_at_any_step_is_finished(settings: Settings) -> None:
    """The displaced challenger is out with a reason, and the new one in: both or neither."""

    def do(world: World) -> Do:
        number = world.make()
        return lambda registry, audit: stage(registry, ALIASES, number, audit)

    for steps, world in killed_at_every_step(lambda: running(settings), do):
        finish(world.registry, ALIASES, world.audit)
        moved = world.aliases[1] == "4"
        expected = ("rejected", "staging") if moved else ("staging", "candidate")
        assert (world.status["3"], world.status["4"]) == expected, steps
        world.assert_explained()


def test_the_finishing_run_may_be_killed_too(settings: Settings) -> None:
    """Killed again and again while it takes up what a killed run left, the last one still ends well."""
    for _, killed in killed_at_every_step(lambda: running(settings, with_previous=True), promotion):
        for steps in itertools.count():
            registry, audit = killed.mortal(steps)
            try:
                finish(registry, ALIASES, audit)
            except Killed:
                continue
            break
        assert killed.aliases == (("3", "3", "2") if killed.aliases[0] == "3" else ("2", "3", "1"))
        killed.assert_explained()
        killed.look("promote", "run-8")
        assert killed.aliases == ("3", "3", "2")
        assert (killed.status["2"], killed.status["3"]) == ("retired", "prod")


def test_finishing_what_is_finished_changes_nothing(settings: Settings) -> None:
    """Looking again writes nothing."""
    world = _promoted(settings)
    before = world.events()
    for _ in range(2):
        finish(world.registry, ALIASES, world.audit)
        explain(world.registry, world.audit, ALIASES)
    assert world.events() == before


def test_a_killed_move_is_told_as_finished(settings: Settings) -> None:
    """A move that happened but whose end was not told is told by the next run, as the killed run's."""
    world = running(settings)
    verdict = world.verdict("promote", "2", "3")
    world.audit.append({"event": "move", "model": world.name, "alias": "prod", "from": "2", "to": "3"}
                       | {"action": "promote", "reason": "because", "run_id": "run-7"})  # fmt: skip
    world.by_hand("prod", "3")
    explain(world.registry, world.audit, ALIASES)
    assert world.told("finished") == [("prod", "2", "3")]
    assert world.events("finished")[0]["run_id"] == "run-7"
    with pytest.raises(AliasMoved):
        apply(world.registry, ALIASES, verdict, "run-8", world.audit)
    assert world.events("refused")[0]["found"] == "3"


def test_nothing_moves_that_the_audit_cannot_tell(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for its line, a promotion does not begin."""
    world = running(settings)

    def full(*_: object) -> None:
        raise LogUnavailable("the disk is full")

    monkeypatch.setattr(FileAudit, "append", full)
    with pytest.raises(LogUnavailable):
        apply(world.registry, ALIASES, world.verdict("promote", "2", "3"), "run-7", world.audit)
    assert world.aliases == ("2", "3", None)


@pytest.mark.parametrize("other", ["promote", "reject"])
def test_two_evaluations_at_once(settings: Settings, other: Verdict) -> None:
    """Of two runs that saw the same, one moves and the other is refused; which version won is told, and by whom."""
    for _ in range(3):
        world, start, results = running(settings), threading.Barrier(2), dict[str, object]()
        verdicts: dict[str, Verdict] = {"run-7": "promote", "run-8": other}

        def run(name: str, world=world, start=start, results=results, verdicts=verdicts) -> None:
            verdict, registry = world.verdict(verdicts[name], "2", "3"), Registry(world.uri, world.name)
            start.wait()
            try:
                results[name] = apply(registry, ALIASES, verdict, name, FileAudit(world.audit.path))
            except AliasMoved as error:
                results[name] = error

        threads = [threading.Thread(target=run, args=(name,)) for name in verdicts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winner = next(name for name, result in results.items() if result is True)
        assert sorted(type(result).__name__ for result in results.values()) == ["AliasMoved", "bool"]
        assert [event["run_id"] for event in world.events("refused")] == [name for name in results if name != winner]
        promoted = verdicts[winner] == "promote"
        assert world.aliases == (("3", "3", "2") if promoted else ("2", None, None))
        assert world.status["3"] == ("prod" if promoted else "rejected")
        assert world.registry.get("3").tags["crossfade.evidence_run"] == winner
        world.assert_explained()
        stage(world.registry, ALIASES, world.make(), world.audit)
        assert world.look("promote", "run-9")


def test_the_second_of_two_waits_for_its_turn(settings: Settings) -> None:
    """Between the look at an alias and its move no other run of ours gets in."""
    world = running(settings)
    registry = Registry(world.uri, world.name)
    others: list[threading.Thread] = []
    outcome: list[str] = []

    def reject() -> None:
        try:
            apply(Registry(world.uri, world.name), ALIASES, world.verdict("reject", "2", "3"), "run-8", world.audit)
        except AliasMoved as error:
            outcome.append(str(error))

    class Slow:
        def __getattr__(self, name: str) -> Any:
            if name == "set_registered_model_alias" and not others:  # it has looked, and is about to move
                others.append(threading.Thread(target=reject))
                others[0].start()
                others[0].join(timeout=1.0)  # long enough for it to be done, if nothing held it
                outcome.append("waits" if others[0].is_alive() else "was let in")
            return getattr(world.client, name)

    registry._client = Slow()  # type: ignore[assignment]
    assert apply(registry, ALIASES, world.verdict("promote", "2", "3"), "run-7", world.audit)
    others[0].join()
    assert outcome[0] == "waits"
    assert "alias prod points at version 3, not at 2" in outcome[1]
    assert (world.aliases, world.status["3"]) == (("3", "3", "2"), "prod")


def test_a_rejection_that_comes_late_does_not_condemn_prod(settings: Settings) -> None:
    """A run that saw a challenger which is in production since leaves it, and its tags, alone."""
    world = running(settings)
    late = world.verdict("reject", "2", "3")
    assert world.look("promote", "run-7")
    with pytest.raises(AliasMoved):
        apply(world.registry, ALIASES, late, "run-8", world.audit)
    assert (world.aliases, world.status["3"]) == (("3", "3", "2"), "prod")


def test_prod_moved_by_hand_during_an_evaluation(settings: Settings) -> None:
    """The verdict is refused and the audit says why; the next run tests the challenger against what is there now."""
    world = running(settings)
    verdict = world.verdict("promote", "2", "3")
    world.by_hand("prod", "1")
    with pytest.raises(AliasMoved):
        apply(world.registry, ALIASES, verdict, "run-7", world.audit)
    assert world.aliases == ("1", "3", None)
    assert world.told(BY_OTHERS) == [("prod", "2", "1")]
    refused = world.events("refused")[0]
    assert (refused["alias"], refused["found"], refused["run_id"]) == ("prod", "1", "run-7")
    assert (world.status["1"], world.status["2"]) == ("prod", "rejected")
    assert world.look("promote", "run-8")
    assert world.aliases == ("3", "3", "1")
    assert world.registry.get("3").tags["crossfade.experiment"] == f"{world.name}-v1-v3"
    assert len(world.events(BY_OTHERS)) == 1


def test_staging_moved_by_hand_during_an_evaluation(settings: Settings) -> None:
    """The version somebody put there is not promoted by what another one earned, and is tested next."""
    world = running(settings)
    verdict = world.verdict("promote", "2", "3")
    world.by_hand("staging", world.make())
    with pytest.raises(AliasMoved):
        apply(world.registry, ALIASES, verdict, "run-7", world.audit)
    assert world.aliases == ("2", "4", None)
    assert world.told(BY_OTHERS) == [("staging", "3", "4")]
    assert (world.status["3"], world.status["4"]) == ("rejected", "staging")
    assert world.look("promote", "run-8")
    assert world.aliases == ("4", "4", "2")


@pytest.mark.parametrize("alias", ALIASES.all())
def test_an_alias_moved_by_hand_amid_a_killed_promotion(settings: Settings, alias: str) -> None:
    """Killed at any step, then a hand in MLflow's UI: the audit tells both apart, and the loop goes on."""
    for steps, world in killed_at_every_step(lambda: running(settings, with_previous=True), promotion):
        new = world.make()
        world.by_hand(alias, new)
        finish(world.registry, ALIASES, world.audit)
        expected = dict(zip(ALIASES.all(), world.aliases, strict=True))
        assert expected[alias] == new, steps
        assert [(who, to) for who, _, to in world.told(BY_OTHERS)] == [(alias, new)], steps
        if alias != "prod":
            assert world.aliases[0] in ("2", "3")
        stage(world.registry, ALIASES, world.make(), world.audit)
        prod = world.aliases[0]
        assert world.look("promote", "run-9")
        assert world.aliases == ("5", "5", prod), steps
        assert (world.status["5"], world.status[str(prod)]) == ("prod", "retired"), steps
        assert len(world.events(BY_OTHERS)) == 1


def test_a_promotion_undone_by_hand_stays_undone(settings: Settings) -> None:
    """`staging` is still on the version taken out: its old experiment must not put it back tomorrow."""
    world = _promoted(settings)
    world.by_hand("prod", "2")
    assert not world.look("promote", "run-8")
    assert world.aliases == ("2", None, None)
    assert (world.status["2"], world.status["3"]) == ("prod", "rejected")
    assert world.told(BY_OTHERS) == [("prod", "3", "2")]
    with pytest.raises(NoModel):
        roll_back(world.registry, ALIASES, world.audit)


def test_a_version_taken_out_may_be_tested_again_by_hand(settings: Settings) -> None:
    """Who puts it back under `staging` after that wants it tested, and gets it."""
    world = _promoted(settings)
    world.by_hand("prod", "2")
    finish(world.registry, ALIASES, world.audit)
    world.by_hand("staging", "3")
    finish(world.registry, ALIASES, world.audit)
    assert (world.aliases, world.status["3"]) == (("2", "3", None), "staging")
    assert world.look("promote", "run-8")
    assert world.aliases == ("3", "3", "2")


def test_a_version_rolled_back_may_be_tested_again_by_hand(settings: Settings) -> None:
    """The same after `crossfade rollback`, and no later roll-back takes that for its own."""
    world = _promoted(settings)
    roll_back(world.registry, ALIASES, world.audit)
    world.by_hand("staging", "3")
    for _ in range(2):
        finish(world.registry, ALIASES, world.audit)
    assert (world.aliases, world.status["3"]) == (("2", "3", None), "staging")
    with pytest.raises(NoModel):
        roll_back(world.registry, ALIASES, world.audit)


def test_a_version_deleted_by_hand_does_not_stop_the_loop(settings: Settings) -> None:
    """MLflow takes its aliases away with it, which the audit tells."""
    world = running(settings, with_previous=True)
    for number in ("1", "3"):
        world.client.delete_model_version(world.name, number)
    finish(world.registry, ALIASES, world.audit)
    assert world.aliases == ("2", None, None)
    assert world.told(BY_OTHERS) == [("staging", "3", None), ("previous", "1", None)]


def test_a_move_by_hand_is_told_once(settings: Settings) -> None:
    """However often one looks."""
    world = running(settings)
    world.by_hand("staging", None)
    for _ in range(3):
        explain(world.registry, world.audit, ALIASES)
    assert world.told(BY_OTHERS) == [("staging", "3", None)]


def test_an_audit_begun_late_takes_what_it_finds(world: World) -> None:
    """An installation older than its audit: where its aliases are is noted, and nobody is suspected."""
    world.make("prod")
    world.by_hand("prod", "1")
    finish(world.registry, ALIASES, world.audit)
    assert world.told("seen") == [("prod", None, "1")]
    world.assert_explained()


def test_models_that_share_an_audit_are_kept_apart(settings: Settings) -> None:
    """Aliases of another model with the same names are no moves of this one's."""
    one, other = running(settings), World(settings)
    other.audit = one.audit
    finish(other.registry, ALIASES, other.audit)
    finish(one.registry, ALIASES, one.audit)
    one.assert_explained()
