"""The reference profile: what drift is measured against, made when a version is trained, and kept with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from crossfade.stats.profile import CategoricalProfile, NumericProfile, Profile, profile_from_dict

PREDICTION, PROBABILITY = "prediction", "probability"
"""The model's outputs, monitored like features where the live rows have them."""


@dataclass(frozen=True)
class ReferenceProfile:
    """What one model version learnt, as profiles by column name."""

    columns: Mapping[str, Profile]
    """Every feature, and the held-out predictions and probabilities."""

    @classmethod
    def of(cls, features: pd.DataFrame, outputs: pd.DataFrame) -> ReferenceProfile:
        """Profile training rows, shape (n, features), and answers to held-out rows, shape (m, 2)."""
        columns: dict[str, Profile] = {
            str(name): CategoricalProfile.of(column) if column.dtype == object else NumericProfile.of(column)
            for name, column in features.items()
        }
        columns[PREDICTION] = CategoricalProfile.of(outputs[PREDICTION])
        columns[PROBABILITY] = NumericProfile.of(outputs[PROBABILITY])
        return cls(columns)

    @property
    def features(self) -> list[str]:
        """Names of the features, in the model's order."""
        return [name for name in self.columns if name not in (PREDICTION, PROBABILITY)]

    def to_json(self) -> str:
        """Serialise; floats survive the round trip to the bit."""
        return json.dumps({name: profile.to_dict() for name, profile in self.columns.items()})

    @classmethod
    def from_json(cls, text: str) -> ReferenceProfile:
        """Read back what `to_json` wrote."""
        return cls({name: profile_from_dict(stored) for name, stored in json.loads(text).items()})
