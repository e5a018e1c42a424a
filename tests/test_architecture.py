"""What the layout promises: who may import whom, what importing costs, and that the README tells the truth."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from crossfade.settings import Settings, settings_table

PROJECT = Path(__file__).resolve().parents[1]
SOURCE = PROJECT / "src"
README = (PROJECT / "README.md").read_text()
MODULES = sorted(SOURCE.rglob("*.py"))


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _run(code: str, tmp_path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "AIRFLOW_HOME": str(tmp_path / "airflow"), "CROSSFADE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("serving", ("crossfade.loop", "crossfade.stack", "airflow", "pycaret")),
        ("loop", ("crossfade.serving", "crossfade.stack", "airflow", "flask")),
        (
            "stats",
            ("crossfade.loop", "crossfade.serving", "crossfade.settings", "crossfade.registry", "mlflow", "pandas"),
        ),
    ],
)
def test_layers_keep_apart(folder, forbidden):
    """Serving and loop never import each other, and statistics know of nothing around them."""
    for path in (SOURCE / "crossfade" / folder).glob("*.py"):
        wrong = {name for name in _imports(path) if name.startswith(forbidden)}
        assert not wrong, f"{path.name} imports {wrong}"


def test_only_the_registry_module_uses_mlflows_registry():
    """`MlflowClient` appears in registry.py and nowhere else."""
    users = [path.name for path in MODULES if any("MlflowClient" in name for name in _imports(path))]
    assert users == ["registry.py"]


def test_settings_are_read_in_the_composition_roots_only():
    """`load_settings` is called by app, pipeline and the command line (of which `replay/command.py` is one command)."""
    callers = {
        path.name for path in MODULES if "load_settings()" in path.read_text() or "load_settings(**" in path.read_text()
    }
    assert callers - {"settings.py"} == {"app.py", "pipeline.py", "cli.py", "command.py"}


def test_importing_does_nothing(tmp_path):
    """Importing every module makes no file, starts no thread and reads no setting."""
    names = [".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__") for path in MODULES]
    code = f"""
import importlib, os, threading
os.environ["PSI_THRESHOLD"] = "absurd"  # whoever reads the settings fails
for name in {names!r}:
    importlib.import_module(name)
ours = [t.name for t in threading.enumerate() if t.name.startswith("crossfade")]
print(ours, os.listdir("."))
"""
    assert _run(code, tmp_path).splitlines()[-1] == "[] []"


def test_parsing_the_dag_imports_no_machine_learning(tmp_path):
    """Airflow's parser pays for the settings, and for neither PyCaret nor MLflow nor pandas."""
    code = f"""
import runpy, sys
import airflow.sdk, airflow.timetables.trigger
before = set(sys.modules)
runpy.run_path({str(PROJECT / "dags" / "drift_retrain_ab_pipeline.py")!r})
print(sorted(name for name in set(sys.modules) - before if name.split(".")[0] in
      ("pipeline", "crossfade", "pycaret", "mlflow", "pandas", "sklearn", "numpy", "scipy")))
"""
    light = ["crossfade", "crossfade.errors", "crossfade.postgres", "crossfade.postgres.address", "crossfade.settings"]
    assert _run(code, tmp_path).splitlines()[-1] == str(light)


@pytest.mark.parametrize(
    ("schedule", "shown"), [("none", "None"), ("*/5 * * * *", "*/5 * * * *"), ("@daily", "0 0 * * *")]
)
def test_the_dag_runs_when_the_setting_says(schedule, shown, tmp_path):
    """DAG_SCHEDULE is the DAG's schedule; with none it runs by hand only."""
    code = f"""
import os, runpy
os.environ["DAG_SCHEDULE"] = {schedule!r}
found = runpy.run_path({str(PROJECT / "dags" / "drift_retrain_ab_pipeline.py")!r})
dag = found["drift_retrain_ab_pipeline"]()
print(getattr(dag.schedule, "summary", dag.schedule))
"""
    assert _run(code, tmp_path).splitlines()[-1] == shown


def test_readme_has_the_settings_table():
    """The README's table is the one that `crossfade settings` prints."""
    assert settings_table() in README


def test_readme_names_only_targets_and_commands_that_exist():
    """Every `make x` and `crossfade x` of the README exists."""
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", README)) <= targets
    shown = _run("import sys; sys.argv = ['crossfade', '--help']; from crossfade.cli import cli; cli()", PROJECT)
    for name in re.findall(r"\bcrossfade ([a-z]+)\b", README):
        assert re.search(rf"^\W*{name}\b", shown, re.MULTILINE), name


def test_contract_settings_exist():
    """The settings that the design names exist under those names."""
    names = {name.upper() for name in Settings.model_fields}
    assert names >= {
        "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT", "REG_MODEL_NAME", "DATASET", "TARGET", "PSI_THRESHOLD",
        "KS_THRESHOLD", "DRIFT_ALPHA", "DRIFT_SHARE", "DRIFT_MIN_ROWS", "DRIFT_WINDOW_ROWS", "DRIFT_STRENGTH",
        "AB_SPLIT_B", "AB_ALPHA", "AB_MIN_LABELED", "AB_MIN_DELTA_ACC", "AB_TEST", "REQUEST_LOG", "ROUTER_CONFIG",
        "DRIFT_REPORT_DIR", "AB_EVAL_REPORT", "ROUTER_ADMIN_TOKEN", "ROUTER_API_TOKEN",
    }  # fmt: skip


def test_no_download_address_is_recorded():
    """Lock and configuration files hold pins and hashes, no address of a package registry."""
    files = [
        *PROJECT.glob("requirements*.txt"),
        PROJECT / "pyproject.toml",
        PROJECT / "Makefile",
        PROJECT / "infra" / "setup.sh",
    ]
    for path in files:
        assert not re.search(r"index-url|find-links|https?://", path.read_text()), path.name
    pins = [line for line in (PROJECT / "requirements.txt").read_text().splitlines() if "==" in line]
    hashes = (PROJECT / "requirements.txt").read_text().count("--hash=sha256:")
    assert len(pins) > 200
    assert hashes >= len(pins)
