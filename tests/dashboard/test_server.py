"""The server, asked as a page asks it, without a browser."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from crossfade.dashboard.app import create_app
from crossfade.dashboard.controls import Controls
from crossfade.errors import NoModel
from crossfade.loop.installation import Installation
from crossfade.requestlog import CsvRequestLog
from crossfade.settings import Settings
from crossfade.stack.airflow import Airflow

TOKEN = "a-secret-of-the-admins"

Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def make(settings: Settings) -> Callable[..., Flask]:
    """Make a dashboard that looks at everything once; MLflow is empty, nobody is at the router and at Airflow."""
    dead = {"airflow_url": "http://127.0.0.1:9"}
    return lambda **more: create_app(settings.model_copy(update={**dead, **more}), follow=False)


@pytest.fixture
def client(make) -> FlaskClient:
    """A browser without a browser."""
    return make().test_client()


@pytest.fixture
def answer(settings: Settings, answer) -> Callable[..., None]:
    """The log is where the settings say."""
    return answer


@pytest.fixture
def log(settings: Settings) -> CsvRequestLog:
    """The installation's log."""
    return CsvRequestLog(settings.request_log, settings.labels_log)


def _call(client: FlaskClient, wanted: str, changed: str, headers: dict[str, str], **values: Any) -> Any:
    """Call the callback whose outputs begin with some text, as Dash's renderer does."""
    found = next(
        one
        for one in client.get("/_dash-dependencies", headers=headers).json
        if one["output"].startswith(wanted) and any(i["id"] == changed.split(".")[0] for i in one["inputs"])
    )
    outputs = [part.split(".") for part in found["output"].strip(".").split("...")]
    shape = [{"id": i, "property": p} for i, p in outputs]
    body = {
        "output": found["output"],
        "outputs": shape if found["output"].startswith("..") else shape[0],
        "inputs": [{**i, "value": values.get(i["id"])} for i in found["inputs"]],
        "state": [{**s, "value": values.get(s["id"])} for s in found["state"]],
        "changedPropIds": [changed],
    }
    return client.post("/_dash-update-component", json=body, headers=headers)


def _refresh(client: FlaskClient, **values: Any) -> dict[str, Any]:
    given = {"theme": "light", "span": "auto", "keys": {}, **values}
    answered = _call(client, "..services", "tick.n_intervals", {}, **given)
    assert answered.status_code == 200, answered.text
    return dict(answered.json["response"])


def _act(client: FlaskClient, control: str, headers: dict[str, str] | None = None, **values: Any) -> str:
    answered = _call(client, "result.children", f"{control}.submit_n_clicks", headers or {}, **{control: 1, **values})
    return json.dumps(answered.json)


def test_the_page_needs_nothing_from_elsewhere(client):
    """Every script and style comes from this server, and the page says its language."""
    page = client.get("/")
    assert page.status_code == 200
    assert '<html lang="en">' in page.text
    assert "//cdn" not in page.text
    assert "https://" not in page.text
    assert page.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert client.get("/health").json == {"status": "ok"}


def test_an_empty_installation_says_what_to_do_next(client, settings):
    """No model, no traffic, no check, no experiment, no decision: each with a way on."""
    panels = _refresh(client)
    told = {name: json.dumps(panel) for name, panel in panels.items()}
    assert "crossfade simulate" in told["traffic"]
    assert str(settings.request_log) in told["traffic"]
    assert "crossfade drift" in told["drift"]
    assert "send labelled traffic" in told["experiment"]
    assert "Trigger the DAG below" in told["history"]
    assert "No model yet" in told["cards"]


def test_what_does_not_answer_is_told_with_what_to_do(client):
    """The page stands without router and Airflow."""
    services = json.dumps(_refresh(client)["services"])
    assert "the router does not answer at http://127.0.0.1:9/health: start it with `crossfade up`" in services
    assert "Airflow does not answer" in services


def test_a_page_gets_only_what_has_changed(client):
    """With the keys of the last answer, the next one brings the state of the services and nothing else."""
    keys = _refresh(client)["keys"]["data"]
    again = _refresh(client, keys=keys)
    assert set(again) - {"keys", "traffic"} == {"services"}  # traffic: when the minute has just ended
    assert {"traffic", "history"} <= set(_refresh(client, keys=keys, theme="dark"))


def test_traffic_is_drawn_from_the_log(make, answer):
    """Numbers of the table are the log's."""
    answer("a", "b", truth="0")
    answer("c", variant="B", status=500)
    panel = json.dumps(_refresh(make().test_client(), span="30d")["traffic"])
    assert "traffic-rate" in panel
    assert "3 answers are kept here" in panel


def test_a_torn_line_is_told(make, answer, log):
    """And the rest stands."""
    answer("a")
    with log.paths[0].open("ab") as file:
        file.write(b"2026-11-21T12:00:01,half a r")
    assert "1 lines of the log are torn" in json.dumps(_refresh(make().test_client())["traffic"])


