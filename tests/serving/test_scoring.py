"""MLflow's scoring protocol: every body it allows, its client, and what is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flask.testing import FlaskClient
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from pydantic import SecretStr
from werkzeug.serving import make_server

from app import create_app
from crossfade.data import load_dataset
from crossfade.errors import ModelUnusable
from crossfade.model import Label, Predictions
from crossfade.schema import Feature, FeatureSchema
from crossfade.settings import Settings
from crossfade.version import LoadedModel, Version

FRAME = load_dataset(Settings()).frame.drop(columns="target").iloc[[0, 60, 120]]
NAMES, ROWS = list(FRAME.columns), FRAME.to_numpy().tolist()
RECORDS = FRAME.to_dict(orient="records")
BODIES: dict[str, dict[str, Any]] = {
    "dataframe_split": {"dataframe_split": {"columns": NAMES, "data": ROWS}},
    "dataframe_split with an index": {"dataframe_split": {"columns": NAMES, "data": ROWS, "index": [0, 1, 2]}},
    "dataframe_split in another order": {
        "dataframe_split": {"columns": NAMES[::-1], "data": [row[::-1] for row in ROWS]},
    },
    "dataframe_records": {"dataframe_records": RECORDS},
    "instances by name": {"instances": RECORDS},
    "instances in order": {"instances": ROWS},
    "inputs by column": {"inputs": FRAME.to_dict(orient="list")},
    "inputs as rows": {"inputs": ROWS},
}


def _expected(served: Any, variant: str = "A") -> list[int]:
    found: list[int] = served.models[variant].predict(FRAME).tolist()
    return found


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
@pytest.mark.parametrize("variant", ["A", "B"])
def test_every_kind_of_body_is_answered_by_the_users_arm(served: Any, body: dict[str, Any], variant: str) -> None:
    """All rows are answered, in order, by the version that the split gives the user."""
    told = served.client.post("/invocations", json={**body, "params": {"user_id": served.user_on(variant)}}).json
    assert told["predictions"] == _expected(served, variant)
    assert (told["variant"], told["model_version"]) == (variant, {"A": "1", "B": "2"}[variant])


def test_one_value_per_feature_is_one_row(served: Any) -> None:
    """`inputs` with plain values is a single row, and still answered with a list."""
    user = {"user_id": served.user_on("A")}
    assert served.client.post("/invocations", json={"inputs": RECORDS[1], "params": user}).json["predictions"] == [1]


@pytest.mark.parametrize("index", [False, True])
def test_csv_is_answered(served: Any, index: bool) -> None:
    """A table as pandas writes it, with its index or without, is answered like JSON."""
    reply = served.client.post(
        "/invocations",
        data=FRAME.to_csv(index=index),
        content_type="text/csv; charset=utf-8",
        headers={"X-User-Id": served.user_on("A")},
    )
    assert (reply.status_code, reply.json["predictions"]) == (200, _expected(served))


@pytest.mark.parametrize("variant", ["A", "B"])
def test_the_user_may_stand_in_a_header(served: Any, variant: str) -> None:
    """A client that cannot send params names its user in X-User-Id."""
    headers = {"X-User-Id": served.user_on(variant)}
    assert served.client.post("/invocations", json={"instances": ROWS}, headers=headers).json["variant"] == variant


def test_without_a_user_the_request_id_is_hashed(served: Any) -> None:
    """The request id decides on the arm, as it does for /predict."""
    for name in (f"score-{i}" for i in range(20)):
        mine = served.client.post("/invocations", json={"instances": ROWS, "params": {"request_id": name}}).json
        other = served.client.post("/predict", json={"features": ROWS, "request_id": f"{name}"}).json
        assert (mine["variant"], mine["request_id"]) == (other["variant"], name)


def test_rows_are_logged_as_a_batch(served: Any) -> None:
    """Each row is in the log under `{request_id}.{i}`, with its user and its features by name."""
    body = {"instances": ROWS, "params": {"request_id": "scored", "user_id": 7}}
    told = served.client.post("/invocations", json=body).json
    logged = served.logged("scored")
    assert [row["request_id"] for row in logged] == ["scored.0", "scored.1", "scored.2"]
    assert [json.loads(row["features_json"]) for row in logged] == RECORDS
    assert [int(row["prediction"]) for row in logged] == told["predictions"]
    assert {(row["user_id"], row["label"]) for row in logged} == {("7", "")}


BAD: dict[str, tuple[dict[str, Any] | str, str]] = {
    "nothing": ({}, "body"),
    "two kinds": ({"instances": ROWS, "inputs": ROWS}, "body"),
    "params alone": ({"params": {}}, "body"),
    "an unknown key": ({"rows": ROWS}, "body"),
    "an unknown parameter": ({"instances": ROWS, "params": {"userid": 1}}, "params"),
    "no rows": ({"instances": []}, "instances"),
    "no columns": ({"inputs": {}}, "inputs"),
    "a value for a row": ({"instances": [1, 2, 3, 4]}, "instances[0]"),
    "text for a number": (
        {"dataframe_records": [RECORDS[0], {**RECORDS[1], NAMES[2]: "x"}]},
        f"dataframe_records[1].{NAMES[2]}",
    ),
    "a feature too few": (
        {"dataframe_split": {"columns": NAMES[:3], "data": [row[:3] for row in ROWS]}},
        f"dataframe_split.data[0].{NAMES[3]}",
    ),
    "a value too few": ({"dataframe_split": {"columns": NAMES, "data": [ROWS[0], [1.0]]}}, "dataframe_split.data[1]"),
    "a column twice": ({"dataframe_split": {"columns": NAMES[:1] * 4, "data": ROWS}}, "dataframe_split.columns"),
    "columns of different lengths": ({"inputs": {NAMES[0]: [1, 2], NAMES[1]: [1]}}, "inputs"),
    "NaN where training had none": (
        '{"instances": [[NaN, 1, 1, 1]]}',
        f"instances[0].{NAMES[0]}",
    ),
    "too many rows": ({"instances": ROWS * 2}, "instances"),
    "an empty request id": ({"instances": ROWS, "params": {"request_id": ""}}, "request_id"),
}


@pytest.mark.parametrize(("body", "field"), BAD.values(), ids=BAD.keys())
def test_a_bad_body_is_400_and_names_the_field(served: Any, body: dict[str, Any] | str, field: str) -> None:
    """What is wrong is a 400, as in MLflow's own server, and says where it is in this very body."""
    data = body if isinstance(body, str) else json.dumps(body)
    reply = served.client.post("/invocations", data=data, content_type="application/json")
    assert (reply.status_code, reply.json["error"], reply.json["field"]) == (400, "invalid_input", field)
    assert field in reply.json["detail"]


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("a,b\n1,2\n", "csv[0].a: is no feature"),
        (f"{','.join(NAMES)}\n1,2,3\n", "csv[0]: has 3 values for 4 columns"),
        (f"{','.join(NAMES)}\n1,2,x,4\n", f"csv[0].{NAMES[2]}: is the text 'x'"),
        (f"{','.join(NAMES)}\n1,2,,4\n", f"csv[0].{NAMES[2]}: is null"),
        (f"{','.join(NAMES)}\n", "csv: holds no rows"),
        ("", "csv: holds no rows"),
        ('"a\n', "is no CSV"),
        (b"\xff\n1\n", "is no CSV in UTF-8"),
    ],
)
def test_a_bad_table_is_400(served: Any, table: str | bytes, told: str) -> None:
    """A table that cannot be read, or not as the model's features, is refused with its place."""
    reply = served.client.post("/invocations", data=table, content_type="text/csv")
    assert reply.status_code == 400
    assert told in reply.json["detail"]


