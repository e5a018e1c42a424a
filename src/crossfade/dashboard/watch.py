"""What the dashboard knows at this moment: every source with its lookout."""

from __future__ import annotations

from dataclasses import dataclass, replace

from crossfade.dashboard.distribution import LiveCounter, LiveWindow
from crossfade.dashboard.logtail import LogTail, Tail
from crossfade.dashboard.lookout import Look, Lookout
from crossfade.dashboard.neighbours import (
    AirflowState,
    RegistryState,
    RegistryWatch,
    RouterState,
    ask_airflow,
    ask_router,
)
from crossfade.dashboard.reportfiles import Decisions, DriftFiles, ReportFiles
from crossfade.loop.installation import Installation
from crossfade.loop.reports import ReportPaths
from crossfade.stack.airflow import Airflow

_FIRST_SECONDS = 0.3
"""Of reading a long log, before what has been read is shown for the first time."""

_ENDED = ("success", "failed")

_SLOW = 3
"""How many times as long MLflow and Airflow are left alone between two looks."""


@dataclass(frozen=True)
class Picture:
    """What all lookouts saw last."""

    log: Look[Tail]
    router: Look[RouterState]
    mlflow: Look[RegistryState]
    airflow: Look[AirflowState]
    drift: Look[DriftFiles]
    decisions: Look[Decisions]
    live: Look[LiveWindow]


class Watch:
    """The lookouts of one installation.

    Parameters
    ----------
    here : Installation
        Whose log, registry, reports and services.
    airflow : Airflow
        Its Airflow.
    """

    def __init__(self, here: Installation, airflow: Airflow) -> None:
        settings = here.settings
        seconds = settings.dashboard_refresh_seconds
        tail = LogTail(here.log, settings.reg_model_name, settings.dashboard_log_rows)
        files = ReportFiles(ReportPaths.of(settings), here.audit, settings.reg_model_name)
        registry = RegistryWatch(settings, here.registry)
        counter = LiveCounter(here.log, settings.reg_model_name, settings.drift_window_rows)
        self.run_id: str | None = None
        """The DAG run that was triggered from the page last."""
        self._tail = tail
        self.log = Lookout("request log", self._read_log, Tail(complete=False), seconds)
        self.router = Lookout("router", lambda: ask_router(settings.router_url), RouterState(), seconds)
        self.airflow = Lookout("Airflow", lambda: self._ask_airflow(airflow), AirflowState(), _SLOW * seconds)
        self.drift = Lookout("drift reports", files.drift, DriftFiles(), seconds)
        self.decisions = Lookout("decisions", files.decisions, Decisions(), seconds)
        self.mlflow = Lookout("MLflow", lambda: self._ask_mlflow(registry), RegistryState(), _SLOW * seconds)
        self.live = Lookout(
            "live rows", lambda: counter.look(self.mlflow.look.value.learnt), LiveWindow(), _SLOW * seconds
        )

    def all(
        self,
    ) -> tuple[
        Lookout[Tail]
        | Lookout[RouterState]
        | Lookout[AirflowState]
        | Lookout[DriftFiles]
        | Lookout[Decisions]
        | Lookout[RegistryState]
        | Lookout[LiveWindow],
        ...,
    ]:
        """Return every lookout."""
        return (self.log, self.router, self.mlflow, self.airflow, self.drift, self.decisions, self.live)

    def start(self) -> None:
        """Look from now on."""
        self.decisions.look_now()  # MLflow is asked about them
        for lookout in self.all():
            lookout.start()

    def look_now(self) -> None:
        """Look at everything once, one after the other."""
        for lookout in self.all():
            lookout.look_now()

    def look_soon(self) -> None:
        """Have everything looked at without waiting: something was changed."""
        for lookout in self.all():
            lookout.look_soon()

    def picture(self) -> Picture:
        """Return what all saw last."""
        return Picture(
            self.log.look,
            self.router.look,
            self.mlflow.look,
            self.airflow.look,
            self.drift.look,
            self.decisions.look,
            self.live.look,
        )

    def _read_log(self) -> Tail:
        tail = self._tail.refresh(_FIRST_SECONDS)
        if not tail.complete:
            self.log.look_soon()  # show what there is, and go on
        return tail

    def _ask_airflow(self, airflow: Airflow) -> AirflowState:
        run = self.airflow.look.value.run
        if run is None or run.id != self.run_id or run.state not in _ENDED:
            return ask_airflow(airflow, self.run_id)
        return replace(ask_airflow(airflow, None), run=run)  # it will not change any more

    def _ask_mlflow(self, registry: RegistryWatch) -> RegistryState:
        found = registry.look(self._drift_runs())
        if found.learnt is not self.mlflow.look.value.learnt:
            self.live.look_soon()  # rows are counted on it
        return found

    def _drift_runs(self) -> list[str]:
        return [str(run["run_id"]) for run in self.decisions.look.value.runs if run["kind"] == "drift"]
