"""Airflow's view of the DAG."""

from __future__ import annotations

from collections.abc import Iterator

from crossfade.doctor.finding import Finding, NotLooked, Site
from crossfade.doctor.services import is_answering
from crossfade.stack.airflow import DAG_ID, Airflow


def look_at_dag(site: Site) -> Iterator[Finding]:
    """Look whether Airflow can read the DAG, and lets it run."""
    settings = site.settings
    if not is_answering("airflow", settings.airflow_url):
        raise NotLooked(f"no Airflow answers at {settings.airflow_url}")
    airflow = Airflow(settings)
    errors = airflow.import_errors()
    for error in errors:
        yield Finding(
            "the DAG's file", f"Airflow cannot read it: {error.strip().splitlines()[-1][:200]}", "mend the file"
        )
    paused = airflow.is_paused()
    if paused is None and not errors:
        yield Finding(
            f"the DAG {DAG_ID}",
            "Airflow does not know it",
            "look whether dags/ is where Airflow reads, and wait a minute",
        )
    elif paused and settings.dag_schedule != "none":
        yield Finding(
            f"the DAG {DAG_ID}",
            f"it is paused: DAG_SCHEDULE={settings.dag_schedule} starts nothing",
            "switch it on in Airflow, or `crossfade run`",
        )
