"""`crossfade plan` and `crossfade selftest`: what each gate needs, and how it behaves, on the traffic at hand."""

from __future__ import annotations

import json
import os
from math import inf
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table as Grid

from crossfade.settings import Settings, load_settings

if TYPE_CHECKING:
    from crossfade.loop.evaluate import EvaluationRule
    from crossfade.loop.gates import GateName
    from crossfade.planning.power import Need, Situation
    from crossfade.planning.simulate import Endings, Traffic

console = Console()

DIFFERENCES = (0.0, 0.01, 0.03, 0.05)

_ASSUMED_ROWS, _MOST_ROWS = 400, 2_000
"""Labelled rows a day: without traffic, and at most (more would take long, and be decided on the first day)."""


def plan(as_json: Annotated[bool, typer.Option("--json", help="everything, as JSON")] = False) -> None:
    """Say how many labelled requests and days each gate needs to see a difference of 1, 2 and 5 points."""
    from crossfade.loop.evaluate import EvaluationRule
    from crossfade.planning import power

    settings = load_settings()
    found = power.plan(_situation(settings), EvaluationRule.of(settings))
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
        return
    console.print(f"{found.power:.0%} power: {power.describe(found.situation)}.")
    points = [f"{100 * need.difference:+.0f} points" for need in found.of("chi2")]
    grid = Grid("gate", *points, box=None, header_style="bold")
    for gate in dict.fromkeys(need.gate for need in found.needs):
        grid.add_row(_named(gate, found.deciding), *map(_needed, found.of(gate)))
    console.print(grid)
    console.print(
        "[dim]* AB_TEST. Labelled requests of both arms together. chi2 is looked at once, when it has its rows; the "
        f"two others daily, and of all experiments with this difference {found.power:.0%} are promoted by then.[/]"
    )


def selftest(
    experiments: Annotated[int, typer.Option(min=20, help="simulated per difference")] = 500,
    days: Annotated[int, typer.Option(min=1, max=365, help="that each may last")] = 30,
    seed: Annotated[int, typer.Option(min=0, help="same seed, same experiments")] = 0,
    ab_test: Annotated[str | None, typer.Option(help="gate that decides; default: AB_TEST")] = None,
) -> None:
    """Simulate experiments with these settings and this traffic: false promotions, and days to right ones."""
    from crossfade.loop.evaluate import EvaluationRule
    from crossfade.planning.power import describe
    from crossfade.planning.simulate import GATES

    settings = load_settings() if ab_test is None else load_settings(ab_test=ab_test)
    rule, situation = EvaluationRule.of(settings), _situation(settings)
    cases = [_traffic(situation, days, difference) for difference in DIFFERENCES]
    found = _simulate(cases, rule, experiments, seed)
    console.print(f"{describe(situation)}; simulated with {_rows_per_day(situation):,} labelled requests a day.")
    limits = f"given up after {rule.max_days:g} days or {rule.max_labeled:,} labelled rows of each arm"
    console.print(
        f"level {rule.alpha}, {rule.min_labeled} labelled rows of each arm at least, {limits}; one look a day"
    )
    headers = ["same model", *(f"B {100 * difference:+.0f} points" for difference in DIFFERENCES[1:])]
    grid = Grid("gate", *headers, box=None, header_style="bold")
    for gate in GATES:
        grid.add_row(
            _named(gate, rule.test), *(_ended(each[gate]) if each else "[dim]above 100 %[/]" for each in found)
        )
    console.print(grid)
    same = found[0]
    assert same is not None, "an accuracy is below 1"
    share, low, high = same[rule.test].share()
    console.print(
        f"* AB_TEST. [bold]{rule.test}[/] promotes a model that is no better in {share:.1%} of the experiments (95 % "
        f"interval {low:.1%} to {high:.1%}): that should be near {rule.alpha:.0%} or below, and of the gates where it "
        "is, the best is the one that promotes a better model most often, and by the lowest median day."
    )


def _situation(settings: Settings) -> Situation:
    from crossfade.logreader import read_log
    from crossfade.openlog import open_log
    from crossfade.planning.observe import OBSERVED_COLUMNS, observe

    return observe(read_log(open_log(settings), OBSERVED_COLUMNS, model=settings.reg_model_name), settings.ab_split_b)


def _traffic(situation: Situation, days: int, difference: float) -> Traffic | None:
    """Return traffic like that at hand; None where B's accuracy would be above 1."""
    from crossfade.planning.simulate import Traffic

    if situation.accuracy + difference >= 1:
        return None
    return Traffic(
        rows_per_day=_rows_per_day(situation),
        days=days,
        split=situation.split,
        accuracy=situation.accuracy,
        difference=difference,
        rows_per_user=situation.rows_per_user,
        icc=situation.icc,
        agreement=situation.agreement,
    )


def _rows_per_day(situation: Situation) -> int:
    seen = _ASSUMED_ROWS if situation.rows_per_day is None else situation.rows_per_day
    return int(min(max(seen, 1), _MOST_ROWS))


def _simulate(
    cases: list[Traffic | None], rule: EvaluationRule, experiments: int, seed: int
) -> list[dict[GateName, Endings] | None]:
    from crossfade.planning.simulate import simulate

    shown = TextColumn("{task.description}")
    columns = (SpinnerColumn(), shown, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    processes = os.cpu_count() or 1
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("simulating", total=experiments * sum(case is not None for case in cases))

        def tick(done: int) -> None:
            progress.advance(task, done)

        return [
            simulate(case, rule, experiments, seed, processes, tick=tick) if case is not None else None
            for case in cases
        ]


def _named(gate: GateName, deciding: GateName) -> str:
    return f"[bold]{gate} *[/]" if gate == deciding else gate


def _needed(need: Need) -> str:
    if need.rows is None:
        return f"[dim]{need.note}[/]"
    days = "" if need.days is None else f", {need.days:,} day{'s' * (need.days != 1)}"
    return f"{need.rows:,}{days}" + (f"\n[yellow]{need.note}[/]" if need.note else "")


def _ended(found: Endings) -> str:
    share, low, high = found.share()
    took, soonest, latest = found.until_promoted(0.5)
    days = "" if took == inf else f"\nday {took:.0f} ({_day(soonest)}–{_day(latest)})"
    return f"{share:.1%} ({100 * low:.1f}–{100 * high:.1f}){days}"


def _day(day: float) -> str:
    return "never" if day == inf else f"{day:.0f}"
