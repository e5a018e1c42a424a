"""The A/B evaluation, from rows of the log to a verdict."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from crossfade.logreader import LogContents, read_log
from crossfade.loop.evaluate import Evaluation, EvaluationRule, Experiment, evaluate
from crossfade.memorylog import MemoryRequestLog
from crossfade.requestlog import LateLabel, LogRow
from crossfade.stats.proportions import Share

EXPERIMENT = Experiment("m-v1-v2", "1", "2")
NOW = "2026-01-02T03:04:05.000006+00:00"
VERSION = {"A": "1", "B": "2"}


def a_row(variant: str, number: int, right: bool, **changes: Any) -> LogRow:
    label = str(number % 3)
    values: dict[str, Any] = {
        "ts_utc": NOW,
        "request_id": f"{variant}{number}",
        "user_id": f"user-{variant}{number}",
        "experiment_id": EXPERIMENT.id,
        "variant": variant,
        "alias": "prod" if variant == "A" else "staging",
        "model": "m",
        "model_version": VERSION[variant],
        "ab_split_b": 0.5,
        "features_json": "{}",
        "label": label,
        "prediction": label if right else str((number + 1) % 3),
        "probability": 0.9,
        "latency_ms": 1.0,
        "status": 200,
    }
    return LogRow(**{**values, **changes})


def an_arm(variant: str, rows: int, right: int, **changes: Any) -> list[LogRow]:
    return [a_row(variant, i, i < right, **changes) for i in range(rows)]


def contents_of(*parts: Sequence[LogRow], labels: Sequence[LateLabel] = ()) -> LogContents:
    log = MemoryRequestLog()
    for rows in parts:
        log.append(rows)
    log.append_labels(labels)
    return read_log(log)


def judged(*parts: Sequence[LogRow], rule: EvaluationRule | None = None) -> Evaluation:
    return evaluate(contents_of(*parts), EXPERIMENT, rule or EvaluationRule())


def test_an_experiment_is_named_after_its_versions() -> None:
    """The experiment of two versions is named `{model}-v{prod}-v{staging}`."""
    assert Experiment.between("Iris", "3", "7") == Experiment("Iris-v3-v7", "3", "7")


@pytest.mark.parametrize(("prod", "staging"), [(None, None), (None, "1"), ("1", None), ("1", "1")])
def test_one_version_is_no_experiment(prod: str | None, staging: str | None) -> None:
    """No prod, no staging, or both on one version: no experiment."""
    assert Experiment.between("Iris", prod, staging) is None


def test_no_experiment_keeps() -> None:
    """Without an experiment everything stays, and nothing is counted."""
    found = evaluate(contents_of(an_arm("A", 50, 10)), None, EvaluationRule())
    assert (found.verdict, found.arms, found.chi_square, found.delta_accuracy) == ("keep", {}, None, None)
    assert "no experiment is open" in found.reasons[0]
    assert json.loads(json.dumps(found.to_dict()))["experiment_id"] is None


def test_a_better_challenger_is_promoted() -> None:
    """B significantly better is `promote`, with both accuracies in the reason."""
    found = judged(an_arm("A", 200, 160), an_arm("B", 200, 190))
    assert found.verdict == "promote"
    assert found.delta_accuracy == pytest.approx(0.15)
    assert "accuracy 0.800 (A, version 1) against 0.950 (B, version 2)" in found.reasons[0]


def test_overwhelming_evidence_can_be_reported() -> None:
    """However sure a gate is, its numbers are JSON, and stay so in PostgreSQL, which writes large floats out whole."""
    found = judged(an_arm("A", 2000, 200), an_arm("B", 2000, 1990))
    gates = json.loads(json.dumps(found.to_dict()["gates"], allow_nan=False))
    assert gates["anytime"]["p_value"] < 1e-200
    assert gates["anytime"]["e_value"] == 1e15


def test_a_worse_challenger_is_rejected() -> None:
    """B significantly worse is `reject`."""
    found = judged(an_arm("A", 200, 190), an_arm("B", 200, 160))
    assert found.verdict == "reject"
    assert "B is worse" in found.reasons[0]


def test_a_difference_that_may_be_chance_keeps() -> None:
    """A lead that may be chance is `keep`."""
    found = judged(an_arm("A", 100, 90), an_arm("B", 100, 93))
    assert found.verdict == "keep"
    assert "may be chance" in found.reasons[0]


def test_alpha_is_the_rules() -> None:
    """The same lead is promoted or not as alpha says."""
    arms = an_arm("A", 200, 170), an_arm("B", 200, 185)
    p = judged(*arms).chi_square.p_value  # type: ignore[union-attr]
    assert judged(*arms, rule=EvaluationRule(alpha=p * 1.01)).verdict == "promote"
    assert judged(*arms, rule=EvaluationRule(alpha=p)).verdict == "keep"


def test_a_lead_too_small_to_matter_keeps() -> None:
    """A significant lead below AB_MIN_DELTA_ACC is `keep`."""
    arms = an_arm("A", 200, 160), an_arm("B", 200, 190)
    found = judged(*arms, rule=EvaluationRule(min_delta_accuracy=0.2))
    assert found.verdict == "keep"
    assert "leads by less than 0.2" in found.reasons[1]
    assert judged(*arms, rule=EvaluationRule(min_delta_accuracy=0.1)).verdict == "promote"


def test_too_few_labels_say_how_many_are_missing() -> None:
    """An arm with too few labelled rows keeps, and the reason says how many each arm still needs."""
    found = judged(an_arm("A", 25, 0), an_arm("B", 28, 28))
    assert found.verdict == "keep"
    assert "5 more labelled rows of A" in found.reasons[0]
    assert "2 more labelled rows of B" in found.reasons[0]


def test_an_arm_with_enough_labels_is_not_asked_for_more() -> None:
    """Only the arm that lacks labels is named, and exactly min_labeled rows are enough."""
    found = judged(an_arm("A", 30, 3), an_arm("B", 29, 29))
    assert found.reasons == ("the test needs 1 more labelled rows of B",)
    assert judged(an_arm("A", 30, 3), an_arm("B", 30, 29)).verdict == "promote"


@pytest.mark.parametrize("right", [0, 50])
def test_nothing_to_tell_apart_keeps(right: int) -> None:
    """Both arms right, or wrong, every time: no p-value, and `keep`."""
    found = judged(an_arm("A", 50, right), an_arm("B", 50, right))
    assert (found.verdict, found.chi_square) == ("keep", None)
    assert "nothing tells them apart" in found.reasons[0]


def test_an_empty_log_keeps() -> None:
    """No row at all keeps; nothing is divided by zero."""
    found = judged()
    assert (found.verdict, found.sample_ratio, found.delta_accuracy) == ("keep", None, None)
    assert found.arms["A"].accuracy_interval is None


def test_a_broken_split_is_invalid() -> None:
    """Users shared out otherwise than configured make the experiment invalid, however much better B looks."""
    found = judged(an_arm("A", 100, 50), an_arm("B", 300, 300))
    assert found.verdict == "invalid"
    assert "B has 300 users where 200.0 were due" in found.reasons[0]


def test_the_split_is_judged_on_users_not_on_rows() -> None:
    """One busy user on B is one user: the rows may be uneven."""
    busy = [a_row("B", 1000 + i, True, user_id="user-B0") for i in range(500)]
    found = judged(an_arm("A", 100, 90), an_arm("B", 100, 90), busy)
    assert found.sample_ratio is not None
    assert (found.sample_ratio.observed_b, found.sample_ratio.mismatch) == (100, False)
    assert found.arms["B"].users == 100


def test_rows_without_user_are_their_own_unit() -> None:
    """Requests that name no user count one by one, a batch of them once."""
    single = [a_row("A", i, True, user_id="") for i in range(10)]
    batch = [a_row("B", i, True, user_id="", request_id=f"batch.{i}") for i in range(40)]
    found = judged(single, batch)
    assert (found.arms["A"].users, found.arms["B"].users) == (10, 1)


def test_each_split_of_a_ramp_is_judged_by_itself() -> None:
    """A ramp from 10 % to 50 % is no mismatch when each step was kept."""
    early = [*an_arm("A", 180, 150, ab_split_b=0.1), *an_arm("B", 20, 18, ab_split_b=0.1)]
    later = [a_row(v, 1000 + i, i % 2 == 0) for v in "AB" for i in range(100)]
    found = judged(early, later)
    assert found.sample_ratio is not None
    assert not found.sample_ratio.mismatch


def test_a_ramp_with_returning_users_is_rarely_called_broken() -> None:
    """A ramp met by the same users at every step is called broken in about .1 % of experiments, like any fair split.

    200 experiments, in which a fair test calls more than 2 with a chance of .001. The users keep their bucket, so
    the steps are not independent of each other.
    """
    rng, steps = np.random.default_rng(0), [i / 10 for i in range(1, 10)]
    template, called = contents_of([a_row("A", 0, True)]).rows, 0
    for _ in range(200):
        buckets = np.tile(rng.random(200), len(steps))
        splits = np.repeat(steps, 200)
        rows = template.loc[np.zeros(len(buckets), dtype=int)].reset_index(drop=True)
        rows = rows.assign(
            user_id=np.tile(np.arange(200).astype(str), len(steps)),
            ab_split_b=splits,
            variant=np.where(buckets < splits, "B", "A"),
            label=None,
        )
        found = evaluate(LogContents(rows, 0), EXPERIMENT, EvaluationRule())
        called += found.verdict == "invalid"
    assert called <= 2


def test_users_in_both_arms_are_reported() -> None:
    """A user whom both arms answered under one split is counted and reported."""
    arms = an_arm("A", 50, 40), an_arm("B", 50, 40)
    stray = [a_row("B", 100, True, user_id="user-A0"), a_row("B", 101, True, user_id="user-A1")]
    assert judged(*arms).users_in_both == 0
    found = judged(*arms, stray)
    assert found.users_in_both == 2
    assert any("2 users were answered by both arms" in reason for reason in found.reasons)


def test_a_user_moved_by_a_raised_split_is_not_in_both() -> None:
    """A user who goes from A to B because the split was raised is as it should be."""
    found = judged([a_row("A", 0, True, user_id="u", ab_split_b=0.1)], [a_row("B", 0, True, user_id="u")])
    assert found.users_in_both == 0


def test_rows_of_other_experiments_are_never_counted() -> None:
    """Rows of another pair of versions, or of no experiment, change no number."""
    arms = an_arm("A", 60, 50), an_arm("B", 60, 55)
    others = [
        a_row(v, i, False, experiment_id=name, request_id=f"other-{name}-{v}{i}")
        for name in ("m-v1-v3", "m-v0-v1", "")
        for v in "AB"
        for i in range(100)
    ]
    assert judged(*arms, others).to_dict() == judged(*arms).to_dict()


def test_late_labels_count() -> None:
    """Labels that came by feedback are worth as much as those that came with the request, and win over them."""
    arms = an_arm("A", 100, 80), an_arm("B", 100, 95)
    bare = [[a_row(r.variant, int(r.request_id[1:]), r.label == r.prediction, label="") for r in arm] for arm in arms]
    labels = [LateLabel(NOW, row.request_id, row.label) for arm in arms for row in arm]
    wrong_first = [LateLabel(NOW, row.request_id, "9") for arm in arms for row in arm]
    late = evaluate(contents_of(*bare, labels=[*wrong_first, *labels]), EXPERIMENT, EvaluationRule())
    assert late.to_dict() == judged(*arms).to_dict()
    assert evaluate(contents_of(*bare), EXPERIMENT, EvaluationRule()).arms["A"].labeled == 0


def test_a_request_answered_twice_counts_once() -> None:
    """Of two answers to one request id the newest counts."""
    arms = an_arm("A", 60, 60), an_arm("B", 60, 60)
    again = [a_row("A", i, False) for i in range(10)]
    found = judged(*arms, again).arms["A"]
    assert (found.rows, found.labeled, found.correct) == (70, 60, 50)


def test_failed_rows_are_errors_not_answers() -> None:
    """Rows the model failed on are counted as errors and compared with no label."""
    failed = [a_row("B", 100 + i, False, status=500, prediction="") for i in range(7)]
    arm = judged(an_arm("A", 50, 40), an_arm("B", 50, 40), failed).arms["B"]
    assert (arm.rows, arm.errors, arm.labeled) == (57, 7, 50)


@pytest.mark.parametrize("seed", range(3))
def test_numbers_are_those_of_a_plain_recount(seed: int) -> None:
    """Counts, accuracy, F1 and the p-value equal a recount by plain Python and scipy."""
    rng = random.Random(seed)
    rows = [a_row(rng.choice("AB"), i, rng.random() < 0.8) for i in range(500)]
    found = judged(rows)
    table = []
    for variant, arm in found.arms.items():
        mine = [row for row in rows if row.variant == variant]
        right = sum(row.label == row.prediction for row in mine)
        table.append([right, len(mine) - right])
        assert (arm.rows, arm.labeled, arm.correct, arm.version) == (len(mine), len(mine), right, VERSION[variant])
        assert arm.scores is not None
        assert arm.scores.accuracy == pytest.approx(right / len(mine))
        truth, answers = [row.label for row in mine], [row.prediction for row in mine]
        assert arm.scores.f1_macro == pytest.approx(f1_score(truth, answers, average="macro"))
        assert arm.accuracy_interval is not None
        assert arm.accuracy_interval[0] < right / len(mine) < arm.accuracy_interval[1]
    assert found.chi_square is not None
    assert found.chi_square.p_value == pytest.approx(stats.chi2_contingency(table).pvalue, rel=1e-12)
    expected = stats.chisquare([sum(table[0]), sum(table[1])]).pvalue
    assert found.sample_ratio is not None
    assert found.sample_ratio.p_value == pytest.approx(expected, rel=1e-9)


def test_the_report_is_jsonable_and_complete() -> None:
    """The report is plain JSON and holds what the design lists for the chi-square gate."""
    report = json.loads(json.dumps(judged(an_arm("A", 200, 160), an_arm("B", 200, 190)).to_dict()))
    assert report["verdict"] == "promote"
    assert report["experiment_id"] == "m-v1-v2"
    assert (report["model_version_a"], report["model_version_b"]) == ("1", "2")
    assert 0 < report["p_value"] < 0.05
    assert report["chi2"] > 0
    assert report["sample_ratio"]["mismatch"] is False
    assert {"accuracy", "precision_macro", "recall_macro", "f1_macro"} <= set(report["arms"]["B"]["scores"])


def test_damaged_lines_are_passed_on() -> None:
    """How many lines of the log were set aside stands in the report."""
    whole = contents_of(an_arm("A", 5, 5))
    assert evaluate(LogContents(whole.rows, 4), EXPERIMENT, EvaluationRule()).to_dict()["log_lines_set_aside"] == 4


def _over_days(days: float, right_a: int, right_b: int, rows: int = 100, **changes: Any) -> list[LogRow]:
    """Both arms' rows, the newest so many days after the oldest."""
    arms = [*an_arm("A", rows, right_a, **changes), *an_arm("B", rows, right_b, **changes)]
    late = (datetime.fromisoformat(NOW) + timedelta(days=days)).isoformat(timespec="microseconds")
    return [row._replace(ts_utc=late) if i % 2 else row for i, row in enumerate(arms)]


