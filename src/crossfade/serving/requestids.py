"""Names for requests that bring none: random, so that nobody can guess one and label another's row."""

from __future__ import annotations

import os
import secrets

_BYTES = 16

_AT_ONCE = 256

_ready: list[str] = []
os.register_at_fork(after_in_child=_ready.clear)  # two workers must not give out the same


def new_request_id() -> str:
    """Return 32 hexadecimal digits; the kernel is asked for many at once, as each call lets other threads in."""
    while True:
        try:
            return _ready.pop()
        except IndexError:
            digits = secrets.token_hex(_BYTES * _AT_ONCE)
            _ready.extend([digits[at : at + 2 * _BYTES] for at in range(0, len(digits), 2 * _BYTES)])
