"""Trees as arrays: not one comparison and not one bit of a probability is another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import AdaBoostClassifier, GradientBoostingClassifier, RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from crossfade.compiled.encoding import Encoder, NumericColumn
from crossfade.compiled.ensembles import forest_of, last_below
from crossfade.compiled.graphs import adds_one_number, forest_graph
from crossfade.compiled.onnxmodel import OnnxForest, open_session
from crossfade.compiled.tabulate import NotConvertible
from crossfade.compiled.trees import WalkedForest

RNG = np.random.default_rng(0)
X = RNG.normal(size=(600, 4)).round(2)
SCORE = X[:, 0] + X[:, 1] * X[:, 2] + RNG.normal(scale=0.5, size=600)
ENCODER = Encoder([NumericColumn(i, 0.0) for i in range(4)])


@given(st.floats(-3.4e38, 3.4e38) | st.floats(-2, 2), st.integers(-3, 3))
def test_a_limit_compares_as_the_rounded_number_does(threshold, steps):
    """Around every threshold, x <= limit says what float32(x) <= threshold says."""
    (limit,) = last_below(np.array([threshold]))
    for x in (limit, threshold, float(np.float32(threshold))):
        for _ in range(abs(steps)):
            x = np.nextafter(x, np.sign(steps) * np.inf)
        assert (x <= limit) == (np.float32(x) <= threshold)


def _at_thresholds(forest):
    rows = X[RNG.integers(0, len(X), 4000)]
    for i, row in enumerate(rows):
        limits = forest.threshold[forest.feature == i % 4]
        if len(limits):
            row[i % 4] = np.nextafter(RNG.choice(limits), RNG.choice([-np.inf, 0, np.inf]))
    return rows


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    "estimator",
    [
        DecisionTreeClassifier(max_depth=4),
        DecisionTreeClassifier(max_depth=5, ccp_alpha=1.0),  # pruned to a single leaf
        RandomForestClassifier(30, random_state=1),
        RandomForestClassifier(30, random_state=1, max_depth=3),  # leaves of several classes
        GradientBoostingClassifier(n_estimators=20),
        AdaBoostClassifier(n_estimators=20, algorithm="SAMME.R"),
        AdaBoostClassifier(n_estimators=20, algorithm="SAMME"),
    ],
    ids=["tree", "leaf", "pure forest", "forest", "boosting", "SAMME.R", "SAMME"],
)
def test_trees_answer_alike_on_their_thresholds(estimator, classes):
    """Walked and in ONNX, alone and together, the probabilities are those of scikit-learn, on and beside thresholds."""
    estimator.fit(X, np.digitize(SCORE, [0.0] if classes == 2 else [-0.5, 0.5]))
    forest = forest_of(estimator)
    leaves = None if adds_one_number(forest) else forest.leaves
    session = open_session(forest_graph(forest, 4))
    rows = _at_thresholds(forest)
    shares = estimator.predict_proba(rows)
    labels = estimator.predict(rows)
    for model in (
        WalkedForest(ENCODER, forest),
        OnnxForest(ENCODER, session, leaves, forest.start, forest.divisor, forest.link),
    ):
        together = model.answer_many(rows.tolist())
        alone = [model.answer(row) for row in rows[:300].tolist()]
        assert together.places == labels.tolist()
        assert [place for place, _ in alone] == labels[:300].tolist()
        tolerance = 0 if forest.link == "share" else 1e-13
        assert together.shares == pytest.approx(shares.max(axis=1), abs=tolerance, rel=0)
        assert [share for _, share in alone] == pytest.approx(shares[:300].max(axis=1), abs=tolerance, rel=0)


def test_thresholds_in_32_bits_would_answer_otherwise():
    """The rows do tell: rounding the thresholds to the nearest 32-bit float flips labels of a forest."""
    estimator = RandomForestClassifier(30, random_state=1).fit(X, SCORE > 0)
    forest = forest_of(estimator)
    rows = _at_thresholds(forest)
    vars(forest)["threshold"] = forest.threshold.astype(np.float32).astype(np.float64)
    wrong = WalkedForest(ENCODER, forest).answer_many(rows.tolist()).places
    assert (np.array(wrong) != estimator.predict(rows)).any()


def test_what_is_no_ensemble_is_none():
    """Other estimators are left to others, and a boosting of something else than trees is refused."""
    from sklearn.linear_model import LogisticRegression

    y = SCORE > 0
    assert forest_of(LogisticRegression().fit(X, y)) is None
    with pytest.raises(NotConvertible, match="does not boost trees"):
        forest_of(AdaBoostClassifier(LogisticRegression(), n_estimators=2).fit(X, y))
