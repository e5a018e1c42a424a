"""The disks of an installation: room for more, and writable."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from crossfade.doctor.finding import Finding, Site
from crossfade.settings import Settings

_FULL_BYTES, _LOW_BYTES = 200 * 2**20, 2**30
"""Free: below the first a retraining may fail any moment; below the second it is time to look."""

_FULL_INODES = 1_000


def look_at_disks(site: Site) -> Iterator[Finding]:
    """Look at each file system that something is written to, once."""
    for folder, holds in _disks(site.settings).items():
        looked_at = f"the disk of {folder} ({', '.join(holds)})"
        found = os.statvfs(folder)
        free = found.f_bavail * found.f_frsize
        if found.f_flag & os.ST_RDONLY:
            yield Finding(
                looked_at, "it is mounted read-only", f"mount it writable: mount -o remount,rw {_mount_of(folder)}"
            )
        elif free < _FULL_BYTES:
            yield Finding(
                looked_at,
                f"it is full: {_shown(free)} free",
                f"free {_shown(_LOW_BYTES)} or more; old days of the log go with a lower LOG_RETENTION_DAYS",
            )
        elif found.f_files and found.f_favail < _FULL_INODES:
            yield Finding(
                looked_at,
                f"it can take {found.f_favail} files more",
                "delete files, or make the file system with more inodes",
            )
        elif free < _LOW_BYTES:
            yield Finding(looked_at, f"{_shown(free)} free", f"free {_shown(_LOW_BYTES)} or more soon", level="note")


def look_at_rights(site: Site) -> Iterator[Finding]:
    """Look whether this user may write where the services do."""
    for folder, holds in _folders(site.settings).items():
        if not os.access(folder, os.W_OK | os.X_OK) and not os.statvfs(folder).f_flag & os.ST_RDONLY:
            yield Finding(
                f"{folder} ({', '.join(holds)})",
                f"this user (number {os.geteuid()}) may not write there",
                f"sudo chown -R {os.geteuid()} {folder}, or run as its owner",
            )


def _folders(settings: Settings) -> dict[Path, list[str]]:
    """Return each folder that is written to, or the one that it would be made in, and what goes there."""
    written = {
        "request log": settings.log_files[0].parent if settings.log_files else settings.log_spool,
        "reports": settings.report_dir,
        "router configuration": settings.router_config.parent,
        "state of MLflow and Airflow": settings.var,
        "temporary files": Path(tempfile.gettempdir()),
    }
    found: dict[Path, list[str]] = {}
    for what, folder in written.items():
        there = next(place for place in (folder, *folder.parents) if place.is_dir())
        found.setdefault(there, []).append(what)
    return found


def _disks(settings: Settings) -> dict[Path, list[str]]:
    """Return one folder of each file system, and all that goes there."""
    found: dict[int, tuple[Path, list[str]]] = {}
    for folder, holds in _folders(settings).items():
        found.setdefault(folder.stat().st_dev, (folder, []))[1].extend(holds)
    return dict(found.values())


def _mount_of(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.is_mount())


def _shown(size: float) -> str:
    return f"{size / 2**20:.0f} MB" if size < 2**30 else f"{size / 2**30:.1f} GB"
