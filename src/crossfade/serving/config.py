"""The split in force: one small file that every worker and replica follows."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

from crossfade.errors import LogUnavailable
from crossfade.files import replace_text

_log = logging.getLogger(__name__)

_FRESH_SECONDS = 0.05
"""For so long requests are split by the last look at the file: each look would let another thread go first."""


class SplitConfig:
    """Share of users on B, kept in a file so that it is the same in every worker and survives a restart.

    Reading costs one `stat`: the file is parsed again only when it was replaced.

    Parameters
    ----------
    path : Path
        The file, ``{"ab_split_b": 0.5}``.
    default : float
        In force while the file does not exist.
    """

    def __init__(self, path: Path, default: float) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._default = default
        self._due = 0.0
        self._split_b = default
        self.problem: str | None = None
        """Why the file is not followed; None when all is well."""

    @property
    def split_b(self) -> float:
        """The share in force now."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            self._seen, self._split_b, self.problem = None, self._default, None
            return self._split_b
        except OSError as error:
            self.problem = f"{self._path} cannot be looked at, the split stays {self._split_b}: {error.strerror}"
            return self._split_b
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        if stamp != self._seen:
            self._read(stamp)
        return self._split_b

    @split_b.setter
    def split_b(self, share: float) -> None:
        """Put a new share in force everywhere, in one step.

        Raises
        ------
        LogUnavailable
            The file cannot be written.
        """
        try:
            replace_text(self._path, json.dumps({"ab_split_b": share}) + "\n")
        except OSError as error:
            raise LogUnavailable(
                f"{self._path} cannot be written: {error.strerror}. The split is unchanged."
            ) from error
        self._due = 0.0
        _log.info("ab_split_b is now %s", share)

    @property
    def stamp(self) -> tuple[int, int, int] | None:
        """What tells the file as it is from every other that was, or will be, in its place; None: there is none."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return (found.st_ino, found.st_mtime_ns, found.st_size)

    @property
    def recent_split_b(self) -> float:
        """The share in force a moment ago, for a fraction of the time."""
        now = time.monotonic()
        if now < self._due:
            return self._split_b
        self._due = now + _FRESH_SECONDS
        return self.split_b

    def settle(self) -> None:
        """Wait until every worker that splits requests follows the file as it is."""
        time.sleep(_FRESH_SECONDS)

    def _read(self, stamp: tuple[int, int, int]) -> None:
        """Take over the file; one that makes no sense leaves the last good share in force."""
        try:
            share = json.loads(self._path.read_text())["ab_split_b"]
            if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
                raise ValueError(f"ab_split_b is {share!r}, not a number from 0 to 1")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            self.problem = f"{self._path} is not followed, the split stays {self._split_b}: {error!r}"
            _log.warning("%s", self.problem)
        else:
            self._split_b, self.problem = float(share), None
        self._seen = stamp
