"""The log in PostgreSQL, read: the same figures as of files, nothing missed, nothing read that nobody asked for."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crossfade.dashboard.logtail import LogTail, Tail
from crossfade.engine import open_engine
from crossfade.errors import LogUnavailable
from crossfade.logchoice import Choice
from crossfade.logreader import read_log
from crossfade.loop.evaluate import EvaluationRule, Experiment, evaluate
from crossfade.loop.reference import ReferenceProfile
from crossfade.loop.steps import EVALUATED_COLUMNS
from crossfade.loop.window import Window, WindowCounter
from crossfade.newestrows import NewestInFiles
from crossfade.postgres import reading
from crossfade.postgres.address import DatabaseUrl
from crossfade.postgres.link import Link, connect, opened
from crossfade.postgres.log import PostgresRequestLog
from crossfade.postgres.newest import NewestInDatabase
from crossfade.requestlog import CsvRequestLog, LateLabel, LogRow, RequestLog
from crossfade.schema import Feature, FeatureSchema
from crossfade.serving.monitor import Monitor

EXPERIMENT = Experiment("m-v1-v2", "1", "2")


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of 64 ids, so that a short log has many."""
    monkeypatch.setattr(reading, "_MOST_ROWS", 64)


@pytest.fixture
def log(module_database: DatabaseUrl, tmp_path: Path, small_slices: None) -> Iterator[PostgresRequestLog]:
    """An empty log in a database."""
    with opened(module_database) as link:
        link.execute("truncate crossfade_rows, crossfade_labels restart identity")
    log = PostgresRequestLog(module_database, tmp_path / "spool")
    yield log
    log.stop()


@pytest.fixture
def files(tmp_path: Path) -> CsvRequestLog:
    """An empty log in files."""
    return CsvRequestLog(tmp_path / "requests.csv", tmp_path / "labels.csv")


def traffic(rows: int) -> tuple[list[LogRow], list[LateLabel]]:
    """Answers of two arms, a third of them labelled late, some twice; every number needs all of its digits."""
    dice = random.Random(7)
    answers, labels = [], []
    for i in range(rows):
        b = dice.random() < 0.5
        said, truth = str(dice.randrange(3)), str(dice.randrange(3))
        features = json.dumps({"size": dice.gauss(0, 1), "colour": dice.choice("rgb")})
        answers.append(
            LogRow(
                f"2026-01-02T{i // 3600:02d}:{i // 60 % 60:02d}:{i % 60:02d}.{dice.randrange(10**6):06d}+00:00",
                f"r{i}", f"u{dice.randrange(200)}", EXPERIMENT.id if dice.random() < 0.8 else "", "B" if b else "A",
                "staging" if b else "prod", "m" if dice.random() < 0.9 else "other", "2" if b else "1", 1 / 3,
                features, truth if i % 3 else "", said if i % 50 else "", dice.random() if i % 7 else None,
                dice.expovariate(1) * 10 ** dice.randrange(-8, 8), 200 if i % 50 else 500,
            )
        )  # fmt: skip
        if i % 3 == 0 or i % 11 == 0:
            labels.append(LateLabel(answers[-1].ts_utc, f"r{i}", str(dice.randrange(3))))
    return answers, labels + labels[::-5]


def fill(log: RequestLog, rows: int = 1000) -> None:
    answers, labels = traffic(rows)
    for start in range(0, rows, 150):
        log.append(answers[start : start + 150])
    log.append_labels(labels)


def test_both_logs_are_equal_to_the_last_digit(log: PostgresRequestLog, files: CsvRequestLog) -> None:
    """Every column of every row, read with all labels or with those of the chosen rows, is what the files say."""
    fill(log)
    fill(files)
    with opened(log.url) as link:  # late labels of others: now it is cheaper to look those of the chosen rows up
        few = read_log(log, experiment_id=EXPERIMENT.id, model="m")
        assert log.joined_slices(Choice(), labeled=True) is None
        link.execute(
            "insert into crossfade_labels (writer, seq, ts_utc, request_id, label)"
            " select gen_random_uuid(), i, now(), 'x' || i, '1' from generate_series(1, 3000) i"
        )
    assert log.joined_slices(Choice(), labeled=True) is not None
    for columns in ((), ("prediction", "probability")):
        for labeled in (False, True):
            chosen: dict[str, Any] = {"experiment_id": EXPERIMENT.id, "model": "m"}
            ours = read_log(log, columns, labeled, without=["r1", "r4"], **chosen)
            theirs = read_log(files, columns, labeled, without=["r1", "r4"], **chosen)
            assert len(theirs.rows) > 200
            pd.testing.assert_frame_equal(*(found.rows.astype(object) for found in (ours, theirs)), check_exact=True)
    whole = read_log(files, experiment_id=EXPERIMENT.id, model="m")
    pd.testing.assert_frame_equal(few.rows.astype(object), whole.rows.astype(object), check_exact=True)


