"""A version of the registered model, as everybody names it: its tags, its files, and itself in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from crossfade.model import Model

STATUS = "crossfade.status"
"""Tag: candidate, staging, prod, rejected or retired."""

TRAINED_AT = "crossfade.trained_at"
"""Tag: when it was registered after its training, as the request log writes time."""

FEATURES = "crossfade.features"
"""Tag: SHA-256 over the names and kinds of the features that it takes."""

DIGEST = "crossfade.digest"
"""Tag: SHA-256 over its model's files when it was registered."""

RUNTIME, RUNTIME_REASON = "crossfade.runtime", "crossfade.runtime_reason"
"""Tags: the tier that its model was compiled into, and why no faster one would do."""

COMPILED_FOLDER = "compiled"
"""Artifacts of a version's run: its model in compiled form."""

Runtime = Literal["auto", "onnx", "pipeline"]


@dataclass(frozen=True)
class Version:
    """A registered version."""

    number: str
    run_id: str
    """MLflow run that trained it."""
    tags: Mapping[str, str]
    registered_at: str = ""
    """As the request log writes time."""

    @classmethod
    def of_mlflow(cls, number: object, run_id: str | None, tags: Mapping[str, str], created_ms: int) -> Version:
        """Make one of what MLflow says of it; `created_ms` is since the epoch."""
        registered = datetime.fromtimestamp(created_ms / 1000, UTC).isoformat(timespec="microseconds")
        return cls(str(number), run_id or "", dict(tags), registered)

    @property
    def status(self) -> str:
        """Its `crossfade.status`; empty for a version that Crossfade did not register."""
        return self.tags.get(STATUS, "")


@dataclass(frozen=True)
class LoadedModel:
    """A version with its model in memory."""

    version: Version
    model: Model
    digest: str
    """SHA-256 over the model's files: two versions with the same digest answer alike."""


def digest_of(folder: Path, files: str) -> str:
    """Hash the files whose names match a pattern, in a folder and below."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob(files)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
