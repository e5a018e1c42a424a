"""The contract of all engines, on clusters that really run: Dask and Spark with two worker processes each."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, NoReturn, get_args

import cloudpickle
import numpy as np
import psutil
import pytest
from distributed import LocalCluster

from crossfade.engine import Engine, EngineError, EngineName, open_engine
from crossfade.engine.spark import check_java
from crossfade.errors import CrossfadeError, DataError, InvalidInput
from crossfade.stats.profile import CategoricalProfile, NumericProfile

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import this file

CLUSTERS: tuple[EngineName, ...] = ("dask", "spark")


def _left() -> list[str]:
    """The processes started from here that still run, but for Python's own tracker, which ends with this process."""
    lines = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    return [line for line in lines if "resource_tracker" not in line]


@pytest.fixture(scope="module", params=get_args(EngineName))
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Each engine in turn, opened once; after it every process has ended."""
    if request.param == "spark":
        _need_java()
    before = _left()
    with open_engine(request.param, workers=2) as opened:
        yield opened
    assert _left() == before


def _need_java() -> None:
    try:
        check_java()
    except EngineError as error:
        pytest.skip(str(error))


def _name(engine: Engine) -> str:
    return getattr(engine, "name", "local")


def test_results_come_in_the_order_of_the_items(engine: Engine) -> None:
    """More items than workers, the first of which take longest, come back in their order."""

    def slow_at_first(item: int) -> int:
        threading.Event().wait(0.1 if item < 2 else 0)
        return item * item

    assert engine.map(slow_at_first, range(20)) == [item * item for item in range(20)]


def test_clusters_work_in_other_processes(engine: Engine) -> None:
    """Dask and Spark use both of their worker processes; threads stay in this one."""

    def where(_: int) -> int:
        threading.Event().wait(0.05)
        return os.getpid()

    found = set(engine.map(where, range(12)))
    if _name(engine) == "local":
        assert found == {os.getpid()}
        assert engine.workers == len(os.sched_getaffinity(0))
    else:
        assert os.getpid() not in found
        assert len(found) == engine.workers == 2


def test_nothing_gives_nothing(engine: Engine) -> None:
    """No items are no results."""
    assert engine.map(len, []) == []


def test_large_functions_and_results_arrive_whole(engine: Engine) -> None:
    """A function that holds 16 MB and results of 8 MB each arrive to the bit."""
    table = np.random.default_rng(1).random(2_000_000)

    def part(seed: int) -> np.ndarray:
        return table[seed::4] + np.random.default_rng(seed).random(500_000) * 0 + np.zeros((2, 500_000))

    for seed, found in enumerate(engine.map(part, range(4))):
        assert found.shape == (2, 500_000)
        np.testing.assert_array_equal(found[1], table[seed::4])


@pytest.mark.parametrize(
    "error",
    [
        DataError("no column size"),
        InvalidInput("features.size", "a number is needed"),
        FileNotFoundError(2, "no", "x.csv"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_reaches_the_caller_as_it_is(engine: Engine, error: Exception) -> None:
    """What the function raises comes back with its type, its words and what it holds."""

    def fail(item: int) -> int:
        if item:
            raise error
        return item

    with pytest.raises(type(error)) as caught:
        engine.map(fail, [0, 1, 2])
    assert str(caught.value) == str(error)
    assert {name: caught.value.__dict__.get(name) for name in error.__dict__} == error.__dict__


def test_the_first_failure_counts(engine: Engine) -> None:
    """Of several items that fail, the first one's exception is raised."""

    def fail(item: int) -> NoReturn:
        threading.Event().wait(0.1 if item == 1 else 0)
        raise DataError(f"slice {item}")

    with pytest.raises(DataError, match="slice 1"):
        engine.map(fail, [1, 2, 3])


def test_an_exception_that_cannot_travel_is_told(engine: Engine) -> None:
    """An exception that holds what cannot be pickled comes back, or its words as an EngineError."""

    class Locked(Exception):
        def __init__(self) -> None:
            super().__init__("the file is locked", threading.Lock())

    def fail(_: int) -> NoReturn:
        raise Locked

    with pytest.raises((Locked, EngineError), match="the file is locked"):
        engine.map(fail, [1])


def test_an_engine_survives_a_failure(engine: Engine) -> None:
    """After an exception the engine goes on."""
    with pytest.raises(ValueError, match="invalid literal"):
        engine.map(int, ["1", "x"])
    assert engine.map(int, ["1", "2"]) == [1, 2]


def test_a_worker_that_dies_is_an_engine_error(engine: Engine) -> None:
    """A slice that takes its worker down with it is told so, and the engine goes on."""
    if _name(engine) == "local":
        pytest.skip("a thread has no process of its own")

    def die(_: int) -> NoReturn:
        os._exit(1)

    with pytest.raises(EngineError, match=r"lost the work: .* memory for a slice"):
        engine.map(die, [1])
    assert engine.map(abs, [-1, -2]) == [1, 2]


