"""What Prometheus is told: counted per worker in a `Tally`, added up over all of them when somebody asks.

prometheus_client's own way for several processes would take an environment variable before its import, a start script
that empties its folder, and several times the time per request: here it is one lock and four additions to memory.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from crossfade import __version__
from crossfade.errors import LogUnavailable, NoModel
from crossfade.serving.answers import Worker
from crossfade.serving.deployment import Arm
from crossfade.serving.exposition import BOUNDS, Metric, family_text
from crossfade.serving.predictor import Answer, PredictionFailed
from crossfade.serving.reload import Reloader
from crossfade.serving.tally import Series, Tally, folder_of_this_router, sweep

REQUESTS = Metric(
    "crossfade_requests_total",
    "counter",
    ("variant", "model_version", "status"),
    "Requests for a prediction, by any protocol; a batch is one. No variant: refused before an arm was chosen.",
)
PREDICTIONS = Metric(
    "crossfade_predictions_total", "counter", ("variant", "model_version"), "Rows that were answered and logged."
)
SECONDS = Metric(
    "crossfade_request_seconds",
    "histogram",
    ("variant",),
    "Time from a request's body to its answer, for requests that were answered with 200.",
)
LABELS = Metric("crossfade_labels_total", "counter", (), "Labels that /feedback took.")
LOG_FAILURES = Metric(
    "crossfade_log_failures_total", "counter", (), "Requests with rows or labels that could not be logged."
)
LOST = Metric(
    "crossfade_log_rows_lost_total",
    "counter",
    (),
    "Rows that were answered although they could not be logged; only with LOG_FAILURE=serve.",
)
WAITING = Metric(
    "crossfade_log_waiting_bytes",
    "gauge",
    (),
    "Bytes of answered rows and labels that wait on this machine's disk for a database that is away.",
)
RELOAD_FAILURES = Metric(
    "crossfade_reload_failures_total", "counter", (), "Looks at the registry that found something wrong."
)
REGISTRY_SEEN = Metric(
    "crossfade_registry_seen_seconds",
    "gauge",
    (),
    "When the registry was last seen, in seconds since the epoch, by the worker that saw it longest ago; 0: never.",
    over_workers=min,
)
MODEL = Metric(
    "crossfade_model_info",
    "gauge",
    ("variant", "alias", "model", "model_version", "runtime"),
    "How many workers serve this version.",
)
REGISTERED = Metric(
    "crossfade_model_registered_seconds",
    "gauge",
    ("variant", "model_version"),
    "When the version that serves was registered, in seconds since the epoch.",
    over_workers=max,
)
WORKERS = Metric("crossfade_workers", "gauge", (), "Workers that live.")
SPLIT = Metric("crossfade_ab_split_b", "gauge", (), "Share of users on B.")
BUILD = Metric("crossfade_build_info", "gauge", ("version",), "The router's own version; always 1.")

PROCESS = "process"
"""Series that no scrape shows: a worker's process id."""

_OF_WORKERS = {metric.name: metric for metric in (REGISTRY_SEEN, MODEL, REGISTERED)}
"""Gauges that every worker has of its own."""

METRICS = (
    REQUESTS, PREDICTIONS, SECONDS, LABELS, LOG_FAILURES, LOST, WAITING, RELOAD_FAILURES, REGISTRY_SEEN, MODEL,
    REGISTERED, WORKERS, SPLIT, BUILD,
)  # fmt: skip


@dataclass(frozen=True)
class _Slots:
    """Where the numbers of answers by one version stand."""

    requests: int
    predictions: int
    buckets: tuple[int, ...]
    seconds: int


