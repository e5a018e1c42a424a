"""Files that are put in place in one step."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Write a file aside and put it in place: whoever reads it sees the old one or the new one, and never half of one.

    Raises
    ------
    OSError
        It cannot be written; what was there stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        draft.write_text(text)
        # The kernel's own time stamps may be milliseconds apart: two changes within one would look the same.
        os.utime(draft, ns=(time.time_ns(), time.time_ns()))
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # the folder itself may be what is wrong
            draft.unlink(missing_ok=True)
        raise
