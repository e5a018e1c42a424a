"""Where a browser finds something in MLflow's UI."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True)
class MlflowPages:
    """Addresses of one MLflow's pages.

    Parameters
    ----------
    url : str
        MLFLOW_UI_URL. Where it is no web address (a database), there are no pages, and every address is empty.

    Examples
    --------
    >>> MlflowPages("http://mlflow:4200").version("Iris", "3")
    'http://mlflow:4200/#/models/Iris/versions/3'
    >>> MlflowPages("sqlite:///mlflow.db").version("Iris", "3")
    ''
    """

    url: str

    def run(self, experiment_number: str, run_id: str, file: str = "") -> str:
        """Return the address of a run, or of a file among its artifacts."""
        return self._page(
            f"experiments/{experiment_number}/runs/{run_id}" + (f"/artifacts/{quote(file)}" if file else "")
        )

    def version(self, model: str, number: str) -> str:
        """Return the address of a registered version."""
        return self._page(f"models/{quote(model, safe='')}/versions/{number}")

    def _page(self, path: str) -> str:
        return f"{self.url}/#/{path}" if self.url.startswith("http") else ""
