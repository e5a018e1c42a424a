"""Slices counted on a Dask cluster."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from crossfade.engine import protocol
from crossfade.engine.cluster import Cluster, in_a_line, run_pickled
from crossfade.engine.protocol import Engine, EngineError

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

_DASK = {
    "distributed.scheduler.allowed-failures": 0,  # a slice that ended its worker would end the next one too
    "distributed.admin.large-graph-warning-threshold": "1TB",
}


@contextlib.contextmanager
def dask_client(address: str, workers: int) -> Iterator[Client]:
    """Connect to a Dask cluster, or start one here; arguments and errors as in :func:`crossfade.engine.open_engine`."""
    try:
        import dask
        from distributed import Client, LocalCluster
    except ModuleNotFoundError as error:
        raise EngineError("ENGINE=dask needs Dask: pip install 'crossfade[dask]'") from error

    with contextlib.ExitStack() as opened:
        opened.enter_context(dask.config.set(_DASK))
        cluster: LocalCluster | None = None
        try:
            if not address:
                folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="crossfade-dask-"))
                cluster = opened.enter_context(
                    LocalCluster(
                        n_workers=workers,
                        threads_per_worker=1,
                        dashboard_address="127.0.0.1:0",  # with None, something of it listens on port 8787 still
                        scheduler_kwargs={"dashboard": False},
                        memory_limit=0,  # they share this machine; a limit would kill them
                        silence_logs=logging.ERROR,
                        local_directory=folder,
                    )
                )
            client = opened.enter_context(
                Client(cluster or address, timeout=protocol.CONNECT_SECONDS, set_as_default=False)
            )
            client.wait_for_workers(1, timeout=protocol.WORKER_SECONDS)
        except (OSError, TimeoutError, ValueError, RuntimeError) as error:
            where = f"no Dask scheduler with a worker at ENGINE_ADDRESS={address}" if address else "Dask did not start"
            raise EngineError(
                f"{where}: {in_a_line(error)}; "
                "give an address such as tcp://host:8786, or none for a cluster on this machine"
            ) from error
        yield client


@contextlib.contextmanager
def on_dask(address: str, workers: int) -> Iterator[Engine]:
    """Open a Dask cluster as an engine; arguments and errors as in :func:`crossfade.engine.open_engine`."""
    with dask_client(address, workers) as client:
        engine = Cluster("dask", sum(client.nthreads().values()), partial(_spread_over_dask, client))
        engine.check()
        yield engine


def _spread_over_dask(client: Client, function: bytes, items: list[bytes]) -> list[bytes]:
    from distributed import wait

    sent = client.submit(bytes, function, pure=False)  # one copy per worker, not one per item
    futures = client.map(run_pickled, items, function=sent, pure=False)
    try:
        while True:
            with client.as_current(), contextlib.suppress(TimeoutError):
                wait(futures, timeout=protocol.WORKER_SECONDS)
                outcomes: list[bytes] = client.gather(futures)
                return outcomes
            if not client.nthreads():  # Dask would wait for ever
                raise RuntimeError("every worker is gone")
    finally:
        client.cancel(futures)  # where one is lost, the others need not run any more
