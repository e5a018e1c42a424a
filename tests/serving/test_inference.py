"""The Open Inference Protocol, version 2: what is served, tensors in and out, versions, errors."""

from __future__ import annotations

from typing import Any

import pytest
from werkzeug.test import TestResponse

from app import create_app
from crossfade.data import load_dataset
from crossfade.registry import Registry
from crossfade.settings import Settings

FRAME = load_dataset(Settings()).frame.drop(columns="target").iloc[[0, 60, 120]]
NAMES, ROWS = list(FRAME.columns), FRAME.to_numpy().tolist()
FLAT = [value for row in ROWS for value in row]
MODEL = "/v2/models/IrisClassifier"


def _tensor(data: list[Any], *shape: int, name: str = "rows", datatype: str = "FP64") -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "datatype": datatype, "data": data}


BY_FEATURE = [_tensor(FRAME[name].tolist(), 3, name=name) for name in NAMES]
INPUTS: dict[str, list[dict[str, Any]]] = {
    "a tensor per feature": BY_FEATURE,
    "in another order": BY_FEATURE[::-1],
    "of shape [n, 1]": [_tensor([[value] for value in FRAME[name]], 3, 1, name=name) for name in NAMES],
    "one flat tensor": [_tensor(FLAT, 3, 4)],
    "one nested tensor": [_tensor(ROWS, 3, 4, datatype="FP32")],
}


def _infer(served: Any, inputs: Any, path: str = MODEL, **beside: Any) -> TestResponse:
    reply: TestResponse = served.client.post(f"{path}/infer", json={"inputs": inputs, **beside})
    return reply


def test_the_server_says_what_it_is(served: Any) -> None:
    """GET /v2 names the server and its version."""
    told = served.client.get("/v2").json
    assert (told["name"], told["extensions"]) == ("crossfade", [])


def test_live_and_ready(served: Any) -> None:
    """A worker with a model lives and is ready, and so is each version that serves an arm."""
    paths = (
        "/v2/health/live",
        "/v2/health/ready",
        *(f"{MODEL}{end}/ready" for end in ("", "/versions/1", "/versions/2")),
    )
    assert [served.client.get(path).status_code for path in paths] == [200] * 5


def test_without_a_model_it_lives_and_is_not_ready(settings: Settings, registry: Registry) -> None:
    """Ready is 503 while there is no model, with an error as this protocol has it."""
    client = create_app(settings, registry=registry, follow=False).test_client()
    assert client.get("/v2/health/live").status_code == 200
    reply = client.get("/v2/health/ready")
    assert (reply.status_code, list(reply.json)) == (503, ["error"])


def test_metadata_names_features_and_outputs(served: Any) -> None:
    """The model's metadata lists what it takes and gives, and the versions that serve."""
    told = served.client.get(MODEL).json
    assert told["versions"] == ["1", "2"]
    assert [(t["name"], t["datatype"], t["shape"]) for t in told["inputs"]] == [(n, "FP64", [-1]) for n in NAMES]
    assert [(t["name"], t["datatype"]) for t in told["outputs"]] == [("prediction", "INT64"), ("probability", "FP64")]


@pytest.mark.parametrize("inputs", INPUTS.values(), ids=INPUTS.keys())
@pytest.mark.parametrize("variant", ["A", "B"])
def test_rows_are_answered_by_the_users_arm(served: Any, inputs: list[dict[str, Any]], variant: str) -> None:
    """Whatever way the rows are laid out, the version that the split gives the user answers them."""
    told = _infer(served, inputs, parameters={"user_id": served.user_on(variant)}).json
    prediction, probability = told["outputs"]
    assert prediction == {
        "name": "prediction",
        "shape": [3],
        "datatype": "INT64",
        "data": served.models[variant].predict(FRAME).tolist(),
    }
    assert probability["data"] == pytest.approx(served.models[variant].predict_proba(FRAME).max(axis=1))
    assert (told["model_name"], told["model_version"]) == ("IrisClassifier", {"A": "1", "B": "2"}[variant])
    assert told["parameters"]["variant"] == variant


def test_an_id_is_echoed_and_logged(served: Any) -> None:
    """The id of a request is its request id: it comes back, and the log has a row per row."""
    assert _infer(served, INPUTS["one flat tensor"], id="tensors").json["id"] == "tensors"
    assert [row["request_id"] for row in served.logged("tensors")] == ["tensors.0", "tensors.1", "tensors.2"]


