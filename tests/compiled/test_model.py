"""Loading compiled models, as the router does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.compiled.compiler import compile_model
from crossfade.compiled.links import choose, choose_many
from crossfade.compiled.model import DESCRIPTION, GRAPH, PICKLE, load_compiled
from crossfade.errors import ModelUnusable

ROW = [51.0, "red", None, 0.5, "town 7", "f", True]


@pytest.fixture(scope="module")
def compiled(train, tmp_path_factory: pytest.TempPathFactory):
    """Compile an algorithm into a folder of its own."""

    def into_folder(algorithm: str) -> Path:
        folder = tmp_path_factory.mktemp(algorithm)
        learnt = train("three texts", algorithm)
        for name, content in compile_model(learnt.model, learnt.features).files.items():
            (folder / name).write_bytes(content)
        return folder

    return into_folder


@pytest.mark.parametrize(
    ("algorithm", "tier", "absent"),
    [
        ("lr", "plain", ("pandas", "sklearn", "pycaret", "mlflow", "onnxruntime", "scipy")),
        ("dt", "plain", ("pandas", "sklearn", "pycaret", "mlflow", "onnxruntime", "scipy")),
        ("gbc", "onnx", ("pandas", "sklearn", "pycaret", "mlflow")),
        ("mlp", "onnx", ("pandas", "sklearn", "pycaret", "mlflow")),
        ("knn", "sklearn", ("pandas", "pycaret", "mlflow")),
    ],
)
def test_answering_imports_little(algorithm, tier, absent, compiled, train, tmp_path):
    """A process that loads and answers imports no training library, and answers what the pipeline answers."""
    code = f"""
import json, sys
from pathlib import Path
from crossfade.compiled.model import load_compiled
model = load_compiled(Path({str(compiled(algorithm))!r}))
row = {ROW!r}
found = [model.predict([row])[0], *model.predict([row, row])]
print(json.dumps([model.tier, [[p.label, p.probability] for p in found],
      sorted({{name.split(".")[0] for name in sys.modules}} & set({absent!r}))]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (expected,) = train("three texts", algorithm).model.predict([ROW])
    assert (found[0], found[2]) == (tier, [])
    assert found[1] == [[expected.label, pytest.approx(expected.probability, abs=1e-9)]] * 3


def test_no_rows_no_answers(compiled):
    """An empty batch is answered with an empty list, in every tier."""
    assert list(load_compiled(compiled("lr")).predict([])) == []
    assert list(load_compiled(compiled("gbc")).predict([])) == []


def test_nan_is_missing(compiled):
    """NaN, as frames have it, is answered like null, alone and among others."""
    for algorithm in ("lr", "nb", "dt", "gbc"):
        model = load_compiled(compiled(algorithm))
        nan = [float("nan"), float("nan"), float("nan"), *ROW[3:]]
        null = [None, None, None, *ROW[3:]]
        assert model.predict([nan]) == model.predict([null])
        assert model.predict([nan, nan]) == model.predict([null, null])


def test_pickles_are_refused_on_demand(compiled):
    """A router that is told so loads no pickle."""
    folder = compiled("knn")
    assert (folder / PICKLE).exists()
    with pytest.raises(ModelUnusable, match=r"tier sklearn came; allowed: plain, onnx$"):
        load_compiled(folder, unpickle=False)


def test_a_pickle_does_not_pass_under_another_tier(compiled):
    """A description that calls a pickle plain is refused: the tier is not taken at its word."""
    folder = compiled("knn")
    described = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps({**described, "tier": "plain"}))
    with pytest.raises(ModelUnusable, match="evaluator estimator of tier plain is unknown"):
        load_compiled(folder, unpickle=False)


def test_a_pipeline_has_no_compiled_form(compiled):
    """A version that stayed a pipeline is not loaded from here."""
    folder = compiled("lr")
    described = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps({**described, "tier": "pipeline"}))
    with pytest.raises(ModelUnusable, match="tier pipeline came"):
        load_compiled(folder)


def test_broken_files_are_refused(compiled, tmp_path):
    """A missing or torn file, and another format, are one kind of error."""
    folder = compiled("gbc")
    (folder / GRAPH).write_bytes((folder / GRAPH).read_bytes()[:1000])
    with pytest.raises(ModelUnusable, match="cannot be loaded"):
        load_compiled(folder)
    (folder / GRAPH).unlink()
    with pytest.raises(ModelUnusable, match="cannot be loaded"):
        load_compiled(folder)
    with pytest.raises(ModelUnusable, match="cannot be loaded"):
        load_compiled(tmp_path)
    described = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps({**described, "format": 2}))
    with pytest.raises(ModelUnusable, match="format 2 came, this release reads 1"):
        load_compiled(folder)


@given(
    st.integers(1, 4).flatmap(lambda n: st.lists(st.floats(-1e4, 1e4), min_size=n, max_size=n)),
    st.sampled_from(["sigmoid", "softmax", "share", "none"]),
)
def test_one_row_is_chosen_for_as_among_many(scores, link):
    """The scalar and the array form pick the same class with the same probability."""
    if len(scores) == 1 and link in ("softmax", "share"):
        link = "sigmoid"
    elif len(scores) > 1 and link == "sigmoid":
        link = "softmax"
    place, share = choose(scores, link)
    together = choose_many(np.array([scores]), link)
    assert together.places == [place]
    assert together.shares == [pytest.approx(share)]
