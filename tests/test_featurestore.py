"""The feature store: every row once, whoever sends it how often."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from crossfade.errors import BatchConflict, StoreUnavailable
from crossfade.featurestore import FeatureStore
from crossfade.ingested import Added, FeatureRow, StoreStats

MODEL = "IrisClassifier"


def _rows(batch_id: str, count: int, start: int = 0, label: str = "1") -> list[FeatureRow]:
    return [FeatureRow(batch_id, i, f'{{"width":{i}.5}}', label) for i in range(start, start + count)]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database whose folder does not exist yet."""
    return f"sqlite:///{tmp_path}/var/features.db"


@pytest.fixture
def store(url: str) -> FeatureStore:
    """An empty store."""
    return FeatureStore(url)


def test_nothing_is_made_before_the_first_write(tmp_path: Path, store: FeatureStore) -> None:
    """An empty store reads as empty, and neither that nor making it leaves anything on the disk."""
    assert store.labeled(MODEL).empty
    assert list(store.labeled(MODEL)) == ["request_id", "ts_utc", "features_json", "label"]
    assert store.stats(MODEL) == StoreStats(0, 0, {}, None, None, ())
    assert list(tmp_path.iterdir()) == []


def test_a_database_of_somebody_else_reads_as_empty(tmp_path: Path) -> None:
    """A file without the tables holds no rows, and reading does not make the tables."""
    (tmp_path / "features.db").touch()
    store = FeatureStore(f"sqlite:///{tmp_path}/features.db")
    assert (store.labeled(MODEL).empty, store.stats(MODEL).rows) == (True, 0)
    assert (tmp_path / "features.db").stat().st_size == 0


def test_a_batch_is_read_back(store: FeatureStore) -> None:
    """What was stored is what is read: named by batch and position, dated, oldest first."""
    assert store.add_batch(MODEL, "b.1", _rows("b.1", 2))
    store.add_batch(MODEL, "a", _rows("a", 1, label="0"))
    found = store.labeled(MODEL)
    assert list(found["request_id"]) == ["ingest:b.1.0", "ingest:b.1.1", "ingest:a.0"]
    assert list(found["features_json"]) == ['{"width":0.5}', '{"width":1.5}', '{"width":0.5}']
    assert list(found["label"]) == ["1", "1", "0"]
    assert pd.to_datetime(found["ts_utc"], utc=True, format="ISO8601").is_monotonic_increasing


def test_a_new_instance_reads_what_another_stored(store: FeatureStore, url: str) -> None:
    """Rows survive their writer."""
    store.add_batch(MODEL, "a", _rows("a", 3))
    assert len(FeatureStore(url).labeled(MODEL)) == 3


def test_models_are_kept_apart(store: FeatureStore) -> None:
    """The same batch id of another model is another batch."""
    assert store.add_batch(MODEL, "a", _rows("a", 3))
    assert store.add_batch("Other", "a", _rows("a", 1))
    assert (len(store.labeled(MODEL)), len(store.labeled("Other"))) == (3, 1)


def test_a_batch_sent_again_is_stored_once(store: FeatureStore) -> None:
    """The same batch again changes nothing, and is told apart from a new one."""
    assert [store.add_batch(MODEL, "a", _rows("a", 3)) for _ in range(3)] == [True, False, False]
    assert len(store.labeled(MODEL)) == 3
    assert store.stats(MODEL).newest_batches[0].stored == 3


@pytest.mark.parametrize("other", [_rows("a", 2), _rows("a", 4), _rows("a", 3, label="2"), []])
def test_other_rows_under_the_same_id_are_refused(store: FeatureStore, other: list[FeatureRow]) -> None:
    """A batch id stands for one content: other rows are refused, and nothing of them is stored."""
    store.add_batch(MODEL, "a", _rows("a", 3))
    with pytest.raises(BatchConflict, match=r"'a' is taken by other rows; send the rows .* or choose another batch_id"):
        store.add_batch(MODEL, "a", other)
    assert list(store.labeled(MODEL)["label"]) == ["1"] * 3


def test_a_streamed_batch_is_not_overwritten(store: FeatureStore) -> None:
    """The id of a stream is refused for a batch, even of the same rows: a stream has no end to compare with."""
    store.add_rows(MODEL, _rows("a", 3), {})
    with pytest.raises(BatchConflict, match="which were streamed"):
        store.add_batch(MODEL, "a", _rows("a", 3))


