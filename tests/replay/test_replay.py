"""`crossfade replay` as users run it: the real loop over a table whose rule changes half way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crossfade.settings import Settings

_QUICK = ("--set", "AUTOML_MODELS=lr,dt")


def _history(rows: int = 1600) -> pd.DataFrame:
    """Text labels, a category and a boolean; at the middle the meaning of `plan` turns round, the inputs stay."""
    rng = np.random.default_rng(5)
    plan, promo = rng.choice(["flat", "metered"], rows), rng.random(rows) < 0.4
    age = rng.normal(40, 10, rows).round(1)
    age[rng.random(rows) < 0.1] = np.nan
    turned = np.where(np.arange(rows) < rows // 2, 1, -1)
    score = 2 * turned * np.where(plan == "flat", 1, -1) + 0.5 * promo + rng.logistic(size=rows) * 0.5
    outcome = np.where(score > 0, "leaves", "stays")
    return pd.DataFrame({"plan": plan, "promo": promo, "age": age, "outcome": outcome})


def _replay(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    known = {name.upper() for name in Settings.model_fields}
    environment = {name: value for name, value in os.environ.items() if name not in known}
    return subprocess.run(
        [Path(sys.executable).with_name("crossfade"), "replay", *arguments],
        cwd=folder,
        env=environment | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


@dataclass(frozen=True)
class Replayed:
    folder: Path
    said: str
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    """One replay of the history above, policy tried both ways."""
    folder = tmp_path_factory.mktemp("replay")
    _history().to_csv(folder / "history.csv", index=False)
    arguments = ("--target", "outcome", "--window", "80", "--policy", "drift,quality", "--policy", "quality")
    done = _replay(folder, "history.csv", *arguments, *_QUICK)
    assert done.returncode == 0, done.stderr
    return Replayed(folder, done.stdout, json.loads((folder / "replay" / "summary.json").read_text()))


def test_the_summary_has_what_is_promised(replayed: Replayed) -> None:
    """Accuracy and macro F1 of the three ways, and the counts of what happened."""
    summary = replayed.summary
    for way in ("static", "retrain_always", "crossfade"):
        assert 0 < summary[way]["accuracy"] <= 1
        assert 0 < summary[way]["f1_macro"] <= 1
        assert len(summary[way]["window_accuracy"]) == summary["windows"] == 16
    kinds = [event["kind"] for event in summary["events"]]
    for count, kind in (("retrains", "retrain"), ("promotions", "promotion"), ("rejections", "rejection")):
        assert summary[count] == kinds.count(kind)
    assert (summary["rows"], summary["first_rows"], summary["refused_rows"]) == (1280, 320, 0)
    assert summary["seconds"] > 0


def test_window_accuracies_add_up(replayed: Replayed) -> None:
    """The accuracy of a way is that of its windows, which are equally long here."""
    for way in ("static", "retrain_always", "crossfade"):
        found = replayed.summary[way]
        assert np.mean(found["window_accuracy"]) == pytest.approx(found["accuracy"])


def test_a_rule_that_turns_round_is_learnt_anew(replayed: Replayed) -> None:
    """The inputs never drift; quality falls, a challenger learns the new rule and is promoted."""
    summary = replayed.summary
    assert summary["quality_alarms"] > 0
    assert summary["promotions"] >= 1
    assert summary["crossfade"]["accuracy"] > summary["static"]["accuracy"] + 0.2
    assert summary["retrains"] < summary["retrain_always"]["retrains"] == 15
    assert summary["crossfade"]["window_accuracy"][-1] > 0.9


def test_every_policy_is_tried(replayed: Replayed) -> None:
    """`sweep` holds both, on the same baselines; by quality alone nothing is retrained before the rule turns round."""
    both, quality_only = replayed.summary["sweep"]
    assert both["varied"] == {"RETRAIN_ON": "drift,quality", "AUTOML_MODELS": "lr,dt"}
    assert quality_only["varied"]["RETRAIN_ON"] == "quality"
    assert both["static"] == quality_only["static"]
    assert both["retrain_always"] == quality_only["retrain_always"]
    first = min(event["window"] for event in quality_only["events"] if event["kind"] == "retrain")
    assert first >= 6  # the rows turn round at its begin


def test_the_page_tells_the_same_without_the_network(replayed: Replayed) -> None:
    """The report has a picture per replay and every event; it fetches nothing and runs nothing."""
    page = (replayed.folder / "replay" / "report.html").read_text()
    assert page.count('<svg role="img"') == 2
    assert replayed.summary["verdict"].replace("'", "&#x27;") in page
    assert "<script" not in page
    assert "<link" not in page
    assert replayed.summary["verdict"] in replayed.said.replace("\n", " ")


def test_a_replay_leaves_nothing_else_behind(replayed: Replayed) -> None:
    """Registry, log and models of the replay are gone; the working folder holds the two reports."""
    assert sorted(path.name for path in replayed.folder.rglob("*") if path.is_file()) == [
        "history.csv",
        "report.html",
        "summary.json",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("gone.csv",), "gone.csv does not exist"),
        (("history.csv",), "TARGET='target' is no column"),
        (("history.csv", "--target", "outcome", "--first", "0.02"), "too few"),
        (("history.csv", "--target", "outcome", "--set", "NO_SUCH=1"), "--set NO_SUCH=1 is not allowed"),
        (("history.csv", "--target", "outcome", "--set", "PSI_THRESHOLD=x"), "PSI_THRESHOLD='x' is not allowed"),
        (("history.csv", "--target", "outcome", "--set", "TARGET=plan"), "the table is the same in all trials"),
        (("history.csv", "--set", "DATASET_FEATURES=age"), "the table is the same in all trials"),
        (("history.csv", "--target", "outcome", "--policy", "never"), "RETRAIN_ON='never' is not allowed"),
        (("history.csv", "--target", "outcome", "--time-column", "plan"), "DATASET_TIME_COLUMN='plan'"),
    ],
)
def test_bad_input_is_one_clear_line(replayed: Replayed, arguments: tuple[str, ...], said: str) -> None:
    """What cannot be played is refused in one line, before anything is trained."""
    done = _replay(replayed.folder, *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_late_labels_make_the_loop_slower(replayed: Replayed) -> None:
    """With labels two windows late, which are longer here, the new rule is learnt later; all ways but static suffer."""
    arguments = ("--target", "outcome", "--window", "160", "--label-delay", "2", "--output", "late", *_QUICK)
    done = _replay(replayed.folder, "history.csv", *arguments)
    assert done.returncode == 0, done.stderr
    late = json.loads((replayed.folder / "late" / "summary.json").read_text())
    assert late["static"]["accuracy"] == replayed.summary["static"]["accuracy"]
    assert late["retrain_always"]["accuracy"] < replayed.summary["retrain_always"]["accuracy"]
    assert late["crossfade"]["accuracy"] < replayed.summary["crossfade"]["accuracy"]
    for path in (replayed.folder / "late").iterdir():
        path.unlink()
