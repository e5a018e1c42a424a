"""`POST /predict`: what comes back, and what the log keeps of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin

from app import create_app
from crossfade.data import load_dataset
from crossfade.logreader import read_log
from crossfade.registry import Registry
from crossfade.requestlog import COLUMNS, CsvRequestLog
from crossfade.serving.split import assign
from crossfade.settings import Settings

IRIS = load_dataset(Settings()).frame.drop(columns="target")
FEATURES = IRIS.iloc[100].to_dict()
"""A virginica: prod answers 2, the stump on staging 1."""
RARE_ID = (f"call-{i}" for i in count())


def _ask(served: Any, **body: Any) -> dict[str, Any]:
    reply = served.client.post("/predict", json={"features": FEATURES, **body})
    assert reply.status_code == 200, reply.text
    return reply.json


def _only_row(served: Any, request_id: str) -> dict[str, str]:
    (row,) = served.logged(request_id)
    return row


def _refuses_the_tall(secret: str = "weights of the model") -> BaseEstimator:
    class RefusesTheTall(ClassifierMixin, BaseEstimator):
        """Answers 0, but raises where the first feature is above 100; gives no probabilities."""

        def fit(self, X: pd.DataFrame, y: pd.Series) -> RefusesTheTall:  # noqa: N803 - scikit-learn's names
            self.classes_ = np.unique(y)
            return self

        def predict(self, X: pd.DataFrame) -> np.ndarray:  # noqa: N803
            if (X.iloc[:, 0] > 100).any():
                raise ArithmeticError(secret)
            return np.zeros(len(X), dtype=int)

    return RefusesTheTall()


@pytest.mark.parametrize("variant", ["A", "B"])
def test_an_object_is_answered_by_the_users_arm(served: Any, variant: str) -> None:
    """One row by name is answered with the prediction and probability of the model on the user's arm."""
    answer = _ask(served, user_id=served.user_on(variant))
    shares = served.models[variant].predict_proba(IRIS.iloc[[100]])[0]
    assert answer["prediction"] == {"A": 2, "B": 1}[variant]
    assert answer["probability"] == pytest.approx(shares[answer["prediction"]])


def test_the_order_within_an_object_does_not_matter(served: Any) -> None:
    """The same features in another order give the same answer."""
    user = served.user_on("A")
    backwards = dict(reversed(FEATURES.items()))
    assert _ask(served, user_id=user, features=backwards)["probability"] == _ask(served, user_id=user)["probability"]


def test_a_list_is_taken_in_signature_order(served: Any) -> None:
    """One row as a list gives the answer of the same row by name."""
    user = served.user_on("A")
    as_list = _ask(served, user_id=user, features=list(FEATURES.values()))
    assert as_list["probability"] == _ask(served, user_id=user)["probability"]


@pytest.mark.parametrize("orient", ["list", "object", "mixed"])
def test_a_batch_is_answered_row_by_row(served: Any, orient: str) -> None:
    """A batch of lists, of objects, or of both has one prediction and one probability per row, in order."""
    asked = IRIS.iloc[[0, 60, 100, 149]]
    lists, objects = asked.to_numpy().tolist(), asked.to_dict("records")
    rows = {"list": lists, "object": objects, "mixed": lists[:2] + objects[2:]}[orient]
    answer = _ask(served, user_id=served.user_on("A"), features=rows)
    assert answer["predictions"] == served.models["A"].predict(asked).tolist()
    assert answer["probabilities"] == pytest.approx(served.models["A"].predict_proba(asked).max(axis=1))


def test_a_batch_of_one_is_a_batch(served: Any) -> None:
    """A list of one row is answered with lists of one."""
    answer = _ask(served, features=[FEATURES])
    assert (len(answer["predictions"]), len(answer["probabilities"])) == (1, 1)


def test_a_batch_is_on_one_arm(served: Any) -> None:
    """All rows of a batch are logged on the arm of its user."""
    _ask(served, user_id=served.user_on("B"), features=[FEATURES] * 5, request_id="one-arm")
    assert [row["variant"] for row in served.logged("one-arm")] == ["B"] * 5


def test_an_answer_has_the_documented_keys(served: Any) -> None:
    """The answer to one row has exactly the documented keys."""
    assert set(_ask(served)) == {
        "request_id",
        "variant",
        "alias",
        "model",
        "model_version",
        "experiment_id",
        "prediction",
        "probability",
        "latency_ms",
        "ab_split_b",
    }


