"""Ten faults, each planted for real: the doctor finds it, says what it found and what to do."""

from __future__ import annotations

import fcntl
import http.server
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from pathlib import Path

import pytest

from crossfade.doctor import locks
from crossfade.doctor.examine import Examined
from crossfade.doctor.finding import Site
from crossfade.doctor.machine import look_at_libraries
from crossfade.logpacking import pack
from crossfade.logparts import lock_of
from crossfade.requestlog import COLUMNS
from crossfade.settings import Settings
from crossfade.version import Version

Look = Callable[..., Examined]


def only(examined: Examined) -> tuple[str, str, str]:
    """Return the one finding, which is wrong and not a note."""
    assert examined.is_wrong
    assert len(examined.findings) == 1, examined
    found = examined.findings[0]
    return found.looked_at, found.found, found.next_step


class TestWrongPort:
    """Something else answers where a service should."""

    def test_another_service(self, used: Settings, mlflow_server: Settings, look: Look) -> None:
        """The router's port is where MLflow listens: it is named, and so is the setting."""
        looked_at, found, next_step = only(look("ports", _with(used, router_port=mlflow_server.mlflow_port)))
        assert str(mlflow_server.mlflow_port) in looked_at
        assert "the mlflow answers there" in found
        assert "it is process " in found
        assert "set ROUTER_PORT to a free port" in next_step

    def test_a_stranger(self, used: Settings, look: Look) -> None:
        """Somebody who does not even speak HTTP has Airflow's port."""
        with socket.create_server(("127.0.0.1", 0)) as stranger:
            _answering(stranger, b"220 mail.example ESMTP\r\n")
            settings = _with(used, airflow_port=stranger.getsockname()[1])
            _, found, next_step = only(look("ports", settings))
        assert "something else" in found
        assert f"process {os.getpid()}" in found
        assert "AIRFLOW_PORT" in next_step

    def test_a_wrong_address(self, used: Settings, mlflow_server: Settings, look: Look) -> None:
        """ROUTER_URL names MLflow."""
        looked_at, found, _ = only(look("addresses", _with(used, router_url=mlflow_server.mlflow_tracking_uri)))
        assert looked_at == f"ROUTER_URL={mlflow_server.mlflow_tracking_uri}"
        assert "the mlflow answers there" in found

    def test_one_port_for_two(self, used: Settings, look: Look) -> None:
        """Two services have the same port in the settings."""
        _, found, _ = only(look("ports", _with(used, router_port=used.dashboard_port)))
        assert found == "it is the port of router and of dashboard"