def test_the_evaluation_is_the_same_report(log: PostgresRequestLog, files: CsvRequestLog) -> None:
    """An experiment in PostgreSQL is judged as the same one in files, to the last digit."""
    reports = []
    for each in (log, files):
        fill(each, 3000)
        found = evaluate(read_log(each, EVALUATED_COLUMNS, experiment_id=EXPERIMENT.id), EXPERIMENT, EvaluationRule())
        reports.append(json.dumps(found.to_dict()))
    assert reports[0] == reports[1]
    assert json.loads(reports[0])["arms"]["B"]["labeled"] > 500


SCHEMA = FeatureSchema((Feature("size", nullable=True), Feature("colour", "categorical")))
COUNTER = WindowCounter(
    ReferenceProfile.of(
        pd.DataFrame({"size": np.linspace(-2, 2, 100), "colour": ["r", "g"] * 50}),
        pd.DataFrame({"prediction": ["0", "1"] * 50, "probability": np.linspace(0.0, 1, 100)}),
    ),
    SCHEMA,
    "m",
    "2",
)


def _said(window: Window, sums: bool) -> str:
    """Tell everything that a window counted; sums of numbers, of which the means are made, where asked for."""
    columns = {
        name: {k: np.asarray(v).tolist() for k, v in vars(counts).items() if sums or k != "total"}
        for name, counts in window.counts.items()
    }
    told = window.rows, window.first_ts, window.last_ts, dict(window.misread), columns
    return json.dumps(told, default=str, sort_keys=True)


def test_drift_counts_the_same(log: PostgresRequestLog, files: CsvRequestLog) -> None:
    """Windows of the table are those of the files to the last digit, in threads and on a cluster.

    Sums are added up in another order where the log is cut elsewhere: those agree to the twelfth decimal.
    """
    fill(log)
    fill(files)
    with open_engine("local") as local:
        expected, found = COUNTER.windows(files, 130, 5, local), COUNTER.windows(log, 130, 5, local)
    with open_engine("dask") as cluster:
        elsewhere = COUNTER.windows(log, 130, 5, cluster)
    assert [_said(window, sums=True) for window in elsewhere] == [_said(window, sums=True) for window in found]
    assert [_said(window, sums=False) for window in found] == [_said(window, sums=False) for window in expected]
    ours, theirs = ([window.counts["size"].total for window in windows] for windows in (found, expected))  # type: ignore[union-attr]
    assert ours == pytest.approx(theirs, abs=1e-12)
    assert COUNTER.sample(log, 50).to_dict("list") == COUNTER.sample(files, 50).to_dict("list")