def test_another_content_type_is_415(served: Any) -> None:
    """Parquet and the like are refused, and the allowed types are named."""
    reply = served.client.post("/invocations", data=b"PAR1", content_type="application/x-parquet")
    assert reply.status_code == 415
    assert "application/json, text/csv" in reply.json["detail"]


def test_broken_json_is_400(served: Any) -> None:
    """A body that is no JSON is refused as everywhere."""
    reply = served.client.post("/invocations", data=b"{", content_type="application/json")
    assert (reply.status_code, reply.json["error"]) == (400, "bad_request")


@pytest.fixture(scope="module")
def mlflow_client(served: Any) -> Iterator[ScoringServerClient]:
    """MLflow's own client, on a port where the app listens."""
    server = make_server("127.0.0.1", 0, served.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield ScoringServerClient("127.0.0.1", server.server_port)
    server.shutdown()
    thread.join()
    server.server_close()


def test_mlflows_client_gets_a_frame(served: Any, mlflow_client: ScoringServerClient) -> None:
    """A data frame sent by MLflow's client is answered, and its parser reads the predictions."""
    mlflow_client.wait_server_ready(timeout=120)
    answer = mlflow_client.invoke(FRAME, params={"user_id": served.user_on("A")})
    assert answer.get_predictions()[0].tolist() == _expected(served)
    assert answer["model_version"] == "1"


def test_mlflows_client_sends_arrays(served: Any, mlflow_client: ScoringServerClient) -> None:
    """An array sent by MLflow's client is answered in signature order."""
    answer = mlflow_client.invoke(FRAME.to_numpy(), params={"user_id": served.user_on("A")})
    assert np.array_equal(answer.get_predictions("ndarray"), _expected(served))


def test_mlflows_client_shows_what_is_wrong(mlflow_client: ScoringServerClient) -> None:
    """The error that MLflow's client raises holds our sentence."""
    with pytest.raises(Exception, match=r"400.*is missing; the model takes"):
        mlflow_client.invoke(FRAME.iloc[:, :2])


SCHEMA = FeatureSchema(
    (Feature("age", nullable=True), Feature("city", "categorical", nullable=True), Feature("member", "boolean"))
)


@dataclass(frozen=True)
class Echo:
    """A model that answers with the row that it was given."""

    schema: FeatureSchema = SCHEMA
    tier: str = "plain"
    classes: tuple[Label, ...] = ("yes", "no")

    def predict(self, rows: Any) -> Predictions:
        return Predictions([json.dumps(row) for row in rows], [None] * len(rows))

    def predict_frame(self, frame: pd.DataFrame) -> Predictions:
        return self.predict(self.schema.rows_of(frame))


class OneVersion:
    """A registry with one version under prod."""

    name = "Echo"

    def at(self, alias: str) -> Version | None:
        return Version("1", "run", {}) if alias == "prod" else None

    def fetch_compiled(self, version: Version, folder: Path) -> Path:
        raise ModelUnusable("it has no compiled form")

    def load_trained(self, version: Version, folder: Path) -> LoadedModel:
        return LoadedModel(version, Echo(), "digest")


@pytest.fixture
def echo(settings: Settings) -> FlaskClient:
    """A router whose model takes all kinds of features, some of which may be missing."""
    return create_app(settings, registry=OneVersion(), follow=False).test_client()


def test_csv_cells_are_read_as_their_features_kind(echo: FlaskClient) -> None:
    """Numbers, text and true/false are what the schema says; what pandas takes for missing is missing."""
    table = "member,city,age\ntrue,007,31\nFALSE,,NaN\n1.0,nan,1e1\n"
    told = echo.post("/invocations", data=table, content_type="text/csv").json["predictions"]
    assert [json.loads(row) for row in told] == [[31.0, "007", True], [None, None, False], [10.0, None, True]]


def test_nan_in_json_is_missing(echo: FlaskClient) -> None:
    """Python's clients write NaN for a missing number: it is null where the schema allows that."""
    body = '{"dataframe_split": {"columns": ["age", "city", "member"], "data": [[NaN, null, true]]}}'
    told = echo.post("/invocations", data=body, content_type="application/json").json["predictions"]
    assert [json.loads(row) for row in told] == [[None, None, True]]


def test_infinity_is_refused(echo: FlaskClient) -> None:
    """Infinity is no number that a model takes."""
    body = '{"instances": [[Infinity, null, true]]}'
    reply = echo.post("/invocations", data=body, content_type="application/json")
    assert (reply.status_code, reply.json["field"]) == (400, "instances[0].age")


def test_ping_is_503_until_a_model_is_loaded(settings: Settings) -> None:
    """/ping says whether this worker can answer."""

    class Nothing(OneVersion):
        def at(self, alias: str) -> Version | None:
            return None

    client = create_app(settings, registry=Nothing(), follow=False).test_client()
    assert client.get("/ping").status_code == 503
    reply = client.post("/invocations", json={"instances": ROWS})
    assert (reply.status_code, reply.json["error"]) == (503, "no_model")


def test_ping_is_200_with_a_model(served: Any) -> None:
    """/ping is 200 while prod is loaded."""
    assert served.client.get("/ping").status_code == 200


def test_the_api_token_guards_it(settings: Settings) -> None:
    """Where a token is set, rows are answered for those who bring it only; /ping is open."""
    guarded = settings.model_copy(update={"router_api_token": SecretStr("secret")})
    client = create_app(guarded, registry=OneVersion(), follow=False).test_client()
    assert client.post("/invocations", json={"instances": [[1, None, True]]}).status_code == 401
    assert client.get("/ping").status_code == 200
    headers = {"Authorization": "Bearer secret"}
    assert client.post("/invocations", json={"instances": [[1, None, True]]}, headers=headers).status_code == 200
