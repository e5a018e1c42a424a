"""Models that are a formula: linear ones, naive Bayes, quadratic discriminants, and the constant one."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model._base import LinearClassifierMixin
from sklearn.naive_bayes import GaussianNB

from crossfade.compiled.encoding import Encoder
from crossfade.compiled.tabulate import NotConvertible, Parts


def formula_of(parts: Parts) -> dict[str, Any] | None:
    """Describe an estimator as a formula; None where it is none.

    Raises
    ------
    NotConvertible
        It has a formula, but a variant of it that is not written down here.
    """
    estimator = parts.estimator
    if isinstance(estimator, LinearClassifierMixin):
        return _linear(estimator)
    if isinstance(estimator, GaussianNB):
        return _bayes(estimator)
    if isinstance(estimator, QuadraticDiscriminantAnalysis):
        return _quadratic(estimator)
    if isinstance(estimator, DummyClassifier) and estimator.strategy == "prior":
        return _constant(estimator, parts.encoder)
    return None


def _linear(estimator: Any) -> dict[str, Any]:
    if not hasattr(estimator, "predict_proba"):
        link = "none"
    elif isinstance(estimator, (LogisticRegression, LinearDiscriminantAnalysis)):
        link = "sigmoid" if len(estimator.coef_) == 1 else "softmax"
    else:
        raise NotConvertible(f"{type(estimator).__name__}'s probabilities are not those of a linear model")
    weights = np.asarray(estimator.coef_, dtype=np.float64)
    start = np.broadcast_to(np.asarray(estimator.intercept_, dtype=np.float64), len(weights))
    return _additive(start, weights, None, link)


def _bayes(estimator: Any) -> dict[str, Any]:
    """Take the logarithms of the normal densities, as scikit-learn's `_joint_log_likelihood` does."""
    start = np.log(estimator.class_prior_) - 0.5 * np.log(2 * np.pi * estimator.var_).sum(axis=1)
    return _additive(start, -0.5 / estimator.var_, estimator.theta_, "softmax")


def _quadratic(estimator: Any) -> dict[str, Any]:
    turned = [
        rotation * scaling**-0.5 for rotation, scaling in zip(estimator.rotations_, estimator.scalings_, strict=True)
    ]
    volumes = np.array([np.log(scaling).sum() for scaling in estimator.scalings_])
    return {
        "kind": "quadratic",
        "start": (np.log(estimator.priors_) - 0.5 * volumes).tolist(),
        "means": np.asarray(estimator.means_).tolist(),
        "turned": [matrix.tolist() for matrix in turned],
    }


def _constant(estimator: Any, encoder: Encoder) -> dict[str, Any]:
    start = np.log(estimator.class_prior_)
    return _additive(start, np.zeros((len(start), encoder.width)), None, "softmax")


def _additive(start: Any, weights: Any, centres: Any, link: str) -> dict[str, Any]:
    return {
        "kind": "additive",
        "start": start.tolist(),
        "weights": weights.tolist(),
        "centres": None if centres is None else centres.tolist(),
        "link": link,
    }
