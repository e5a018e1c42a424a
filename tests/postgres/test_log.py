"""The log in PostgreSQL as one process sees it: groups, refused rows, a full or missing disk, forks, passwords."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from crossfade.errors import LogUnavailable, SchemaTooNew
from crossfade.logbatch import LogBatch
from crossfade.postgres.address import DatabaseUrl
from crossfade.postgres.link import opened
from crossfade.postgres.log import PostgresRequestLog
from crossfade.postgres.retention import DatabaseKeeper
from crossfade.postgres.schema import VERSION_TABLE
from crossfade.requestlog import LateLabel, LogRow, utc_now

NOBODY = DatabaseUrl("postgresql://me:se-cr-et@127.0.0.1:9/log")
"""Port of `discard`: nobody answers."""


def a_row(request_id: str, **changes: Any) -> LogRow:
    row = LogRow(
        utc_now(), request_id, "u", "m-v1-v2", "A", "prod", "m", "1", 0.5, '{"a": 1.5}', "", "1", 0.75, 1.25, 200
    )
    return row._replace(**changes)


@pytest.fixture
def make_log(tmp_path: Path) -> Iterator[Callable[..., PostgresRequestLog]]:
    """Open logs; their threads end with the test."""
    made: list[PostgresRequestLog] = []

    def make(url: DatabaseUrl, spool: Path = tmp_path / "spool", **options: Any) -> PostgresRequestLog:
        made.append(PostgresRequestLog(url, spool, **options))
        return made[-1]

    yield make
    for log in made:
        log.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "crossfade-log-writer"]


def stored(url: DatabaseUrl, columns: str = "request_id", table: str = "rows") -> list[tuple[Any, ...]]:
    with psycopg.connect(url.dsn) as connection:
        return connection.execute(f"select {columns} from crossfade_{table} order by id").fetchall()


def catch_up(log: PostgresRequestLog) -> None:
    """Have a log store what waits on disk."""
    log.start()
    deadline = time.monotonic() + 60
    while log.waiting_bytes:
        assert time.monotonic() < deadline, log.problem
        time.sleep(0.01)


def test_what_is_appended_is_committed(database: DatabaseUrl, make_log: Callable[..., PostgresRequestLog]) -> None:
    """When append returns another connection sees the row, every value as it was given."""
    text = 'é "quoted", 日本 \u2028 \\n'
    row = a_row(text, user_id="", probability=None, ab_split_b=0.1 + 0.2, latency_ms=1e-7, label=text)
    make_log(database).append([row])
    (found,) = stored(database, ", ".join(LogRow._fields))
    assert found[0].isoformat() == row.ts_utc
    assert found[1:] == tuple(row)[1:]


def test_nothing_happens_before_the_first_row(tmp_path: Path) -> None:
    """Making a log starts no thread and makes no folder, so that a server may fork afterwards."""
    before = threading.active_count()
    log = PostgresRequestLog(NOBODY, tmp_path / "spool")
    assert threading.active_count() == before
    assert not (tmp_path / "spool").exists()
    assert (log.problem, log.waiting_bytes) == (None, 0)


def test_rows_that_wait_together_are_committed_together(
    database: DatabaseUrl, make_log: Callable[..., PostgresRequestLog]
) -> None:
    """What threads append while a transaction is under way is committed by the next one, in one group."""
    log = make_log(database, timeout_seconds=60)
    log.append([a_row("first")])
    with psycopg.connect(database.dsn) as blocker:
        blocker.execute("lock table crossfade_rows in share mode")
        threads = [threading.Thread(target=log.append, args=([a_row(f"r{i}")],)) for i in range(20)]
        for thread in threads:
            thread.start()
        while len(log._writer._handed) + len(log._writer._in_flight) < len(threads):
            threading.Event().wait(0.01)
    for thread in threads:
        thread.join()
    groups = [group for (group,) in stored(database, "xid::text")]
    assert len(groups) == 21
    assert len(set(groups)) <= 3


def test_batches_and_labels(database: DatabaseUrl, make_log: Callable[..., PostgresRequestLog]) -> None:
    """A batch is a row per item, labels go to a table of their own, and nothing is no row."""
    log = make_log(database)
    log.append_batch(
        LogBatch(a_row("b"), ("x", "y"), [[1.0, "a,b"], [None, 'say "hi"']], ["", "1"], ["1", "0"], [0.5, None])
    )
    log.append_labels([LateLabel(utc_now(), "b.1", "0"), LateLabel(utc_now(), "b.1", "1")])
    log.append([])
    assert stored(database, "request_id, features_json, label, probability") == [
        ("b.0", '{"x":1.0,"y":"a,b"}', "", 0.5),
        ("b.1", '{"x":null,"y":"say \\"hi\\""}', "1", None),
    ]
    assert stored(database, "request_id, label", "labels") == [("b.1", "0"), ("b.1", "1")]


def test_a_refused_row_blocks_no_other(
    database: DatabaseUrl, make_log: Callable[..., PostgresRequestLog], tmp_path: Path
) -> None:
    """A row that the database refuses is set aside, whole and with the reason; those around it are stored."""
    log = make_log(database)
    log.append([a_row("r1"), a_row("r2", status=99_999), a_row("r3")])
    log.append([a_row("r4", ts_utc="yesterday-ish")])
    log.append([a_row("r5", user_id="nul \0 inside")])
    assert stored(database, "request_id, user_id") == [("r1", "u"), ("r3", "u"), ("r5", "nul \ufffd inside")]
    aside = [json.loads(line) for line in (tmp_path / "spool" / "refused.jsonl").read_text().splitlines()]
    assert ["r2" in aside[0]["line"], "99999" in aside[0]["refused"]] == [True, True]
    assert ["r4" in aside[1]["line"], "yesterday-ish" in aside[1]["refused"]] == [True, True]
    assert "2 rows were refused" in str(log.problem)


def test_a_refused_row_in_the_spool_blocks_no_other(
    database: DatabaseUrl, make_log: Callable[..., PostgresRequestLog], tmp_path: Path
) -> None:
    """Nor does one that waited on disk with others."""
    away = make_log(NOBODY)
    away.append([a_row("r1"), a_row("r2", status=99_999), a_row("r3")])
    away.stop()
    log = make_log(database)
    catch_up(log)
    assert stored(database) == [("r1",), ("r3",)]
    assert "r2" in (tmp_path / "spool" / "refused.jsonl").read_text()


def test_without_database_rows_wait_on_disk(make_log: Callable[..., PostgresRequestLog]) -> None:
    """An append is answered when the row is on disk; the problem names the database without its login."""
    log = make_log(NOBODY)
    log.append([a_row("r1")])
    assert log.waiting_bytes > 100
    assert "127.0.0.1:9/log" in str(log.problem)
    assert "se-cr-et" not in str(log.problem)


def test_a_spool_that_somebody_removes_is_made_anew(
    make_log: Callable[..., PostgresRequestLog], database: DatabaseUrl, tmp_path: Path
) -> None:
    """Rows go to no file that nobody can find any more, and the writer does not look for one for ever."""
    away = make_log(NOBODY)
    away.append([a_row("r1")])
    shutil.rmtree(tmp_path / "spool")
    away.append([a_row("r2")])
    assert away.waiting_bytes > 0
    away.stop()
    log = make_log(database)
    catch_up(log)
    assert stored(database) == [("r2",)]


def test_without_database_and_disk_nothing_is_promised(
    make_log: Callable[..., PostgresRequestLog], tmp_path: Path
) -> None:
    """Where neither the database nor the disk takes a row, the append fails, and says both."""
    (tmp_path / "file").write_text("no folder")
    log = make_log(NOBODY, tmp_path / "file" / "spool")
    with pytest.raises(LogUnavailable) as failed:
        log.append([a_row("r1")])
    assert "127.0.0.1:9/log" in str(failed.value)
    assert "Not a directory" in str(failed.value)
    assert "Not a directory" in str(log.problem)


@pytest.mark.skipif(os.getuid() != 0, reason="mounts a file system, which takes root")
def test_a_full_disk(make_log: Callable[..., PostgresRequestLog], small_disk: Path, database: DatabaseUrl) -> None:
    """What does not fit on the disk is not promised; what did is stored later, and nothing else is."""
    log = make_log(NOBODY, small_disk / "spool")
    promised = []
    for i in range(100):
        with contextlib.suppress(LogUnavailable):
            log.append([a_row(f"r{i}", features_json="x" * 1000)])
            promised.append((f"r{i}",))
    assert 10 < len(promised) < 70
    assert "No space left" in str(log.problem)
    log.stop()
    after = make_log(database, small_disk / "spool")
    catch_up(after)
    assert stored(database) == promised


def test_a_torn_line_was_never_answered(
    database: DatabaseUrl, make_log: Callable[..., PostgresRequestLog], tmp_path: Path
) -> None:
    """The line that a process left torn when it was killed is skipped; those before it are stored."""
    away = make_log(NOBODY)
    away.append([a_row("r1"), a_row("r2")])
    away.stop()
    (segment,) = (tmp_path / "spool").glob("*/*.rows")
    with segment.open("ab") as file:
        file.write(segment.read_bytes().splitlines()[0][:70])
    log = make_log(database)
    catch_up(log)
    assert stored(database) == [("r1",), ("r2",)]
    assert log.problem is None


def test_the_spool_of_a_living_process_is_left_alone(
    make_log: Callable[..., PostgresRequestLog], database: DatabaseUrl
) -> None:
    """Only the spools of processes that ended are taken over: the others' rows would be removed while they append."""
    away, log = make_log(NOBODY), make_log(database)
    away.append([a_row("r1")])
    log.append([a_row("r2")])
    assert away.waiting_bytes > 0
    assert stored(database) == [("r2",)]


