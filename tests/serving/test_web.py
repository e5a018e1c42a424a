"""The router's other calls: health, config, feedback, reload, and tokens."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from typing import Any

import pytest
from flask.testing import FlaskClient

from app import create_app
from crossfade.logreader import read_log
from crossfade.registry import Registry
from crossfade.requestlog import CsvRequestLog
from crossfade.settings import Settings, load_settings
from crossfade.version import Version

ROW = [5.1, 3.5, 1.4, 0.2]

Register = Callable[..., Version]


@pytest.fixture
def client(settings: Settings, registry: Registry) -> FlaskClient:
    """A client of a router whose registry is empty yet."""
    return create_app(settings, registry=registry, follow=False).test_client()


@pytest.fixture
def labels(client: FlaskClient, settings: Settings, register: Register) -> Callable[[], dict[str, str]]:
    """Read the known labels, by request id, of a router with a model that answered requests r1, r2 and r3."""
    register("prod")
    client.post("/reload")
    for name in ("r1", "r2", "r3"):
        assert client.post("/predict", json={"features": ROW, "request_id": name}).status_code == 200

    def read() -> dict[str, str]:
        known = read_log(CsvRequestLog(settings.request_log, settings.labels_log)).labeled()
        return dict(zip(known["request_id"], known["label"], strict=True))

    return read


def test_health_is_ok_without_a_model(client: FlaskClient) -> None:
    """A worker without a model lives: /health is 200, serves nothing, and says why."""
    reply = client.get("/health")
    assert reply.status_code == 200
    assert (reply.json["status"], reply.json["prod"], reply.json["staging"]) == ("ok", None, None)
    assert "alias prod" in reply.json["problems"][0]


def test_health_shows_what_this_worker_serves(served: Any) -> None:
    """/health names the worker and its siblings, both versions, the experiment, the split, and no problem."""
    health = served.client.get("/health").json
    mine = {"worker": os.getpid(), "prod": "1", "staging": "2", "registry_seen_utc": health["registry_seen_utc"]}
    assert mine in health.pop("workers")
    seen = datetime.fromisoformat(health.pop("registry_seen_utc"))
    assert seen.tzinfo is not None
    assert seen <= datetime.now(UTC)
    assert health == {
        "status": "ok",
        "worker": os.getpid(),
        "prod": "1",
        "staging": "2",
        "experiment_id": "IrisClassifier-v1-v2",
        "ab_split_b": 0.5,
        "problems": [],
    }


def test_health_shows_a_split_that_is_not_followed(client: FlaskClient, settings: Settings) -> None:
    """A config file that makes no sense is among the problems."""
    settings.router_config.parent.mkdir(parents=True, exist_ok=True)
    settings.router_config.write_text("half of them")
    assert any(str(settings.router_config) in problem for problem in client.get("/health").json["problems"])


def test_ready_is_503_until_a_model_is_loaded(client: FlaskClient, register: Register) -> None:
    """/ready is 503 without a prod model and 200 with one."""
    before = client.get("/ready").status_code
    register("prod")
    client.post("/reload")
    after = client.get("/ready")
    assert (before, after.status_code, after.json) == (503, 200, {"status": "ready", "prod": "1"})


def test_version_names_each_arm(served: Any) -> None:
    """/version gives each arm's alias, model, version, run and digest."""
    arms = served.client.get("/version").json["arms"]
    assert {name: (arm["alias"], arm["model"], arm["model_version"]) for name, arm in arms.items()} == {
        "A": ("prod", "IrisClassifier", "1"),
        "B": ("staging", "IrisClassifier", "2"),
    }
    assert all(set(arm) == {"alias", "model", "model_version", "run_id", "digest", "runtime"} for arm in arms.values())
    assert all(re.fullmatch("[0-9a-f]{32}", arm["run_id"]) for arm in arms.values())
    assert all(re.fullmatch("[0-9a-f]{64}", arm["digest"]) for arm in arms.values())


