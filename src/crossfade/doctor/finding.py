"""What a check looks at, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from crossfade.settings import Settings


@dataclass(frozen=True)
class Finding:
    """Something that should not be as it is."""

    looked_at: str
    found: str
    next_step: str
    """What to do about it."""
    level: Literal["wrong", "note"] = "wrong"
    """A note is worth knowing, and does not make the installation a broken one."""


@dataclass(frozen=True)
class Site:
    """The installation that is looked at."""

    settings: Settings
    running: frozenset[str] = field(default=frozenset())
    """Names of the services of `crossfade up` that have processes."""


class NotLooked(Exception):
    """There is nothing to look at; the message says why."""


@dataclass(frozen=True)
class Check:
    """One look at an installation."""

    name: str
    looks_at: str
    look: Callable[[Site], Iterable[Finding]]
    """Gives what is wrong. Raises NotLooked; anything else that it raises is a finding."""
    seconds: float = 30.0
    """How long it may take."""
