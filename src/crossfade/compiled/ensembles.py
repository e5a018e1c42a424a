"""Trees, forests and boosted trees as arrays, in which every comparison comes out as in the library that grew them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.ensemble import (
    AdaBoostClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.tree import DecisionTreeClassifier

from crossfade.compiled.encoding import Matrix
from crossfade.compiled.links import Link
from crossfade.compiled.tabulate import NotConvertible
from crossfade.compiled.trees import Forest

_SMALLEST = np.finfo(np.float64).eps
"""Probabilities below it count as it, in scikit-learn's AdaBoost."""

_LIGHTGBM_ZERO = float(np.float32(1e-35))
"""Numbers up to it, and their negatives, are zero to LightGBM (`kZeroThreshold` in its `meta.h`)."""


def forest_of(estimator: Any) -> Forest | None:
    """Turn an ensemble of trees into arrays; None where it is none.

    Raises
    ------
    NotConvertible
        It is one, of a variant that is not written down here.
    """
    if isinstance(estimator, DecisionTreeClassifier):
        return _averaged([estimator])
    if isinstance(estimator, (RandomForestClassifier, ExtraTreesClassifier)):
        return _averaged(estimator.estimators_)
    if isinstance(estimator, GradientBoostingClassifier):
        return _boosted(estimator)
    if isinstance(estimator, AdaBoostClassifier):
        return _adaptive(estimator)
    if type(estimator).__name__ == "LGBMClassifier":
        return _lightgbm(estimator)
    return None


def last_below(thresholds: Matrix) -> Matrix:
    """Return the largest 64-bit floats that are at most the thresholds once rounded to 32 bits; any shape.

    scikit-learn's trees round x to 32 bits and compare it with a threshold of 64. ``x <= last_below(threshold)`` says
    the same of x as it came, so that nobody has to round.

    Examples
    --------
    >>> import numpy as np
    >>> (limit,) = last_below(np.array([0.1]))
    >>> np.float32(limit) <= 0.1 < np.float32(np.nextafter(limit, 1))
    True
    """
    below = thresholds.astype(np.float32)
    below = np.where(below <= thresholds, below, np.nextafter(below, np.float32(-np.inf)))
    above = np.nextafter(below, np.float32(np.inf))
    # Halfway between two neighbours of 32 bits is a 64-bit float, which is rounded to the even one.
    halfway: Matrix = (below.astype(np.float64) + above.astype(np.float64)) / 2
    return np.where(halfway.astype(np.float32) <= thresholds, halfway, np.nextafter(halfway, -np.inf))


@dataclass
class _Grown:
    """Nodes and leaves collected so far; see `Forest`."""

    scores: int
    roots: list[int] = field(default_factory=list)
    feature: list[int] = field(default_factory=list)
    threshold: list[float] = field(default_factory=list)
    below: list[int] = field(default_factory=list)
    above: list[int] = field(default_factory=list)
    leaves: list[list[float]] = field(default_factory=list)

    def branch(self, feature: int, threshold: float) -> int:
        """Add a branch whose children follow."""
        self.feature.append(feature)
        self.threshold.append(threshold)
        self.below.append(0)
        self.above.append(0)
        return len(self.feature) - 1

    def leaf(self, adds: Iterable[float]) -> int:
        """Add a leaf; returns the place that stands for it."""
        self.leaves.append([float(number) for number in adds])
        return ~(len(self.leaves) - 1)

    def root(self, place: int) -> None:
        """Close a tree; one that is a leaf gets a branch, both sides of which lead there."""
        if place < 0:
            leaf, place = place, self.branch(0, 0.0)
            self.below[place] = self.above[place] = leaf
        self.roots.append(place)

    def sklearn_tree(self, tree: Any, adds: Matrix) -> None:
        """Add a tree of scikit-learn; `adds`, shape (nodes, scores), says what its leaves add."""
        limits = last_below(tree.threshold)
        is_leaf = tree.children_left < 0
        places = [
            self.leaf(adds[node]) if is_leaf[node] else self.branch(int(tree.feature[node]), float(limits[node]))
            for node in range(tree.node_count)
        ]
        for node in np.flatnonzero(~is_leaf).tolist():
            self.below[places[node]] = places[tree.children_left[node]]
            self.above[places[node]] = places[tree.children_right[node]]
        self.root(places[0])

    def forest(self, start: Any, divisor: float, link: Link) -> Forest:
        """Return all trees."""
        return Forest(
            np.array(self.roots, dtype=np.int64),
            np.array(self.feature, dtype=np.int64),
            np.array(self.threshold, dtype=np.float64),
            np.array(self.below, dtype=np.int64),
            np.array(self.above, dtype=np.int64),
            np.array(self.leaves, dtype=np.float64).reshape(len(self.leaves), self.scores),
            np.array(start, dtype=np.float64),
            divisor,
            link,
        )