class Metrics:
    """Counts what happens in a worker, and tells what happened in all of them.

    Parameters
    ----------
    parent : Path
        Folder of the folders that routers have their tallies in.
    """

    def __init__(self, parent: Path) -> None:
        folder = folder_of_this_router(parent)
        sweep(parent, but=folder)
        self._tally = tally = Tally(folder)
        self._lock, self._numbers = tally.lock, tally.numbers
        self._slots: dict[tuple[str, str], _Slots] = {}
        for series in tally.known():  # of the dead worker whose tally this was
            if series[0] in (MODEL.name, REGISTERED.name):
                tally.put(0, *series)
        for metric in (LABELS, LOG_FAILURES, LOST, RELOAD_FAILURES):
            tally.slot(metric.name)
        tally.put(os.getpid(), PROCESS)

    def answered(self, answer: Answer, seconds: float) -> None:
        """Count an answered request: the hot path's whole share of the work."""
        arm = answer.arm
        slots = self._slots.get((arm.variant, arm.version)) or self._slots_of(arm)
        bucket = slots.buckets[bisect_left(BOUNDS, seconds)]
        numbers = self._numbers
        with self._lock:
            numbers[slots.requests] += 1
            numbers[slots.predictions] += len(answer.predictions)
            numbers[bucket] += 1
            numbers[slots.seconds] += seconds

    def failed(self, status: int, error: Exception | None) -> None:
        """Count a request for a prediction that was not answered."""
        arm = error.arm if isinstance(error, PredictionFailed) else None
        self._tally.add(1, REQUESTS.name, arm.variant if arm else "", arm.version if arm else "", str(status))
        self.noticed(error)

    def noticed(self, error: Exception | None) -> None:
        """Count a failure by what it was."""
        if isinstance(error, LogUnavailable):
            self._tally.add(1, LOG_FAILURES.name)

    def lost(self, rows: int, error: LogUnavailable) -> None:
        """Count rows that were answered and not logged."""
        self._tally.add(rows, LOST.name)
        self.noticed(error)

    def labeled(self, labels: int) -> None:
        """Count late labels."""
        self._tally.add(labels, LABELS.name)

    def looked(self, reloader: Reloader) -> None:
        """Take note of a look at the registry, and of what is served after it."""
        look = reloader.last_look
        self._tally.put(look.at, REGISTRY_SEEN.name)
        if look.problem:
            self._tally.add(1, RELOAD_FAILURES.name)
        served = _served(reloader)
        known = {series for series in self._tally.known() if series[0] in (MODEL.name, REGISTERED.name)}
        for series in known | served.keys():
            self._tally.put(served.get(series, 0.0), *series)

    def workers(self) -> list[Worker]:
        """Return this worker and its siblings that live, by process id."""
        living = (numbers for alive, numbers in self._tally.read() if alive)
        return sorted((_worker(numbers) for numbers in living), key=lambda worker: worker.worker)

    def text(self, split_b: float, waiting_bytes: int = 0) -> str:
        """Tell everything in Prometheus' text format."""
        tallies = list(self._tally.read())
        living = sum(alive for alive, _ in tallies)
        theirs: dict[Series, list[float]] = defaultdict(list)
        for alive, numbers in tallies:
            for series, number in numbers.items():
                if alive or series[0] not in _OF_WORKERS:
                    theirs[series].append(number)
        found = {series: _together(series, numbers) for series, numbers in theirs.items()}
        served_once = [series for series in found if series[0] in _OF_WORKERS and len(series) > 1 and not found[series]]
        for series in served_once:
            del found[series]
        now = {SPLIT.name: split_b, WAITING.name: float(waiting_bytes), WORKERS.name: float(living)}
        found |= {(name,): number for name, number in now.items()} | {(BUILD.name, __version__): 1.0}
        return "".join(family_text(metric, found) for metric in METRICS)

    def _slots_of(self, arm: Arm) -> _Slots:
        slot = self._tally.slot
        slots = _Slots(
            slot(REQUESTS.name, arm.variant, arm.version, "200"),
            slot(PREDICTIONS.name, arm.variant, arm.version),
            tuple(slot(f"{SECONDS.name}_bucket", arm.variant, str(bound)) for bound in (*BOUNDS, "+Inf")),
            slot(f"{SECONDS.name}_sum", arm.variant),
        )
        self._slots[arm.variant, arm.version] = slots
        return slots


def _served(reloader: Reloader) -> dict[Series, float]:
    """Return the gauges of what a worker serves."""
    try:
        deployment = reloader.current
    except NoModel:
        return {}
    gauges: dict[Series, float] = {}
    for arm in (deployment.prod, deployment.staging):
        if arm is not None:
            gauges[MODEL.name, arm.variant, arm.alias, deployment.model_name, arm.version, arm.loaded.model.tier] = 1.0
            if registered := arm.loaded.version.registered_at:
                seconds = datetime.fromisoformat(registered).timestamp()
                gauges[REGISTERED.name, arm.variant, arm.version] = seconds
    return gauges


def _worker(numbers: Mapping[Series, float]) -> Worker:
    served = {series[1]: series[4] for series, number in numbers.items() if series[0] == MODEL.name and number}
    seen = numbers.get((REGISTRY_SEEN.name,), 0.0)
    when = datetime.fromtimestamp(seen, UTC).isoformat(timespec="seconds") if seen else None
    return Worker(int(numbers.get((PROCESS,), 0)), served.get("A"), served.get("B"), when)


def _together(series: Series, numbers: list[float]) -> float:
    """Make one number of those of all workers."""
    gauge = _OF_WORKERS.get(series[0])
    return float(gauge.over_workers(numbers) if gauge else sum(numbers))
