"""Pictures of a trained model, for its MLflow run."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from sklearn.inspection import permutation_importance
from sklearn.metrics import ConfusionMatrixDisplay

from crossfade.model import SklearnModel

CONFUSION, IMPORTANCE = "plots/confusion_matrix.png", "plots/feature_importance.png"
"""Where they are among the run's artifacts."""

_MOST_FEATURES = 20

# The font that ships with matplotlib; PyCaret asks for others, which a bare machine lacks, with a warning per letter.
_FONT = {"font.family": "DejaVu Sans", "text.parse_math": False}


def confusion_figure(truth: Sequence[str], answers: Sequence[str]) -> Figure:
    """Draw the confusion matrix of held-out rows."""
    with rc_context(_FONT):
        figure = Figure(figsize=(6, 5), layout="constrained")
        axes = figure.subplots()
        ConfusionMatrixDisplay.from_predictions(truth, answers, ax=axes, cmap="Blues", colorbar=False)
        axes.grid(False)  # PyCaret's style draws one, through the numbers
        axes.set_title(f"Held-out rows ({len(truth)})")
    return figure


def importance_figure(model: SklearnModel, rows: pd.DataFrame, target: str) -> Figure:
    """Draw the permutation importance of each feature: the accuracy lost when its values are shuffled."""
    found = permutation_importance(
        model.pipeline, rows[list(model.schema.names)], rows[target], scoring="accuracy", n_repeats=5, random_state=0
    )
    means = pd.Series(found.importances_mean, index=list(model.schema.names)).nlargest(_MOST_FEATURES)[::-1]
    with rc_context(_FONT):
        figure = Figure(figsize=(7, 1.2 + 0.35 * len(means)), layout="constrained")
        axes = figure.subplots()
        axes.barh(means.index.astype(str), means.to_numpy())
        axes.set_xlabel("accuracy lost when the feature is shuffled")
    return figure