@pytest.mark.parametrize(("days", "verdict"), [(4.99, "keep"), (5.0, "reject"), (30.0, "reject")])
def test_an_inconclusive_experiment_is_given_up_in_the_end(days: float, verdict: str) -> None:
    """After AB_MAX_DAYS of traffic an experiment whose difference may be chance ends as `reject`, and not before."""
    found = judged(_over_days(days, 90, 92))
    assert found.verdict == verdict
    assert "may be chance" in found.reasons[0]
    if verdict == "reject":
        assert found.reasons[1].startswith(f"inconclusive after {days:.1f} days of traffic")


def test_the_limit_is_the_rules() -> None:
    """The days are those of the rule, fractions of them too."""
    rows = _over_days(0.5, 90, 92)
    assert judged(rows, rule=EvaluationRule(max_days=0.5)).verdict == "reject"
    assert judged(rows, rule=EvaluationRule(max_days=0.6)).verdict == "keep"


def test_an_experiment_without_labels_goes_on() -> None:
    """Traffic alone never ends an experiment: without labels it waits, however long."""
    found = judged(_over_days(50, 90, 92, label=""))
    assert found.verdict == "keep"
    assert "more labelled rows" in found.reasons[0]


def test_an_arm_short_of_labels_goes_on() -> None:
    """One arm with too few labels is enough to go on waiting."""
    rows = [row if row.variant == "A" else row._replace(label="") for row in _over_days(50, 90, 92)]
    assert judged(rows).verdict == "keep"


