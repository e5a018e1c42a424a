"""The audit's file, what can be computed from it again, and `crossfade history`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import StratifiedTable
from typer.testing import CliRunner

from crossfade.cli import cli
from crossfade.errors import LogUnavailable
from crossfade.logreader import read_log
from crossfade.loop.audit import LOOK, Audit, headline, without_ended
from crossfade.loop.evaluate import EvaluationRule, Experiment, evaluate
from crossfade.memorylog import MemoryRequestLog
from crossfade.requestlog import LogRow
from crossfade.settings import Settings

NOW = "2026-01-02T03:04:05.000006+00:00"


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    """An audit that was never written to, at a time that stands still."""
    return Audit(tmp_path / "audit" / "decisions.jsonl", lambda: NOW)


def test_events_are_read_as_they_were_written(audit: Audit) -> None:
    """Events come back oldest first, with the time they were written at or brought along."""
    audit.append({"event": "look", "verdict": "keep", "reasons": ["grün"]})
    audit.append({"event": "move", "alias": "prod", "from": None, "to": "1", "ts_utc": "2025-01-01"})
    assert audit.read().events == (
        {"ts_utc": NOW, "event": "look", "verdict": "keep", "reasons": ["grün"]},
        {"ts_utc": "2025-01-01", "event": "move", "alias": "prod", "from": None, "to": "1"},
    )


def test_an_audit_that_was_never_written_is_empty(audit: Audit) -> None:
    """Reading makes no file."""
    assert audit.read().events == ()
    assert not audit.path.parent.exists()


def test_a_torn_last_line_spoils_itself_only(audit: Audit) -> None:
    """What follows a line torn by a crash starts on a line of its own; the torn one is counted."""
    audit.append({"event": "look", "verdict": "keep"})
    whole = audit.path.read_bytes()
    for cut in range(1, len(whole)):
        audit.path.write_bytes(whole + whole[:cut])
        audit.append({"event": "look", "verdict": "promote"})
        trail = audit.read()
        assert [event["verdict"] for event in trail.events if event["verdict"] == "promote"] == ["promote"]
        assert len(trail.events) + trail.set_aside == 3
        assert trail.set_aside == (cut < len(whole) - 1)  # only its line break was missing


@pytest.mark.parametrize("line", [b"[]", b'{"event": 3}', b"\xff\xfe", b"{", b'{"event": "look"}'])
def test_a_broken_line_is_set_aside(audit: Audit, line: bytes) -> None:
    """A line that is no event is counted, and hides none of its neighbours."""
    audit.append({"event": "look"})
    with audit.path.open("ab") as file:
        file.write(line + b"\n")
    audit.append({"event": "look"})
    assert (len(audit.read().events), audit.read().set_aside) == (2, 1)


def test_many_processes_append_whole_lines(audit: Audit) -> None:
    """Lines of tens of kilobytes from several processes at once neither mix nor get lost."""
    code = f"""
import sys
from pathlib import Path
from crossfade.loop.audit import Audit
audit = Audit(Path({str(audit.path)!r}))
sys.stdin.readline()
for i in range(40):
    audit.append({{"event": "look", "who": sys.argv[1], "i": i, "long": sys.argv[1] * (1000 * i)}})
"""
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(n)], stdin=subprocess.PIPE, env={**os.environ})
        for n in range(4)
    ]
    for writer in writers:  # all have the same start: their first line
        assert writer.stdin is not None
        writer.stdin.write(b"go\n")
        writer.stdin.close()
    assert [writer.wait() for writer in writers] == [0] * 4
    trail = audit.read()
    assert trail.set_aside == 0
    for n in "0123":
        mine = [event for event in trail.events if event["who"] == n]
        assert [(event["i"], len(event["long"])) for event in mine] == [(i, 1000 * i) for i in range(40)]
        assert all(set(event["long"]) <= {n} for event in mine)


def test_an_audit_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    """A file where the folder should be is an error that names it."""
    (tmp_path / "audit").write_text("")
    audit = Audit(tmp_path / "audit" / "decisions.jsonl")
    with pytest.raises(LogUnavailable, match="nothing is moved without it"):
        audit.append({"event": "look"})
    with pytest.raises(LogUnavailable, match="cannot be used"), audit.turn():
        pass


def test_not_a_number_is_refused(audit: Audit) -> None:
    """JSON has no NaN: an event that other readers could not parse is not written."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        audit.append({"event": "look", "p_value": float("nan")})
    assert audit.read().events == ()


def _answers(variant: str, rows: int, right: int, split: float) -> list[LogRow]:
    return [
        LogRow(
            ts_utc=NOW,
            request_id=f"{variant}{split}{i}",
            user_id=f"{variant}{split}{i}",
            experiment_id="m-v1-v2",
            variant=variant,
            alias={"A": "prod", "B": "staging"}[variant],
            model="m",
            model_version={"A": "1", "B": "2"}[variant],
            ab_split_b=split,
            features_json="{}",
            label="0",
            prediction="0" if i < right else "1",
            probability=0.9,
            latency_ms=1.0,
            status=200,
        )
        for i in range(rows)
    ]


