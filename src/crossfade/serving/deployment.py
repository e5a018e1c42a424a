"""2. Who serves: an immutable picture of the aliases, replaced as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from crossfade.experiment import experiment_id
from crossfade.model import Label
from crossfade.schema import label_text
from crossfade.serving.split import Variant, assign
from crossfade.version import LoadedModel


@dataclass(frozen=True)
class Arm:
    """One side of the experiment."""

    variant: Variant
    alias: str
    loaded: LoadedModel

    @cached_property
    def version(self) -> str:
        """Number of the model version that answers."""
        return self.loaded.version.number

    @cached_property
    def texts(self) -> dict[Label, str]:
        """Each of the model's classes, as the log writes it."""
        return {label: label_text(label) for label in self.loaded.model.classes}


@dataclass(frozen=True)
class Deployment:
    """What a worker serves with. A request reads it once and keeps it, so a swap never shows within a request."""

    model_name: str
    prod: Arm
    staging: Arm | None
    """None while no experiment runs: staging is unset, unusable, or the same version as prod."""

    @cached_property
    def experiment_id(self) -> str | None:
        """Seed of the split, and the experiment's name in the log; None while no experiment runs."""
        if self.staging is None:
            return None
        return experiment_id(self.model_name, self.prod.version, self.staging.version)

    def route(self, unit: str, split_b: float) -> Arm:
        """Return the arm that answers a unit (a user, or a request without one)."""
        if self.staging is None or self.experiment_id is None:
            return self.prod
        return self.staging if assign(self.experiment_id, unit, split_b) == "B" else self.prod