class TestStaleLock:
    """A process hangs while it holds a lock."""

    @pytest.mark.parametrize("which", ["log", "audit"])
    def test_held_by_a_stopped_process(
        self, used: Settings, look: Look, which: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The holder is named, with what cannot go on meanwhile; once it is gone nothing is found."""
        monkeypatch.setattr(locks, "_PATIENCE_SECONDS", 0.3)
        path = lock_of(used.request_log) if which == "log" else used.report_dir / "audit"
        code = (
            "import fcntl, os, signal, sys; d = os.open(sys.argv[1], os.O_RDONLY if os.path.isdir(sys.argv[1]) else "
            "os.O_RDWR | os.O_CREAT); fcntl.flock(d, fcntl.LOCK_EX); print('held', flush=True); "
            "os.kill(os.getpid(), signal.SIGSTOP)"
        )
        holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
        try:
            assert holder.stdout
            assert holder.stdout.readline() == b"held\n"
            looked_at, found, next_step = only(look("locks", used))
        finally:
            holder.kill()
            holder.communicate()
        assert looked_at == f"the lock on {path}"
        assert f"process {holder.pid}" in found
        assert ("no rows are moved" if which == "log" else "no alias can be moved") in found
        assert next_step.endswith(f"kill -9 {holder.pid}")
        assert look("locks", used).state == "ok"

    def test_handed_to_a_child(self, used: Settings, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
        """A lock outlives its taker in a child that has inherited it: the kernel names one that is gone."""
        monkeypatch.setattr(locks, "_PATIENCE_SECONDS", 0.3)
        code = (
            "import fcntl, os, subprocess as s, sys; d = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); "
            "os.set_inheritable(d, True); fcntl.flock(d, fcntl.LOCK_EX); "
            "print(s.Popen(['sleep', '300'], close_fds=False, stdout=s.DEVNULL, stderr=s.DEVNULL).pid)"
        )
        taker = subprocess.run(
            [sys.executable, "-c", code, lock_of(used.request_log)], capture_output=True, text=True, check=True
        )
        try:
            _, found, next_step = only(look("locks", used))
        finally:
            os.kill(int(taker.stdout), signal.SIGKILL)
        assert "which is gone" in found
        assert next_step.startswith(f"`fuser -v {lock_of(used.request_log)}`")

    def test_a_moment_is_no_fault(self, used: Settings, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
        """A lock that is let go while the doctor looks is nobody's fault."""
        with lock_of(used.request_log).open("w") as mine:
            fcntl.flock(mine, fcntl.LOCK_EX)
            monkeypatch.setattr(locks.time, "sleep", lambda _: mine.close())
            assert look("locks", used).state == "ok"

    def test_a_draft_whose_writer_is_gone(self, used: Settings, look: Look) -> None:
        """What a killed process was about to put in place is a note, with the line that removes it."""
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        draft = used.request_log.with_name(f".requests.csv.{gone.pid}.1")
        draft.touch()
        used.request_log.with_name(f".requests.csv.{os.getpid()}.1").touch()
        examined = look("drafts", used)
        assert [(finding.next_step, finding.level) for finding in examined.findings] == [(f"rm {draft}", "note")]


class TestMissingLibrary:
    """LightGBM needs OpenMP, which no Python package brings."""

    def test_hidden_from_the_loader(self, tmp_path: Path) -> None:
        """With an empty file in the place of libgomp.so.1 the whole command says so and ends with 1."""
        places = [path for path in Path("/usr/lib").rglob("libgomp.so.1") if path.is_file()]
        if not places:
            pytest.skip("there is no libgomp to hide")
        hide = " && ".join(f"mount --bind /dev/null {path.resolve()}" for path in places)
        probe = ["unshare", "--mount", "sh", "-c", hide]
        if subprocess.run(probe, capture_output=True, check=False).returncode:
            pytest.skip("mounting is not permitted here")
        code = "from crossfade.cli import main; main()"
        environment = {**os.environ, "CROSSFADE_HOME": str(tmp_path)}
        command = ["unshare", "--mount", "sh", "-c", f'{hide} && exec "$@"', "-", sys.executable, "-c", code]
        done = subprocess.run(
            [*command, "doctor", "--json"],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 1, done.stdout + done.stderr
        findings = {check["check"]: check["findings"] for check in json.loads(done.stdout)["checks"]}
        assert "libgomp.so.1: file too short" in findings["libraries"][0]["found"]
        assert "sudo apt-get install -y libgomp1" in findings["libraries"][0]["next_step"]

    def test_absent(self, used: Settings) -> None:
        """A library that is nowhere is the same finding, and libgomp is here."""
        found = look_at_libraries(Site(used), "libgomp-is-not-here.so.1")
        assert "libgomp-is-not-here.so.1: cannot open shared object file" in found[0].found


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


class TestFullDisk:
    """File systems that can take nothing more."""

    @pytest.mark.parametrize("setting", ["request_log", "report_dir", "router_config"])
    def test_full(self, used: Settings, small_disk: Path, look: Look, setting: str) -> None:
        """The folder is named, with what goes there."""
        ballast = small_disk / "ballast"
        with suppress(OSError):
            ballast.write_bytes(b"." * 100_000)
        place = small_disk if setting == "report_dir" else small_disk / "file"
        looked_at, found, next_step = only(look("disks", _with(used, **{setting: place})))
        assert str(small_disk) in looked_at
        assert {"request_log": "request log", "report_dir": "reports"}.get(setting, "router configuration") in looked_at
        assert found == "it is full: 0 MB free"
        assert "free 1.0 GB or more" in next_step

    def test_read_only(self, used: Settings, small_disk: Path, look: Look) -> None:
        """A file system that turned read-only is not called full."""
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
        _, found, next_step = only(look("disks", _with(used, request_log=small_disk / "requests.csv")))
        assert (found, next_step) == (
            "it is mounted read-only",
            f"mount it writable: mount -o remount,rw {small_disk}",
        )


class TestNewerSchema:
    """What lies here was written by a newer version than the one installed."""

    def test_the_log(self, used: Settings, look: Look) -> None:
        """The log has a column more."""
        header, _, rest = used.request_log.read_text().partition("\n")
        used.request_log.write_text(f"{header},country\n{rest}")
        looked_at, found, next_step = only(look("log files", used))
        assert str(used.request_log) in looked_at
        assert "written by a newer Crossfade: it has the columns country as well" in found
        assert next_step == "Update this installation"

    def test_a_packed_part(self, used: Settings, look: Look) -> None:
        """So has the Parquet part of an earlier day."""
        part = used.request_log.with_name("requests.2026-01-02.csv")
        part.write_text(",".join((*COLUMNS, "country")) + "\n" + ",".join("1" * (len(COLUMNS) + 1)) + "\n")
        packed = pack(part, used.request_log, (*COLUMNS, "country"))
        looked_at, found, _ = only(look("log files", used))
        assert str(packed) in looked_at
        assert "newer Crossfade" in found

    @pytest.mark.parametrize("package", ["mlflow", "airflow"])
    def test_a_database(self, used: Settings, look: Look, package: str) -> None:
        """Its Alembic revision is none that the installed package knows; the newest one it knows is fine."""
        path = used.var / package / f"{package}.db"
        path.parent.mkdir(parents=True)
        _, newest = _revisions(package)
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
            connection.execute("INSERT INTO alembic_version VALUES (?)", (newest,))
        assert look("databases", used).state == "ok"
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE alembic_version SET version_num = 'ffff00001111'")
        looked_at, found, next_step = only(look("databases", used))
        assert looked_at == str(path)
        assert f"a newer {package} than the one installed made it: revision ffff00001111" in found
        assert "update this installation" in next_step

    def test_todays_mlflow(self, mlflow_server: Settings, look: Look) -> None:
        """The database that the installed MLflow has made is no finding."""
        assert look("databases", mlflow_server).state == "ok"


class TestUnreachableMlflow:
    """Nobody answers where MLflow should."""

    def test_of_this_machine(self, used: Settings, look: Look) -> None:
        """The router runs and MLflow does not."""
        _, found, next_step = only(look("mlflow", used, "router"))
        assert found == "it does not answer: Connection refused"
        assert next_step.startswith("`crossfade up`")

    def test_elsewhere(self, used: Settings, look: Look) -> None:
        """MLFLOW_TRACKING_URI names a server that is not there."""
        settings = _with(used, mlflow_tracking_uri="http://127.0.0.1:9")
        looked_at, found, next_step = only(look("addresses", settings))
        assert looked_at == "MLFLOW_TRACKING_URI=http://127.0.0.1:9"
        assert "Connection refused" in found
        assert "correct MLFLOW_TRACKING_URI" in next_step


class TestDeletedVersion:
    """An alias points at what is not there any more, on a real MLflow server."""

    def test_the_version(
        self, used: Settings, mlflow_server: Settings, register_served: Callable[..., Version], look: Look
    ) -> None:
        """Its version was deleted, and its alias was not."""
        name = "DoctorDeleted"
        version = register_served(name, "prod", "previous")
        settings = _on(mlflow_server, used, reg_model_name=name)
        assert look("aliases", settings).state == "ok"
        with sqlite3.connect(mlflow_server.var / "mlflow" / "mlflow.db", timeout=30) as database:
            deleted = "UPDATE model_versions SET current_stage = 'Deleted_Internal' WHERE name = ? AND version = ?"
            assert database.execute(deleted, (name, version.number)).rowcount == 1
        examined = look("aliases", settings)
        assert [finding.looked_at for finding in examined.findings] == [
            f"alias prod of {name}",
            f"alias previous of {name}",
        ]
        assert examined.findings[0].found == "it points at version 1, which is deleted"
        assert f"/#/models/{name}" in examined.findings[0].next_step

    def test_its_files(
        self, used: Settings, mlflow_server: Settings, register_served: Callable[..., Version], look: Look
    ) -> None:
        """The version stands, and its model's files are gone from MLflow's disk."""
        version = register_served("DoctorEmptied", "prod")
        settings = _on(mlflow_server, used, reg_model_name="DoctorEmptied")
        assert look("models", settings).state == "ok"
        artifacts = mlflow_server.var / "mlflow" / "artifacts"
        with sqlite3.connect(mlflow_server.var / "mlflow" / "mlflow.db", timeout=30) as database:
            found = database.execute("SELECT artifact_uri FROM runs WHERE run_uuid = ?", (version.run_id,)).fetchone()
        run = artifacts / found[0].removeprefix("mlflow-artifacts:/")
        for path in (run / "compiled").iterdir():
            path.unlink()
        assert look("models", settings).state == "ok"  # the model as it was trained stands in
        for path in artifacts.rglob("model.pkl"):
            if version.run_id in (path.parent / "MLmodel").read_text():
                path.unlink()
        looked_at, found_text, next_step = only(look("models", settings))
        assert looked_at == "version 1 of DoctorEmptied (alias prod)"
        assert "its files cannot be" in found_text
        assert "crossfade rollback" in next_step


class TestUnreadableLog:
    """Rights, a wrong header, torn lines."""

    def test_rights(self, used: Settings, look: Look) -> None:
        """This user may not read it."""
        used.request_log.chmod(0)
        with _somebody_else(used.crossfade_home):
            looked_at, found, next_step = only(look("log files", used))
        assert str(used.request_log) in looked_at
        assert (found, next_step) == ("cannot be read: Permission denied", "Fix its rights")

    def test_a_wrong_header(self, used: Settings, look: Look) -> None:
        """It is some other table."""
        used.labels_log.write_text("a,b\n1,2\n")
        looked_at, found, next_step = only(look("log files", used))
        assert str(used.labels_log) in looked_at
        assert "does not start with the columns ts_utc,request_id,label" in found
        assert next_step == "Move the file away"

    def test_torn_lines_are_counted(self, used: Settings, look: Look) -> None:
        """One is a note, for a killed process leaves one; many are wrong."""
        for torn, level in ((1, "note"), (9, "wrong")):
            with used.request_log.open("a") as file:
                file.write("2026-01-02T03,r\n" * torn)
            assert [finding.level for finding in look("rows", used).findings] == [level]
        _, found, _ = only(look("rows", used))
        assert found == "10 lines are torn or broken; they are set aside"


class TestClockSkew:
    """Clocks that do not agree."""

    def test_rows_from_the_future(self, used: Settings, look: Look, log_rows: Callable[..., object]) -> None:
        """Rows whose time is still to come are counted."""
        log_rows(used, [-3600, -3605])
        _, found, _ = only(look("rows", used))
        assert found.startswith("2 are from the future, by up to 36")

    def test_time_runs_backwards(self, used: Settings, look: Look, log_rows: Callable[..., object]) -> None:
        """A row that is hours older than the one before it; a second is nothing."""
        assert look("rows", used).state == "ok"
        log_rows(used, [7200, 7199, 7199.5])
        _, found, next_step = only(look("rows", used))
        assert found.startswith("time runs backwards 1 times, by up to 7")
        assert "NTP" in next_step

    @pytest.mark.parametrize(("ahead", "said"), [(120, "ahead of"), (-120, "behind")])
    def test_a_neighbours_clock(self, used: Settings, look: Look, ahead: float, said: str) -> None:
        """A server whose `Date` is two minutes off."""

        class Off(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()

            def date_time_string(self, timestamp: float | None = None) -> str:
                return formatdate(time.time() + ahead, usegmt=True)

            def log_message(self, *_: object) -> None:
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Off) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            settings = _with(used, mlflow_tracking_uri=f"http://127.0.0.1:{server.server_address[1]}")
            looked_at, found, _ = only(look("clocks", settings))
            server.shutdown()
        assert looked_at.startswith("the clock of MLflow")
        assert said in found

    def test_mlflows_own_clock(self, used: Settings, mlflow_server: Settings, look: Look) -> None:
        """A real server on this machine has the same time."""
        assert look("clocks", _with(used, mlflow_tracking_uri=mlflow_server.mlflow_tracking_uri)).state == "ok"


class TestTokenMissing:
    """The services listen beyond this machine, and nobody is asked who they are."""

    def test_beyond_this_machine(self, used: Settings, look: Look) -> None:
        """Each token that is missing is a finding, and so is Airflow's first password."""
        examined = look("access", _with(used, bind_host="0.0.0.0"))
        assert [finding.next_step.split(" (")[0] for finding in examined.findings] == [
            "set ROUTER_ADMIN_TOKEN",
            "set ROUTER_API_TOKEN",
            "set AIRFLOW_PASSWORD",
        ]

    def test_on_this_machine(self, used: Settings, look: Look) -> None:
        """Out of the box nothing is missing."""
        assert look("access", used).state == "ok"


def _with(settings: Settings, **changed: object) -> Settings:
    return settings.model_copy(update=changed)


def _on(server: Settings, used: Settings, **changed: object) -> Settings:
    """Take the installation with that MLflow server."""
    return _with(used, mlflow_tracking_uri=server.mlflow_tracking_uri, mlflow_port=server.mlflow_port, **changed)


def _answering(server: socket.socket, greeting: bytes) -> None:
    """Greet whoever connects, as a mail server does, until the socket is closed."""

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection, suppress(OSError):
                    connection.sendall(greeting)

    threading.Thread(target=serve, daemon=True).start()


@contextmanager
def _somebody_else(home: Path) -> Iterator[None]:
    """Be a user without rights, who may walk to that folder, where this one is root."""
    if os.geteuid() != 0:
        yield
        return
    folders = [folder for folder in home.parents if folder.stat().st_uid == 0 and not folder.stat().st_mode & 1]
    before = {folder: folder.stat().st_mode for folder in (home, *folders)}
    for folder, mode in before.items():
        folder.chmod(mode | 0o711)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        for folder, mode in before.items():
            folder.chmod(mode & 0o7777)


def _revisions(package: str) -> tuple[set[str], str | None]:
    from crossfade.doctor import schemas

    versions = {"mlflow": "store/db_migrations/versions", "airflow": "migrations/versions"}[package]
    return schemas._revisions_of(schemas.Database(Path(), package, versions, ""))
