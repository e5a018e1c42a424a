"""A backup of an installation at work, and what is restored from it elsewhere."""

from __future__ import annotations

import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from typer.testing import CliRunner, Result

from app import create_app
from crossfade.backup.archive import CONTENTS, writing
from crossfade.backup.restore import restore
from crossfade.backup.save import save
from crossfade.cli import cli
from crossfade.errors import CrossfadeError, DataError, ServiceError
from crossfade.featurestore import FeatureStore
from crossfade.logpacking import pack
from crossfade.logreader import read_log
from crossfade.loop.audit import FileAudit
from crossfade.loop.reports import ReportPaths, verify_manifest, write_json, write_manifest
from crossfade.registry import Registry
from crossfade.requestlog import COLUMNS, CsvRequestLog, LateLabel, LogRow
from crossfade.settings import Settings
from crossfade.version import Version

NAME = "BackedUp"
ROWS = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]

Isolate = Callable[..., tuple[Settings, dict[str, str]]]


def a_row(request_id: str, day: str | None = None) -> LogRow:
    time = f"{day}T03:04:05.000006+00:00" if day else datetime.now(UTC).isoformat(timespec="microseconds")
    return LogRow(time, request_id, "u1", "m-v1-v2", "A", "prod", "m", "1", 0.5, '{"a":1.5}', "", "1", 0.75, 1.25, 200)


def log_of(settings: Settings) -> CsvRequestLog:
    return CsvRequestLog(settings.request_log, settings.labels_log)


def crossfade(environment: dict[str, str], *arguments: str) -> Result:
    """Run a command with this environment; MLflow's client leaves its address in that of the tests."""
    unset = dict.fromkeys((name.upper() for name in Settings.model_fields), None)
    return CliRunner().invoke(cli, list(arguments), env={**unset, **environment})


def _work(settings: Settings) -> FlaskClient:
    """Have a router answer, take a label, rows and a split; let a check report and a move be audited."""
    client = create_app(settings, follow=False).test_client()
    for number in range(40):
        body = {"user_id": f"u{number}", "request_id": f"r{number}", "features": ROWS[number % 2]}
        assert client.post("/predict", json=body).status_code == 200
    assert client.post("/feedback", json={"request_id": "r1", "label": 2}).status_code == 200
    assert client.post("/config", json={"ab_split_b": 0.3}).status_code == 200
    batch = {"batch_id": "lab-1", "features": ROWS, "labels": [0, 2]}
    assert client.post("/ingest/batch", json=batch).status_code == 200
    part = settings.request_log.with_name(f"{settings.request_log.stem}.2026-01-02.csv")
    CsvRequestLog(part, part.with_name("none.csv")).append([a_row("old", "2026-01-02")])
    pack(part, settings.request_log, COLUMNS)
    paths = ReportPaths.of(settings)
    write_json(paths.evaluation, {"verdict": "keep"})
    write_json(paths.recommendation, {"decision": "monitor"})
    write_json(paths.drift / "drift_status.json", {"verdict": "stable"})
    write_manifest(paths)
    FileAudit.under(settings.report_dir).append({"event": "look", "verdict": "keep"})
    return client


@pytest.fixture
def worked(
    mlflow_server: Settings, register_served: Callable[..., Version], isolate: Isolate, tmp_path: Path
) -> tuple[Settings, dict[str, str]]:
    """An installation with a running MLflow, and everything that a backup is about, in folders of its own choice."""
    logs = tmp_path / "given"
    settings, environment = isolate(
        mlflow_server.crossfade_home,
        MLFLOW_PORT=str(mlflow_server.mlflow_port),
        REG_MODEL_NAME=NAME,
        REQUEST_LOG=str(logs / "answers.csv"),
        ROUTER_CONFIG=str(logs / "split.json"),
        REPORT_DIR=str(logs),
        DRIFT_REPORT_DIR=str(logs / "drift_reports"),
        AB_EVAL_REPORT=str(logs / "ab_reports" / "ab_eval_latest.json"),
        FEATURE_STORE=f"sqlite:///{logs}/rows.db",
    )
    registry = Registry(settings.mlflow_tracking_uri, NAME)
    if registry.at("prod") is None:
        register_served(NAME, "prod")
        register_served(NAME, "staging", strength=0.1)
    return settings, environment


@contextmanager
def _requests_meanwhile(settings: Settings) -> Iterator[list[str]]:
    """Append rows without a pause, and leave half a line when all is over."""
    over, log, written = threading.Event(), log_of(settings), list[str]()

    def work() -> None:
        while not over.wait(0.001):
            log.append([a_row(f"meanwhile-{len(written)}")])
            written.append(f"meanwhile-{len(written)}")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield written
    finally:
        over.set()
        thread.join(30)