def test_versions_that_differ_have_digests_that_differ(served: Any) -> None:
    """Two models that are not the same have different digests."""
    arms = served.client.get("/version").json["arms"]
    assert arms["A"]["digest"] != arms["B"]["digest"]


def test_version_names_the_router(served: Any) -> None:
    """/version gives the router's own version and the experiment."""
    answer = served.client.get("/version").json
    assert (answer["router"], answer["experiment_id"]) == (installed_version("crossfade"), "IrisClassifier-v1-v2")


def test_config_shows_the_default(client: FlaskClient) -> None:
    """GET /config is AB_SPLIT_B until somebody changes it."""
    reply = client.get("/config")
    assert (reply.status_code, reply.json) == (200, {"ab_split_b": 0.5})


@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_config_changes_the_split(client: FlaskClient, share: float) -> None:
    """POST /config puts a share in force, up to both ends, and answers with it."""
    reply = client.post("/config", json={"ab_split_b": share})
    assert (reply.status_code, reply.json) == (200, {"ab_split_b": share})
    assert client.get("/config").json == {"ab_split_b": share}


@pytest.mark.parametrize(("share", "variant"), [(0, "A"), (1, "B")])
def test_a_changed_split_is_in_force_for_the_next_request(
    client: FlaskClient, register: Register, share: int, variant: str
) -> None:
    """After POST /config the next predictions are on the arms that it asks for, and say so."""
    register("prod")
    register("staging")
    client.post("/reload")
    client.post("/config", json={"ab_split_b": share})
    answers = [client.post("/predict", json={"features": ROW, "user_id": i}).json for i in range(50)]
    assert {(answer["variant"], answer["ab_split_b"]) for answer in answers} == {(variant, share)}


def test_config_is_in_force_in_every_worker_at_once(client: FlaskClient, settings: Settings) -> None:
    """When POST /config has answered, another worker has the share already."""
    other = create_app(settings, follow=False).test_client()
    client.post("/config", json={"ab_split_b": 0.125})
    assert other.get("/config").json == {"ab_split_b": 0.125}


def test_config_survives_a_restart(client: FlaskClient, settings: Settings) -> None:
    """A router that starts later has the share that was set, not the setting's default."""
    client.post("/config", json={"ab_split_b": 0.125})
    restarted = create_app(settings, follow=False).test_client()
    assert restarted.get("/config").json == {"ab_split_b": 0.125}


def test_config_that_cannot_be_written_is_503(client: FlaskClient, settings: Settings) -> None:
    """A split that cannot be stored is refused with 503, and the split stays."""
    settings.router_config.mkdir(parents=True)
    reply = client.post("/config", json={"ab_split_b": 0.125})
    assert (reply.status_code, reply.json["error"]) == (503, "log_unavailable")
    assert client.get("/config").json == {"ab_split_b": 0.5}


def test_feedback_takes_one_label(client: FlaskClient, labels: Callable[[], dict[str, str]]) -> None:
    """One late label is stored and joined to its request."""
    reply = client.post("/feedback", json={"request_id": "r1", "label": 1})
    assert (reply.status_code, reply.json) == (200, {"accepted": 1})
    assert labels() == {"r1": "1"}


def test_feedback_takes_a_list(client: FlaskClient, labels: Callable[[], dict[str, str]]) -> None:
    """A list of late labels is stored, and each joined to its request."""
    reply = client.post("/feedback", json=[{"request_id": "r1", "label": 1}, {"request_id": "r3", "label": "2"}])
    assert (reply.status_code, reply.json) == (200, {"accepted": 2})
    assert labels() == {"r1": "1", "r3": "2"}


def test_feedback_takes_an_empty_list(client: FlaskClient, settings: Settings) -> None:
    """An empty list is accepted, and stores nothing."""
    reply = client.post("/feedback", json=[])
    assert (reply.status_code, reply.json) == (200, {"accepted": 0})
    assert not settings.labels_log.exists()


def test_feedback_sent_twice_counts_once(client: FlaskClient, labels: Callable[[], dict[str, str]]) -> None:
    """The same label sent again changes nothing."""
    for _ in range(2):
        assert client.post("/feedback", json={"request_id": "r1", "label": 1}).status_code == 200
    assert labels() == {"r1": "1"}


