"""A copy of an installation that runs, in which everything fits together.

The log comes before the registry, so every version that a row names is there, and labels after rows, so none of theirs
is missing. Audit and registry are copied while no alias can be moved, artifacts after the registry that names them.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from crossfade import __version__
from crossfade.backup import places
from crossfade.backup.archive import ArchiveWriter, writing
from crossfade.backup.places import Places
from crossfade.errors import DataError, ServiceError, without_login
from crossfade.logparts import only_one, parts_of
from crossfade.loop.audit import Audit
from crossfade.loop.openaudit import open_audit
from crossfade.loop.reports import verify_manifest
from crossfade.requestlog import utc_now
from crossfade.settings import Settings

_TURN_SECONDS = 300.0
"""Packing a day's rows may take that long."""

_STEADY_TRIES, _STEADY_SECONDS = 10, 0.5
"""A run writes its reports and then their manifest within a second."""

_BUSY_SECONDS = 30.0

_TAIL = 2**16


@dataclass(frozen=True)
class Saved:
    """What a backup holds."""

    files: int
    bytes: int
    """Before compression."""
    left_out: tuple[str, ...]


def save(settings: Settings, target: Path, with_airflow: bool = False) -> Saved:
    """Write an archive of an installation, running or stopped.

    Raises
    ------
    DataError
        The archive's name has another ending, or MLflow keeps artifacts in a folder that an archive does not hold.
    ServiceError
        Somebody else holds the log.
    OSError
        Something cannot be read, or the archive not be written.
    """
    here = Places.of(settings)
    with writing(target) as archive, tempfile.TemporaryDirectory(prefix=".crossfade-", dir=target.parent) as folder:
        left_out = _add_all(archive, here, open_audit(settings), Path(folder), with_airflow)
        about = {"crossfade": __version__, "ts_utc": utc_now(), "model": settings.reg_model_name, "left_out": left_out}
        archive.finish(about)
    return Saved(len(archive.members), sum(member["bytes"] for member in archive.members.values()), tuple(left_out))


def _add_all(archive: ArchiveWriter, here: Places, audit: Audit, folder: Path, with_airflow: bool) -> list[str]:
    for prefix, log in here.logs.items():
        _add_log(archive, prefix, log)
    left_out = list(here.elsewhere)
    _add_reports(archive, here, folder / "reports")
    with audit.turn():
        _add_folder(archive, places.AUDIT, here.folders[places.AUDIT])
        _add_file(archive, here, places.ROUTER_CONFIG)
        if database := _add_database(archive, here, places.REGISTRY, folder):
            left_out += _check_artifacts(database)
    _add_database(archive, here, places.FEATURES, folder)
    if artifacts := here.folders.get(places.ARTIFACTS):
        _add_folder(archive, places.ARTIFACTS, artifacts)
    if with_airflow:
        _add_database(archive, here, places.AIRFLOW, folder)
        _add_file(archive, here, places.AIRFLOW_CONFIG)
    return left_out


def _add_log(archive: ArchiveWriter, prefix: str, log: Path) -> None:
    """Add a log and its parts; while they are opened none is moved, and what is open may be moved or deleted."""
    if not log.parent.is_dir():
        return
    with ExitStack() as stack:
        with _only_one(log):
            paths = [*parts_of(log), *([log] if log.is_file() else [])]
            files = [(path, stack.enter_context(path.open("rb"))) for path in paths]
        for path, file in files:
            size = os.fstat(file.fileno()).st_size
            whole = size if path.suffix == ".parquet" else _whole(file, size)
            ending = ".csv" if path == log else path.name.removeprefix(log.stem)
            archive.add(prefix + ending, file, whole, os.fstat(file.fileno()).st_mtime)