def test_a_batch_answer_has_the_documented_keys(served: Any) -> None:
    """The answer to a batch has `predictions` and `probabilities` in place of one row's two keys, else the same."""
    one, batch = set(_ask(served)), set(_ask(served, features=[FEATURES, FEATURES]))
    assert (batch - one, one - batch) == ({"predictions", "probabilities"}, {"prediction", "probability"})


@pytest.mark.parametrize(("variant", "alias", "version"), [("A", "prod", "1"), ("B", "staging", "2")])
def test_an_answer_says_who_answered(served: Any, variant: str, alias: str, version: str) -> None:
    """Variant, alias, model, version, experiment and split of an answer are those of its arm."""
    answer = _ask(served, user_id=served.user_on(variant))
    said = [answer[key] for key in ("variant", "alias", "model", "model_version", "experiment_id", "ab_split_b")]
    assert said == [variant, alias, "IrisClassifier", version, "IrisClassifier-v1-v2", 0.5]


def test_a_given_request_id_comes_back(served: Any) -> None:
    """The caller's request id is the answer's and the log's."""
    assert _ask(served, request_id="order 66/ü")["request_id"] == "order 66/ü"
    assert len(served.logged("order 66/ü")) == 1


def test_request_ids_are_made_up_where_none_is_given(served: Any) -> None:
    """Without a request id each answer has one of its own, under which it is logged."""
    ids = {_ask(served)["request_id"] for _ in range(20)}
    assert len(ids) == 20
    assert all(len(served.logged(one)) == 1 for one in ids)


def test_rows_of_a_batch_are_numbered(served: Any) -> None:
    """A batch is logged as one row per item, `{id}.{i}`, in order."""
    _ask(served, features=[FEATURES] * 3, request_id="numbered")
    assert [row["request_id"] for row in served.logged("numbered")] == ["numbered.0", "numbered.1", "numbered.2"]


def test_the_log_has_the_documented_columns(served: Any) -> None:
    """The log's one header is the documented list of columns."""
    _ask(served)
    _ask(served)
    lines = served.settings.request_log.read_text().splitlines()
    header = (
        "ts_utc,request_id,user_id,experiment_id,variant,alias,model,model_version,ab_split_b,"
        "features_json,label,prediction,probability,latency_ms,status"
    )
    assert lines[0] == header == ",".join(COLUMNS)
    assert lines.count(header) == 1


def test_a_row_is_logged_as_it_was_answered(served: Any) -> None:
    """Each column of a logged row says what the answer said and what was asked."""
    user = served.user_on("B")
    answer = _ask(served, user_id=user, request_id="every column", label="2")
    row = _only_row(served, "every column")
    when = datetime.fromisoformat(row.pop("ts_utc"))
    assert when.utcoffset() == timedelta(0)
    assert datetime.now(UTC) - timedelta(minutes=5) < when <= datetime.now(UTC)
    assert json.loads(row.pop("features_json")) == FEATURES
    assert float(row.pop("probability")) == answer["probability"]
    assert float(row.pop("latency_ms")) == answer["latency_ms"] > 0
    assert row == {
        "request_id": "every column",
        "user_id": user,
        "experiment_id": "IrisClassifier-v1-v2",
        "variant": "B",
        "alias": "staging",
        "model": "IrisClassifier",
        "model_version": "2",
        "ab_split_b": "0.5",
        "label": "2",
        "prediction": "1",
        "status": "200",
    }


def test_a_list_is_logged_by_name(served: Any) -> None:
    """A row that came as a list is logged with its features' names, in signature order."""
    _ask(served, features=list(FEATURES.values()), request_id="by name")
    logged = json.loads(_only_row(served, "by name")["features_json"])
    assert list(logged.items()) == list(FEATURES.items())


@pytest.mark.parametrize(("label", "logged"), [(2, "2"), (2.0, "2"), ("2", "2"), (0, "0"), ('a "b", c', 'a "b", c')])
def test_a_label_is_logged_as_text(served: Any, label: object, logged: str) -> None:
    """A label that comes along is logged: 2, 2.0 and "2" are the same class."""
    request_id = next(RARE_ID)
    _ask(served, label=label, request_id=request_id)
    assert _only_row(served, request_id)["label"] == logged