def _averaged(trees: list[Any]) -> Forest:
    """Average the trees' probabilities."""
    classes = len(trees[0].classes_)
    grown = _Grown(classes)
    for tree in trees:
        grown.sklearn_tree(tree.tree_, tree.tree_.value[:, 0, :])
    return grown.forest(np.zeros(classes), len(trees), "share")


def _boosted(estimator: Any) -> Forest:
    """Add the trees' values, one tree per class and round."""
    width = estimator.estimators_.shape[1]
    grown = _Grown(width)
    for stage in estimator.estimators_:
        for score, tree in enumerate(stage):
            adds = np.zeros((tree.tree_.node_count, width))
            adds[:, score] = estimator.learning_rate * tree.tree_.value[:, 0, 0]
            grown.sklearn_tree(tree.tree_, adds)
    start = estimator._raw_predict_init(np.zeros((1, estimator.n_features_in_), dtype=np.float32))
    return grown.forest(np.ravel(start), 1.0, "sigmoid" if width == 1 else "softmax")


def _adaptive(estimator: Any) -> Forest:
    """Add the trees' votes: by SAMME.R the logarithms of their probabilities, by SAMME their weights."""
    trees, classes = estimator.estimators_, estimator.n_classes_
    if not all(isinstance(tree, DecisionTreeClassifier) and len(tree.classes_) == classes for tree in trees):
        raise NotConvertible("AdaBoost does not boost trees that know every class")
    votes: Callable[[Matrix, float], Matrix] = _soft_votes if estimator.algorithm == "SAMME.R" else _hard_votes
    total = estimator.estimator_weights_.sum()
    grown = _Grown(1 if classes == 2 else classes)
    for tree, weight in zip(trees, estimator.estimator_weights_, strict=False):  # weights of trees not grown follow
        adds = votes(tree.tree_.value[:, 0, :], weight)
        grown.sklearn_tree(tree.tree_, adds[:, 1:] - adds[:, :1] if classes == 2 else adds)
    if classes == 2:
        return grown.forest([0.0], total, "sigmoid")
    return grown.forest(np.zeros(classes), total * (classes - 1), "softmax")


def _soft_votes(shares: Matrix, weight: float) -> Matrix:  # noqa: ARG001 - all weights are 1
    logs = np.log(np.clip(shares, _SMALLEST, None))
    votes: Matrix = (shares.shape[1] - 1) * (logs - logs.mean(axis=1, keepdims=True))
    return votes


def _hard_votes(shares: Matrix, weight: float) -> Matrix:
    chosen = shares.argmax(axis=1)[:, np.newaxis] == np.arange(shares.shape[1])
    return np.where(chosen, weight, -weight / (shares.shape[1] - 1))


def _lightgbm(estimator: Any) -> Forest:
    """Add the trees' values, one tree per class and round."""
    model = estimator.booster_.dump_model()
    width = model["num_tree_per_iteration"]
    objective = str(model["objective"]).split()
    if model["average_output"] or objective[0] not in ("binary", "multiclass"):
        raise NotConvertible(f"LightGBM's objective {' '.join(objective)} is not written down here")
    grown = _Grown(width)
    for number, tree in enumerate(model["tree_info"]):
        grown.root(_lightgbm_node(grown, tree["tree_structure"], number % width))
    return grown.forest(np.zeros(width), 1.0, "sigmoid" if width == 1 else "softmax")


def _lightgbm_node(grown: _Grown, node: dict[str, Any], score: int) -> int:
    if "split_feature" not in node:
        return grown.leaf(node["leaf_value"] if i == score else 0.0 for i in range(grown.scores))
    if node["decision_type"] != "<=":
        raise NotConvertible(f"LightGBM compares by {node['decision_type']}")
    place = grown.branch(node["split_feature"], _with_zeros(node["threshold"]))
    grown.below[place] = _lightgbm_node(grown, node["left_child"], score)
    grown.above[place] = _lightgbm_node(grown, node["right_child"], score)
    return place


def _with_zeros(threshold: float) -> float:
    """Move a threshold among LightGBM's zeros to their end: it compares 64-bit floats as they are, but for these."""
    if -_LIGHTGBM_ZERO <= threshold < 0:
        return float(np.nextafter(-_LIGHTGBM_ZERO, -np.inf))
    return _LIGHTGBM_ZERO if 0 <= threshold < _LIGHTGBM_ZERO else threshold
