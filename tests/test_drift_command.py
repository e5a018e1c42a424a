"""`crossfade drift` (what `make run-drift` calls) and the workflow without Airflow, as users run them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from crossfade.cli import cli
from crossfade.data import draw_traffic, load_dataset
from crossfade.requestlog import CsvRequestLog, LogRow, utc_now
from crossfade.settings import Settings

PROJECT = Path(__file__).resolve().parents[1]
WORKFLOW = yaml.safe_load((PROJECT / ".github/workflows/monitor-and-retrain.yml").read_text())


@dataclass(frozen=True)
class Home:
    """An installation with a first version in production; every test has a log of its own."""

    folder: Path
    log: Path

    @property
    def environment(self) -> dict[str, str]:
        known = {name.upper() for name in Settings.model_fields}
        return {name: value for name, value in os.environ.items() if name not in known} | {
            "CROSSFADE_HOME": str(self.folder),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder}/mlflow.db",
            "AUTOML_MODELS": "nb",
            "AUTOML_FOLDS": "3",
            "REQUEST_LOG": str(self.log),
            "ROUTER_URL": "http://127.0.0.1:9",
            "COLUMNS": "500",
        }

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a process of its own."""
        program = Path(sys.executable).with_name(command[0])
        return subprocess.run(
            [program, *command[1:]], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )

    def drift(self, *options: str) -> Result:
        """Run `crossfade drift` in this process, which has imported everything already."""
        with pytest.MonkeyPatch.context() as environment:
            for name in Settings.model_fields:
                environment.delenv(name.upper(), raising=False)
            return CliRunner().invoke(cli, ["drift", *options], env=self.environment)

    def report(self, path: str) -> dict[str, Any]:
        return dict(json.loads((self.folder / "var/logs" / path).read_text()))

    def append(self, rows: int, strength: float = 0.0, **changes: Any) -> None:
        """Log answers on rows drawn from Iris."""
        table = load_dataset(Settings())
        drawn = draw_traffic(table, rows, strength, seed=7)
        values: dict[str, Any] = {
            "ts_utc": utc_now(),
            "user_id": "",
            "experiment_id": "",
            "variant": "A",
            "alias": "prod",
            "model": "IrisClassifier",
            "model_version": "1",
            "ab_split_b": 0.5,
            "probability": None,
            "latency_ms": 1.0,
            "status": 200,
        }
        log = CsvRequestLog(self.log, self.log.with_name("labels.csv"))
        for number, (_, row) in enumerate(drawn.iterrows()):
            label = str(int(row["target"]))
            own = {"request_id": f"r{number}", "label": label, "prediction": label}
            features = json.dumps(row[table.features].to_dict())
            log.append([LogRow(**{**values, **own, "features_json": features, **changes})])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """A home with a first version, trained once."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copy(empty_database, folder / "mlflow.db")
    done = Home(folder, folder / "none.csv").run("python", str(PROJECT / "src/pipeline.py"), "retrain")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def home(folder: Path, tmp_path: Path) -> Home:
    """That home, with an empty log."""
    shutil.rmtree(folder / "var/logs/drift_reports", ignore_errors=True)
    return Home(folder, tmp_path / "requests.csv")


def test_an_empty_log_is_too_little_data(home: Home) -> None:
    """Without a log there is no verdict: exit code 2, and how many rows it takes."""
    done = home.run("crossfade", "drift")
    assert done.returncode == 2, done.stderr
    assert "insufficient_data: decision monitor, because 0 live rows; a verdict needs 200" in done.stdout


def test_a_torn_last_line_is_told_and_left_out(home: Home) -> None:
    """A log whose last line was torn by a crash is judged by its whole lines: exit code 0."""
    home.append(300)
    with home.log.open("ab") as file:
        file.write(b'2026-01-02T03:04:05+00:00,r9,u,e,A,prod,m,1,0.5,"{""a"": 1.')
    done = home.drift()
    assert (done.exit_code, done.stdout.split(":")[0]) == (0, "stable")
    status = home.report("drift_reports/drift_status.json")
    assert (status["rows"], status["log_lines_set_aside"]) == (300, 1)


def test_another_models_log_is_too_little_data(home: Home) -> None:
    """Rows of another registered model are nothing to this one: exit code 2."""
    home.append(300, model="OtherClassifier")
    done = home.drift()
    assert done.exit_code == 2
    assert "0 live rows" in done.stdout


def test_another_models_features_block(home: Home) -> None:
    """Rows with other features under this model's name block the loop: a verdict, exit code 0, and what is wrong."""
    home.append(300, features_json='{"height": 1.5, "width": 2}')
    done = home.drift()
    assert done.exit_code == 0
    assert "schema_broken: decision block, because of 300 rows, sepal length (cm) has a value in none;" in done.stdout
    advice = home.report("policy/retrain_recommendation.json")
    assert (advice["decision"], advice["drift_verdict"]) == ("block", "schema_broken")