def test_the_last_feedback_wins(client: FlaskClient, labels: Callable[[], dict[str, str]]) -> None:
    """Of two labels for one request the one sent last is the label."""
    client.post("/feedback", json=[{"request_id": "r1", "label": 0}, {"request_id": "r1", "label": 1}])
    client.post("/feedback", json={"request_id": "r1", "label": 2})
    assert labels() == {"r1": "2"}


def test_feedback_wins_over_the_label_of_the_request(client: FlaskClient, labels: Callable[[], dict[str, str]]) -> None:
    """A late label replaces the one that came with the request."""
    client.post("/predict", json={"features": ROW, "request_id": "r4", "label": 0})
    client.post("/feedback", json={"request_id": "r4", "label": 2})
    assert labels() == {"r4": "2"}


def test_feedback_may_come_before_its_request(client: FlaskClient, labels: Callable[[], dict[str, str]]) -> None:
    """A label that arrives before its request is joined once the request is there."""
    client.post("/feedback", json={"request_id": "early", "label": 1})
    client.post("/predict", json={"features": ROW, "request_id": "early"})
    assert labels() == {"early": "1"}


def test_feedback_reaches_a_row_of_a_batch(client: FlaskClient, labels: Callable[[], dict[str, str]]) -> None:
    """A row of a batch gets its late label under `{id}.{i}`."""
    client.post("/predict", json={"features": [ROW, ROW], "request_id": "batch"})
    client.post("/feedback", json={"request_id": "batch.1", "label": 1})
    assert labels() == {"batch.1": "1"}


def test_feedback_that_cannot_be_stored_is_503(client: FlaskClient, settings: Settings) -> None:
    """A label is never accepted without being stored."""
    settings.labels_log.mkdir(parents=True)
    reply = client.post("/feedback", json={"request_id": "r1", "label": 1})
    assert (reply.status_code, reply.json["error"]) == (503, "log_unavailable")


def test_reload_follows_a_moved_alias(client: FlaskClient, registry: Registry, register: Register) -> None:
    """POST /reload answers once the version under prod serves."""
    register("prod")
    client.post("/reload")
    registry.move("prod", register().number, expected="1")
    reply = client.post("/reload")
    assert (reply.status_code, reply.json["prod"]) == (200, "2")
    assert client.post("/predict", json={"features": ROW}).json["model_version"] == "2"


def test_an_alias_is_not_followed_unasked(client: FlaskClient, registry: Registry, register: Register) -> None:
    """A request never asks the registry: a router that does not follow serves what it has until it is told."""
    register("prod")
    client.post("/reload")
    registry.move("prod", register().number, expected="1")
    assert client.post("/predict", json={"features": ROW}).json["model_version"] == "1"


def test_reload_reaches_the_other_workers(
    client: FlaskClient,
    settings: Settings,
    registry: Registry,
    register: Register,
    eventually: Callable[[Callable[[], bool]], bool],
) -> None:
    """POST /reload to one worker makes another, which would look again in an hour, look as well."""
    other = create_app(settings.model_copy(update={"router_poll_seconds": 3600}), registry=registry, follow=True)
    reloader = other.extensions["crossfade"].reloader
    at_start = reloader.last_look.at
    try:
        assert eventually(lambda: reloader.last_look.at > at_start)  # its thread has had its first look
        register("prod")
        client.post("/reload")
        assert eventually(lambda: other.test_client().get("/ready").status_code == 200)
    finally:
        reloader.stop()


def test_reload_says_what_is_wrong(client: FlaskClient, register: Register) -> None:
    """POST /reload that finds an unusable challenger is 200, keeps prod, and names the problem."""
    register("prod")
    register("staging", columns=["a", "b", "c", "d"])
    reply = client.post("/reload")
    assert (reply.status_code, reply.json["prod"], reply.json["staging"]) == (200, "1", None)
    assert "version 2 takes a (numeric), b (numeric), c (numeric), d (numeric)" in reply.json["problems"][0]


