"""Models for the serving benchmark, in a process of its own, because training loads much that serving does not.

python benchmarks/servers/models.py trained lr lda     two versions of REG_MODEL_NAME: prod and staging
python benchmarks/servers/models.py plain FOLDER       a scikit-learn model: `model.joblib`, and MLflow's `model`
"""

from __future__ import annotations

import sys
from pathlib import Path

import joblib  # type: ignore[import-untyped]
import mlflow.sklearn
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from crossfade.loop import steps
from crossfade.loop.installation import Installation
from crossfade.settings import load_settings


def train(algorithms: list[str]) -> None:
    """Train and register a version per algorithm as a retraining does: the first becomes prod, the next staging."""
    for seed, algorithm in enumerate(algorithms, start=1):
        here = Installation.of(load_settings(automl_models=algorithm, automl_seed=seed, automl_folds=2))
        trained = steps.retrain(here)
        # Which one is better is no question here, so the champion gate is passed over.
        steps.register_staging(here, {**trained, "passed": True})


def save_plain(folder: Path) -> None:
    """Fit what other servers are given: a scikit-learn model without a pipeline, on arrays, without a signature."""
    features, target = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=500).fit(features, target)
    joblib.dump(model, folder / "model.joblib")
    mlflow.sklearn.save_model(
        model, folder / "model", serialization_format="cloudpickle", pip_requirements=["scikit-learn"]
    )


if __name__ == "__main__":
    if sys.argv[1] == "trained":
        train(sys.argv[2:])
    else:
        save_plain(Path(sys.argv[2]))