@pytest.mark.parametrize(
    ("text", "said"), [("", "is empty"), (",".join(load_dataset(Settings()).features) + "\n", "0 live rows")]
)
def test_a_file_without_rows_is_said_so(home: Home, text: str, said: str, tmp_path: Path) -> None:
    """A file given as source that holds nothing is an error, or too little data."""
    (tmp_path / "rows.csv").write_text(text)
    done = home.drift("--source", str(tmp_path / "rows.csv"))
    assert said in done.output + str(done.exception)
    assert done.exit_code in (1, 2)


def test_a_file_of_broken_rows_blocks(home: Home, tmp_path: Path) -> None:
    """A file whose column turned into text, or is gone, is a broken schema and not a crash."""
    rows = load_dataset(Settings()).frame.sample(300, replace=True, random_state=0)
    broken = rows.drop(columns="petal width (cm)").assign(**{"sepal width (cm)": "wide"})
    broken.to_csv(tmp_path / "rows.csv", index=False)
    done = home.drift("--source", str(tmp_path / "rows.csv"))
    assert done.exit_code == 0
    assert "schema_broken: decision block" in done.stdout
    assert "sepal width (cm) is of another type than it was in 300 of the 300" in done.stdout
    assert "petal width (cm) is in none" in done.stdout


def test_a_file_that_is_no_log_is_refused(home: Home) -> None:
    """A request log with other columns is exit code 1 and one line that says what to do."""
    home.log.write_text("a,b\n1,2\n")
    done = home.run("crossfade", "drift")
    assert done.returncode == 1
    assert "Move the file away" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_check_leaves_its_evidence(home: Home) -> None:
    """The MLflow run of a check has reports, window, version and digest, decision; the page shows trend and columns."""
    home.append(450)
    home.append(250, strength=1.5, ts_utc="2026-12-31T00:00:00.000000+00:00")
    done = home.run("python", str(PROJECT / "src/pipeline.py"), "check-drift")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    status, advice = home.report("drift_reports/drift_status.json"), home.report("policy/retrain_recommendation.json")
    mlflow.set_tracking_uri(f"sqlite:///{home.folder}/mlflow.db")
    run = mlflow.get_run(found["run_id"])
    kept = {file.path for file in mlflow.artifacts.list_artifacts(run_id=found["run_id"])}
    assert kept >= {
        "drift_report.csv",
        "drift_report.html",
        "drift_status.json",
        "drift_trend.csv",
        "retrain_recommendation.json",
    }
    assert (run.data.tags["crossfade.verdict"], run.data.tags["crossfade.decision"]) == ("drift", advice["decision"])
    assert run.data.params["model_version"] == "1"
    assert run.data.params["model_digest"] == status["model_digest"]
    assert len(status["model_digest"]) == 64
    assert run.data.params["last_ts"] == status["last_ts"] == "2026-12-31T00:00:00.000000+00:00"
    page = (home.folder / "var/logs/drift_reports/drift_report.html").read_text()
    assert "<svg" in page
    assert all(reason.split(",")[0] in page for reason in advice["reasons"])
    assert 'srcdoc="' in page


