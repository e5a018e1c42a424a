"""The machine under an installation: system libraries, and packages as they were tried."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from crossfade.doctor.finding import Finding, Site
from crossfade.stack.services import PROJECT

_PIN = re.compile(r"([\w.-]+)(?:\[[^\]]*\])?==([^\s;\\]+)")

_SHOWN = 5


def look_at_libraries(_site: Site, library: str = "libgomp.so.1") -> list[Finding]:
    """Load what no Python package brings, in a process of its own: what was loaded once stays."""
    load = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", load, library], capture_output=True, text=True, timeout=20, check=False
    )
    if done.returncode == 0:
        return []
    reason = done.stderr.strip().rpartition("\n")[2]
    return [
        Finding(
            f"{library} (OpenMP)",
            f"it cannot be loaded, so LightGBM cannot: {reason}",
            "sudo apt-get install -y libgomp1 (dnf: libgomp)",
        )
    ]


def look_at_packages(_site: Site, pins: Path = PROJECT / "requirements.txt") -> Iterator[Finding]:
    """Compare what is installed with what is pinned; a pinned package of an extra may be absent."""
    if sys.version_info[:2] != (3, 11):
        version = ".".join(map(str, sys.version_info[:3]))
        yield Finding("Python", f"it is {version}", "make .venv with Python 3.11: rm -rf .venv && make sync")
    needed = {
        _named(requirement) for requirement in importlib.metadata.requires("crossfade") or () if _is_core(requirement)
    }
    pinned = dict(_PIN.findall(pins.read_text())) if pins.is_file() else {}
    absent = [name for name in sorted(needed) if _installed(name) is None]
    others = [
        f"{name} {found} (pinned: {wanted})"
        for name, wanted in pinned.items()
        if (found := _installed(name)) is not None and found != wanted
    ]
    if absent:
        yield Finding("packages", f"missing: {', '.join(absent)}", "make sync")
    if others:
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        yield Finding(
            f"packages against {pins.name}", ", ".join(others[:_SHOWN]) + more, "touch requirements.txt; make sync"
        )


def _named(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    return found[0] if found else requirement


def _is_core(requirement: str) -> bool:
    return "extra ==" not in requirement


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