def test_a_newer_schema_is_refused(database: DatabaseUrl, make_log: Callable[..., PostgresRequestLog]) -> None:
    """A database that a newer Crossfade has upgraded is refused when the log is opened."""
    log = make_log(database)
    assert log.open() is None
    with psycopg.connect(database.dsn) as connection:
        connection.execute(f"update {VERSION_TABLE} set version_num = '0099'")
    with pytest.raises(SchemaTooNew):
        log.open()


class TestRetention:
    """Old rows go, by one router at a time."""

    def test_days_that_are_over_go(self, database: DatabaseUrl, make_log: Callable[..., PostgresRequestLog]) -> None:
        """Rows and labels older than the days of retention are deleted, newer ones stay."""
        log = make_log(database)
        old = "2020-01-01T00:00:00.000000+00:00"
        log.append([a_row("r1", ts_utc=old), a_row("r2"), a_row("r3", ts_utc=old)])
        log.append_labels([LateLabel(old, "r1", "1"), LateLabel(utc_now(), "r2", "1")])
        assert DatabaseKeeper(log, 3).look() == 3
        assert stored(database) == [("r2",)]
        assert stored(database, table="labels") == [("r2",)]
        assert log.problem is None

    def test_one_router_at_a_time(self, database: DatabaseUrl, make_log: Callable[..., PostgresRequestLog]) -> None:
        """While one router deletes the others leave it to that one."""
        from crossfade.postgres import retention

        log = make_log(database)
        log.append([a_row("r1", ts_utc="2020-01-01T00:00:00.000000+00:00")])
        with opened(database) as link:
            link.execute("select pg_advisory_lock(%s)", [retention._LOCK])
            assert DatabaseKeeper(log, 3).look() == 0
        assert DatabaseKeeper(log, 3).look() == 1

    def test_what_is_wrong_is_said(self, make_log: Callable[..., PostgresRequestLog]) -> None:
        """A database that is away is told of, as the log's problem."""
        log = make_log(NOBODY)
        assert DatabaseKeeper(log, 3).look() == 0
        assert "older rows cannot be deleted" in str(log.problem)
