"""`crossfade replay TABLE`: the command line of a replay."""

from __future__ import annotations

import logging
import time
import warnings
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table as Grid

from crossfade.errors import SettingsError
from crossfade.settings import BUNDLED_TABLES, Settings, load_settings

if TYPE_CHECKING:
    from crossfade.model import SklearnModel
    from crossfade.replay.summary import Summary

console = Console()

_THE_TABLE = ("DATASET", "TARGET", "FEATURE_STORE")


def replay(
    table: Annotated[str, typer.Argument(help="CSV, CSV.gz or Parquet file, SQLAlchemy URL, or a bundled table")],
    target: Annotated[str | None, typer.Option(help="column of the label; default: TARGET")] = None,
    time_column: Annotated[str | None, typer.Option(help="column that orders the rows; default: as they stand")] = None,
    query: Annotated[str | None, typer.Option(help="SQL that yields the rows, where TABLE is a URL")] = None,
    id_column: Annotated[str | None, typer.Option(help="column that names a row; never a feature")] = None,
    features: Annotated[str | None, typer.Option(help="columns to learn from, comma-separated; default: all")] = None,
    first: Annotated[float, typer.Option(min=0.01, max=0.95, help="share of rows that the first model learns")] = 0.2,
    window: Annotated[
        float, typer.Option(min=0.001, help="rows between two runs of the pipeline; below 1: a share of the table")
    ] = 0.02,
    label_delay: Annotated[int, typer.Option(min=0, help="windows that labels come late")] = 0,
    split: Annotated[float | None, typer.Option(help="share of users on B; default: AB_SPLIT_B")] = None,
    ab_test: Annotated[str | None, typer.Option(help="gate that decides; default: AB_TEST")] = None,
    budget: Annotated[float | None, typer.Option(help="AutoML's seconds; default: AUTOML_BUDGET_SECONDS")] = None,
    seed: Annotated[int | None, typer.Option(help="seed; default: AUTOML_SEED")] = None,
    policy: Annotated[
        list[str] | None, typer.Option(help="what calls for a retraining: drift,quality | drift | quality; repeatable")
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE of any setting; a name that is repeated is tried with every value"),
    ] = None,
    output: Annotated[Path, typer.Option(help="folder for report.html and summary.json")] = Path("replay"),
) -> None:
    """Play a time-ordered labelled table through the real loop, beside doing nothing and retraining always."""
    given = {
        "dataset": _absolute(table),
        "target": target,
        "dataset_query": query if "://" in table else "",
        "dataset_time_column": time_column,
        "dataset_id_column": id_column,
        "dataset_features": features,
        "ab_split_b": split,
        "ab_test": ab_test,
        "automl_budget_seconds": budget,
        "automl_seed": seed,
    }
    base = {name: value for name, value in given.items() if value is not None}
    trials = _trials(base, policy or [], vary or [])
    summaries = _play(base, trials, (first, window, label_delay))
    _show(summaries)
    from crossfade.replay.report import write_report

    page, summary = write_report(output, summaries)
    console.print(f"[dim]{page} shows it over time; {summary} has every number[/]")


def _absolute(table: str) -> str:
    """Take a file from the working folder, as every command does, and not from CROSSFADE_HOME."""
    return table if table in BUNDLED_TABLES or "://" in table else str(Path(table).expanduser().absolute())


def _trials(base: dict[str, Any], policies: list[str], vary: list[str]) -> list[tuple[dict[str, str], Settings]]:
    """Return every combination of the settings that are to be varied, each with the settings it makes."""
    values: dict[str, list[str]] = {"RETRAIN_ON": policies} if policies else {}
    for pair in vary:
        name, equals, value = pair.partition("=")
        if not equals or name.lower() not in Settings.model_fields:
            raise SettingsError(f"--set {pair} is not allowed: give NAME=VALUE, with a name of the README's table")
        if name.upper().startswith(_THE_TABLE):
            raise SettingsError(f"--set {name} is not allowed: the table is the same in all trials; see the options")
        values.setdefault(name.upper(), []).append(value)
    combinations = [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]
    return [(chosen, load_settings(**base | {n.lower(): v for n, v in chosen.items()})) for chosen in combinations]


def _play(
    base: dict[str, Any], trials: list[tuple[dict[str, str], Settings]], cut: tuple[float, float, int]
) -> list[Summary]:
    """Play every combination beside its baselines; those are played again only where the first model is another."""
    from crossfade.data import load_dataset
    from crossfade.replay.history import History

    started = time.monotonic()
    given = load_settings(**base)
    history = History.cut(load_dataset(given), *cut)  # before seconds of imports: a bad table is told at once

    from crossfade.replay.baselines import Baseline, RetrainAlways, static
    from crossfade.replay.play import play
    from crossfade.replay.summary import Summary

    for name in ("crossfade", "mlflow", "alembic"):  # hundreds of steps: their story is in the report
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # libraries' advice on models that are thrown away
    shown = TextColumn("{task.description}")
    columns = (SpinnerColumn(), shown, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    summaries: list[Summary] = []
    kept: Baseline | None = None
    always: RetrainAlways | None = None
    with Progress(*columns, console=console, transient=True) as progress:

        def opened(model: SklearnModel) -> None:
            nonlocal kept, always
            mine = static(history, model)
            if always is not None and kept == mine:
                return
            if always is not None:
                always.stop()
            task = progress.add_task("retrain always", total=history.windows)
            kept, always = mine, RetrainAlways(history, model, lambda: progress.advance(task))

        try:
            for varied, settings in trials:
                task = progress.add_task(f"Crossfade {_said(varied)}".strip(), total=history.windows)

                def tick(task: TaskID = task) -> None:
                    progress.advance(task)
                    if always is not None:
                        always.follow()

                played = play(history, settings, opened, tick)
                assert kept is not None, "play opens with the first model"
                assert always is not None, "play opens with the first model"
                pair, seconds = (kept, always.result()), time.monotonic() - started
                summaries.append(Summary.of(given.dataset_shown, history, pair, played, seconds, varied))
        finally:
            if always is not None:
                always.stop()
    return summaries


def _said(varied: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in varied.items())


def _show(summaries: list[Summary]) -> None:
    first = summaries[0]
    grid = Grid("", "accuracy", "macro F1", "retrainings", "CPU for training", box=None, header_style="bold")
    for way in (first.static, first.retrain_always):
        grid.add_row(way.name, *_cells(way))
    for summary in summaries:
        grid.add_row(f"[bold]Crossfade[/] {_said(summary.varied)}".strip(), *_cells(summary.crossfade))
    console.print(grid)
    best = max(summaries, key=lambda summary: summary.crossfade.accuracy)
    counts = best.counts
    console.print(best.verdict)
    console.print(
        f"{counts['drift']} drift alarms, {counts['quality']} quality alarms, {counts['rejection']} rejections, "
        f"{counts['promotion']} promotions in {best.history.windows} windows; {first.seconds:.0f} s"
    )


def _cells(way: Any) -> tuple[str, str, str, str]:
    return f"{way.accuracy:.4f}", f"{way.f1_macro:.4f}", str(way.retrains), f"{way.cpu_seconds:.0f} s"
