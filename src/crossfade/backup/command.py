"""`crossfade backup` and `crossfade restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from crossfade.errors import ServiceError
from crossfade.settings import load_settings

console = Console()


def backup(
    file: Annotated[Path, typer.Argument(help="the archive to write: a name that ends in .tar.zst or .tar.gz")],
    with_airflow: Annotated[bool, typer.Option(help="the history of the DAG's runs as well")] = False,
) -> None:
    """Save models, log, labels, reports, audit, ingested rows and the split in one file, also while all of it runs."""
    from crossfade.backup.save import save  # pandas and Arrow: not for `crossfade status`

    try:
        with console.status("saving"):
            saved = save(load_settings(), file.expanduser(), with_airflow)
    except OSError as error:
        raise ServiceError(f"nothing was saved: {error}. Free space or fix its rights.") from error
    size = file.expanduser().stat().st_size
    console.print(f"{escape(str(file))}: {saved.files} files, {saved.bytes / 2**20:.1f} MB in {size / 2**20:.1f} MB")
    _say_what_is_not_in_it(saved.left_out)


def restore(
    file: Annotated[Path, typer.Argument(help="what `crossfade backup` wrote")],
    force: Annotated[bool, typer.Option("--force", help="move what is there already aside")] = False,
) -> None:
    """Put a backup in place of this installation, which must be stopped and, without --force, empty."""
    from crossfade.backup.restore import restore

    settings = load_settings()
    try:
        with console.status("restoring"):
            contents, aside = restore(settings, file.expanduser(), force)
    except OSError as error:
        raise ServiceError(
            f"not everything was restored: {error}. Free space or fix its rights; then again with --force."
        ) from error
    console.print(
        f"{settings.crossfade_home} is as it was at {contents['ts_utc'][:19]} UTC: {len(contents['files'])} files"
    )
    if aside:
        console.print(f"what was there is in {escape(str(aside))}")
    _say_what_is_not_in_it(contents["left_out"])


def _say_what_is_not_in_it(left_out: tuple[str, ...] | list[str]) -> None:
    for what in left_out:
        console.print(f"[yellow]not in it:[/] {escape(what)}")
