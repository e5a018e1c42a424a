"""Locks that somebody holds on to, and drafts that a killed process left.

The kernel frees the locks of a process that dies, so a lock is stale only while its holder hangs: it is stopped, waits
for a dead disk, or sits in a debugger. Who holds what is read from `/proc/locks`, without touching a lock.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from crossfade.doctor.finding import Finding, NotLooked, Site
from crossfade.logparts import lock_of
from crossfade.loop.audit import FileAudit

_PATIENCE_SECONDS = 5.0
"""Moving a file or an alias takes a fraction of it."""

_PACKING_SECONDS = 3600.0
"""Packing a day's rows may take that long (logrotation.py)."""

_LOCKS = Path("/proc/locks")

_DRAFT = re.compile(r"\.(?:requests|labels)\S*\.csv\.(\d+)\.\d+")


@dataclass(frozen=True)
class Held:
    """A lock in force."""

    path: Path
    pid: int
    """Who took it, and may be gone, while a child of it keeps it; 0: a process in another container."""


def look_at_locks(site: Site) -> Iterator[Finding]:
    """Look for locks that are held for longer than their work takes."""
    if not _LOCKS.is_file():
        raise NotLooked(f"{_LOCKS} is Linux's")
    settings = site.settings
    of_log = ("no rows are moved to a day's part, packed or deleted", "no late labels are moved, packed or deleted")
    means = dict(zip(map(lock_of, settings.log_files), of_log, strict=False)) | {
        FileAudit.under(
            settings.report_dir
        ).path.parent: "no alias can be moved: promotion and roll-back wait for ever",
        settings.var: "nobody can make the feature store",
    }
    first = _held(list(means))
    if not first:
        return
    time.sleep(_PATIENCE_SECONDS)
    for held in sorted(first & _held(list(means)), key=str):
        who = _holder(held.pid)
        if who is not None:
            yield Finding(
                f"the lock on {held.path}",
                f"{who} has held it for {_PATIENCE_SECONDS:g} s and more: {means[held.path]}",
                _next_step(held),
            )


def look_at_drafts(site: Site) -> Iterator[Finding]:
    """Look for files beside the log that a killed process was about to put in place."""
    if not site.settings.log_files:
        raise NotLooked("the log is in a database")
    folder = site.settings.log_files[0].parent
    if not folder.is_dir():
        raise NotLooked(f"{folder} is not there yet")
    for path in sorted(folder.iterdir()):
        found = _DRAFT.fullmatch(path.name)
        if found and not psutil.pid_exists(int(found[1])):
            yield Finding(str(path), f"process {found[1]}, which wrote it, is gone", f"rm {path}", level="note")


def _next_step(held: Held) -> str:
    if held.pid not in psutil.pids():  # `pid_exists` takes threads for processes
        return f"`fuser -v {held.path}` says who that is"
    return f"look what it does; if it hangs: kill -9 {held.pid}"


def _held(paths: list[Path]) -> set[Held]:
    """Return who holds a lock on whole files among these. Raises OSError."""
    known = {}
    for path in paths:
        if path.exists():
            found = path.stat()
            known[f"{found.st_dev >> 8:02x}:{found.st_dev & 0xFF:02x}:{found.st_ino}"] = path
    held = set()
    for line in _LOCKS.read_text().splitlines():
        fields = line.split()
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5] in known:  # `->` waits: it holds nothing
            held.add(Held(known[fields[5]], int(fields[4])))
    return held


def _holder(pid: int) -> str | None:
    """Say who holds a lock; None where it has every reason to."""
    if pid <= 0:
        return "a process in another container"
    try:
        process = psutil.Process(pid)
        command, age, status = " ".join(process.cmdline()), time.time() - process.create_time(), process.status()
    except psutil.NoSuchProcess:
        return f"a child of process {pid}, which is gone,"
    except psutil.Error:
        return f"process {pid}, of another user,"
    packs = "crossfade.logpacking" in command and age < _PACKING_SECONDS
    if packs and status != psutil.STATUS_STOPPED:
        return None
    return f"process {pid} ({command[:80]}; {status})"
