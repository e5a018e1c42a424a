"""The champion gate: better in macro F1, and no class pays."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from crossfade.loop.champion import GateResult, Scores, champion_gate

TRUTH = ["a"] * 40 + ["b"] * 40 + ["c"] * 20


def _scores(predicted: list[str], truth: list[str] = TRUTH) -> Scores:
    scores = Scores.of(truth, predicted)
    assert scores is not None
    return scores


def _answers(**right: int) -> list[str]:
    """Answers with so many right ones per class; wrong ones go to the next class."""
    following = {"a": "b", "b": "c", "c": "a"}
    return [
        answer
        for name, rows in (("a", 40), ("b", 40), ("c", 20))
        for answer in [name] * right[name] + [following[name]] * (rows - right[name])
    ]


def _gate(challenger: list[str], champion: list[str], margin: float = 0.05) -> GateResult:
    return champion_gate(_scores(challenger), _scores(champion), margin)


def test_scores_are_scikit_learns() -> None:
    """Accuracy and the macro scores are scikit-learn's over the classes that occur among the labels."""
    rng = np.random.default_rng(0)
    truth, predicted = rng.choice(list("abc"), 200).tolist(), rng.choice(list("abcd"), 200).tolist()
    scores, classes = _scores(predicted, truth), ["a", "b", "c"]
    options = {"labels": classes, "average": "macro", "zero_division": 0}
    assert scores.rows == 200
    assert scores.accuracy == pytest.approx(accuracy_score(truth, predicted))
    assert scores.precision_macro == pytest.approx(precision_score(truth, predicted, **options))
    assert scores.recall_macro == pytest.approx(recall_score(truth, predicted, **options))
    assert scores.f1_macro == pytest.approx(f1_score(truth, predicted, **options))
    assert list(scores.recall) == list(scores.youden_j) == classes


def test_a_class_never_predicted_counts_zero() -> None:
    """A class that is never predicted has precision, recall and F1 of 0, and counts in the mean."""
    scores = _scores(["a", "a"], ["a", "b"])
    assert scores.recall == {"a": 1.0, "b": 0.0}
    assert scores.f1_macro == pytest.approx((2 / 3 + 0) / 2)


def test_no_rows_have_no_scores() -> None:
    """Without rows there are no scores."""
    assert Scores.of([], []) is None


def test_the_first_model_passes() -> None:
    """Without a champion the first model passes, and the reason says so."""
    gate = champion_gate(_scores(_answers(a=1, b=1, c=1)), None, 0.05)
    assert gate.passed
    assert gate.champion is None
    assert "no champion" in gate.reasons[0]


def test_a_better_challenger_passes() -> None:
    """A challenger that is better in macro F1 and loses in no class passes."""
    gate = _gate(_answers(a=38, b=38, c=18), _answers(a=30, b=30, c=10))
    assert gate.passed
    assert len(gate.reasons) == 1
    assert "on 100 rows" in gate.reasons[0]


@pytest.mark.parametrize("right", [{"a": 30, "b": 30, "c": 10}, {"a": 20, "b": 20, "c": 10}])
def test_a_challenger_that_is_not_better_is_rejected(right: dict[str, int]) -> None:
    """Equal is not better, worse even less."""
    gate = _gate(_answers(**right), _answers(a=30, b=30, c=10))
    assert not gate.passed
    assert "not better" in gate.reasons[0]


def test_a_challenger_that_pays_with_one_class_is_rejected() -> None:
    """A challenger that is better over all is rejected when one class loses recall beyond the margin and F1."""
    gate = _gate(_answers(a=40, b=40, c=15), _answers(a=30, b=40, c=20))
    assert gate.challenger.f1_macro > _scores(_answers(a=30, b=40, c=20)).f1_macro
    assert not gate.passed
    assert any(reason.startswith("class c pays: recall 1.000 -> 0.750") for reason in gate.reasons)


def test_a_loss_within_the_margin_passes() -> None:
    """The same challenger passes where the margin allows it."""
    assert _gate(_answers(a=40, b=40, c=15), _answers(a=30, b=40, c=20), margin=0.3).passed


def test_a_champion_that_knows_one_class_only_is_beaten() -> None:
    """A champion that answers everything with one class is beaten, though nobody matches its recall of 1 there."""
    gate = _gate(_answers(a=30, b=36, c=18), ["a"] * 100)
    assert gate.challenger.recall["a"] == 0.75
    assert gate.passed


def test_a_challenger_that_knows_one_class_only_is_rejected() -> None:
    """A challenger that answers everything with one class loses the others and is rejected, each one named."""
    gate = _gate(["a"] * 100, _answers(a=30, b=36, c=18))
    assert not gate.passed
    assert {reason.split()[1] for reason in gate.reasons if reason.startswith("class")} == {"b", "c"}


def test_a_challenger_that_is_less_accurate_is_rejected() -> None:
    """Better in macro F1 is not enough: who is less accurate would cost users and could not win the A/B test."""
    truth = ["often"] * 90 + ["seldom"] * 10
    champion, challenger = ["often"] * 100, ["often"] * 75 + ["seldom"] * 25
    gate = champion_gate(_scores(challenger, truth), _scores(champion, truth), max_recall_drop=1.0)
    assert gate.challenger.f1_macro > _scores(champion, truth).f1_macro
    assert not gate.passed
    assert gate.reasons[1:] == ("accuracy 0.850 against 0.900: worse",)


def test_a_challenger_that_is_as_accurate_passes() -> None:
    """Equal accuracy is enough, where macro F1 is better."""
    truth = ["often"] * 90 + ["seldom"] * 10
    challenger = ["often"] * 85 + ["seldom"] * 5 + ["often"] * 5 + ["seldom"] * 5
    gate = champion_gate(_scores(challenger, truth), _scores(["often"] * 100, truth), max_recall_drop=0.1)
    assert (gate.challenger.accuracy, gate.passed, len(gate.reasons)) == (0.9, True, 1)


def test_the_result_is_jsonable() -> None:
    """The outcome is written with both sides' scores."""
    gate = _gate(_answers(a=40, b=40, c=20), _answers(a=20, b=20, c=20))
    stored = json.loads(json.dumps(gate.to_dict()))
    assert stored["passed"] is True
    assert stored["challenger"]["f1_macro"] == 1.0
    assert stored["champion"]["recall"] == {"a": 0.5, "b": 0.5, "c": 1.0}


def test_a_rare_class_is_not_traded_for_precision() -> None:
    """Giving up the recall of a rare class fails the gate, even when its F1 rises with the precision."""
    truth = ["fraud"] * 100 + ["fine"] * 9900
    champion = ["fraud"] * 95 + ["fine"] * 5 + ["fraud"] * 220 + ["fine"] * 9680
    challenger = ["fraud"] * 60 + ["fine"] * 40 + ["fraud"] * 10 + ["fine"] * 9890
    before, after = Scores.of(truth, champion), Scores.of(truth, challenger)
    assert before is not None
    assert after is not None
    assert after.f1_macro > before.f1_macro
    gate = champion_gate(after, before, 0.05)
    assert not gate.passed
    assert "fraud" in " ".join(gate.reasons)
