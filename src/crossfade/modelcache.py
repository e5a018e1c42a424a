"""The router's own copies of what it serves, so that it starts and serves while MLflow is down.

A copy is a folder per version and run, put in place in one step; which version stood under which alias is a small file
beside them. Any number of workers share a cache.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crossfade.files import replace_text

_log = logging.getLogger(__name__)

_ALIASES = "aliases.json"

_KEPT_SECONDS = 24 * 3600
"""For so long a copy is kept that no alias needs: another worker may be about to."""

Seen = Mapping[str, Mapping[str, Any]]
"""Alias to what is known of its version."""


class ModelCache:
    """Copies of versions below one folder, made when the first one is kept.

    Parameters
    ----------
    folder : Path
        Where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def folder_of(self, name: str) -> Iterator[Path]:
        """Give the folder of a version: its copy, or an empty one that becomes its copy when all goes well."""
        copy = self._folder / name
        if copy.is_dir():
            yield copy
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=self._folder))
        except OSError as error:
            _log.warning("%s cannot be written (%s): models are not kept for when MLflow is down", self._folder, error)
            with tempfile.TemporaryDirectory(prefix="crossfade-model-") as elsewhere:
                yield Path(elsewhere)
            return
        try:
            yield draft
            if not copy.exists():  # else another worker was faster, with the same files
                draft.rename(copy)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def discard(self, name: str) -> bool:
        """Take a copy away; tell whether there was one."""
        copy = self._folder / name
        found = copy.is_dir()
        shutil.rmtree(copy, ignore_errors=True)
        return found

    def remember(self, seen: Seen, needed: Collection[str]) -> None:
        """Write down who stood where, and drop copies that nobody has needed for a day.

        Parameters
        ----------
        seen : mapping
            The aliases that are set.
        needed : collection of str
            Names of the copies that they need.
        """
        try:
            replace_text(self._folder / _ALIASES, json.dumps(seen))
            for copy in self._folder.iterdir():
                if copy.is_dir() and copy.name not in needed and time.time() - copy.stat().st_mtime > _KEPT_SECONDS:
                    shutil.rmtree(copy, ignore_errors=True)
        except OSError as error:
            _log.warning("%s cannot be written (%s): a restart without MLflow will not know", self._folder, error)

    def remembered(self) -> Seen:
        """Return who stood where when it was last written down; empty when that cannot be told."""
        try:
            found = json.loads((self._folder / _ALIASES).read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
