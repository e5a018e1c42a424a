"""Report files: what each check and decision found, and a manifest with the digest of every one."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from crossfade.files import replace_text
from crossfade.requestlog import utc_now
from crossfade.settings import Settings

TRAIN_SUMMARY_COLUMNS = (
    "ts_utc",
    "run_id",
    "algorithm",
    "train_rows",
    "holdout_rows",
    "holdout_accuracy",
    "holdout_f1_macro",
    "champion_accuracy",
    "champion_f1_macro",
    "passed",
)
RUNS_COLUMNS = ("ts_utc", "kind", "run_id", "trigger", "outcome", "reason")


@dataclass(frozen=True)
class ReportPaths:
    """Where the reports lie."""

    root: Path
    drift: Path
    evaluation: Path

    @classmethod
    def of(cls, settings: Settings) -> ReportPaths:
        """Take the paths from the settings."""
        return cls(settings.report_dir, settings.drift_report_dir, settings.ab_eval_report)

    @property
    def recommendation(self) -> Path:
        """Newest decision of the policy."""
        return self.root / "policy" / "retrain_recommendation.json"

    @property
    def train_summary(self) -> Path:
        """One line per training."""
        return self.root / "metrics" / "train_eval_summary.csv"

    @property
    def runs(self) -> Path:
        """One line per MLflow run that Crossfade made."""
        return self.root / "tracking" / "runs.csv"

    @property
    def plan(self) -> Path:
        """What the newest experiment needs."""
        return self.evaluation.with_name("ab_plan.json")

    @property
    def manifest(self) -> Path:
        """Digest of every report."""
        return self.root / "manifest.json"

    def all(self) -> list[Path]:
        """Every report file there is, sorted."""
        folders = {
            self.drift,
            self.evaluation.parent,
            *(p.parent for p in (self.recommendation, self.train_summary, self.runs)),
        }
        return sorted(path for folder in folders if folder.is_dir() for path in folder.rglob("[!.]*") if path.is_file())


def write_json(path: Path, payload: Mapping[str, Any]) -> None:
    """Write a JSON file in one step: a reader sees the old one or the new one."""
    replace_text(path, json.dumps(payload, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a CSV file in one step."""
    replace_text(path, frame.to_csv(index=False))


def append_line(path: Path, columns: tuple[str, ...], values: Mapping[str, object]) -> None:
    """Append a line to a CSV file, with a header if it is the first; `ts_utc` is filled in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow({"ts_utc": utc_now(), **values})


def write_manifest(paths: ReportPaths) -> None:
    """Write the digest, size and path (from the manifest's folder) of every report."""
    files = [
        {"path": os.path.relpath(path, paths.root), "bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in paths.all()
    ]
    write_json(paths.manifest, {"ts_utc": utc_now(), "files": files})


def verify_manifest(paths: ReportPaths) -> list[str]:
    """Compare the reports with the manifest; return one sentence per difference, none when all is well."""
    if not paths.manifest.is_file():
        return [f"{paths.manifest} is missing: no check has run yet (make run-drift)"]
    listed = {entry["path"]: entry["sha256"] for entry in json.loads(paths.manifest.read_text())["files"]}
    present = {os.path.relpath(path, paths.root): path for path in paths.all()}
    missing = [f"{name}: listed, but missing" for name in listed if name not in present]
    unlisted = [f"{name}: there, but not listed" for name in present if name not in listed]
    changed = [
        f"{name}: changed since the manifest was written"
        for name, path in present.items()
        if name in listed and _sha256(path) != listed[name]
    ]
    return missing + unlisted + changed


def evidently_html(reference: pd.DataFrame, live: pd.DataFrame, most_rows: int = 2000) -> str:
    """Return Evidently's report on samples of the columns that both sides have: to look at, not to decide by."""
    from evidently import DataDefinition, Dataset, Report  # takes seconds: only when a report is written
    from evidently.presets import DataDriftPreset

    reference, live = (side.sample(min(len(side), most_rows), random_state=0) for side in (reference, live))
    shown = [name for name in live if reference[name].notna().any() and live[name].notna().any()]
    if not shown:  # Evidently refuses empty columns
        return "<p>No column has values on both sides.</p>"
    reference, live = reference[shown], live[shown]
    text = [str(name) for name, column in reference.items() if column.dtype == object]
    numbers = [str(name) for name in reference.columns if str(name) not in text]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=text)
    sides = [Dataset.from_pandas(side, data_definition=definition) for side in (live, reference)]
    with tempfile.TemporaryDirectory(prefix="crossfade-") as folder:
        draft = Path(folder) / "evidently.html"
        Report([DataDriftPreset()]).run(*sides).save_html(str(draft))
        return draft.read_text()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