@pytest.mark.parametrize(("split", "verdict"), [(0.0, "reject"), (0.1, "keep")])
def test_a_challenger_out_of_traffic_is_given_up_without_labels(split: float, verdict: str) -> None:
    """After AB_MAX_DAYS an experiment whose newest rows were answered under a split of 0 waits for no more labels."""
    later = (datetime.fromisoformat(NOW) + timedelta(days=15)).isoformat()
    first = [*an_arm("A", 100, 90, ab_split_b=0.1), *an_arm("B", 10, 9, ab_split_b=0.1)]
    rows = [*first, a_row("A", 500, True, ts_utc=later, ab_split_b=split)]
    assert judged(rows).verdict == verdict


def test_nothing_to_tell_apart_is_given_up_in_the_end() -> None:
    """Two arms that are right every time cannot be told apart; after AB_MAX_DAYS the challenger goes."""
    assert judged(_over_days(6, 100, 100)).verdict == "reject"


@pytest.mark.parametrize(("right_a", "right_b", "verdict"), [(60, 95, "promote"), (95, 60, "reject")])
def test_evidence_wins_over_the_limit(right_a: int, right_b: int, verdict: str) -> None:
    """An experiment with a verdict keeps it, however long it took, and nothing is said about days."""
    found = judged(_over_days(50, right_a, right_b))
    assert (found.verdict, len(found.reasons)) == (verdict, 1)


