"""The router, MLflow and Airflow, asked how they are and what they serve."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import mlflow
import requests

from crossfade.errors import ModelUnusable, ServiceError
from crossfade.loop.reference import ReferenceProfile
from crossfade.loop.tracking import KIND, MODEL, read_profile
from crossfade.registry import Registry
from crossfade.schema import FeatureSchema
from crossfade.settings import Settings
from crossfade.stack.airflow import Airflow, DagRun
from crossfade.version import FEATURES, Version

_SECONDS = 4
"""How long a neighbour may take to answer."""

_MOST_RUNS = 500
"""Drift checks whose verdicts are asked for, the newest."""


@dataclass(frozen=True)
class RouterState:
    """What the router says of itself."""

    prod: str | None = None
    """Version that answers on arm A; None while there is none."""
    staging: str | None = None
    """Version on arm B."""
    experiment_id: str | None = None
    split_b: float | None = None
    """Share of the users on B; None until the router has answered once."""
    workers: int = 0
    swapping: bool = False
    """Whether the workers serve different versions at this moment."""
    problems: tuple[str, ...] = ()


def ask_router(url: str) -> RouterState:
    """Ask the router. Raises ServiceError."""
    health = _get(f"{url}/health", "the router")
    workers = health.get("workers") or []
    return RouterState(
        prod=health["prod"],
        staging=health["staging"],
        experiment_id=health["experiment_id"],
        split_b=float(health["ab_split_b"]),
        workers=len(workers),
        swapping=len({(worker["prod"], worker["staging"]) for worker in workers}) > 1,
        problems=tuple(health["problems"]),
    )


@dataclass(frozen=True)
class AirflowState:
    """What Airflow says of itself."""

    unwell: tuple[str, ...] = ()
    """Parts that a DAG run needs and that are not healthy."""
    run: DagRun | None = None
    """The run that was triggered from this page last; None when there was none."""


def ask_airflow(airflow: Airflow, run_id: str | None) -> AirflowState:
    """Ask Airflow, and after a run of its DAG. Raises ServiceError."""
    health = _get(f"{airflow.url}/api/v2/monitor/health", "Airflow")
    parts = ("metadatabase", "scheduler", "dag_processor")
    unwell = tuple(part for part in parts if (health.get(part) or {}).get("status") != "healthy")
    return AirflowState(unwell, airflow.look(run_id) if run_id else None)


@dataclass(frozen=True)
class Learnt:
    """What the version in production learnt."""

    version: Version
    schema: FeatureSchema
    profile: ReferenceProfile = field(compare=False)
    strangers: tuple[str, ...]
    """Versions of the same model that take other features."""


@dataclass(frozen=True)
class RegistryState:
    """What MLflow says."""

    prod: Version | None = None
    staging: Version | None = None
    previous: Version | None = None
    experiment_number: str | None = None
    """MLflow's own number of the experiment that holds the runs; None when there is none yet."""
    verdicts: Mapping[str, str] = field(default_factory=dict)
    """Of drift checks, by run id: `drift`, `stable`, ..."""
    learnt: Learnt | None = None
    """None without a prod version, or when Crossfade has not trained it."""


class RegistryWatch:
    """Asks MLflow; what cannot change is asked for once.

    Parameters
    ----------
    settings : Settings
        Which model, which aliases, which experiment.
    registry : Registry
        The registry.
    """

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings = settings
        self._registry = registry
        self._state = RegistryState()

    def look(self, drift_runs: Collection[str]) -> RegistryState:
        """Look at the aliases, and at the verdicts of drift checks that are not known yet.

        Raises
        ------
        RegistryUnavailable
            MLflow does not answer.
        """
        settings, registry, before = self._settings, self._registry, self._state
        prod = registry.at(settings.prod_alias)
        number, verdicts = before.experiment_number, before.verdicts
        if not set(drift_runs) <= verdicts.keys():
            number, verdicts = self._experiment_number(), {**verdicts, **self._verdicts()}
            verdicts |= dict.fromkeys(set(drift_runs) - verdicts.keys(), "")  # deleted, or of another experiment
        elif number is None:
            number = self._experiment_number()
        self._state = RegistryState(
            prod,
            registry.at(settings.staging_alias),
            registry.at(settings.previous_alias),
            number,
            verdicts,
            self._learnt(prod),
        )
        return self._state

    def _experiment_number(self) -> str | None:
        found = mlflow.get_experiment_by_name(self._settings.mlflow_experiment)
        return str(found.experiment_id) if found else None

    def _verdicts(self) -> dict[str, str]:
        runs: Any = mlflow.search_runs(
            experiment_names=[self._settings.mlflow_experiment],
            filter_string=f"tags.`{KIND}` = 'drift' and tags.`{MODEL}` = '{self._settings.reg_model_name}'",
            max_results=_MOST_RUNS,
            output_format="list",
        )
        return {run.info.run_id: run.data.tags.get("crossfade.verdict", "") for run in runs}

    def _learnt(self, prod: Version | None) -> Learnt | None:
        before = self._state.learnt
        if prod is None or (before is not None and before.version == prod):
            return before if prod else None
        try:
            schema, profile = self._registry.schema(prod), read_profile(prod.run_id)
        except ModelUnusable:
            return None
        others = (version for version in self._registry.versions())
        strangers = tuple(v.number for v in others if v.tags.get(FEATURES, schema.digest) != schema.digest)
        return Learnt(prod, schema, profile, strangers)


def _get(url: str, who: str) -> dict[str, Any]:
    try:
        answer = requests.get(url, timeout=_SECONDS)
        answer.raise_for_status()
        return dict(answer.json())
    except requests.ConnectionError as error:
        raise ServiceError(f"{who} does not answer at {url}: start it with `crossfade up`") from error
    except (requests.RequestException, ValueError) as error:
        raise ServiceError(f"{who} answers {url} with an error: {error}") from error
