"""A scikit-learn model behind FastAPI, as its tutorial would have it: `uvicorn peer_fastapi:app`, with MODEL a file."""

from __future__ import annotations

import os

import joblib
from fastapi import FastAPI
from pydantic import BaseModel

MODEL = joblib.load(os.environ["MODEL"])

app = FastAPI()


class Row(BaseModel):
    """What is asked."""

    features: list[float]


@app.post("/predict")
async def predict(row: Row) -> dict[str, int]:
    """Answer one row; in the event loop, for a prediction is shorter than a way to another thread and back."""
    return {"prediction": int(MODEL.predict([row.features])[0])}