def test_a_broken_split_stays_invalid() -> None:
    """Time does not turn an invalid experiment into a rejected one."""
    late = (datetime.fromisoformat(NOW) + timedelta(days=50)).isoformat()
    assert judged(an_arm("A", 100, 50), an_arm("B", 300, 150, ts_utc=late)).verdict == "invalid"


def test_only_the_experiments_own_days_count() -> None:
    """Older rows of other experiments do not make this one older."""
    before = (datetime.fromisoformat(NOW) - timedelta(days=50)).isoformat()
    found = judged(an_arm("A", 100, 90, experiment_id="m-v0-v1", ts_utc=before), _over_days(1, 90, 92))
    assert found.verdict == "keep"


@pytest.mark.parametrize(("max_labeled", "verdict"), [(101, "keep"), (100, "reject")])
def test_enough_labels_without_a_verdict_end_an_experiment(max_labeled: int, verdict: str) -> None:
    """Once each arm has AB_MAX_LABELED labelled rows, an experiment that is still open is given up at once."""
    found = judged(_over_days(0.1, 90, 92), rule=EvaluationRule(max_labeled=max_labeled))
    assert found.verdict == verdict
    if verdict == "reject":
        assert "100 labelled rows per arm" in found.reasons[1]


def test_the_arm_with_fewer_labels_counts() -> None:
    """An experiment goes on while one arm has fewer labelled rows than AB_MAX_LABELED."""
    rows = [*an_arm("A", 120, 108), *an_arm("B", 99, 90)]
    assert judged(rows, rule=EvaluationRule(max_labeled=100)).verdict == "keep"