def test_without_a_label_the_column_is_empty(served: Any) -> None:
    """A row whose class is not known is logged without one."""
    _ask(served, request_id="no label", label=None)
    assert _only_row(served, "no label")["label"] == ""


def test_labels_of_a_batch_go_to_their_rows(served: Any) -> None:
    """Each row of a batch is logged with its label, and with none where that is null."""
    _ask(served, features=[FEATURES] * 4, label=[0, None, "2", None], request_id="some labels")
    assert [row["label"] for row in served.logged("some labels")] == ["0", "", "2", ""]


@pytest.mark.parametrize("user_id", [7, "7", 0, -3, "josé", "日本", "🦊", 10**30])
def test_the_arm_is_what_the_split_says(served: Any, user_id: int | str) -> None:
    """A user is on the arm that the published hash gives for the id as text."""
    assert _ask(served, user_id=user_id)["variant"] == assign("IrisClassifier-v1-v2", str(user_id), 0.5)


def test_a_number_and_its_text_are_the_same_user(served: Any) -> None:
    """Users 0 to 29 are on the same arm, and the same in the log, as number and as text; both arms occur."""
    seen = set()
    for number in range(30):
        ids = [next(RARE_ID), next(RARE_ID)]
        arms = {
            _ask(served, user_id=user, request_id=i)["variant"]
            for user, i in zip((number, str(number)), ids, strict=True)
        }
        assert len(arms) == 1
        assert {_only_row(served, i)["user_id"] for i in ids} == {str(number)}
        seen |= arms
    assert seen == {"A", "B"}


def test_without_a_user_the_request_id_is_hashed(served: Any) -> None:
    """Requests without a user are split by their ids, over both arms."""
    ids = [f"anonymous-{i}" for i in range(40)]
    arms = [_ask(served, request_id=one)["variant"] for one in ids]
    assert arms == [assign("IrisClassifier-v1-v2", one, 0.5) for one in ids]
    assert set(arms) == {"A", "B"}


def test_without_a_user_none_is_logged(served: Any) -> None:
    """The log does not invent a user: the column stays empty."""
    _ask(served, request_id="nobody")
    assert _only_row(served, "nobody")["user_id"] == ""


def test_two_workers_split_200_users_alike(served: Any) -> None:
    """A second app on the same registry and files puts each of 200 users on the same arm."""
    other = create_app(served.settings, follow=False).test_client()
    users = [f"u{i}" for i in range(200)]
    here = [_ask(served, user_id=user)["variant"] for user in users]
    there = [other.post("/predict", json={"features": FEATURES, "user_id": user}).json["variant"] for user in users]
    assert here == there
    assert set(here) == {"A", "B"}


def test_sixteen_threads_get_the_answers_of_one(served: Any) -> None:
    """Requests made by 16 threads at once are answered as those made one by one, and each is logged once, whole."""

    def bodies(name: str) -> list[dict[str, Any]]:
        rows = IRIS.to_dict("records")
        return [{"features": row, "user_id": i, "request_id": f"{name}-{i}"} for i, row in enumerate(rows)]

    def ask(body: dict[str, Any]) -> tuple[Any, ...]:
        answer = _ask(served, **body)
        return answer["request_id"].partition("-")[2], answer["variant"], answer["prediction"], answer["probability"]

    alone = [ask(body) for body in bodies("alone")]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, bodies("together")))
    assert together == alone
    contents = read_log(CsvRequestLog(served.settings.request_log, served.settings.labels_log))
    ids = contents.rows["request_id"]
    assert contents.set_aside == 0
    assert sorted(ids[ids.str.startswith("together-")]) == sorted(f"together-{i}" for i in range(len(IRIS)))


def test_only_prod_answers_everybody(settings: Settings, registry: Registry, register: Callable[..., Any]) -> None:
    """Without staging every user is on A, and the answer's experiment is null."""
    register("prod")
    client = create_app(settings, registry=registry, follow=False).test_client()
    answers = [client.post("/predict", json={"features": FEATURES, "user_id": i}).json for i in range(50)]
    assert {(answer["variant"], answer["experiment_id"]) for answer in answers} == {("A", None)}


