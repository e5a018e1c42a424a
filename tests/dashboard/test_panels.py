"""How the model's values come onto the page."""

from __future__ import annotations

import json
from dataclasses import fields

import plotly
import pytest

from crossfade.dashboard.accuracy import AccuracyPoint
from crossfade.dashboard.experiment import ArmResult, Check, ExperimentView, LookPoint, Need, Pairs
from crossfade.dashboard.history import KINDS, Happening
from crossfade.dashboard.lookout import Look
from crossfade.dashboard.panels.experiment import experiment_panel
from crossfade.dashboard.panels.history import history_panel
from crossfade.dashboard.panels.palette import DARK, LIGHT, Palette
from crossfade.dashboard.panels.parts import Links

LINKS = Links("http://mlflow", "http://airflow", "Iris", "1")


def _text(components: list) -> str:
    return json.dumps(components, cls=plotly.utils.PlotlyJSONEncoder)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("palette", "paper"), [(LIGHT, "#ffffff"), (DARK, "#1d232a")])
def test_colours_stand_out_from_the_paper(palette: Palette, paper: str):
    """WCAG: text 4.5 to 1, what is drawn 3 to 1 (the grid is decoration)."""
    for name in ("ink", "faint", "alarm"):
        assert _contrast(getattr(palette, name), paper) >= 4.5, name
    drawn = {"a": palette.a, "b": palette.b, **{str(i): colour for i, colour in enumerate(palette.many)}}
    assert {name: _contrast(colour, paper) for name, colour in drawn.items() if _contrast(colour, paper) < 3} == {}
    assert len(fields(palette)) == 9


def test_an_experiment_shows_everything_there_is_to_know():
    """Charts, tables, a guardrail that failed with its numbers, and what is still needed."""
    points = (AccuracyPoint(0, 10, 8, 0.5, 0.9), AccuracyPoint(60_000, 40, 34, 0.7, 0.93))
    looks = (
        LookPoint("2026-11-20T12:00:00+00:00", "keep", 0.2, 1.5, 3.0, "r1"),
        LookPoint("2026-11-21T12:00:00+00:00", "keep", 0.01, 1e300, None, "r2"),
    )
    view = ExperimentView(
        "Iris-v1-v2", True, "1", "2", "keep", ("not yet",), "anytime", 0.05,
        (ArmResult("A", "1", 40, 30, 0.85, (0.7, 0.93), 0.8), ArmResult("B", "2", 0, 0, None, None, None)),
        looks, Pairs(40, 3, 9, 2), (Check("latency", False, "A 1.0 ms, B 50.0 ms"),), {"A": 40, "B": 0},
        {"A": 0, "B": 30}, (Need("anytime", 0.02, 29_000, 28_960, ""),), {"A": points, "B": points[:1]},
    )  # fmt: skip
    text = _text(experiment_panel(view, (), LINKS, LIGHT))
    for name in ("experiment-accuracy", "experiment-chi2", "experiment-evidence", "experiment-pairs"):
        assert name in text
    assert "A 1.0 ms, B 50.0 ms" in text
    assert "failed" in text
    assert "30 of B" in text
    assert "28,960 more of 29,000" in text
    assert "anytime decides; enough at 20" in text
    assert "http://mlflow/#/experiments/1/runs/r2" in text


def test_every_event_opens_its_run_or_its_version():
    """A roll-back has no run: the version's page tells of it."""
    events = [Happening(f"2026-11-2{i}T12", kind, kind, "why", "", "4") for i, kind in enumerate(KINDS)]
    events.append(Happening("2026-11-29T12", "alarm", "drift", "why", "r9", ""))
    text = _text(history_panel(events, (), LINKS, DARK))
    assert text.count("http://mlflow/#/models/Iris/versions/4") == 2 * len(KINDS)
    assert text.count("http://mlflow/#/experiments/1/runs/r9") == 2


def test_without_a_server_to_link_to_there_are_no_links():
    """MLflow may be a database."""
    links = Links("sqlite:///mlflow.db", "", "Iris", "1")
    assert (links.run("r"), links.version("1")) == ("", "")
    assert Links("http://mlflow", "", "Iris", None).run("r") == ""


def test_a_stale_source_is_told_above_what_it_showed_last():
    """Since when, and what to do."""
    look = Look((), seen=0.0, problem="MLflow does not answer; start it", since=60.0)
    text = _text(history_panel([], (("MLflow", look),), LINKS, LIGHT))
    assert "MLflow: stale since 1970-01-01 00:01:00 UTC" in text
    assert "start it" in text