PREDICTION = {"features": ROW}
LABEL = {"request_id": "r1", "label": 1}
GUARDED = [
    ("/predict", PREDICTION, "api"),
    ("/feedback", LABEL, "api"),
    ("/config", {"ab_split_b": 0.3}, "admin"),
    ("/reload", None, "admin"),
]


class TestTokens:
    """ROUTER_API_TOKEN and ROUTER_ADMIN_TOKEN are set."""

    @pytest.fixture
    def client(
        self, settings: Settings, registry: Registry, register: Register, monkeypatch: pytest.MonkeyPatch
    ) -> FlaskClient:
        """A client of such a router, with a model."""
        monkeypatch.setenv("ROUTER_API_TOKEN", "token-of-api")
        monkeypatch.setenv("ROUTER_ADMIN_TOKEN", "token-of-admin")
        register("prod")
        return create_app(load_settings(), registry=registry, follow=False).test_client()

    @pytest.mark.parametrize(("path", "body", "whose"), GUARDED)
    def test_without_a_token_is_401(self, client: FlaskClient, path: str, body: Any, whose: str) -> None:
        """A call without the header is refused, and told which header to send."""
        reply = client.post(path, json=body)
        assert (reply.status_code, set(reply.json), reply.json["error"]) == (401, {"error", "detail"}, "unauthorized")
        assert "Authorization: Bearer" in reply.json["detail"]

    @pytest.mark.parametrize(("path", "body", "whose"), GUARDED)
    def test_the_right_token_passes(self, client: FlaskClient, path: str, body: Any, whose: str) -> None:
        """A call with its token is answered."""
        assert client.post(path, json=body, headers={"Authorization": f"Bearer token-of-{whose}"}).status_code == 200

    @pytest.mark.parametrize(
        "header", ["Bearer wrong", "token-of-admin", "Bearer token-of-api", "Bearer token-of-admin2", "Bearer ", ""]
    )
    def test_a_wrong_token_is_401(self, client: FlaskClient, header: str) -> None:
        """A call with another token, the other half's, a longer one, or none at all is refused."""
        reply = client.post("/config", json={"ab_split_b": 0.3}, headers={"Authorization": header})
        assert reply.status_code == 401

    def test_a_refused_call_does_nothing(self, client: FlaskClient, settings: Settings) -> None:
        """A split or prediction that was refused is neither in force nor logged."""
        client.post("/config", json={"ab_split_b": 0.3})
        client.post("/predict", json=PREDICTION)
        assert client.get("/config").json == {"ab_split_b": 0.5}
        assert not settings.request_log.exists()

    def test_the_token_is_asked_for_before_the_body(self, client: FlaskClient) -> None:
        """Who has no token learns nothing about the body: 401, not 400."""
        assert client.post("/predict", data=b"{", content_type="application/json").status_code == 401

    @pytest.mark.parametrize("sent", ["Bearer töken", "Bearer \x80\xff", "Bearer 日本".encode().decode("latin-1")])
    def test_a_non_ascii_token_is_401(self, client: FlaskClient, sent: str) -> None:
        """A header beyond ASCII is refused as any wrong token is."""
        reply = client.post("/predict", json=PREDICTION, environ_overrides={"HTTP_AUTHORIZATION": sent})
        assert reply.status_code == 401

    @pytest.mark.parametrize("path", ["/health", "/ready", "/version", "/config"])
    def test_looking_needs_no_token(self, client: FlaskClient, path: str) -> None:
        """Probes and what is in force are open."""
        assert client.get(path).status_code == 200


@pytest.mark.parametrize(("path", "body", "whose"), GUARDED)
def test_without_tokens_every_call_is_open(
    client: FlaskClient, register: Register, path: str, body: Any, whose: str
) -> None:
    """While no token is set nobody is asked for one, whatever header comes."""
    register("prod")
    client.post("/reload")
    assert client.post(path, json=body, headers={"Authorization": "Bearer any"}).status_code == 200
