"""A scikit-learn model behind BentoML, as its documentation has it: `bentoml serve peer_bentoml:Iris`, MODEL a file."""

from __future__ import annotations

import os

import bentoml
import joblib


@bentoml.service(workers=2, logging={"access": {"enabled": False}})
class Iris:
    """What is asked and answered."""

    def __init__(self) -> None:
        self.model = joblib.load(os.environ["MODEL"])

    @bentoml.api
    async def predict(self, features: list[float]) -> int:
        """Answer one row; in the event loop, for a prediction is shorter than a way to another thread and back."""
        return int(self.model.predict([features])[0])
