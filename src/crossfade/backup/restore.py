"""Put the content of an archive in the place of an installation that is stopped."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crossfade.backup.archive import unpack
from crossfade.backup.places import Places
from crossfade.errors import ServiceError
from crossfade.logparts import is_at_rest, parts_of
from crossfade.settings import Settings
from crossfade.stack import processes
from crossfade.stack.services import embedded_services

_SHOWN = 3


def restore(settings: Settings, archive: Path, force: bool = False) -> tuple[dict[str, Any], Path | None]:
    """Restore an installation; nothing is touched before the whole archive has proved to be as it was written.

    Parameters
    ----------
    settings : Settings
        The installation, which must not run.
    archive : Path
        A backup.
    force : bool
        Move what is there already aside; else it is refused.

    Returns
    -------
    tuple of dict and Path or None
        The archive's contents, and the folder that what was there has been moved to.

    Raises
    ------
    ServiceError
        The installation runs, or is not empty.
    DataError
        The archive is damaged, or holds what this installation has no place for.
    OSError
        A file cannot be put in place.
    """
    here, home = Places.of(settings), settings.crossfade_home
    _refuse_running(settings)
    there = list(_what_is_there(settings, here))
    if there and not force:
        more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
        raise ServiceError(
            f"this installation is not empty: {', '.join(map(str, there[:_SHOWN]))}{more}. "
            "Give --force to have it moved aside, or another CROSSFADE_HOME."
        )
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=home) as folder:
        contents = unpack(archive, Path(folder))
        targets = {name: here.path_of(name) for name in contents["files"]}
        aside = _move_aside(there, home) if there else None
        for name, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(Path(folder) / name, target)
    return contents, aside


def _refuse_running(settings: Settings) -> None:
    running = [s.name for s in embedded_services(settings) if processes.find(s, settings.crossfade_home)]
    if running:
        raise ServiceError(f"{', '.join(running)} of this installation run: stop them first (`crossfade down`)")
    for log in settings.log_files:
        if log.is_file() and not is_at_rest(log):
            raise ServiceError(f"a router still writes to {log}: stop it first")


def _what_is_there(settings: Settings, here: Places) -> Iterator[Path]:
    """Find what a restored installation must not be mixed with."""
    for log in here.logs.values():
        yield from (path for path in (*parts_of(log), log) if path.exists())
    for path in here.files.values():
        yield from (one for ending in ("", "-wal", "-shm", "-journal") if (one := Path(f"{path}{ending}")).exists())
    copies = settings.router_config.with_name("models")  # the router's, of versions that may be others now
    for folder in (*here.folders.values(), copies):
        if folder.is_dir() and any(path.is_file() for path in folder.rglob("*")):
            yield folder


def _move_aside(there: list[Path], home: Path) -> Path:
    """Move files and folders below one folder of the installation, under the names that they have there."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
    aside = home / f"replaced-{stamp}"
    for path in there:
        inside = path.is_relative_to(home)
        target = aside / (path.relative_to(home) if inside else Path("elsewhere", *path.parts[1:]))
        if path.exists():  # else it went with a folder above it
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
    return aside