def test_a_log_with_other_columns_is_a_stale_panel_and_no_error_page(make, log):
    """With the reason."""
    log.paths[0].parent.mkdir(parents=True)
    log.paths[0].write_text("something,else\n1,2\n")
    panel = json.dumps(_refresh(make().test_client())["traffic"])
    assert "stale since" in panel
    assert "does not start with the columns" in panel


# Who may look, who may act


def test_without_tokens_anybody_here_may_act(client):
    """As at the router: what stops the act is that nobody is there."""
    assert "Not done: GET http://127.0.0.1:9/config failed" in _act(client, "split-ask", share="20")
    assert "Not done: alias prod is not set" in _act(client, "rollback-ask")


def test_without_a_token_nobody_acts_from_elsewhere(client):
    """A page of another site, or a name of ours that somebody else has made, may not."""
    evil = {"Origin": "http://evil.example"}
    assert "a page of another site" in _act(client, "split-ask", evil, share="20")
    rebound = {"Host": "evil.example", "Origin": "http://evil.example"}
    assert "came by the name evil.example" in _act(client, "rollback-ask", rebound)


def test_with_a_token_the_page_asks_for_it_and_never_tells_it(make, settings):
    """A wrong one and none are refused; a right one opens; it stands in no answer."""
    client = make(router_admin_token=type(settings.airflow_password)(TOKEN)).test_client()
    assert "ROUTER_ADMIN_TOKEN is needed" in _act(client, "split-ask", share="20")
    assert "this is not it" in _act(client, "dag-ask", token="guess")
    opened = _act(client, "split-ask", {"Host": "ab.example", "Origin": "http://ab.example"}, share="20", token=TOKEN)
    assert "GET http://127.0.0.1:9/config failed" in opened
    for path in ("/", "/_dash-layout", "/_dash-dependencies"):
        assert TOKEN not in client.get(path).text
    assert TOKEN not in json.dumps(_refresh(client))
    assert TOKEN not in opened


def test_an_api_token_closes_the_page(make, settings):
    """It shows what /monitor shows; only the health check stays open."""
    secret = type(settings.airflow_password)
    client = make(router_api_token=secret("reader"), router_admin_token=secret(TOKEN)).test_client()
    for path in ("/", "/_dash-layout", "/_dash-dependencies", "/assets/page.css"):
        refused = client.get(path)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"].startswith("Basic")
    assert client.get("/health").status_code == 200
    for password, status in (("reader", 200), (TOKEN, 200), ("guess", 401), ("", 401)):
        given = base64.b64encode(f"me:{password}".encode()).decode()
        assert client.get("/", headers={"Authorization": f"Basic {given}"}).status_code == status
    assert client.get("/", headers={"Authorization": "Bearer reader"}).status_code == 200


# Acts


class SplitOnly:
    """A router that knows its split."""

    def __init__(self) -> None:
        self.share, self.told = 0.5, 0

    def split_b(self) -> float:
        return self.share

    def change_split_b(self, share: float) -> None:
        self.share = share

    def reload(self) -> None:
        self.told += 1


@pytest.fixture
def router() -> SplitOnly:
    """A router."""
    return SplitOnly()


@pytest.fixture
def controls(settings, registry, router) -> Controls:
    """On a real registry, log and audit."""
    here = Installation(
        settings, registry, CsvRequestLog(settings.request_log, settings.labels_log), None, router=router
    )
    return Controls(here, Airflow(settings))


def test_changing_the_split_is_told_to_the_audit(controls, router):
    """Whoever reads the history sees when it was, and by what."""
    assert controls.change_split(20) == "B has 20 % of the users now; it had 50 %."
    assert router.share == 0.2
    event = controls.here.audit.read().events[-1]
    assert (event["event"], event["from"], event["to"], event["reason"]) == (
        "split", 0.5, 0.2, "asked for on the dashboard",
    )  # fmt: skip


def test_rolling_back_puts_previous_into_production_and_tells_the_router(controls, router, register):
    """As `crossfade rollback` does."""
    register("previous")
    register("prod")
    assert controls.roll_back() == "Version 1 is in production again; version 2 gets no traffic any more."
    assert controls.here.registry.at("prod").number == "1"
    assert router.told == 1
    with pytest.raises(NoModel, match="nothing to go back to"):
        controls.roll_back()


def test_the_dashboard_never_imports_serving():
    """It talks to the router over HTTP, like everyone else."""
    source = Path(__file__).resolve().parents[2] / "src" / "crossfade" / "dashboard"
    modules = list(source.rglob("*.py"))
    assert len(modules) > 15
    assert not [path.name for path in modules if "crossfade.serving" in path.read_text()]