def _look(audit: Audit, *parts: list[LogRow]) -> Any:
    log = MemoryRequestLog()
    for rows in parts:
        log.append(rows)
    found = evaluate(read_log(log), Experiment("m-v1-v2", "1", "2"), EvaluationRule())
    audit.append({"event": LOOK, **found.to_dict(), "run_id": "run-7", "trigger": "test"})
    return json.loads(audit.path.read_text().splitlines()[-1])


def test_the_p_value_can_be_computed_again(audit: Audit) -> None:
    """From the counts of one line of the file alone, scipy gives the p-value that decided."""
    told = _look(audit, _answers("A", 200, 150, 0.5), _answers("B", 210, 190, 0.5))
    table = [[arm["correct"], arm["labeled"] - arm["correct"]] for arm in (told["arms"]["A"], told["arms"]["B"])]
    found = stats.chi2_contingency(table)
    assert told["verdict"] == "promote"
    assert found.pvalue == pytest.approx(told["p_value"], rel=1e-12)
    assert found.statistic == pytest.approx(told["chi2"], rel=1e-12)


def test_the_p_value_over_strata_can_be_computed_again(audit: Audit) -> None:
    """When the split changed within the experiment, statsmodels gives it from the strata's counts."""
    parts = [("A", 200, 150, 0.5), ("B", 210, 190, 0.5), ("A", 240, 220, 0.2), ("B", 60, 59, 0.2)]
    told = _look(audit, *(_answers(*part) for part in parts))
    tables = [
        np.array([[s[f"correct_{arm}"], s[f"rows_{arm}"] - s[f"correct_{arm}"]] for arm in "ab"], dtype=float)
        for s in told["strata"]
    ]
    assert len(tables) == 2
    found = StratifiedTable(tables).test_null_odds(correction=True)
    assert found.pvalue == pytest.approx(told["p_value"], rel=1e-12)


def test_what_a_run_decided_is_found_by_its_id(audit: Audit) -> None:
    """An MLflow run finds its own events."""
    for run in ("run-1", "run-2", "run-1"):
        audit.append({"event": "look", "run_id": run})
    assert len(audit.read().of_run("run-1")) == 2


def _event(kind: str, **values: Any) -> dict[str, Any]:
    defaults = {"ts_utc": NOW, "event": kind, "model": "m", "alias": "prod", "from": "1", "to": "2"}
    return {**defaults, "action": "promote", "reason": "B is better", "run_id": "0123456789abcdef", **values}


def test_a_beginning_whose_end_is_told_is_left_out(audit: Audit) -> None:
    """For people a move is one line; one that was never ended stays visible."""
    events = [_event("move"), _event("moved"), _event("move", to="3"), _event("move", alias="staging")]
    events.append({"ts_utc": NOW, "event": LOOK})
    assert without_ended(events) == events[1:]


def test_a_move_is_told_in_a_few_words() -> None:
    """Where an alias went, and that it went away."""
    assert headline(_event("moved")).decision == "promote: prod 1 -> 2"
    assert headline(_event("moved by somebody else", action=None, to=None)).decision == "prod 1 -> none"


def _history(*arguments: str) -> str:
    done = CliRunner().invoke(cli, ["history", *arguments], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.output


def test_history_says_that_nothing_was_decided(settings: Settings) -> None:
    """A new installation has no history, which is no error."""
    assert "nothing was decided yet" in _history()
    assert json.loads(_history("--json")) == []


def test_history_shows_what_when_and_why(settings: Settings) -> None:
    """Looks and moves, newest last, with their first reason; brackets in it are no markup."""
    audit = Audit.under(settings.report_dir, lambda: NOW)
    look = {"event": LOOK, "verdict": "keep", "reasons": ["too few [rows]", "else"], "experiment_id": "m-v1-v2"}
    audit.append({**look, "run_id": "fedcba9876543210"})
    audit.append(_event("move"))
    audit.append(_event("moved"))
    lines = [line.split("  ") for line in _history().splitlines()]
    shown = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert shown[1] == ["2026-01-02 03:04:05", "look", "keep", "m-v1-v2", "too few [rows]", "fedcba98"]
    assert shown[2] == ["2026-01-02 03:04:05", "moved", "promote: prod 1 -> 2", "B is better", "01234567"]
    assert len(_history("--last", "1").splitlines()) == 2
    assert [event["event"] for event in json.loads(_history("--json", "--last", "2"))] == ["move", "moved"]


def test_history_counts_what_it_could_not_read(settings: Settings) -> None:
    """A torn line is told of, and does not hide the others."""
    audit = Audit.under(settings.report_dir, lambda: NOW)
    audit.append(_event("moved"))
    with audit.path.open("ab") as file:
        file.write(b'{"event')
    assert "1 lines of" in _history()