def test_profiles_counted_in_slices_are_equal_to_the_bit(engine: Engine) -> None:
    """Counts over 13 slices, merged in order, are those of a plain loop to the last bit of the sum."""
    rng = np.random.default_rng(7)
    numbers, words = rng.normal(size=40_000), rng.choice(["a", "b", "c"], 40_000)
    live = rng.normal(0.3, 2, size=90_001)
    live[::17] = np.nan
    texts = rng.choice(["a", "b", "new", None], 90_001)
    numeric, categorical = NumericProfile.of(numbers), CategoricalProfile.of(words)
    slices = [(live[part], texts[part]) for part in np.array_split(np.arange(len(live)), 13)]

    def count(part: tuple[Any, Any]) -> tuple[Any, Any]:
        return numeric.count(part[0]), categorical.count(part[1])

    ours, theirs = [count(part) for part in slices], engine.map(count, slices)
    expected, found = (reduce(add, (pair[0] for pair in pairs)) for pairs in (ours, theirs))
    np.testing.assert_array_equal(found.below, expected.below)
    np.testing.assert_array_equal(found.at_or_below, expected.at_or_below)
    assert (found.rows, found.missing) == (expected.rows, expected.missing)
    assert found.total.hex() == expected.total.hex()
    assert reduce(add, (pair[1] for pair in theirs)) == reduce(add, (pair[1] for pair in ours))


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """The address of a Dask scheduler that somebody else runs, with one worker of three threads."""
    with LocalCluster(n_workers=1, threads_per_worker=3, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster.scheduler_address


def test_a_cluster_is_used_by_address(elsewhere: str) -> None:
    """A scheduler that runs elsewhere is used as it is, and left running."""
    for _ in range(2):
        with open_engine("dask", elsewhere) as engine:
            assert engine.workers == 3
            assert engine.map(abs, [-1]) == [1]


def test_workers_of_another_version_are_refused(elsewhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that run another Crossfade than this one are refused by name."""
    monkeypatch.setattr("crossfade.engine.cluster.__version__", "99")
    with pytest.raises(
        EngineError, match=r"a worker runs Python 3.11 with crossfade .*, but here it is .* crossfade 99"
    ):
        open_engine("dask", elsewhere).__enter__()


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port that is taken, and at which nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_a_cluster_that_is_not_there_is_named(nobody: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address at which nobody answers is told within seconds, with what an address looks like."""
    monkeypatch.setattr("crossfade.engine.protocol.CONNECT_SECONDS", 0.5)
    with pytest.raises(
        EngineError, match=rf"no Dask scheduler .* ENGINE_ADDRESS=tcp://127.0.0.1:{nobody}: .* tcp://host"
    ):
        open_engine("dask", f"tcp://127.0.0.1:{nobody}").__enter__()
    _need_java()
    with pytest.raises(EngineError, match=rf"no Spark master answers at ENGINE_ADDRESS=spark://127.0.0.1:{nobody}"):
        open_engine("spark", f"spark://127.0.0.1:{nobody}").__enter__()


@pytest.mark.parametrize(
    ("name", "address"), [("dask", "http://host:1"), ("spark", "sc://host"), ("spark", "host:7077")]
)
def test_an_address_of_another_kind_is_refused(name: EngineName, address: str) -> None:
    """What is no address of such a cluster is refused, Spark Connect among it."""
    if name == "spark":
        _need_java()
    with pytest.raises(EngineError, match=f"ENGINE_ADDRESS={address}"):
        open_engine(name, address).__enter__()


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_missing_package_is_named(name: EngineName, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the message says what to install."""
    monkeypatch.setitem(sys.modules, {"dask": "distributed", "spark": "pyspark"}[name], None)
    with pytest.raises(EngineError, match=rf"ENGINE={name} needs .*: pip install 'crossfade\[{name}\]'"):
        open_engine(name).__enter__()


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ('openjdk version "11.0.21" 2023-10-17', "Java 11 in"),
        ('java version "1.8.0_392"', "Java 8 in"),
        ("no such thing", "none in"),
        (None, "none in"),
    ],
)
def test_an_unfit_java_is_told(said: str | None, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Java that is missing or too old is told, with what to install."""
    if said is not None:
        java = tmp_path / "bin" / "java"
        java.parent.mkdir()
        java.write_text(f"#!/bin/sh\necho '{said}' >&2\n")
        java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(EngineError, match=rf"needs Java 17 or newer, and found {found} .*default-jre-headless"):
        open_engine("spark").__enter__()


def test_importing_loads_no_engine() -> None:
    """Neither Dask nor Spark is loaded before it is opened."""
    code = "import sys, crossfade.engine; print({'dask', 'distributed', 'pyspark', 'py4j'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_error_is_one_of_crossfades() -> None:
    """Callers that handle CrossfadeError handle engines."""
    assert issubclass(EngineError, CrossfadeError)
