"""Where the parts of an installation are, by the names that they have in an archive.

An archive knows no paths, only names, so it can be restored where the settings name other folders.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from crossfade.errors import DataError
from crossfade.loop.audit import FileAudit
from crossfade.loop.reports import ReportPaths
from crossfade.settings import Settings

ROWS, LABELS = "log/rows", "log/labels"
"""With what follows a log's name in that of a file: `log/rows.csv`, `log/rows.2026-11-20.parquet`."""

REGISTRY, ARTIFACTS = "mlflow/mlflow.db", "mlflow/artifacts"
FEATURES = "features/features.db"
ROUTER_CONFIG = "router/config.json"
MANIFEST, AUDIT = "reports/manifest.json", "reports/audit"
AIRFLOW, AIRFLOW_CONFIG = "airflow/airflow.db", "airflow/airflow.cfg"


@dataclass(frozen=True)
class Places:
    """The parts of one installation."""

    logs: dict[str, Path]
    """The request log and the late labels."""
    files: dict[str, Path]
    folders: dict[str, Path]
    reports: ReportPaths
    elsewhere: tuple[str, ...]
    """What other servers keep, so that it cannot be part of an archive."""

    @classmethod
    def of(cls, settings: Settings) -> Places:
        """Take them from the settings."""
        paths, root = ReportPaths.of(settings), settings.report_dir
        files = {
            ROUTER_CONFIG: settings.router_config,
            MANIFEST: paths.manifest,
            AIRFLOW: settings.var / "airflow" / "airflow.db",
            AIRFLOW_CONFIG: settings.var / "airflow" / "airflow.cfg",
        }
        folders = {
            AUDIT: FileAudit.under(root).path.parent,
            "reports/drift": paths.drift,
            "reports/ab": paths.evaluation.parent,
            "reports/policy": paths.recommendation.parent,
            "reports/metrics": paths.train_summary.parent,
            "reports/tracking": paths.runs.parent,
        }
        elsewhere = []
        own = f"http://{settings.reachable_host}:{settings.mlflow_port}"
        if settings.mlflow_tracking_uri == own:
            files[REGISTRY], folders[ARTIFACTS] = (
                settings.var / "mlflow" / "mlflow.db",
                settings.var / "mlflow" / "artifacts",
            )
        elif settings.mlflow_tracking_uri.startswith("sqlite:///"):
            files[REGISTRY] = settings.below_home(settings.mlflow_tracking_uri.removeprefix("sqlite:///"))
        else:
            elsewhere.append("the registry and its artifacts: MLFLOW_TRACKING_URI is another server")
        if settings.feature_store.startswith("sqlite:///"):
            files[FEATURES] = Path(settings.feature_store.removeprefix("sqlite:///"))
        else:
            elsewhere.append("ingested rows: FEATURE_STORE is a database server")
        logs = dict(zip((ROWS, LABELS), settings.log_files, strict=False))
        if not logs:
            elsewhere.append("the request log and the audit: REQUEST_LOG is a database")
        return cls(logs, files, folders, paths, tuple(elsewhere))

    def path_of(self, name: str) -> Path:
        """Return where a member of an archive belongs. Raises DataError where this installation has no place for it."""
        if name in self.files:
            return self.files[name]
        below = PurePosixPath(name)
        for prefix, folder in self.folders.items():
            if below.is_relative_to(prefix) and ".." not in below.parts:
                return folder / below.relative_to(prefix)
        for prefix, log in self.logs.items():
            ending = name.removeprefix(prefix)
            if ending != name and "/" not in ending:
                return log if ending == ".csv" else log.with_name(log.stem + ending)
        raise DataError(
            f"the archive holds {name}, for which this installation has no place: it keeps that on another server. "
            "Restore it where the settings are those of the backup."
        )
