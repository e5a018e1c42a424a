"""All checks of an installation: side by side, each within its time, and none able to break the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from crossfade.doctor.finding import Check, Finding, NotLooked, Site


@dataclass(frozen=True)
class Examined:
    """What a check came to."""

    check: str
    looks_at: str
    state: Literal["ok", "findings", "not looked at"]
    findings: tuple[Finding, ...]
    why: str
    """Why it was not looked at; else empty."""
    seconds: float

    @property
    def is_wrong(self) -> bool:
        """Whether something has to be mended."""
        return any(finding.level == "wrong" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return it for machines."""
        findings = [vars(finding) for finding in self.findings]
        return {**vars(self), "findings": findings, "seconds": round(self.seconds, 3)}


def examine(checks: Sequence[Check], site: Site) -> list[Examined]:
    """Let every check look, and wait for each no longer than its time.

    One that hangs, on a dead network folder for example, is left behind: a thread inside a system call cannot be called
    back, and ends with the process.
    """
    started = time.monotonic()
    looks = [_Look(check, site) for check in checks]
    return [look.result(started) for look in looks]


class _Look:
    """A check at work in a thread of its own."""

    def __init__(self, check: Check, site: Site) -> None:
        self._check = check
        self._site = site
        self._outcome: Examined | None = None
        self._thread = threading.Thread(target=self._run, name=f"crossfade-doctor-{check.name}", daemon=True)
        self._thread.start()

    def result(self, started: float) -> Examined:
        check = self._check
        self._thread.join(max(0.0, started + check.seconds - time.monotonic()))
        late = Finding(
            check.looks_at,
            f"the check has not finished within {check.seconds:g} s",
            "look at what it looks at: a disk or a service does not answer",
        )
        return self._outcome or _outcome(check, [late], check.seconds)

    def _run(self) -> None:
        check, started = self._check, time.monotonic()
        try:
            findings, why = list(check.look(self._site)), ""
        except NotLooked as reason:
            findings, why = [], str(reason)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other checks are to be told
            findings, why = [_failed(check, error)], ""
        self._outcome = _outcome(check, findings, time.monotonic() - started, why)


def _outcome(check: Check, findings: list[Finding], seconds: float, why: str = "") -> Examined:
    state: Literal["ok", "findings", "not looked at"] = "findings" if findings else "not looked at" if why else "ok"
    return Examined(check.name, check.looks_at, state, tuple(findings), why, seconds)


def _failed(check: Check, error: Exception) -> Finding:
    said = (str(error).strip().splitlines() or [""])[0][:300]
    return Finding(
        check.looks_at, f"the check failed: {type(error).__name__}: {said}", "mend what it says, and look again"
    )
