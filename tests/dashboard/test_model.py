"""What the panels show, from real logs and from reports as the learning loop writes them."""

from __future__ import annotations

import json
from datetime import timedelta

import numpy as np
import pytest

from crossfade.dashboard.accuracy import accuracy_of
from crossfade.dashboard.distribution import LiveCounter, distribution_of
from crossfade.dashboard.drift import drift_view
from crossfade.dashboard.experiment import experiment_view
from crossfade.dashboard.history import history_of
from crossfade.dashboard.logtail import LogTail, Tail
from crossfade.dashboard.neighbours import Learnt
from crossfade.dashboard.reportfiles import Decisions, DriftFiles, ReportFiles
from crossfade.dashboard.traffic import traffic_of
from crossfade.logreader import read_log
from crossfade.loop.audit import LOOK, FileAudit
from crossfade.loop.evaluate import EvaluationRule, Experiment, evaluate
from crossfade.loop.pairing import Pairs
from crossfade.loop.reference import ReferenceProfile
from crossfade.loop.reports import ReportPaths
from crossfade.schema import Feature, FeatureSchema
from crossfade.stats.profile import CategoricalProfile, NumericProfile
from crossfade.version import Version

from .conftest import EXPERIMENT, NOON, ms

MODEL = "IrisClassifier"


def _read(log) -> Tail:
    return LogTail(log, MODEL, 1_000_000).refresh()


def _arms(answer, rows: int = 120) -> None:
    """B right on nine of ten, A on half."""
    for i in range(rows):
        variant = "AB"[i % 2]
        right = i % 20 > 1 if variant == "B" else i % 4 == 0
        answer(f"r{i}", variant=variant, minutes=i / 4, said="1", truth="1" if right else "0")


def _look(log, **more) -> dict:
    """A look at the experiment, as the audit keeps it."""
    experiment = Experiment(EXPERIMENT, "1", "2")
    contents = read_log(log, experiment_id=EXPERIMENT)
    found = evaluate(contents, experiment, EvaluationRule(), pairs=Pairs(120, 4, 30))
    return json.loads(json.dumps({"event": LOOK, "ts_utc": NOON.isoformat(), **found.to_dict(), "run_id": "r", **more}))


# Traffic


def test_traffic_counts_answers_by_arm_and_minute(log, answer):
    """Rates, errors, labels and latency, each where it belongs."""
    answer("a1", "a2", "a3", minutes=0, truth="0", latency_ms=2)
    answer("a4", minutes=1, latency_ms=8)
    answer("b1", variant="B", minutes=1, status=500)
    answer("b2", variant="B", minutes=1, latency_ms=100)
    found = traffic_of(_read(log), "1h", ms(NOON + timedelta(minutes=1.5)))
    a, b = found.arms["A"], found.arms["B"]
    assert (a.rows, a.failed, a.labeled, a.label_share) == (4, 0, 3, 0.75)
    assert (b.rows, b.failed, b.labeled, b.label_share) == (2, 1, 0, 0.0)
    assert a.per_minute[-2:] == (3, 1)
    assert b.per_minute[-2:] == (0, 2)
    assert found.times[-2] == ms(NOON)
    assert a.p50[-2:] == pytest.approx((2, 8), rel=0.04)
    assert b.p95[-2] is None


def test_percentiles_are_within_four_percent(log, answer):
    """Of numpy's own, over many latencies."""
    latencies = np.random.default_rng(3).lognormal(1, 1, 300)
    for i, value in enumerate(latencies):
        answer(f"r{i}", latency_ms=float(value))
    arm = traffic_of(_read(log), "1h", ms(NOON)).arms["A"]
    wanted = [np.percentile(latencies, q, method="inverted_cdf") for q in (50, 95)]
    assert (arm.p50[-1], arm.p95[-1]) == pytest.approx(wanted, rel=0.041)


@pytest.mark.parametrize(("ago", "span"), [(10, "1h"), (200, "6h"), (600, "24h"), (60 * 24 * 20, "30d")])
def test_the_automatic_span_reaches_back_to_traffic(ago, span, log, answer):
    """The shortest in which there was some at two times."""
    answer("old", minutes=0)
    answer("older", minutes=-30)
    assert traffic_of(_read(log), "auto", ms(NOON + timedelta(minutes=ago))).span.name == span


def test_no_traffic_is_told_apart_from_none_in_this_time(log, answer):
    """`newest` says whether there ever was any."""
    assert traffic_of(_read(log), "auto", ms(NOON)).newest is None
    answer("a")
    found = traffic_of(_read(log), "1h", ms(NOON + timedelta(days=3)))
    assert (found.rows, found.newest) == (0, ms(NOON))


# Experiment


def test_accuracy_follows_the_labels_of_the_experiment(log, answer):
    """Rows of another experiment, or without a label, are left out; the last point is the whole."""
    _arms(answer)
    answer("other", experiment="IrisClassifier-v0-v1", truth="1", said="0")
    answer("unlabelled", minutes=40)
    found = accuracy_of(_read(log), EXPERIMENT)
    a, b = found["A"][-1], found["B"][-1]
    assert (a.labeled, a.correct, b.labeled, b.correct) == (60, 30, 60, 54)
    assert a.low < a.accuracy < a.high < b.low
    assert [point.labeled for point in found["B"]] == sorted(point.labeled for point in found["B"])