def test_there_and_back(
    worked: tuple[Settings, dict[str, str]],
    isolate: Isolate,
    serve_mlflow: Callable[[Settings], AbstractContextManager[None]],
    tmp_path: Path,
) -> None:
    """Saved at work by one command, restored by one elsewhere: the same versions answer, nothing is missing."""
    settings, environment = worked
    client = _work(settings)
    with settings.labels_log.open("a") as file:
        file.write("2026-01-02T03:04:05.000006+00:00,r2,")  # under way: not yet a line
    archive = tmp_path / "backup.tar.zst"
    with _requests_meanwhile(settings) as written:
        done = crossfade(environment, "backup", str(archive))
    assert done.exit_code == 0, done.output
    assert archive.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir() if "crossfade" in path.name or "draft" in path.name] == []

    new, new_environment = isolate(tmp_path / "new", REG_MODEL_NAME=NAME)
    done = crossfade(new_environment, "restore", str(archive))
    assert done.exit_code == 0, done.output
    before, after = read_log(log_of(settings)), read_log(log_of(new))
    ids = after.rows["request_id"].tolist()
    assert ids == before.rows["request_id"].tolist()[: len(ids)]
    assert ids[:41] == ["old", *(f"r{number}" for number in range(40))]
    assert len(ids) <= 41 + len(written)
    assert after.set_aside == 0
    assert after.rows.iloc[:41].astype(str).equals(before.rows.iloc[:41].astype(str))
    assert after.rows["label"].notna().sum() == 1
    assert FileAudit.under(new.report_dir).read() == FileAudit.under(settings.report_dir).read()
    assert verify_manifest(ReportPaths.of(new)) == []
    assert crossfade(new_environment, "verify").exit_code == 0
    assert FeatureStore(new.feature_store).stats(NAME) == FeatureStore(settings.feature_store).stats(NAME)
    with serve_mlflow(new):
        old_registry, new_registry = (Registry(s.mlflow_tracking_uri, NAME) for s in (settings, new))
        assert new_registry.aliases() == old_registry.aliases() == {"prod": "1", "staging": "2"}
        assert new_registry.versions() == old_registry.versions()
        restored = create_app(new, follow=False).test_client()
        assert restored.get("/version").get_json() == client.get("/version").get_json()
        assert restored.get("/config").get_json() == {**client.get("/config").get_json()}
        body = {"user_id": "u1", "features": ROWS[0]}
        answers = [c.post("/predict", json=body).get_json() for c in (client, restored)]
        keys = ("model_version", "variant", "experiment_id", "prediction", "probability")
        assert [answers[0][key] for key in keys] == [answers[1][key] for key in keys]


class TestRestore:
    """Where it is refused, and what --force does."""

    def test_an_installation_that_runs(self, worked: tuple[Settings, dict[str, str]], tmp_path: Path) -> None:
        """Files are not replaced under the feet of a service, even with --force."""
        done = crossfade(worked[1], "restore", str(tmp_path / "any.tar.gz"), "--force")
        assert isinstance(done.exception, ServiceError)
        assert "mlflow of this installation run: stop them first (`crossfade down`)" in str(done.exception)

    def test_a_router_that_still_writes(self, saved: Path, isolate: Isolate, tmp_path: Path) -> None:
        """One that `crossfade up` did not start is noticed by the log that it has open."""
        settings, _ = isolate(tmp_path / "new")
        log = log_of(settings)
        log.append([a_row("r1")])
        with pytest.raises(ServiceError, match="a router still writes to"):
            restore(settings, saved, force=True)

    def test_an_installation_that_is_not_empty(self, saved: Path, isolate: Isolate, tmp_path: Path) -> None:
        """Refused by name; with --force what was there is moved aside, whole, and nothing of it is mixed in."""
        settings, _ = isolate(tmp_path / "new")
        log_of(settings).append([a_row("mine")])
        settings.router_config.write_text('{"ab_split_b": 0.9}')
        with pytest.raises(ServiceError, match=r"is not empty: .*requests\.csv.*Give --force"):
            restore(settings, saved)
        assert read_log(log_of(settings)).rows["request_id"].tolist() == ["mine"]
        _, aside = restore(settings, saved, force=True)
        assert aside
        assert sorted(path.name for path in aside.rglob("*.*") if path.is_file()) == [
            "requests.csv",
            "router_config.json",
        ]
        assert read_log(log_of(settings)).rows["request_id"].tolist() == ["r0", "r1"]
        assert not settings.router_config.exists()

    def test_times_of_files_are_kept(self, saved: Path, isolate: Isolate, tmp_path: Path) -> None:
        """Retention goes by when a part was written last: restored rows are as old as they were."""
        settings, _ = isolate(tmp_path / "new")
        restore(settings, saved)
        source = tmp_path / "home" / "var" / "logs" / "requests.csv"
        assert settings.request_log.stat().st_mtime == pytest.approx(source.stat().st_mtime, abs=1)


