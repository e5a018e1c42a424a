"""The steps of a pipeline, as tables."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from crossfade.compiled.compiler import compile_model
from crossfade.compiled.hardrows import hard_rows
from crossfade.compiled.tabulate import NotConvertible, take_apart
from crossfade.model import SklearnModel


def test_the_encoder_makes_what_the_steps_make(train):
    """Bit for bit, for known, unseen and missing values, one row alone and many together."""
    learnt = train("three texts", "lr")
    schema, pipeline = learnt.model.schema, learnt.model.pipeline
    drawn = hard_rows(schema, learnt.features, {}, 2000, seed=5)
    encoder = take_apart(pipeline, schema, learnt.features).encoder
    made = drawn
    for name, step in pipeline.steps[:-1]:
        made = step.transform(made) if name != "label_encoding" else made
    rows = schema.rows_of(drawn)
    assert np.array_equal(encoder.encode_many(rows), made.to_numpy(dtype=float))
    assert np.array_equal([encoder.encode(row) for row in rows], made.to_numpy(dtype=float))


def test_categories_that_the_table_lacks_are_known(train):
    """A category that the given rows lack, but the pipeline learnt, is not taken for an unseen one."""
    learnt = train("three texts", "lr")
    schema, pipeline = learnt.model.schema, learnt.model.pipeline
    fewer = learnt.features[learnt.features["colour"] != "red"].head(50)
    whole = take_apart(pipeline, schema, learnt.features).encoder
    assert take_apart(pipeline, schema, fewer).encoder.to_json() == whole.to_json()


def _numbers(train, *steps):
    learnt = train("numbers", "lr")
    target = (learnt.features["size"] > 50).astype(int)
    pipeline = make_pipeline(*steps, LogisticRegression()).fit(learnt.features, target)
    return SklearnModel(pipeline, learnt.model.schema, (0, 1)), learnt.features


def test_scaling_is_folded(train):
    """A scaler becomes a factor and an offset per feature."""
    model, features = _numbers(train, StandardScaler())
    assert compile_model(model, features).tier == "plain"


def test_an_estimator_alone_compiles(train):
    """A model without any step before it compiles too."""
    model, features = _numbers(train)
    alone = SklearnModel(model.pipeline.steps[-1][1], model.schema, model.classes)
    assert compile_model(alone, features).tier == "plain"


@pytest.mark.parametrize(
    ("step", "reason"),
    [(PCA(2), "depends on 4 features at once"), (FunctionTransformer(np.square), "feature size is bent")],
)
def test_steps_that_are_no_table_are_refused(step, reason, train):
    """A step that mixes features, or bends one, leaves the pipeline as it is, and the reason says which."""
    model, features = _numbers(train, step)
    with pytest.raises(NotConvertible, match=reason):
        take_apart(model.pipeline, model.schema, features)
    compilation = compile_model(model, features)
    assert compilation.tier == "pipeline"
    assert all(reason in sentence for sentence in compilation.refused.values())
