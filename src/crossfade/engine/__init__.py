"""Where slices of the request log are counted: threads here, a Dask cluster or a Spark cluster.

All that is asked of an engine is an ordered map. What is merged afterwards is merged in the order of the slices, so
that every engine comes to the same numbers to the last digit.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass

from crossfade.engine.dask import dask_client, on_dask
from crossfade.engine.protocol import Engine, EngineError, EngineName, Item, Result
from crossfade.engine.spark import on_spark

__all__ = ["Engine", "EngineError", "EngineName", "dask_client", "open_engine"]


def open_engine(name: EngineName, address: str = "", workers: int = 2) -> AbstractContextManager[Engine]:
    """Open an engine for the time of a ``with`` block; when that is left, every process it started has ended.

    Parameters
    ----------
    name : {"local", "dask", "spark"}
        ``local`` is as many threads as this process may use cores: what it runs should release the GIL.
    address : str
        Dask: the scheduler, for example ``tcp://host:8786``. Spark: the master, for example ``spark://host:7077``.
        Empty: a cluster on this machine, of as many worker processes as said.
    workers : int
        Processes of such a cluster on this machine; has no meaning with an address, or for ``local``.

    Raises
    ------
    EngineError
        A package or Java is missing, or the cluster cannot be reached or has no usable worker.

    Examples
    --------
    >>> with open_engine("local") as engine:
    ...     engine.map(abs, [-3, 2, -1])
    [3, 2, 1]
    """
    if name == "dask":
        return on_dask(address, workers)
    return on_spark(address, workers) if name == "spark" else _threads()


@dataclass(frozen=True)
class _Threads:
    pool: ThreadPoolExecutor
    workers: int

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        return list(self.pool.map(function, items))


@contextlib.contextmanager
def _threads() -> Iterator[Engine]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(cores, thread_name_prefix="crossfade-engine") as pool:
        yield _Threads(pool, cores)
