"""What steps tell people, and how much of it a version's page holds."""

from __future__ import annotations

import pandas as pd

from crossfade.loop.champion import GateResult, Scores, champion_gate
from crossfade.loop.check import TrafficCheck
from crossfade.loop.drift import ColumnDrift, DriftReport
from crossfade.loop.notes import (
    LONGEST_VERSION_NOTE,
    drift_note,
    drift_story,
    look_note,
    look_story,
    sections,
    training_note,
    version_note,
)
from crossfade.loop.policy import Recommendation
from crossfade.loop.quality import QualityReport


def _column(name: str, psi: float, drifted: bool = False) -> ColumnDrift:
    numbers = dict.fromkeys(ColumnDrift.__annotations__)
    return ColumnDrift(**{**numbers, "feature": name, "psi": psi, "verdict": "drift" if drifted else "stable"})


def _gate() -> GateResult:
    scores = Scores.of(["a", "a", "b"], ["a", "b", "b"])
    assert scores is not None
    return champion_gate(scores, None, 0.05)


def test_without_a_model_nothing_was_compared() -> None:
    """Where nothing is in production the story says so, and what follows."""
    check = TrafficCheck(None, (), DriftReport("no_reference", 0, ""), QualityReport("insufficient_data", "", 0))
    story = drift_story(check, Recommendation("retrain", ("no version is in production yet",)))
    assert story == "Nothing was compared. Decision: retrain, because no version is in production yet."


def test_the_columns_that_drifted_come_first() -> None:
    """A page names the columns that drifted, then those that moved most, and says how many it leaves out."""
    columns = (*(_column(f"calm {i}", 0.1 * i) for i in range(10)), _column("moved", 0.5, drifted=True))
    lines = drift_note("The story.", DriftReport("drift", 900, "", columns)).splitlines()
    assert lines[0] == "The story."
    assert [line.split(" | ")[0] for line in lines[4:7]] == ["| moved", "| calm 9", "| calm 8"]
    assert lines[-1] == "...and 3 more columns: drift_report.csv has them all."


def test_nobodys_column_name_breaks_a_table() -> None:
    """A bar, a line break or HTML in a name stays inside its cell."""
    note = drift_note("", DriftReport("drift", 900, "", (_column("a|b\n<img src=x>", 0.5),)))
    assert "| a\\|b &lt;img src=x> | &emsp;0.500 | " in note


def test_a_page_keeps_whole_sections() -> None:
    """What is longer than MLflow keeps loses its last sections, never half of one, and says where the rest is."""
    long = sections("Trained.", ("One", "x" * 2000), ("Two", "y" * 3000), ("Three", "z"))
    page = version_note("Look 1.", long)
    assert len(page) <= LONGEST_VERSION_NOTE
    assert page.startswith("### A/B test\n\nLook 1.\n\n### Training\n\nTrained.\n\n### One\n\nxx")
    assert "### Two" not in page
    assert page.endswith("x\n\n*The training run has the rest.*")
    assert version_note("", "Trained.") == "Trained."


def test_a_training_that_nobody_asked_for_says_so() -> None:
    """Without a check before it a version was asked for by hand, and a section without content has no title."""
    board = pd.DataFrame({"Model": ["Naive Bayes"], "Accuracy": [0.91234], "TT (Sec)": [0.00005]})
    note = training_note("It learnt.", "", _gate(), board, (), (), "r1")
    assert "### Why it was trained\n\nAsked for by hand." in note
    assert "| Naive Bayes | &emsp;0.912 | &emsp;5e-05 |" in note
    assert "| accuracy | &emsp;0.667 | &emsp;- |" in note
    assert "### Pictures" not in note


def test_a_look_without_labels_has_a_story() -> None:
    """Arms that nobody has labelled yet are told by their rows."""
    arm = {"version": "1", "rows": 1200, "labeled": 0, "users": 40}
    report = {"experiment_id": "M-v1-v2", "arms": {"A": arm}, "look": 3, "test": "chi2", "alpha": 0.05}
    story = look_story({**report, "verdict": "keep", "reasons": ["the test needs 30 more labelled rows of A"]})
    assert story == (
        "Look 3 at experiment M-v1-v2. A (version 1) answered 1,200 rows, none with a label. The gate that decides is "
        "chi2, at 0.05. Verdict: keep, because the test needs 30 more labelled rows of A."
    )


def test_a_look_at_many_classes_fits() -> None:
    """Guardrails that B breaches come first, and a hundred classes leave room for the training."""
    kept = [{"name": "recall", "breached": False, "reason": f"recall of class {i}"} for i in range(100)]
    breached = {"name": "labels", "breached": True, "reason": "labels known of 90 % of A's rows, < 5 % of B's"}
    note = look_note("A < B.", {"gates": {}, "guardrails": [*kept, breached]})
    assert note.splitlines()[:5:2] == [
        "A &lt; B.",
        "| guardrail | &emsp; | &emsp;numbers |",
        "| labels | &emsp;breached | &emsp;labels known of 90 % of A's rows, &lt; 5 % of B's |",
    ]
    assert "### Training\n\nTrained." in version_note(note, "Trained.")
