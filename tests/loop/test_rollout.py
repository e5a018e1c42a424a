"""A challenger's way into production and back out, on a real router under gunicorn and a real registry."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crossfade.errors import ServiceError
from crossfade.loop import steps
from crossfade.loop.installation import Installation
from crossfade.loop.moves import number_at
from crossfade.loop.reports import ReportPaths
from crossfade.loop.router import HttpRouter
from crossfade.loop.watch import watch
from crossfade.requestlog import LogRow, utc_now
from crossfade.settings import Settings, load_settings
from crossfade.version import STATUS, Version

Register = Callable[..., Version]

SENT = {"sepal length (cm)": 5.1, "sepal width (cm)": 3.5, "petal length (cm)": 1.4, "petal width (cm)": 0.2}


def _rows(version: str, count: int, right: int, split: float, experiment: str = "", **changes: Any) -> list[LogRow]:
    """Make labelled answers of a version, the first `right` of them right, each to a user of its own."""
    variant = "B" if version == "2" and experiment else "A"
    values: dict[str, Any] = {
        "experiment_id": experiment,
        "variant": variant,
        "alias": "staging" if variant == "B" else "prod",
        "model": "IrisClassifier",
        "model_version": version,
        "ab_split_b": split,
        "features_json": json.dumps(SENT),
        "label": "0",
        "probability": None,
        "latency_ms": 2.0,
        "status": 200,
    }
    names = (f"{version}-{split}-{utc_now()}-{i}" for i in range(count))
    return [
        LogRow(
            **{
                "ts_utc": utc_now(),
                "request_id": name,
                "user_id": name,
                "prediction": "0" if i < right else "1",
                **values,
                **changes,
            }
        )
        for i, name in enumerate(names)
    ]


def _aliases(here: Installation) -> tuple[str | None, ...]:
    return tuple(number_at(here.registry, alias) for alias in here.aliases.all())


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow keeps artifacts below the working directory, which must not be the repository's."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def here(settings: Settings, register: Register, monkeypatch: pytest.MonkeyPatch) -> Installation:
    """An installation with version 1 in production, version 2 registered, and AB_RAMP set."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("AB_RAMP", "0.05,0.2,0.5")
    monkeypatch.setenv("ROUTER_PORT", str(port))
    monkeypatch.setenv("ROUTER_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("ROUTER_ADMIN_TOKEN", "secret")
    register("prod")
    register()
    return Installation.of(load_settings())


@pytest.fixture
def router(here: Installation, serve_router: Any) -> Iterator[HttpRouter]:
    """The installation's router."""
    with serve_router(here.settings, dict(os.environ)):
        yield HttpRouter(here.settings)


def _stage(here: Installation) -> None:
    """Register version 2 as a training that passed the champion gate does."""
    here.registry.tag("2", {STATUS: "candidate"})
    run_id = here.registry.get("2").run_id
    trained = {"run_id": run_id, "model_uri": "", "passed": True, "reasons": [], "champion_version": "1"}
    steps.register_staging(here, trained)


def test_the_ramp_on_a_real_router(here: Installation, router: HttpRouter) -> None:
    """A challenger starts with the first share, goes further at a clean look, and is out at the first breach."""
    experiment = "IrisClassifier-v1-v2"
    assert router.split_b() == 0.5
    _stage(here)
    assert router.split_b() == 0.05
    plan = json.loads(ReportPaths.of(here.settings).plan.read_text())
    assert {need["gate"] for need in plan["needs"]} == {"chi2", "anytime", "paired"}
    assert plan["situation"]["split"] == 0.05

    here.log.append([*_rows("1", 760, 690, 0.05, experiment), *_rows("2", 40, 36, 0.05, experiment)])
    first = steps.evaluate_and_promote(here)
    assert (first["verdict"], first["split_change"]["to"], router.split_b()) == ("keep", 0.2, 0.2)
    again = steps.evaluate_and_promote(here)
    assert (again["split_change"], router.split_b()) == (None, 0.2)

    here.log.append([*_rows("1", 800, 720, 0.2, experiment), *_rows("2", 250, 225, 0.2, experiment, latency_ms=400.0)])
    slow = steps.evaluate_and_promote(here)
    assert (slow["verdict"], router.split_b()) == ("keep", 0.0)
    assert "latency" in slow["split_change"]["reason"]
    steps.evaluate_and_promote(here)
    assert router.split_b() == 0.0
    assert _aliases(here) == ("1", "2", None)
    told = [(event["from"], event["to"]) for event in here.audit.read().events if event["event"] == "split"]
    assert told == [(0.5, 0.05), (0.05, 0.2), (0.2, 0.0)]


def test_a_ramp_without_a_router_stages_nobody(here: Installation) -> None:
    """A challenger that cannot be given its first share is not shown to anybody."""
    with pytest.raises(ServiceError, match="Start the router"):
        _stage(here)
    assert _aliases(here) == ("1", None, None)


@pytest.fixture
def promoted(here: Installation) -> Installation:
    """The same without a ramp, after version 2 won its experiment against version 1 with .95 against .80."""
    quiet = replace(here, settings=here.settings.model_copy(update={"ab_ramp": ""}))
    _stage(quiet)
    experiment = "IrisClassifier-v1-v2"
    quiet.log.append([*_rows("1", 300, 240, 0.5, experiment), *_rows("2", 300, 285, 0.5, experiment)])
    assert steps.evaluate_and_promote(quiet)["verdict"] == "promote"
    assert _aliases(quiet) == ("2", "2", "1")
    return quiet


def _automatic(here: Installation) -> Installation:
    return replace(here, settings=here.settings.model_copy(update={"ab_auto_rollback": True}))


def test_a_promotion_that_holds_is_left_alone(promoted: Installation) -> None:
    """Worse than in its experiment, but not than what it replaced: no reason to go back."""
    promoted.log.append(_rows("2", 200, 160, 0.5))
    found = watch(promoted)
    assert found is not None
    assert (found.verdict, found.rows, found.accuracy, found.baseline) == ("as_good", 200, 0.8, 0.8)
    assert steps.check_drift(_automatic(promoted))["rolled_back"] is None
    assert _aliases(promoted) == ("2", "2", "1")


def test_without_the_setting_the_watch_only_tells(promoted: Installation) -> None:
    """A worse prod is told, with what can be done; nothing moves."""
    promoted.log.append(_rows("2", 200, 100, 0.5))
    checked = steps.check_drift(promoted)
    assert checked["rolled_back"] is None
    assert "`crossfade rollback` puts it back" in checked["reasons"][0]
    advice = json.loads(ReportPaths.of(promoted.settings).recommendation.read_text())
    assert (advice["since_promotion"]["verdict"], advice["since_promotion"]["accuracy"]) == ("worse", 0.5)
    assert _aliases(promoted) == ("2", "2", "1")


def test_a_worse_prod_is_put_back_by_itself(promoted: Installation) -> None:
    """With AB_AUTO_ROLLBACK the version before is back in one step, without a retraining, and the audit says why."""
    promoted.log.append(_rows("2", 200, 100, 0.5))
    checked = steps.check_drift(_automatic(promoted))
    assert (checked["rolled_back"], checked["decision"], checked["prod_version"]) == (["2", "1"], "monitor", "1")
    assert _aliases(promoted) == ("1", None, None)
    assert promoted.registry.get("2").status == "rejected"
    moves = [e for e in promoted.audit.read().events if e.get("action") == "rollback" and e["event"] == "moved"]
    assert all(event["reason"].startswith("AB_AUTO_ROLLBACK: accuracy 0.500") for event in moves)
    assert [event["alias"] for event in moves] == ["staging", "prod", "previous"]
    assert steps.check_drift(_automatic(promoted))["rolled_back"] is None


def test_few_labels_are_no_reason(promoted: Installation) -> None:
    """Below AB_MIN_LABELED answers there is no verdict."""
    promoted.log.append(_rows("2", 29, 0, 0.5))
    found = watch(promoted)
    assert found is not None
    assert found.verdict == "insufficient_data"


def test_one_users_wrong_answers_are_one_users(promoted: Installation) -> None:
    """Sixty wrong answers to one user do not take a version out for everybody."""
    promoted.log.append([*_rows("2", 140, 133, 0.5), *_rows("2", 60, 0, 0.5, user_id="one")])
    found = watch(promoted)
    assert found is not None
    assert found.verdict == "as_good"


@pytest.mark.parametrize("alias", ["prod", "previous"])
def test_what_somebody_else_moved_is_not_watched(promoted: Installation, alias: str) -> None:
    """`previous` is no promise about a version that a hand put there."""
    promoted.log.append(_rows("2", 200, 0, 0.5))
    promoted.registry.move(alias, "1" if alias == "prod" else "2", expected="2" if alias == "prod" else "1")
    steps.check_drift(_automatic(promoted))
    assert watch(promoted) is None
    assert number_at(promoted.registry, "prod") == ("1" if alias == "prod" else "2")
