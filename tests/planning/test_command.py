"""`crossfade plan` and `crossfade selftest`, on an empty installation and on one with traffic."""

from __future__ import annotations

import json
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from crossfade.errors import SettingsError
from crossfade.planning import command
from crossfade.requestlog import CsvRequestLog, LogRow
from crossfade.settings import Settings


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command line, in the settings' home, and return what it said."""
    monkeypatch.setattr(command.console, "_width", 160)
    app = typer.Typer()
    app.command()(command.plan)
    app.command()(command.selftest)

    def invoke(*arguments: str) -> str:
        done = CliRunner().invoke(app, list(arguments))
        if done.exception is not None:
            raise done.exception
        return " ".join(done.output.split())

    return invoke


def fill(settings: Settings, rows: int = 400) -> None:
    log = CsvRequestLog(settings.request_log, settings.labels_log)
    log.append([a_row(number, settings.reg_model_name) for number in range(rows)])


def a_row(number: int, model: str) -> LogRow:
    in_b = number % 4 == 0
    return LogRow(
        ts_utc=f"2026-01-0{1 + number % 5}T03:04:05.000006+00:00",
        request_id=f"r{number}",
        user_id=f"u{number // 2}",
        experiment_id=f"{model}-v1-v2",
        variant="B" if in_b else "A",
        alias="staging" if in_b else "prod",
        model=model,
        model_version="2" if in_b else "1",
        ab_split_b=0.25,
        features_json="{}",
        label="1",
        prediction="0" if number % 10 == 9 else "1",
        probability=0.9,
        latency_ms=1.0,
        status=200,
    )


def test_a_plan_without_traffic(run: Any) -> None:
    """All is assumed, which is said; days are not known."""
    said = run("plan")
    assert "all assumed" in said
    assert "unknown labelled requests a day" in said
    assert "chi2 *" in said
    assert "6,608" in said
    assert " days" not in said.split("gate", 1)[1].split("* AB_TEST")[0]


def test_a_plan_for_the_traffic_at_hand(run: Any, settings: Settings) -> None:
    """The log's accuracy, split and pace are planned with."""
    fill(settings)
    situation = (made := json.loads(run("plan", "--json")))["situation"]
    assert situation["split"] == 0.25
    assert situation["rows_per_day"] == pytest.approx(100)
    assert situation["rows_per_user"] == pytest.approx(2)
    assert situation["accuracy"] == pytest.approx(260 / 300)
    assert {need["gate"] for need in made["needs"]} == {"chi2", "anytime", "paired"}
    assert all(need["days"] == -(-need["rows"] // 100) for need in made["needs"])
    assert "days" in run("plan")


def test_a_selftest_without_traffic(run: Any) -> None:
    """Every gate has its line, the deciding one is marked and summed up."""
    said = run("selftest", "--experiments", "20", "--days", "5")
    assert "simulated with 400 labelled requests a day" in said
    assert [word in said for word in ("chi2 *", "anytime", "paired", "same model", "B +5 points")] == [True] * 5
    assert "chi2 promotes a model that is no better in" in said
    assert "day " in said


def test_a_selftest_with_the_users_own(run: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traffic is that of the log, settings are the user's, and the gate can be another for once."""
    fill(settings)
    monkeypatch.setenv("AB_ALPHA", "0.01")
    said = run("selftest", "--experiments", "20", "--days", "3", "--ab-test", "paired", "--seed", "2")
    assert "25% of users on B" in said
    assert "simulated with 100 labelled requests a day" in said
    assert "level 0.01" in said
    assert "paired *" in said
    assert said == run("selftest", "--experiments", "20", "--days", "3", "--ab-test", "paired", "--seed", "2")


def test_a_wrong_gate_is_one_line(run: Any) -> None:
    """An unknown gate is refused like a bad setting."""
    with pytest.raises(SettingsError, match="AB_TEST='best' is not allowed"):
        run("selftest", "--ab-test", "best")