def test_before_the_first_look_the_labels_still_needed_are_told(log, answer):
    """From the log alone."""
    answer("a", truth="0")
    view = experiment_view(Decisions(), _read(log), EXPERIMENT, 30, "chi2")
    assert (view.running, view.verdict, view.missing) == (True, "", {"A": 29, "B": 30})
    assert view.ahead == "Too few labels"


def test_a_look_gives_arms_evidence_pairs_and_checks(log, answer):
    """Everything the panel shows comes from what the evaluation itself wrote."""
    _arms(answer)
    look = _look(log)
    view = experiment_view(Decisions(looks=(look,)), _read(log), EXPERIMENT, 30, "chi2")
    assert view.verdict == "promote"
    assert [(arm.variant, arm.labeled, arm.accuracy) for arm in view.arms] == [("A", 60, 0.5), ("B", 60, 0.9)]
    assert view.looks[0].p_chi2 == look["p_value"] < 0.05
    assert view.looks[0].e_anytime > 10
    assert (view.pairs.rows, view.pairs.only_a, view.pairs.only_b) == (120, 4, 30)
    assert [check.name for check in view.checks][:4] == ["sample ratio", "errors", "labels", "latency"]
    assert all(check.passed for check in view.checks)
    assert view.ahead == "B is ahead"


def test_an_experiment_that_is_over_is_still_told(log, answer):
    """Until the next one: also when the log does not go back so far any more."""
    _arms(answer)
    look = _look(log)
    view = experiment_view(Decisions(looks=(look,)), Tail(), None, 30, "chi2")
    assert (view.id, view.running, view.accuracy) == (EXPERIMENT, False, None)


def test_the_deciding_gate_says_what_it_needs(log, answer):
    """The plan, less the labels that have come."""
    answer("a", truth="0")
    needs = [
        {"gate": "chi2", "difference": 0.05, "rows": 2934, "days": 3, "note": ""},
        {"gate": "chi2", "difference": 0.01, "rows": None, "days": None, "note": "AB_MIN_DELTA_ACC"},
        {"gate": "paired", "difference": 0.05, "rows": 100, "days": 1, "note": ""},
    ]
    view = experiment_view(Decisions(plan={"needs": needs}), _read(log), EXPERIMENT, 30, "chi2")
    assert [(need.rows, need.left) for need in view.needs] == [(2934, 2933), (None, None)]


# Drift


def test_drift_tells_the_newest_check(tmp_path):
    """The largest PSI first, lines by feature."""
    files = DriftFiles(
        status={"ts_utc": "2026-11-21T12:00:00+00:00", "verdict": "drift", "rows": 1000, "psi_threshold": 0.3},
        columns=(
            {"feature": "x", "psi": 0.1, "verdict": "stable"},
            {"feature": "y", "psi": 2.5, "verdict": "drift"},
            {"feature": "z", "psi": None, "verdict": "stable"},
        ),
        trend=tuple(
            {"feature": name, "last_ts": f"2026-11-2{day}", "psi": value}
            for day, name, value in ((0, "x", 0.1), (1, "x", 0.2), (0, "y", 0.1), (1, "y", 2.0))
        ),
        advice={"decision": "monitor", "reasons": ["one", "two"]},
    )
    view = drift_view(files, 0.2)
    assert [column.name for column in view.columns] == ["y", "x", "z"]
    assert (view.drifted, view.threshold, view.decision, view.reasons) == (1, 0.3, "monitor", ("one", "two"))
    assert [(line.name, line.psi) for line in view.trend] == [("y", (0.1, 2.0)), ("x", (0.1, 0.2))]


def test_before_the_first_check_there_is_no_verdict():
    """And the threshold is the setting's."""
    view = drift_view(DriftFiles(), 0.2)
    assert (view.verdict, view.threshold, view.words) == ("", 0.2, "No drift check yet")


def test_live_rows_are_held_against_what_was_learnt(log, answer):
    """Shares by bin, each side adding up to one; values beyond what was learnt are in the outer bins."""
    answer(*(f"r{i}" for i in range(50)), said="1")
    profile = ReferenceProfile(
        {"x": NumericProfile.of(np.linspace(0, 1, 200)), "prediction": CategoricalProfile.of(["0", "1", "1", "1"])}
    )
    schema = FeatureSchema((Feature("x", "numeric"),))
    learnt = Learnt(Version("1", "run", {}), schema, profile, ())
    live = LiveCounter(log, MODEL, 1000).look(learnt)
    x, prediction = (distribution_of(learnt, live, name) for name in ("x", "prediction"))
    assert sum(x.learnt) == pytest.approx(1)
    assert x.live[-1] == 1  # 1.5 lies above all that was learnt
    assert x.live_rows == 50
    assert dict(zip(prediction.names, zip(prediction.learnt, prediction.live, strict=True), strict=True)) == {
        "0": (0.25, 0),
        "1": (0.75, 1),
    }
    assert distribution_of(learnt, live, "unknown") is None