def test_a_batch_is_stored_whole_or_not_at_all(store: FeatureStore) -> None:
    """A batch with a row that the database refuses leaves nothing, not even its id."""
    bad: Any = FeatureRow("a", 3, None, "1")  # type: ignore[arg-type]  # what the database refuses
    with pytest.raises(StoreUnavailable):
        store.add_batch(MODEL, "a", [*_rows("a", 3), bad])
    assert (store.labeled(MODEL).empty, store.stats(MODEL).batches) == (True, 0)
    assert store.add_batch(MODEL, "a", _rows("a", 3))


def test_streamed_rows_are_stored_once_each(store: FeatureStore) -> None:
    """Of rows that overlap with stored ones only the new ones are stored and counted."""
    assert store.add_rows(MODEL, _rows("a", 3), {}) == Added(3, ())
    assert store.add_rows(MODEL, _rows("a", 5), {}) == Added(2, ())
    assert store.add_rows(MODEL, _rows("a", 5) + _rows("b", 1), {}) == Added(1, ())
    assert list(store.labeled(MODEL)["request_id"]) == [*(f"ingest:a.{i}" for i in range(5)), "ingest:b.0"]


def test_a_stored_row_is_never_changed(store: FeatureStore) -> None:
    """Another row for a place that is taken is refused, and the rows around it are stored."""
    store.add_rows(MODEL, _rows("a", 2), {})
    other = _rows("a", 1, start=1, label="2")
    assert store.add_rows(MODEL, _rows("a", 1) + other + _rows("a", 1, start=2), {}) == Added(1, tuple(other))
    assert list(store.labeled(MODEL)["label"]) == ["1"] * 3


def test_a_batch_stored_whole_takes_no_more_rows(store: FeatureStore) -> None:
    """Rows streamed under the id of a batch are that batch's, or are refused."""
    store.add_batch(MODEL, "a", _rows("a", 2))
    assert store.add_rows(MODEL, _rows("a", 3), {}) == Added(0, tuple(_rows("a", 1, start=2)))
    assert not store.add_batch(MODEL, "a", _rows("a", 2))
    assert len(store.labeled(MODEL)) == 2


def test_no_rows_are_no_write(store: FeatureStore, tmp_path: Path) -> None:
    """Storing nothing makes nothing."""
    assert store.add_rows(MODEL, [], {}) == Added(0, ())
    assert list(tmp_path.iterdir()) == []


def test_stats_count_rows_labels_and_batches(store: FeatureStore) -> None:
    """The stats say how many rows there are, of which label, since when, and what came last."""
    store.add_batch(MODEL, "a", _rows("a", 3))
    store.add_rows(MODEL, _rows("s", 2, label="0"), {"s": 1})
    store.add_rows(MODEL, _rows("s", 2, start=3, label="0"), {"s": 4})
    stats = store.stats(MODEL)
    assert (stats.rows, stats.batches, stats.labels) == (7, 2, {"0": 4, "1": 3})
    assert [(b.batch_id, b.stored, b.rejected) for b in stats.newest_batches] == [("s", 4, 4), ("a", 3, 0)]
    stamps = store.labeled(MODEL)["ts_utc"]
    assert (stats.first_ts_utc, stats.last_ts_utc) == (stamps.iloc[0], stamps.iloc[-1])


def test_stats_show_the_ten_newest_batches(store: FeatureStore) -> None:
    """Of many batches all count, and the newest ten are listed."""
    for i in range(12):
        store.add_batch(MODEL, f"b{i}", _rows(f"b{i}", 1))
    stats = store.stats(MODEL)
    assert stats.batches == 12
    assert [b.batch_id for b in stats.newest_batches] == [f"b{i}" for i in range(11, 1, -1)]


