"""Real HTTP traffic for the router: many users, a chosen drift, labels at once or later."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import requests

from crossfade.data import Table, draw_traffic
from crossfade.errors import ServiceError
from crossfade.schema import label_text

Labels = Literal["now", "later", "none"]

_FEEDBACK_BATCH = 500


@dataclass(frozen=True)
class Plan:
    """What to send."""

    rows: int
    users: int
    """Requests are shared out over this many user ids at random."""
    drift: float
    """Shift of the features in standard deviations."""
    labels: Labels
    """`now`: with the request; `later`: to /feedback after all requests; `none`."""
    rate: float
    """Requests per second; 0 is as fast as they are answered."""
    clients: int
    """Requests under way at once."""
    seed: int


@dataclass
class Outcome:
    """What came back; filled while the traffic runs."""

    answered: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Answers by (variant, model version)."""
    correct: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Right answers by (variant, model version)."""
    failed: Counter[str] = field(default_factory=Counter)
    """Requests without an answer, by what came instead."""
    latencies_ms: list[float] = field(default_factory=list)
    """As the client saw them."""
    seconds: float = 0.0


def send(table: Table, plan: Plan, url: str, token: str | None, progress: Callable[[int], None]) -> Outcome:
    """Send traffic to the router and wait for every answer.

    Parameters
    ----------
    table : Table
        Rows are drawn from it.
    plan : Plan
        How many, how, with which labels.
    url : str
        The router's address; nothing else is called.
    token : str or None
        Bearer token where the router asks for one.
    progress : callable
        Called with the number of requests that came back since the last call.

    Raises
    ------
    ServiceError
        The router does not answer at all.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    _check_reachable(url)
    bodies = _bodies(table, plan)
    truth = [label_text(body.pop("label")) for body in bodies]
    if plan.labels == "now":
        bodies = [{**body, "label": label} for body, label in zip(bodies, truth, strict=True)]
    outcome, lock, local = Outcome(), threading.Lock(), threading.local()
    late: list[dict[str, str]] = []
    started = time.perf_counter()

    def one(index: int) -> None:
        if plan.rate:
            time.sleep(max(0.0, started + index / plan.rate - time.perf_counter()))
        session = getattr(local, "session", None) or requests.Session()
        local.session = session
        sent = time.perf_counter()
        answer, problem = _post(session, f"{url}/predict", bodies[index], headers)
        elapsed_ms = (time.perf_counter() - sent) * 1000
        with lock:
            if answer is None:
                outcome.failed[problem] += 1
            else:
                arm = (str(answer["variant"]), str(answer["model_version"]))
                outcome.answered[arm] += 1
                outcome.correct[arm] += label_text(answer["prediction"]) == truth[index]
                outcome.latencies_ms.append(elapsed_ms)
                late.append({"request_id": answer["request_id"], "label": truth[index]})
            progress(1)

    with ThreadPoolExecutor(plan.clients) as pool:
        list(pool.map(one, range(plan.rows)))  # raises what a request raised
    if plan.labels == "later":
        _send_labels(late, url, headers)
    outcome.seconds = time.perf_counter() - started
    return outcome


def _bodies(table: Table, plan: Plan) -> list[dict[str, Any]]:
    rows = draw_traffic(table, plan.rows, plan.drift, plan.seed)
    users = np.random.default_rng(plan.seed + 1).integers(0, plan.users, plan.rows)
    sent = zip(users, table.schema.rows_of(rows), rows[table.target].tolist(), strict=True)
    return [
        {"user_id": f"user-{user}", "features": dict(zip(table.features, values, strict=True)), "label": label}
        for user, values, label in sent
    ]


def _post(session: requests.Session, url: str, body: Any, headers: dict[str, str]) -> tuple[Any, str]:
    try:
        answer = session.post(url, json=body, headers=headers, timeout=30)
    except requests.RequestException as error:
        return None, type(error).__name__
    if not answer.ok:
        return None, f"{answer.status_code} {answer.text[:200]}"
    return answer.json(), ""


def _send_labels(late: list[dict[str, str]], url: str, headers: dict[str, str]) -> None:
    session = requests.Session()
    for start in range(0, len(late), _FEEDBACK_BATCH):
        answer, problem = _post(session, f"{url}/feedback", late[start : start + _FEEDBACK_BATCH], headers)
        if answer is None:
            raise ServiceError(f"the labels were not all taken: {problem}")


def _check_reachable(url: str) -> None:
    try:
        requests.get(f"{url}/health", timeout=10).raise_for_status()
    except requests.RequestException as error:
        raise ServiceError(f"the router at {url} does not answer; start it with `crossfade up`: {error}") from error