def _promised(right: int, variant_a: int = 70, variant_b: int = 66, rows: int = 100) -> Evaluation:
    contents = contents_of(an_arm("A", rows, variant_a), an_arm("B", rows, variant_b))
    return evaluate(contents, EXPERIMENT, EvaluationRule(), Share.of(right, 500))


def test_a_challenger_that_breaks_its_promise_is_rejected() -> None:
    """B that is not ahead, and far worse than on the rows held out at its training, makes room for the next."""
    found = _promised(right=450)
    assert found.verdict == "reject"
    assert found.reasons[-1] == "B is not ahead, nor what its held-out 0.900 promised"


def test_a_challenger_that_keeps_its_promise_is_tested_on() -> None:
    """What B does may be what it promised: the experiment goes on."""
    assert _promised(right=340).verdict == "keep"


def test_a_challenger_ahead_is_not_held_to_its_promise() -> None:
    """B that leads is tested on, whatever it promised: the world is harder for both."""
    assert _promised(right=450, variant_a=62).verdict == "keep"


def test_a_promise_is_judged_on_enough_labels() -> None:
    """Before each arm has AB_MIN_LABELED rows nothing is judged."""
    assert _promised(right=450, variant_a=10, variant_b=5, rows=29).verdict == "keep"


def test_a_promise_counts_users_and_not_rows() -> None:
    """Hundred rows of one unlucky user are one user's evidence; of as many users they break the promise."""
    steady = [a_row("A", i, right=i % 2 == 0, user_id=f"a{i % 41}") for i in range(140)]
    rest = [a_row("B", 100 + i, right=i % 10 < 9) for i in range(40)]
    one = contents_of(steady, an_arm("B", 100, 30, user_id="one"), rest)
    assert evaluate(one, EXPERIMENT, EvaluationRule(), Share.of(300, 500)).verdict == "keep"
    many = contents_of(an_arm("A", 140, 70), an_arm("B", 100, 30), rest)
    assert evaluate(many, EXPERIMENT, EvaluationRule(), Share.of(300, 500)).verdict == "reject"
