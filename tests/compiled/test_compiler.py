"""PyCaret's algorithms, compiled: the tier that each reaches, and that it answers like the pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin

from crossfade.compiled import compiler
from crossfade.compiled.compiler import Compilation, compile_model
from crossfade.compiled.hardrows import hard_rows
from crossfade.compiled.model import DESCRIPTION, GRAPH, PICKLE, CompiledModel, load_compiled
from crossfade.compiled.parity import parity
from crossfade.loop.automl import PyCaretTrainer
from crossfade.loop.holdout import SharingRule, share_out
from crossfade.loop.incumbent import KnownRows
from crossfade.model import SklearnModel
from crossfade.schema import FeatureSchema

PLAIN = ["lr", "nb", "dt", "svm", "ridge", "ada", "lda", "dummy"]
ONNX = ["rf", "gbc", "et", "lightgbm"]


def _loaded(compilation: Compilation, folder: Path) -> CompiledModel:
    for name, content in compilation.files.items():
        (folder / name).write_bytes(content)
    return load_compiled(folder)


def _compiled(learnt, folder: Path) -> tuple[Compilation, CompiledModel]:
    compilation = compile_model(learnt.model, learnt.features)
    return compilation, _loaded(compilation, folder)


@pytest.mark.parametrize("table", ["three texts", "two numbers"])
@pytest.mark.parametrize("algorithm", [*PLAIN, *ONNX])
def test_default_candidates_compile(table, algorithm, train, tmp_path):
    """Each reaches its tier, and answers rows that it was not compared on like the pipeline."""
    learnt = train(table, algorithm)
    compilation, model = _compiled(learnt, tmp_path)
    assert compilation.tier == model.tier == ("plain" if algorithm in PLAIN else "onnx")
    assert PICKLE not in compilation.files
    assert (model.classes, model.schema) == (learnt.model.classes, learnt.model.schema)
    fresh = hard_rows(model.schema, learnt.features, {}, 2000, seed=77)
    rows, expected = model.schema.rows_of(fresh), learnt.model.predict_frame(fresh)
    found = parity(model, rows, expected)
    assert found.holds, found
    assert found.largest < 1e-12
    assert model.predict_frame(fresh) == model.predict(rows)


@pytest.mark.parametrize(("algorithm", "tier"), [("lr", "plain"), ("qda", "plain"), ("dt", "plain"), ("rf", "onnx")])
def test_numbers_alone_compile(algorithm, tier, train, tmp_path):
    """A table of numbers only, whose classes 1, 2 and 5 PyCaret numbers anew, is answered in its own labels."""
    learnt = train("numbers", algorithm)
    compilation, model = _compiled(learnt, tmp_path)
    assert compilation.tier == tier
    assert {answer.label for answer in model.predict_frame(learnt.features)} == {1, 2, 5}


@pytest.mark.parametrize(("algorithm", "tiers"), [("mlp", {"onnx"}), ("knn", {"onnx", "sklearn"})])
def test_other_estimators_compile(algorithm, tiers, train, tmp_path):
    """What is neither a formula nor trees goes through skl2onnx, or stays a bare estimator."""
    learnt = train("three texts", algorithm)
    compilation, model = _compiled(learnt, tmp_path)
    assert compilation.tier in tiers
    assert "neither a formula nor trees" in compilation.refused["plain"]
    assert {GRAPH, PICKLE} & set(compilation.files) == {GRAPH if compilation.tier == "onnx" else PICKLE}
    rows, expected = model.schema.rows_of(learnt.features), learnt.model.predict_frame(learnt.features)
    found = parity(model, rows, expected)
    assert found.holds, found


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_row_is_answered_like_by_the_pipeline(data, train, request):
    """Whatever may be sent, the models of both tiers answer it as the pipelines do."""
    number = st.floats(-3.4e38, 3.4e38) | st.floats(-100, 100)
    rows = [
        [
            data.draw(number | st.none()),
            data.draw(st.sampled_from(["red", "green", "blue"]) | st.text(min_size=1, max_size=9) | st.none()),
            data.draw(st.booleans() | st.none()),
            data.draw(number),
            data.draw(st.sampled_from(["town 1", "town 39"]) | st.text(min_size=1, max_size=9)),
            data.draw(st.sampled_from(["f", "m", "nan", "None"])),
            data.draw(st.booleans()),
        ]
    ]
    for algorithm in ("lr", "lightgbm"):
        learnt = train("three texts", algorithm)
        model = _once(request, learnt, algorithm)
        found = parity(model, rows, learnt.model.predict(rows))
        assert found.holds, (found, rows)


def _once(request, learnt, algorithm):
    """Compile a model once for all examples."""
    kept = request.config.stash.setdefault(_MODELS, {})
    if algorithm not in kept:
        folder = request.getfixturevalue("tmp_path") / algorithm
        folder.mkdir()
        kept[algorithm] = _compiled(learnt, folder)[1]
    return kept[algorithm]


_MODELS = pytest.StashKey[dict[str, CompiledModel]]()


def test_what_the_trainer_trains_compiles(train, tmp_path):
    """From `PyCaretTrainer` to a compiled model, by the calls that the retraining makes."""
    learnt = train("three texts", "lr")
    schema = learnt.model.schema
    frame = learnt.features.assign(target=np.where(learnt.features["size"].fillna(0) > 50, "big", "small"))
    known = KnownRows(frame.assign(request_id=""), schema, False)
    rows = share_out(known, known.frame.head(0), "target", SharingRule(seed=1))
    candidate = PyCaretTrainer(["dt"], folds=2, seed=1).train(rows, "target")
    compilation = compile_model(candidate.model, rows.snapshot)
    assert compilation.tier == "plain"
    model = _loaded(compilation, tmp_path)
    assert [answer.label for answer in model.predict([[70.0, None, None, 0.0, "town 1", "f", True]])] == ["big"]


def test_a_copy_that_rounds_thresholds_is_refused(train, monkeypatch):
    """Thresholds rounded to 32 bits, as most converters have them, are found out, with how many answers differ."""
    learnt = train("three texts", "rf")
    monkeypatch.setattr("crossfade.compiled.parity._ALONE", 50)
    exact = compiler.forest_graph

    def rounded(forest, width):
        vars(forest)["threshold"] = forest.threshold.astype(np.float32).astype(np.float64)
        return exact(forest, width)

    monkeypatch.setattr(compiler, "forest_graph", rounded)
    compilation = compile_model(learnt.model, learnt.features)
    assert compilation.tier == "sklearn"
    assert " of 10500 answers differ" in compilation.refused["onnx"]
    assert not compilation.refused["onnx"].startswith("0 ")


def test_a_copy_with_another_weight_is_refused(train, monkeypatch):
    """One weight in a thousandth off is found out, and the next tier is taken."""
    learnt = train("three texts", "lr")
    exact = compiler.formula_of

    def wrong(parts):
        formula = exact(parts)
        formula["weights"][1][0] *= 1.001
        return formula

    monkeypatch.setattr(compiler, "formula_of", wrong)
    compilation = compile_model(learnt.model, learnt.features)
    assert compilation.tier == "onnx"
    assert "answers differ, probabilities of the others by up to" in compilation.refused["plain"]


class Fickle(ClassifierMixin, BaseEstimator):
    """Answers a row alone unlike among others, as discriminants of collinear columns do."""

    classes_ = np.array([0, 1])

    def predict(self, x):
        return np.full(len(x), int(len(x) > 1))


def test_a_pipeline_that_disagrees_with_itself_stays(train):
    """Where the answer depends on the rows beside it, no copy can do alike; that is said."""
    features = train("numbers", "lr").features
    model = SklearnModel(Fickle(), FeatureSchema.of_numbers(*features), (0, 1))
    compilation = compile_model(model, features)
    assert compilation.tier == "pipeline"
    assert "of the pipeline itself, between a row alone and among others, 50 of 50" in compilation.refused["sklearn"]
    assert set(compilation.files) == {DESCRIPTION}
    assert set(compilation.refused) == {"plain", "onnx", "sklearn"}
    assert json.loads(compilation.files[DESCRIPTION])["refused"] == compilation.refused


def test_compiling_twice_gives_the_same_files(train):
    """The same pipeline and seed give the same bytes, so that a digest over them means something."""
    learnt = train("two numbers", "gbc")
    first, second = (compile_model(learnt.model, learnt.features, seed=3) for _ in range(2))
    assert first == second


def test_null_is_tried_where_it_may_come_only(train):
    """Rows to compare on hold gaps where the schema allows null, and nowhere else."""
    learnt = train("three texts", "lr")
    drawn = hard_rows(learnt.model.schema, learnt.features, {}, 1000, seed=0)
    holed = {name for name in drawn if drawn[name].isna().any()}
    assert holed == {feature.name for feature in learnt.model.schema.features if feature.nullable}
    assert set(learnt.features["town"]) < set(drawn["town"])
    assert isinstance(learnt.model.schema, FeatureSchema)
