"""What the page can do: change the split, roll back, trigger the DAG. Each returns a sentence on how it went."""

from __future__ import annotations

from dataclasses import dataclass

from crossfade.errors import ServiceError
from crossfade.loop.audit import SPLIT
from crossfade.loop.installation import Installation
from crossfade.loop.promote import roll_back
from crossfade.stack.airflow import DAG_ID, Airflow

_WHY = "asked for on the dashboard"


@dataclass(frozen=True)
class Controls:
    """Acts on one installation."""

    here: Installation
    airflow: Airflow

    def change_split(self, percent: float) -> str:
        """Give B another share of the users, and tell the audit.

        Parameters
        ----------
        percent : float
            In [0, 100].

        Raises
        ------
        ServiceError
            The router does not answer, or refuses.
        LogUnavailable
            The audit cannot be written; the split is in force.
        """
        if self.here.router is None:
            raise ServiceError("there is no router here: nobody splits the traffic")
        before = self.here.router.split_b()
        self.here.router.change_split_b(percent / 100)
        now = self.here.router.split_b()
        change = {"event": SPLIT, "model": self.here.registry.name, "from": before, "to": now, "reason": _WHY}
        self.here.audit.append(change)
        return f"B has {100 * now:.4g} % of the users now; it had {100 * before:.4g} %."

    def roll_back(self) -> str:
        """Put the previous version back into production.

        Raises
        ------
        NoModel
            There is none.
        """
        here = self.here
        out, back = roll_back(here.registry, here.aliases, here.audit, _WHY)
        if self.here.router is not None:
            self.here.router.reload()
        return f"Version {back} is in production again; version {out} gets no traffic any more."

    def trigger(self) -> tuple[str, str]:
        """Trigger the DAG as Airflow's own page does; return the run's id, and a sentence. Raises ServiceError."""
        run_id = self.airflow.trigger()
        return run_id, f"Airflow has taken {run_id} of {DAG_ID}."