def test_drift_reads_the_newest_rows_only(log: PostgresRequestLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a window at the end no slice at the beginning is asked for."""
    fill(log, 2000)
    read, before = [], reading.TableSlice.read
    monkeypatch.setattr(reading.TableSlice, "read", lambda part, wanted: read.append(part) or before(part, wanted))
    with open_engine("local") as engine:
        COUNTER.windows(log, 50, 1, engine)
    assert 0 < len(read) <= 8 * engine.workers
    assert min(part.first for part in read) > 2000 - 64 * 8 * engine.workers


def test_an_experiment_is_read_without_the_others(log: PostgresRequestLog) -> None:
    """Slices in which no row of it can be are not asked for, and the database finds its rows by their index."""
    answers, _ = traffic(1000)
    log.append([row._replace(experiment_id="m-v1-v2") for row in answers[:400]])
    log.append([row._replace(experiment_id="m-v2-v3") for row in answers[400:500]])
    log.append([row._replace(experiment_id="") for row in answers[500:]])
    parts = log.slices(Choice.of(experiment_id="m-v2-v3"))
    assert (min(part.first for part in parts), max(part.last for part in parts)) == (384, 511)  # type: ignore[attr-defined]
    assert sum(part.read(("request_id",))[0].num_rows for part in parts) == 100
    with opened(log.url) as link:
        link.execute("analyze crossfade_rows")
        query, values = parts[0]._query(("request_id",))  # type: ignore[attr-defined]
        chosen = query.removeprefix("copy (").removesuffix(") to stdout (format csv)")
        link.execute("set enable_seqscan = off")
        plan = "\n".join(line for (line,) in link.execute(f"explain {chosen}", values).fetchall())
    assert "experiment_id = " in plan.partition("Index Cond")[2], plan


def _insert(link: Link, request_id: str) -> None:
    (row,) = traffic(1)[0]
    names = ", ".join(LogRow._fields)
    values = ", ".join(["%s"] * len(LogRow._fields))
    link.execute(
        f"insert into crossfade_rows (writer, seq, {names}) values (gen_random_uuid(), 1, {values})",
        row._replace(request_id=request_id, model="m"),
    )


def _shown(tail: Tail) -> int:
    return tail.rows


def test_rows_that_are_committed_late_are_not_missed(log: PostgresRequestLog) -> None:
    """A row whose id is below those that were seen, committed after them, is neither missed nor read half."""
    tail = LogTail(log, "m", 1_000_000)
    answers = [row._replace(model="m") for row in traffic(300)[0]]
    log.append(answers[:100])
    assert _shown(tail.refresh()) == 100
    with connect(log.url) as slow:
        with slow.transaction():
            _insert(slow, "late")
            log.append(answers[100:])
            assert _shown(tail.refresh()) == 300
            assert _shown(tail.refresh()) == 300
            cut = log.slices()
        assert sum(part.read(("request_id",))[0].num_rows for part in cut) == 300  # as when they were cut
        assert _shown(tail.refresh()) == 301
    log.append([row._replace(request_id="z" + row.request_id) for row in answers[:30]])
    assert _shown(tail.refresh()) == 331
    ids = np.concatenate([part.ids for part in tail.refresh().parts])
    assert len(np.unique(ids)) == 331


def test_a_follower_reads_only_what_is_new(log: PostgresRequestLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices that have not changed are not read again, of rows and of labels."""
    fill(log)
    tail = LogTail(log, "m", 1_000_000)
    before = tail.refresh()
    read, original = [], reading.TableSlice.read
    monkeypatch.setattr(reading.TableSlice, "read", lambda part, wanted: read.append(part) or original(part, wanted))
    assert tail.refresh().revision == before.revision
    assert not read
    log.append([traffic(1)[0][0]._replace(model="m")])
    log.append_labels([LateLabel("2026-01-03T00:00:00.000000+00:00", "r5", "1")])
    assert tail.refresh().rows == before.rows + 1
    assert len(read) <= 4


def test_a_follower_ends_where_the_reader_does(log: PostgresRequestLog) -> None:
    """Refreshed at any times, a tail ends at the counts of one reading of everything, labels of both kinds included."""
    answers, labels = traffic(600)
    tail = LogTail(log, "m", 1_000_000)
    for start in range(0, 600, 75):
        log.append(answers[start : start + 75])
        log.append_labels(labels[start // 2 : start // 2 + 38])
        tail.refresh()
    labeled = read_log(log, ("prediction",), labeled=True, model="m").rows
    found = tail.refresh()
    known = sum(int(part.known.sum()) for part in found.parts)
    right = sum(int((part.known & part.correct).sum()) for part in found.parts)
    assert (known, right) == (len(labeled), int((labeled["label"] == labeled["prediction"]).sum()))


def test_rows_of_another_cluster_are_read(log: PostgresRequestLog) -> None:
    """After a restore rows bear the transaction numbers of the old server: they are there all the same."""
    fill(log, 100)
    with opened(log.url) as link:
        link.execute("update crossfade_rows set xid = '900000000000'")
    tail = LogTail(log, "m", 1_000_000)
    assert len(read_log(log).rows) == 100
    assert tail.refresh().rows == tail.refresh().rows > 0


def test_wide_rows_make_small_slices(
    module_database: DatabaseUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: PostgresRequestLog
) -> None:
    """A slice holds no more than some 16 MB of features."""
    monkeypatch.setattr(reading, "_MOST_ROWS", 2**14)
    row = traffic(1)[0][0]._replace(features_json=json.dumps({"size": 1.0, "text": "x" * 2**20}))
    log.append([row] * 20)
    assert [(part.last - part.first) for part in log.slices()][1] + 1 in (8, 16)  # type: ignore[attr-defined]


def test_a_slice_shows_no_password(log: PostgresRequestLog) -> None:
    """Slices travel to workers with all it takes to read them, and tell nobody."""
    fill(log, 10)
    (part,) = log.slices()
    assert "se-cr-et" not in repr(part)
    assert pickle.loads(pickle.dumps(part)).read(("request_id",))[0].num_rows == 10


def test_a_database_that_is_away_is_told(tmp_path: Path) -> None:
    """One line, with what to do, and without the password."""
    log = PostgresRequestLog(DatabaseUrl("postgresql://me:se-cr-et@127.0.0.1:9/log"), tmp_path)
    with pytest.raises(LogUnavailable, match="start or mend the database") as caught:
        read_log(log)
    assert "se-cr-et" not in str(caught.value)


def test_the_monitor_sees_the_same_window(log: PostgresRequestLog, files: CsvRequestLog) -> None:
    """/monitor/basic says the same of a table as of files, also of an empty one."""
    ours, theirs = Monitor(NewestInDatabase(log.url)), Monitor(NewestInFiles(*files.paths))
    assert ours.window("10") == theirs.window("10")
    fill(log, 300)
    fill(files, 300)
    for asked in ("1", "100", "10000"):
        assert ours.window(asked) == theirs.window(asked)