@contextmanager
def _only_one(log: Path) -> Iterator[None]:
    """Wait for the turn to move the log's files, and have it."""
    deadline = time.monotonic() + _TURN_SECONDS
    while True:
        with only_one(log) as mine:
            if mine:
                yield
                return
        if time.monotonic() > deadline:
            raise ServiceError(
                f"somebody has held the lock on {log} for {_TURN_SECONDS:g} s: `crossfade doctor` says who"
            )
        time.sleep(0.1)


def _whole(file: IO[bytes], size: int) -> int:
    """Return where the last whole line of a file ends, and go back to its start."""
    end = size
    while end > 0:
        start = max(0, end - _TAIL)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    file.seek(0)
    return end


def _add_reports(archive: ArchiveWriter, here: Places, folder: Path) -> None:
    """Add the reports as their manifest lists them: a run may be about to write them."""
    for _ in range(_STEADY_TRIES):
        with suppress(FileNotFoundError):  # one was replaced by another just now
            names = _copy_reports(here, folder)
            if places.MANIFEST not in names or _are_as_listed(here, folder):
                break
        time.sleep(_STEADY_SECONDS)
    for name in names:  # when they never are as listed, somebody changed one by hand
        archive.add_file(name, folder / name)


def _copy_reports(here: Places, folder: Path) -> list[str]:
    """Copy all reports aside and return their names."""
    roots = {name: root for name, root in here.folders.items() if name not in (places.AUDIT, places.ARTIFACTS)}
    found = {
        f"{name}/{path.relative_to(root)}": path
        for name, root in roots.items()
        for path in sorted(root.rglob("[!.]*"))
        if path.is_file()
    }
    if here.reports.manifest.is_file():
        found[places.MANIFEST] = here.reports.manifest
    shutil.rmtree(folder, ignore_errors=True)
    for name, path in found.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, folder / name)
    return list(found)


def _are_as_listed(here: Places, folder: Path) -> bool:
    """Tell whether nobody wrote while the reports were copied."""
    same = here.reports.manifest.read_bytes() == (folder / places.MANIFEST).read_bytes()
    return same and not verify_manifest(here.reports)


def _add_file(archive: ArchiveWriter, here: Places, name: str) -> None:
    if here.files[name].is_file():
        archive.add_file(name, here.files[name])


def _add_database(archive: ArchiveWriter, here: Places, name: str, folder: Path) -> Path | None:
    """Add a SQLite database as it is at one moment, whoever writes to it; return the copy."""
    path = here.files.get(name)
    if path is None or not path.is_file():
        return None
    copy = folder / Path(name).name
    try:
        with (
            closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=_BUSY_SECONDS)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
    except sqlite3.Error as error:
        raise ServiceError(f"{path} cannot be copied: {error}. `crossfade doctor` may know more.") from error
    archive.add_file(name, copy)
    return copy


def _add_folder(archive: ArchiveWriter, name: str, folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        with suppress(FileNotFoundError):  # deleted just now
            if path.is_file():
                archive.add_file(f"{name}/{path.relative_to(folder)}", path)


def _check_artifacts(database: Path) -> list[str]:
    """Look where MLflow keeps artifacts: what its server keeps moves with it, what is elsewhere stays there.

    Raises
    ------
    DataError
        They lie in a folder of this machine that the archive does not hold.
    """
    kept = "SELECT artifact_location FROM experiments UNION SELECT artifact_uri FROM runs"
    with closing(sqlite3.connect(database)) as connection:
        found = sorted(str(uri) for (uri,) in connection.execute(kept) if uri)
    others = [uri for uri in found if not uri.startswith("mlflow-artifacts:")]
    local = [uri for uri in others if "://" not in uri or uri.startswith("file:")]
    if local:
        raise DataError(
            f"MLflow keeps artifacts in {local[0]}, which the registry knows by its path, so they cannot be restored "
            "elsewhere. Let MLflow's server keep them (`crossfade up` does), or copy database and folder yourself."
        )
    return [f"artifacts: {without_login(uri)}" for uri in others]