def test_without_new_rows_nothing_is_counted_again(log, answer):
    """The same window comes back."""
    answer("a")
    learnt = Learnt(
        Version("1", "run", {}),
        FeatureSchema((Feature("x", "numeric"),)),
        ReferenceProfile({"x": NumericProfile.of([1.0, 2.0])}),
        (),
    )
    counter = LiveCounter(log, MODEL, 10)
    assert counter.look(learnt) is counter.look(learnt)
    assert counter.look(None).window is None


# History


def _run(kind: str, outcome: str, run_id: str, when: str = "2026-11-21T12") -> dict[str, str]:
    return {"ts_utc": when, "kind": kind, "run_id": run_id, "trigger": "t", "outcome": outcome, "reason": "because"}


def _move(event: str, alias: str, origin: str | None, to: str | None, action: str, when: str) -> dict:
    return {"ts_utc": when, "event": event, "alias": alias, "from": origin, "to": to, "action": action, "reason": "why"}


def test_history_has_every_kind_in_order():
    """Alarms and trainings from the runs, moves from the audit."""
    decisions = Decisions(
        runs=(
            _run("drift", "retrain", "d1", "2026-11-21T01"),
            _run("drift", "monitor", "d2", "2026-11-21T02"),
            _run("drift", "monitor", "d3", "2026-11-21T03"),
            _run("retrain", "passed", "t1", "2026-11-21T04"),
            _run("retrain", "rejected", "t2", "2026-11-21T05"),
            _run("evaluation", "keep", "e1", "2026-11-21T06"),
        ),
        moves=(
            _move("moved", "prod", None, "1", "bootstrap", "2026-11-21T00"),
            _move("moved", "staging", "1", "2", "stage", "2026-11-21T07"),
            _move("moved", "prod", "1", "2", "promote", "2026-11-21T08"),
            _move("moved", "prod", "2", "1", "rollback", "2026-11-21T09"),
            _move("moved", "staging", "3", None, "reject", "2026-11-21T10"),
            _move("moved by somebody else", "prod", "1", "5", "repair", "2026-11-21T11"),
            {"ts_utc": "2026-11-21T12", "event": "split", "from": 0.1, "to": 0.5, "reason": "ramp"},
        ),
    )
    found = history_of(decisions, {"d1": "drift", "d2": "drift", "d3": "stable"}, "prod", "staging")
    kinds = [event.kind for event in found]
    assert kinds == [
        "promotion", "alarm", "alarm", "retrain", "rejection", "promotion", "rollback", "rejection", "promotion",
        "split",
    ]  # fmt: skip
    assert found[5].what == "version 2 in production for 1"
    assert found[8].what.endswith("moved by somebody else")


def test_while_mlflow_is_silent_the_decision_stands_for_the_verdict():
    """A check that led to something is an alarm all the same."""
    runs = (_run("drift", "retrain", "d1"), _run("drift", "monitor", "d2"), _run("drift", "block", "d3"))
    found = history_of(Decisions(runs=runs), {}, "prod", "staging")
    assert [(event.run_id, event.kind) for event in found] == [("d1", "alarm"), ("d3", "alarm")]


# Report files


def test_reports_are_read_and_read_again_when_they_change(settings):
    """What is missing is nothing; what was written is found."""
    paths, audit = ReportPaths.of(settings), FileAudit.under(settings.report_dir)
    files = ReportFiles(paths, audit, MODEL)
    assert files.drift() == DriftFiles()
    assert files.decisions() == Decisions()
    audit.append({"event": LOOK, "experiment_id": EXPERIMENT, "verdict": "keep"})
    audit.append({"event": LOOK, "experiment_id": "Other-v1-v2", "verdict": "keep"})
    audit.append({"event": LOOK, "experiment_id": None, "verdict": "keep"})
    audit.append(_move("moved", "prod", "1", "2", "promote", "2026-11-21T08") | {"model": MODEL})
    audit.append(_move("moved", "prod", "1", "2", "promote", "2026-11-21T08") | {"model": "Other"})
    paths.drift.mkdir(parents=True)
    (paths.drift / "drift_status.json").write_text('{"verdict": "stable"}')
    (paths.drift / "drift_report.csv").write_text("feature,psi,verdict\nNA,0.5,drift\nx,,stable\n")
    found = files.decisions()
    assert (len(found.looks), len(found.moves)) == (1, 1)
    assert files.drift().status == {"verdict": "stable"}
    assert [dict(c) for c in files.drift().columns] == [
        {"feature": "NA", "psi": 0.5, "verdict": "drift"},
        {"feature": "x", "psi": None, "verdict": "stable"},
    ]


def test_a_broken_report_says_which_one_it_is(settings):
    """And what to do about it."""
    paths = ReportPaths.of(settings)
    paths.drift.mkdir(parents=True)
    (paths.drift / "drift_status.json").write_text("{")
    files = ReportFiles(paths, FileAudit.under(settings.report_dir), MODEL)
    with pytest.raises(ValueError, match=r"drift_status\.json cannot be read: .* Move it away"):
        files.drift()
