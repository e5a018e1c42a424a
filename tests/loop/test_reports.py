"""Report files and the manifest over them."""

from __future__ import annotations

import csv
import json
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crossfade.files import replace_text
from crossfade.loop.reports import (
    RUNS_COLUMNS,
    ReportPaths,
    append_line,
    evidently_html,
    verify_manifest,
    write_csv,
    write_json,
    write_manifest,
)


@pytest.fixture
def paths(tmp_path: Path) -> ReportPaths:
    """Two reports with their manifest, one of them outside the manifest's folder."""
    paths = ReportPaths(tmp_path / "logs", tmp_path / "elsewhere", tmp_path / "logs" / "ab" / "latest.json")
    write_json(paths.evaluation, {"verdict": "keep"})
    write_csv(paths.drift / "drift_report.csv", pd.DataFrame({"feature": ["a"]}))
    write_manifest(paths)
    return paths


def test_an_untouched_manifest_verifies(paths: ReportPaths) -> None:
    """Right after writing every report matches its digest."""
    assert verify_manifest(paths) == []
    listed = {entry["path"] for entry in json.loads(paths.manifest.read_text())["files"]}
    assert listed == {"ab/latest.json", "../elsewhere/drift_report.csv"}


def test_a_changed_report_is_named(paths: ReportPaths) -> None:
    """A report changed by hand is named."""
    paths.evaluation.write_text('{"verdict": "promote"}')
    assert verify_manifest(paths) == ["ab/latest.json: changed since the manifest was written"]


def test_a_missing_report_is_named(paths: ReportPaths) -> None:
    """A report that was deleted is named."""
    paths.evaluation.unlink()
    assert verify_manifest(paths) == ["ab/latest.json: listed, but missing"]


def test_an_unlisted_report_is_named(paths: ReportPaths) -> None:
    """A file that nobody wrote through Crossfade is named."""
    (paths.drift / "extra.csv").write_text("x\n")
    assert verify_manifest(paths) == ["../elsewhere/extra.csv: there, but not listed"]


def test_no_manifest_is_said(tmp_path: Path) -> None:
    """Without a manifest verification does not pass."""
    paths = ReportPaths(tmp_path, tmp_path / "d", tmp_path / "ab" / "latest.json")
    assert "is missing" in verify_manifest(paths)[0]


def test_a_reader_sees_whole_reports_only(tmp_path: Path) -> None:
    """While a report is rewritten a reader sees the old one or the new one, never a part."""
    path, done, seen = tmp_path / "report.json", threading.Event(), set()
    texts = {"a" * 200_000, "b" * 100_000}
    replace_text(path, "a" * 200_000)

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(100):
        for text in sorted(texts):
            replace_text(path, text)
    done.set()
    reader.join()
    assert seen <= texts
    assert [found.name for found in tmp_path.iterdir()] == ["report.json"]


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    """A payload that is no JSON leaves the report as it was."""
    path = tmp_path / "report.json"
    write_json(path, {"p": 1.0})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"p": float("nan")})
    assert json.loads(path.read_text()) == {"p": 1.0}


def test_lines_are_appended_under_one_header(tmp_path: Path) -> None:
    """A table of runs has one header and a time stamp in every line."""
    for kind in ("drift", "retrain"):
        append_line(tmp_path / "t" / "runs.csv", RUNS_COLUMNS, {"kind": kind, "reason": 'so, "so"'})
    with (tmp_path / "t" / "runs.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["kind"] for line in lines] == ["drift", "retrain"]
    assert all(line["ts_utc"] and line["reason"] == 'so, "so"' for line in lines)


def test_evidentlys_page_is_drawn_over_nearly_empty_columns() -> None:
    """A column with a value or two, or none in the sample, does not keep the page from being drawn."""
    rng = np.random.default_rng(0)
    reference = pd.DataFrame({"a": rng.normal(size=300), "c": ["x", np.nan, "z"] * 100})
    reference["rare"] = [1.0] + [np.nan] * 299
    live = reference.assign(rare=[np.nan] * 299 + [2.0])
    page = evidently_html(reference, live, most_rows=100)
    assert len(page) > 100_000
    assert "No column has values" in evidently_html(reference[["rare"]].iloc[1:], live[["rare"]])