def test_without_an_experiment_none_is_logged(
    settings: Settings, registry: Registry, register: Callable[..., Any]
) -> None:
    """Rows answered while no experiment runs carry no experiment id."""
    register("prod")
    create_app(settings, registry=registry, follow=False).test_client().post("/predict", json={"features": FEATURES})
    assert read_log(CsvRequestLog(settings.request_log, settings.labels_log)).rows["experiment_id"].tolist() == [""]


class TestAModelThatRaises:
    """Prod refuses rows above 100, and gives no probabilities."""

    TALL = (101.0, 0.0, 0.0, 0.0)

    @pytest.fixture
    def client(self, settings: Settings, registry: Registry, register: Callable[..., Any]) -> Any:
        """A router whose prod is that model."""
        register("prod", model=_refuses_the_tall())
        return create_app(settings, registry=registry, follow=False).test_client()

    def test_answers_500_as_json(self, client: Any) -> None:
        """The caller gets 500 and a sentence that names the request, nothing of the model's insides."""
        reply = client.post("/predict", json={"features": self.TALL, "request_id": "tall"})
        assert (reply.status_code, set(reply.json), reply.json["error"]) == (
            500,
            {"error", "detail"},
            "prediction_failed",
        )
        assert "tall" in reply.json["detail"]
        assert "weights of the model" not in reply.text
        assert "Traceback" not in reply.text

    def test_is_logged_with_status_500(self, client: Any, settings: Settings) -> None:
        """The failed request is in the log with status 500, its features, and no prediction."""
        client.post("/predict", json={"features": self.TALL, "request_id": "tall"})
        rows = read_log(CsvRequestLog(settings.request_log, settings.labels_log)).rows
        assert rows[["request_id", "status"]].to_numpy().tolist() == [["tall", 500]]
        assert json.loads(rows["features_json"][0]) == dict(zip(FEATURES, self.TALL, strict=True))
        assert rows[["prediction", "probability"]].isna().all(axis=None)

    def test_fails_a_batch_as_a_whole(self, client: Any, settings: Settings) -> None:
        """A batch with one row that the model refuses is answered with 500, and each of its rows logged with 500."""
        reply = client.post("/predict", json={"features": [[1, 1, 1, 1], self.TALL], "request_id": "b"})
        rows = read_log(CsvRequestLog(settings.request_log, settings.labels_log)).rows
        assert reply.status_code == 500
        assert rows[["request_id", "status"]].to_numpy().tolist() == [["b.0", 500], ["b.1", 500]]

    def test_answers_the_next_request(self, client: Any) -> None:
        """After a failure the same model answers what it can."""
        client.post("/predict", json={"features": self.TALL})
        assert client.post("/predict", json={"features": [1, 1, 1, 1]}).status_code == 200

    def test_without_probabilities_answers_null(self, client: Any) -> None:
        """A model that gives no probabilities is answered with null in their place, never with a made-up number."""
        assert client.post("/predict", json={"features": [1, 1, 1, 1]}).json["probability"] is None


def _full(log: Path) -> None:
    log.symlink_to("/dev/full")


def _folder(log: Path) -> None:
    log.mkdir()


@pytest.mark.parametrize("spoil", [_full, _folder], ids=["disk full", "no file"])
def test_no_answer_leaves_unlogged(
    settings: Settings, registry: Registry, register: Callable[..., Any], spoil: Callable[[Path], None]
) -> None:
    """While the log cannot be written the reply is 503 without a prediction, and says what to fix."""
    register("prod")
    client = create_app(settings, registry=registry, follow=False).test_client()
    settings.request_log.parent.mkdir(parents=True, exist_ok=True)
    spoil(settings.request_log)
    reply = client.post("/predict", json={"features": FEATURES})
    assert (reply.status_code, set(reply.json), reply.json["error"]) == (503, {"error", "detail"}, "log_unavailable")
    assert str(settings.request_log) in reply.json["detail"]


def test_answers_go_on_when_the_log_is_back(
    settings: Settings, registry: Registry, register: Callable[..., Any]
) -> None:
    """Once the log can be written again requests are answered, without a restart."""
    register("prod")
    client = create_app(settings, registry=registry, follow=False).test_client()
    settings.request_log.mkdir(parents=True)
    assert client.post("/predict", json={"features": FEATURES}).status_code == 503
    settings.request_log.rmdir()
    assert client.post("/predict", json={"features": FEATURES}).status_code == 200