def test_windows_without_overlap_are_followed(home: Home) -> None:
    """The trend has a window per DRIFT_WINDOW_ROWS rows, and keeps those that the log has no more."""
    trend = home.folder / "var/logs/drift_reports/drift_trend.csv"
    home.append(2100)
    assert home.drift().exit_code == 0
    first = trend.read_text().splitlines()
    assert len(first) == 1 + 2 * 4  # 100 rows are left over: too few for a window that is judged
    home.log.unlink()
    home.append(1000, ts_utc="2026-12-31T00:00:00.000000+00:00")
    assert home.drift().exit_code == 0
    assert trend.read_text().splitlines()[: len(first)] == first
    assert len(trend.read_text().splitlines()) == 1 + 3 * 4


class TestWorkflow:
    """`.github/workflows/monitor-and-retrain.yml`, whose steps run here as they would there."""

    def test_it_runs_daily_and_by_hand(self) -> None:
        """Both triggers are there, and the reports are kept whatever happens."""
        triggers = WORKFLOW[True]  # YAML 1.1 reads `on` so
        assert [entry["cron"].split()[2:] for entry in triggers["schedule"]] == [["*", "*", "*"]]
        assert "workflow_dispatch" in triggers
        keep = WORKFLOW["jobs"]["pipeline"]["steps"][-1]
        assert (keep["if"], keep["uses"].split("@")[0]) == ("always()", "actions/upload-artifact")

    @pytest.mark.parametrize(("rows", "strength", "decision"), [(0, 0.0, "monitor"), (700, 1.5, "retrain")])
    def test_its_steps_do_what_the_dag_does(
        self, home: Home, tmp_path: Path, rows: int, strength: float, decision: str
    ) -> None:
        """The settings and the log are taken, the loop runs, and the summary says what was decided."""
        if rows:
            home.append(rows, strength)
        place = home.log.rename(tmp_path / "elsewhere.csv") if rows else None
        environment = home.environment | {
            "GITHUB_ENV": str(tmp_path / "env"),
            "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
            "GITHUB_RUN_ID": f"{rows}",
            "SETTINGS": json.dumps({"RETRAIN_MIN_LABELED": "99", "NO_SETTING": "x"}),
            "SOURCE": "requests",
            "FORCE": "--no-force",
            "FETCH_LOG": f"cp {place} {home.log}" if place else "",
        }
        folder = tmp_path / "checkout"
        folder.mkdir()
        for name in (".venv", "src"):
            (folder / name).symlink_to(PROJECT / name if name == "src" else Path(sys.prefix))
        steps = {step["name"]: step["run"] for step in WORKFLOW["jobs"]["pipeline"]["steps"] if "run" in step}
        for name in ("Take the settings and the log", "Check drift, retrain when it pays, evaluate"):
            done = subprocess.run(
                ["bash", "-eo", "pipefail", "-c", steps[name]],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        assert (tmp_path / "env").read_text().splitlines() == [
            "RETRAIN_MIN_LABELED<<END_OF_RETRAIN_MIN_LABELED",
            "99",
            "END_OF_RETRAIN_MIN_LABELED",
        ]
        summary = (tmp_path / "summary.md").read_text()
        said = json.loads(summary.removeprefix("```json\n").removesuffix("```\n"))
        assert said["drift"]["decision"] == decision
        assert (said["registered"] is not None) == (decision == "retrain")
        assert said["evaluation"]["verdict"] == "keep"

    @pytest.mark.parametrize(("uri", "ready"), [("", "ready="), ("http://mlflow", "ready=yes")])
    def test_without_a_server_it_only_says_what_to_set(self, tmp_path: Path, uri: str, ready: str) -> None:
        """A clone without the secret does not fail every day: it is told the secret's name."""
        step = WORKFLOW["jobs"]["configured"]["steps"][0]["run"]
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", step],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "MLFLOW_TRACKING_URI": uri, "GITHUB_OUTPUT": str(tmp_path / "output")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert ("set the secret MLFLOW_TRACKING_URI" in done.stdout) == (not uri)
        assert (tmp_path / "output").read_text() == f"{ready}\n"
