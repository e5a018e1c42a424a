"""The A/B router that one writes by hand in an afternoon: Flask, a hashed split, MLflow's pyfunc, a line of CSV.

    gunicorn --workers 2 straightforward:app

Needs MLFLOW_TRACKING_URI, MODEL (a registered name with the aliases `prod` and `staging`) and REQUEST_LOG.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

import mlflow.pyfunc
import pandas as pd
from flask import Flask, Response, jsonify, request

SPLIT_B = 0.5
LOG = Path(os.environ["REQUEST_LOG"])
MODELS = {
    variant: mlflow.pyfunc.load_model(f"models:/{os.environ['MODEL']}@{alias}")
    for variant, alias in (("A", "prod"), ("B", "staging"))
}

app = Flask(__name__)


def variant_of(user_id: str) -> str:
    """Return the arm that a user is on, always the same one."""
    digest = hashlib.sha256(f"ab-test:{user_id}".encode()).hexdigest()
    return "B" if int(digest[:8], 16) / 2**32 < SPLIT_B else "A"


@app.post("/predict")
def predict() -> Response:
    """Answer one row and write it to the log."""
    started = time.perf_counter()
    body = request.get_json()
    request_id, variant = uuid.uuid4().hex, variant_of(str(body["user_id"]))
    prediction = int(MODELS[variant].predict(pd.DataFrame([body["features"]]))[0])
    latency_ms = (time.perf_counter() - started) * 1000
    now, features = datetime.now(UTC).isoformat(), json.dumps(body["features"])
    with LOG.open("a", newline="") as file:
        csv.writer(file).writerow([now, request_id, body["user_id"], variant, features, prediction, latency_ms])
    return jsonify(request_id=request_id, variant=variant, prediction=prediction, latency_ms=latency_ms)
