"""What was measured, and the ratios that are promised."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

from servers.peers import PEERS
from servers.processes import Memory
from servers.wrk import Load


@dataclass(frozen=True)
class Measured:
    """One server in one round."""

    single: Load
    batch: Load | None
    """None: it is not asked for batches."""
    memory: Memory
    """After the single rows."""


Round = dict[str, Measured]
"""By the server's name."""


@dataclass(frozen=True)
class Result:
    """A whole run."""

    servers: dict[str, str]
    """What answers, in a line, by name; in the order of the table."""
    tiers: dict[str, str]
    """How the models of our routers are evaluated, and on how many arms."""
    rounds: list[Round]
    left_out: dict[str, str]
    """Peers that could not be measured, and why."""
    problems: list[str]
    """What must not happen in a run that counts: errors, wrong answers, rows that were not logged."""
    busy: float
    """Percent of all cores that other programs used before anything was started."""


@dataclass(frozen=True)
class Ratio:
    """A number that is taken round by round."""

    key: str
    title: str
    values: Sequence[float]
    """One per round, ascending; empty where one of the two did not run."""
    at_least: float = -inf
    at_most: float = inf
    unit: str = "x"

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    @property
    def kept(self) -> bool:
        """Whether it is as promised; what was not measured is not shown."""
        if self.at_least == -inf and self.at_most == inf:
            return True
        return bool(self.values) and self.at_least <= self.median <= self.at_most

    @property
    def target(self) -> str:
        """What is promised; nothing where it is just told."""
        if self.at_least > -inf:
            return f"at least {self.at_least:g}"
        return f"at most {self.at_most:g}" if self.at_most < inf else ""


Of = Callable[[Round], float]


def ratios_of(result: Result) -> list[Ratio]:
    """Return every ratio; the promises are about linear models, the forests' are told beside them."""

    def taken(of: Of) -> list[float]:
        try:
            return sorted(map(of, result.rounds))
        except (KeyError, ValueError):  # one of the two, or every peer, did not run
            return []

    def over(key: str, title: str, mine: str, other: Of, at_least: float = -inf) -> Ratio:
        return Ratio(key, title, taken(lambda r: r[mine].single.per_second / other(r)), at_least)

    def by_hand(found: Round) -> float:
        return found["straightforward"].single.per_second

    def latency(key: str, mine: str, at_least: float = -inf) -> Ratio:
        values = taken(lambda r: r["straightforward"].single.p99_ms / r[mine].single.p99_ms)
        return Ratio(key, f"p99: straightforward / {mine}", values, at_least)

    def workers(key: str, name: str, at_most: float = inf) -> Ratio:
        title = f"memory of two workers, {name}"
        return Ratio(key, title, taken(lambda r: r[name].memory.two_workers), at_most=at_most, unit="MB")

    return [
        over("granian_straightforward", "granian / straightforward", "granian", by_hand, 30),
        over("gunicorn_straightforward", "gunicorn / straightforward", "gunicorn", by_hand, 7),
        over("granian_best_peer", "granian / best peer", "granian", _best_peer, 10),
        over("gunicorn_best_peer", "gunicorn / best peer", "gunicorn", _best_peer, 2),
        latency("p99_straightforward_granian", "granian", 10),
        Ratio("batch_granian_mlflow", "batches: granian / mlflow", taken(lambda r: _batches(r, "granian")), 5),
        Ratio("batch_gunicorn_mlflow", "batches: gunicorn / mlflow", taken(lambda r: _batches(r, "gunicorn")), 5),
        workers("two_workers_granian_mb", "granian", 150),
        workers("two_workers_gunicorn_mb", "gunicorn", 150),
        over("granian_1_thread_straightforward", "granian-1-thread / straightforward", "granian-1-thread", by_hand),
        over("granian_1_thread_best_peer", "granian-1-thread / best peer", "granian-1-thread", _best_peer),
        latency("p99_straightforward_granian_1_thread", "granian-1-thread"),
        over("granian_constant", "granian / constant-granian", "granian", _of("constant-granian")),
        over("gunicorn_constant", "gunicorn / constant-gunicorn", "gunicorn", _of("constant-gunicorn")),
        over("granian_fastapi", "granian / fastapi", "granian", _of("fastapi")),
        over("gunicorn_fastapi", "gunicorn / fastapi", "gunicorn", _of("fastapi")),
        over("granian_forest_straightforward", "granian-forest / straightforward", "granian-forest", by_hand),
        over("gunicorn_forest_straightforward", "gunicorn-forest / straightforward", "gunicorn-forest", by_hand),
        over("granian_forest_best_peer", "granian-forest / best peer", "granian-forest", _best_peer),
        over("gunicorn_forest_best_peer", "gunicorn-forest / best peer", "gunicorn-forest", _best_peer),
        workers("two_workers_granian_forest_mb", "granian-forest"),
        workers("two_workers_gunicorn_forest_mb", "gunicorn-forest"),
    ]


def _best_peer(found: Round) -> float:
    return max(found[peer.name].single.per_second for peer in PEERS if peer.contends and peer.name in found)


def _of(name: str) -> Of:
    return lambda found: found[name].single.per_second


def _batches(found: Round, name: str) -> float:
    mine, other = found[name].batch, found["mlflow"].batch
    assert mine is not None
    assert other is not None
    return mine.per_second / other.per_second
