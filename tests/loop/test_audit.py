"""The audit's file, what can be computed from it again, and `crossfade history`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
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
from crossfade.loop.audit import LOOK, Audit, FileAudit, headline, without_ended
from crossfade.loop.auditdatabase import DatabaseAudit
from crossfade.loop.evaluate import EvaluationRule, Experiment, evaluate
from crossfade.memorylog import MemoryRequestLog
from crossfade.postgres.address import DatabaseUrl
from crossfade.postgres.link import opened
from crossfade.requestlog import LogRow
from crossfade.settings import Settings

NOW = "2026-01-02T03:04:05.000006+00:00"


@pytest.fixture
def file(tmp_path: Path) -> FileAudit:
    """An audit's file that was never written to, at a time that stands still."""
    return FileAudit(tmp_path / "audit" / "decisions.jsonl", lambda: NOW)


@pytest.fixture(params=["file", "database"])
def audit(request: pytest.FixtureRequest, file: FileAudit) -> Audit:
    """Each audit, never written to."""
    return file if request.param == "file" else DatabaseAudit(request.getfixturevalue("database"), lambda: NOW)


def test_events_are_read_as_they_were_written(audit: Audit) -> None:
    """Events come back oldest first, with the time they were written at or brought along."""
    audit.append({"event": "look", "verdict": "keep", "reasons": ["grün"]})
    audit.append({"event": "move", "alias": "prod", "from": None, "to": "1", "ts_utc": "2025-01-01"})
    assert audit.read().events == (
        {"ts_utc": NOW, "event": "look", "verdict": "keep", "reasons": ["grün"]},
        {"ts_utc": "2025-01-01", "event": "move", "alias": "prod", "from": None, "to": "1"},
    )


def test_an_audit_that_was_never_written_is_empty(audit: Audit) -> None:
    """There is nothing to read, and no mark of it."""
    assert audit.read().events == ()
    assert audit.mark() is None


def test_reading_makes_no_file(file: FileAudit) -> None:
    """An audit of files begins with its first event."""
    assert file.read().events == ()
    assert not file.path.parent.exists()


def test_an_event_comes_back_to_the_last_digit(audit: Audit) -> None:
    """Small and large numbers, the order of keys and any text stay what they were."""
    event = {
        "event": "look",
        "z": 1e-300,
        "a": [0.1 + 0.2, -0.0, 1e22, None, True],
        "text": "a\x00b \u2028",
        "n": 2**70,
    }
    audit.append(event)
    (found,) = audit.read().events
    assert json.dumps(found) == json.dumps({"ts_utc": NOW, **event})


def test_a_mark_changes_with_each_event(audit: Audit) -> None:
    """Who follows the audit sees by its mark that it has grown."""
    marks = [audit.mark()]
    for _ in range(2):
        audit.append({"event": "look"})
        marks.append(audit.mark())
    assert len(set(marks)) == 3
    assert audit.mark() == marks[-1]


def test_an_event_that_cannot_be_stored_is_told(tmp_path: Path) -> None:
    """Without the audit nothing is moved, and the reason names no password."""
    (tmp_path / "audit").write_text("a file where the folder should be")
    nowhere = DatabaseAudit(DatabaseUrl("postgresql://me:se-cr-et@127.0.0.1:9/log"))
    for audit in (FileAudit(tmp_path / "audit" / "decisions.jsonl"), nowhere):
        with pytest.raises(LogUnavailable, match=r"cannot be (written|used).*") as caught:
            audit.append({"event": "look"})
        assert "se-cr-et" not in str(caught.value)


def test_one_at_a_time_has_its_turn(audit: Audit) -> None:
    """Who asks for a turn while another has it waits; what the first one appends comes first."""
    begun = threading.Event()

    def other() -> None:
        begun.set()
        second = FileAudit(audit.path) if isinstance(audit, FileAudit) else DatabaseAudit(audit._url)  # type: ignore[attr-defined]
        with second.turn():
            second.append({"event": "look", "who": "second"})

    thread = threading.Thread(target=other)
    with audit.turn():
        thread.start()
        assert begun.wait(60)
        thread.join(0.3)  # enough for one that does not wait
        audit.append({"event": "look", "who": "first"})
        assert [event["who"] for event in audit.read().events] == ["first"]
    thread.join(60)
    assert [event["who"] for event in audit.read().events] == ["first", "second"]


def test_a_turn_whose_connection_is_lost_tells_nothing_more(database: DatabaseUrl) -> None:
    """Somebody else may move by then: the event that would allow a move is refused, and the next turn is free."""
    audit = DatabaseAudit(database)
    others = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
    with opened(database) as administrator, audit.turn():
        administrator.execute(f"{others} and pid <> pg_backend_pid()")
        with pytest.raises(LogUnavailable, match="Nothing is moved"):
            audit.append({"event": "move"})
    with audit.turn():
        audit.append({"event": "look"})
    assert [event["event"] for event in audit.read().events] == ["look"]


def test_a_torn_last_line_spoils_itself_only(file: FileAudit) -> None:
    """What follows a line torn by a crash starts on a line of its own; the torn one is counted."""
    file.append({"event": "look", "verdict": "keep"})
    whole = file.path.read_bytes()
    for cut in range(1, len(whole)):
        file.path.write_bytes(whole + whole[:cut])
        file.append({"event": "look", "verdict": "promote"})
        trail = file.read()
        assert [event["verdict"] for event in trail.events if event["verdict"] == "promote"] == ["promote"]
        assert len(trail.events) + trail.set_aside == 3
        assert trail.set_aside == (cut < len(whole) - 1)  # only its line break was missing


@pytest.mark.parametrize("line", [b"[]", b'{"event": 3}', b"\xff\xfe", b"{", b'{"event": "look"}'])
def test_a_broken_line_is_set_aside(file: FileAudit, line: bytes) -> None:
    """A line that is no event is counted, and hides none of its neighbours."""
    file.append({"event": "look"})
    with file.path.open("ab") as lines:
        lines.write(line + b"\n")
    file.append({"event": "look"})
    assert (len(file.read().events), file.read().set_aside) == (2, 1)


def test_many_processes_append_whole_lines(audit: Audit) -> None:
    """Lines of tens of kilobytes from several processes at once neither mix nor get lost."""
    if isinstance(audit, FileAudit):
        how, events = f"FileAudit(Path({str(audit.path)!r}))", 40
    else:
        events = 10  # each by a connection of its own
        how = f"DatabaseAudit(DatabaseUrl({audit._url.dsn!r}))"  # type: ignore[attr-defined]
    code = f"""
import sys
from pathlib import Path
from crossfade.loop.audit import FileAudit
from crossfade.loop.auditdatabase import DatabaseAudit
from crossfade.postgres.address import DatabaseUrl
audit = {how}
sys.stdin.readline()
for i in range({events}):
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
        assert [(event["i"], len(event["long"])) for event in mine] == [(i, 1000 * i) for i in range(events)]
        assert all(set(event["long"]) <= {n} for event in mine)


def test_an_audit_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    """A file where the folder should be is an error that names it."""
    (tmp_path / "audit").write_text("")
    audit = FileAudit(tmp_path / "audit" / "decisions.jsonl")
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
    return audit.read().events[-1]


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
    audit = FileAudit.under(settings.report_dir, lambda: NOW)
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
    audit = FileAudit.under(settings.report_dir, lambda: NOW)
    audit.append(_event("moved"))
    with audit.path.open("ab") as file:
        file.write(b'{"event')
    assert "1 lines of" in _history()