def _in_processes(work: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Run a function in processes that start it at the same moment."""
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(len(arguments)), context.Queue()

    def run(*given: Any) -> None:
        barrier.wait(120)
        try:
            results.put(work(*given))
        except Exception as error:  # noqa: BLE001 - shown by the test
            results.put(repr(error))

    processes = [context.Process(target=run, args=given) for given in arguments]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    return found


@pytest.mark.parametrize("attempt", range(3))
def test_two_processes_with_the_same_batch_store_it_once(store: FeatureStore, url: str, attempt: int) -> None:
    """Of processes that write one batch at once into a store that is not there yet, one stores it."""
    found = _in_processes(lambda: FeatureStore(url).add_batch(MODEL, "a", _rows("a", 500)), [()] * 4)
    assert sorted(found, key=str) == [False, False, False, True]
    assert len(store.labeled(MODEL)) == 500


def test_two_processes_with_the_same_stream_store_each_row_once(store: FeatureStore, url: str) -> None:
    """Processes that write the same rows at once store each once; what each says was new adds up."""

    def write(chunk: int) -> int:
        mine = FeatureStore(url)
        return sum(mine.add_rows(MODEL, _rows("a", chunk, start), {}).new for start in range(0, 2000, chunk))

    found = _in_processes(write, [(100,), (250,), (400,)])
    assert sum(found) == 2000
    assert store.labeled(MODEL)["request_id"].nunique() == len(store.labeled(MODEL)) == 2000
    assert store.stats(MODEL).newest_batches[0].stored == 2000


def test_threads_write_and_read_at_once(store: FeatureStore) -> None:
    """Threads on one store write batches of their own while others read; none is lost, none sees half a batch."""
    stop, seen = threading.Event(), []

    def look() -> None:
        while not stop.is_set():
            seen.append(len(store.labeled(MODEL)))

    with ThreadPoolExecutor() as pool:
        looking = pool.submit(look)
        list(pool.map(lambda i: store.add_batch(MODEL, f"b{i}", _rows(f"b{i}", 50)), range(20)))
        stop.set()
        looking.result()
    assert len(store.labeled(MODEL)) == 1000
    assert all(count % 50 == 0 for count in seen)


@pytest.mark.parametrize(
    ("url", "mentions"),
    [
        ("postgresql+psycopg2://me:s3cret@127.0.0.1:1/rows", "127.0.0.1:1/rows"),
        ("postgresql+psycopg2://me:s3/cret@127.0.0.1:1/rows?password=s3cret", "127.0.0.1:1/rows"),
        ("mysql://me:s3cret@db/rows", "allowed: sqlite:///<file> and postgresql"),
        ("me:s3cret@nowhere", "no SQLAlchemy URL"),
        ("sqlite:////proc/no/such/features.db", "/proc/no/such/features.db"),
    ],
)
def test_a_database_that_cannot_be_written_is_said_so(url: str, mentions: str) -> None:
    """A store that cannot be written names the database and what to do, and never shows a password."""
    with pytest.raises(StoreUnavailable, match="correct FEATURE_STORE, then send the rows again") as caught:
        FeatureStore(url).add_batch(MODEL, "a", _rows("a", 1))
    assert mentions in str(caught.value)
    assert "cret" not in str(caught.value)


def test_a_file_that_is_no_database_is_said_so(tmp_path: Path) -> None:
    """A store whose file holds something else is unavailable, for reading and for writing."""
    (tmp_path / "features.db").write_text("not a database" * 100)
    store = FeatureStore(f"sqlite:///{tmp_path}/features.db")
    with pytest.raises(StoreUnavailable, match=r"features.db cannot be read: file is not a database"):
        store.labeled(MODEL)
    with pytest.raises(StoreUnavailable, match="cannot be written"):
        store.add_rows(MODEL, _rows("a", 1), {})


@pytest.mark.skipif("TEST_POSTGRES_URL" not in os.environ, reason="TEST_POSTGRES_URL names no PostgreSQL database")
def test_postgresql_keeps_the_same_contract() -> None:
    """On PostgreSQL processes that start at once make the tables and store each row once."""
    url, model = os.environ["TEST_POSTGRES_URL"], f"test-{os.urandom(8).hex()}"

    def write(chunk: int) -> tuple[bool, int]:
        mine = FeatureStore(url)
        whole = mine.add_batch(model, "whole", _rows("whole", 300))
        return whole, sum(
            mine.add_rows(model, _rows("a", chunk, start), {"a": 2}).new for start in range(0, 1000, chunk)
        )

    found = _in_processes(write, [(100,), (250,), (500,)])
    assert (sorted(whole for whole, _ in found), sum(new for _, new in found)) == ([False, False, True], 1000)
    store = FeatureStore(url)
    assert store.labeled(model)["request_id"].nunique() == len(store.labeled(model)) == 1300
    assert [(b.batch_id, b.stored, b.rejected) for b in store.stats(model).newest_batches] == [
        ("a", 1000, 2),
        ("whole", 300, 0),
    ]
    with pytest.raises(BatchConflict):
        store.add_batch(model, "whole", _rows("whole", 1))