class TestDamage:
    """An archive that is not what was written changes nothing."""

    def test_cut_short(self, saved: Path, isolate: Isolate, tmp_path: Path) -> None:
        """Half an archive is refused."""
        saved.write_bytes(saved.read_bytes()[: saved.stat().st_size // 2])
        self._refused(isolate(tmp_path / "new")[0], saved, "cannot be read|was cut short")

    def test_changed(self, isolate: Isolate, tmp_path: Path) -> None:
        """A member that is not as listed is named."""
        archive = tmp_path / "changed.tar.gz"
        with writing(archive) as made:
            made.add("router/config.json", io.BytesIO(b"{}"), 2, 0)
            made.members["router/config.json"]["sha256"] = "0" * 64
            made.finish({"crossfade": "1", "ts_utc": "", "left_out": []})
        self._refused(isolate(tmp_path / "new")[0], archive, r"is damaged: router/config\.json is not as listed")

    @pytest.mark.parametrize("name", ["../outside", "/etc/crossfade-outside", "reports/policy/../../../x"])
    def test_paths_that_lead_elsewhere(self, isolate: Isolate, tmp_path: Path, name: str) -> None:
        """No member is written outside the installation."""
        archive = tmp_path / "evil.tar.gz"
        with writing(archive) as made:
            made.add(name, io.BytesIO(b"{}"), 2, 0)
            made.finish({"crossfade": "1", "ts_utc": "", "left_out": []})
        self._refused(isolate(tmp_path / "new")[0], archive, "cannot be read|which no backup does|has no place")
        assert not (tmp_path / "outside").exists()

    def test_a_link(self, isolate: Isolate, tmp_path: Path) -> None:
        """A link in the archive is refused: nothing may be written through it."""
        archive = tmp_path / "link.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            member = tarfile.TarInfo("router/config.json")
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
        self._refused(isolate(tmp_path / "new")[0], archive, "which no backup does")

    def test_a_newer_one(self, isolate: Isolate, tmp_path: Path) -> None:
        """An archive of a later format is refused with what to do."""
        archive = tmp_path / "newer.tar.gz"
        content = json.dumps({"format": 2, "crossfade": "9.0", "files": {}}).encode()
        with tarfile.open(archive, "w:gz") as tar:
            member = tarfile.TarInfo(CONTENTS)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        self._refused(isolate(tmp_path / "new")[0], archive, r"made by a newer Crossfade \(9\.0\)\. Update")

    def test_a_stranger(self, isolate: Isolate, tmp_path: Path) -> None:
        """A file of another kind is refused by its name, or by what it is."""
        (tmp_path / "x.zip").write_bytes(b"PK")
        self._refused(isolate(tmp_path / "new")[0], tmp_path / "x.zip", r"has to end in \.tar\.zst or \.tar\.gz")
        (tmp_path / "x.tar.zst").write_bytes(b"PK")
        self._refused(isolate(tmp_path / "new")[0], tmp_path / "x.tar.zst", "cannot be read")

    def _refused(self, settings: Settings, archive: Path, why: str) -> None:
        settings.crossfade_home.mkdir(exist_ok=True)
        with pytest.raises(DataError, match=why):
            restore(settings, archive)
        assert list(settings.crossfade_home.iterdir()) == []


class TestSave:
    """What is not taken, and said so."""

    def test_artifacts_that_are_bound_to_a_path(
        self, settings: Settings, register: Callable[..., Version], tmp_path: Path
    ) -> None:
        """A registry that knows its artifacts by a folder's path is refused, and no archive is left."""
        register("prod")
        archive = tmp_path / "backup.tar.gz"
        with pytest.raises(DataError, match=r"MLflow keeps artifacts in /.*cannot be restored elsewhere"):
            save(settings, archive)
        assert not archive.exists()

    def test_what_other_servers_keep(self, isolate: Isolate, tmp_path: Path) -> None:
        """A registry and a store on other servers are named, in the archive as well."""
        store = "postgresql+psycopg2://me:secret@db/rows"
        settings, _ = isolate(tmp_path / "home", MLFLOW_TRACKING_URI="http://mlflow.example", FEATURE_STORE=store)
        saved = save(settings, tmp_path / "backup.tar.gz")
        assert [what.split(":")[0] for what in saved.left_out] == ["the registry and its artifacts", "ingested rows"]
        new, _ = isolate(tmp_path / "new", MLFLOW_TRACKING_URI="http://mlflow.example", FEATURE_STORE=store)
        contents, _ = restore(new, tmp_path / "backup.tar.gz")
        assert tuple(contents["left_out"]) == saved.left_out
        assert "secret" not in json.dumps(contents)

    def test_a_full_disk(self, saved: Path, isolate: Isolate, tmp_path: Path) -> None:
        """An archive that cannot be written leaves the last one, and is one line."""
        _, environment = isolate(tmp_path / "home")
        place = tmp_path / "file"
        place.touch()
        done = crossfade(environment, "backup", str(place / "backup.tar.gz"))
        assert isinstance(done.exception, CrossfadeError)
        assert "nothing was saved" in str(done.exception)


@pytest.fixture(params=["tar.gz", "tar.zst"])
def saved(request: Any, isolate: Isolate, tmp_path: Path) -> Path:
    """A backup of an installation with two rows, a label and nothing else."""
    settings, _ = isolate(tmp_path / "home")
    log = log_of(settings)
    log.append([a_row("r0"), a_row("r1")])
    log.append_labels([LateLabel(a_row("r1").ts_utc, "r1", "1")])
    archive = tmp_path / f"backup.{request.param}"
    assert save(settings, archive).files == 2
    return archive