def test_wanted_outputs_are_all_that_comes(served: Any) -> None:
    """`outputs` chooses among prediction and probability."""
    told = _infer(served, BY_FEATURE, outputs=[{"name": "probability"}]).json
    assert [output["name"] for output in told["outputs"]] == ["probability"]


@pytest.mark.parametrize(("variant", "version"), [("A", "1"), ("B", "2")])
def test_a_version_answers_the_users_that_the_split_gives_it(served: Any, variant: str, version: str) -> None:
    """A named version answers users of its own arm, and refuses those of the other without logging anything."""
    path = f"{MODEL}/versions/{version}"
    mine = _infer(served, BY_FEATURE, path, parameters={"user_id": served.user_on(variant)})
    assert (mine.status_code, mine.json["model_version"]) == (200, version)
    other = served.user_on({"A": "B", "B": "A"}[variant])
    reply = _infer(served, BY_FEATURE, path, id=f"pinned-{version}", parameters={"user_id": other})
    assert reply.status_code == 409
    assert "leave the version out" in reply.json["error"]
    assert served.logged(f"pinned-{version}") == []


@pytest.mark.parametrize("end", ["", "/ready", "/infer"])
def test_a_version_without_an_arm_is_404_and_says_which_serve(served: Any, end: str) -> None:
    """A version that serves nobody cannot be asked; the answer names those that can."""
    path = f"{MODEL}/versions/7{end}"
    reply = served.client.post(path, json={"inputs": BY_FEATURE}) if end == "/infer" else served.client.get(path)
    assert reply.status_code == 404
    assert "1 (arm A) and 2 (arm B)" in reply.json["error"]


def test_another_model_is_404(served: Any) -> None:
    """A model that is not served is refused by name."""
    reply = _infer(served, BY_FEATURE, "/v2/models/Other")
    assert reply.status_code == 404
    assert "'IrisClassifier' is" in reply.json["error"]


BAD: dict[str, tuple[Any, str]] = {
    "no tensors": ([], "inputs"),
    "no list": ({}, "inputs"),
    "a feature too few": (BY_FEATURE[:3], NAMES[3]),
    "an unknown feature": ([*BY_FEATURE, _tensor([1, 2, 3], 3, name="colour")], "colour"),
    "a feature twice": ([*BY_FEATURE, BY_FEATURE[0]], "twice"),
    "different lengths": ([*BY_FEATURE[:3], _tensor([1, 2], 2, name=NAMES[3])], "all of shape"),
    "a shape that does not fit": ([_tensor(FLAT, 2, 4)], "12 values and the shape [2, 4]"),
    "a shape of no dimensions": ([_tensor([], name="rows")], "shape []"),
    "a negative shape": ([_tensor(FLAT, -3, -4)], "do not fit"),
    "three dimensions": ([_tensor(FLAT, 3, 2, 2)], "do not fit"),
    "an unknown datatype": ([_tensor(FLAT, 3, 4, datatype="FP16")], "FP16"),
    "text for a number": ([_tensor(["x"] * 12, 3, 4, datatype="BYTES")], "'x'"),
    "too wide": ([_tensor(FLAT, 2, 6)], "has 6 values; the model takes 4"),
}


@pytest.mark.parametrize(("inputs", "told"), BAD.values(), ids=BAD.keys())
def test_bad_tensors_are_400(served: Any, inputs: Any, told: str) -> None:
    """Tensors that make no rows of the model's are refused with one sentence."""
    reply = _infer(served, inputs)
    assert (reply.status_code, list(reply.json)) == (400, ["error"])
    assert told in reply.json["error"]


def test_an_unknown_output_is_400(served: Any) -> None:
    """An output that there is not is refused, and the allowed ones are named."""
    reply = _infer(served, BY_FEATURE, outputs=[{"name": "shap"}])
    assert reply.status_code == 400
    assert "allowed: prediction, probability" in reply.json["error"]


def test_errors_have_the_protocols_shape(served: Any) -> None:
    """Errors that Flask raises look the same."""
    reply = served.client.post(f"{MODEL}/infer", data=b"", content_type="application/octet-stream")
    assert (reply.status_code, list(reply.json)) == (415, ["error"])
