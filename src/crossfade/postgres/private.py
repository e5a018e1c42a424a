"""A PostgreSQL server of one's own, from Debian's package: for tests and benchmarks."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

import psutil
import psycopg
from psycopg import sql

from crossfade.errors import ServiceError
from crossfade.postgres.address import DatabaseUrl

_USER, _PASSWORD = "crossfade", "se-cr-et"
_START_SECONDS = 120.0

_INSTALL = "no PostgreSQL found under /usr/lib/postgresql; run: sudo apt-get install -y postgresql"

_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "on",  # what a killed server has confirmed is what the tests are about
    "shared_buffers": "64MB",
    "max_connections": "200",
    "max_wal_size": "2GB",
    "log_min_messages": "warning",
}


def programs() -> Path | None:
    """Return the folder of the newest server's programs; None where none is installed."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(found, key=lambda path: int(path.parent.name), default=None)


class PrivateServer:
    """One server on 127.0.0.1 and a socket, in a folder of its own; use it in a `with`, or `remove` it.

    It ends with the thread that started it, too. As root it runs as the user `postgres`, which Debian's package makes.

    Raises
    ------
    ServiceError
        No server is installed, or it does not start.
    """

    def __init__(self) -> None:
        found = programs()
        if found is None:
            raise ServiceError(_INSTALL)
        self._programs = found
        self.folder = Path(tempfile.mkdtemp(prefix="crossfade-pg-"))
        self.port = _free_port()
        self._process: psutil.Popen | None = None
        if os.getuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        self._initialise()

    def __enter__(self) -> PrivateServer:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill and remove."""
        self.remove()

    def url(self, database: str = "postgres") -> DatabaseUrl:
        """Return the address of a database."""
        return DatabaseUrl(f"postgresql://{_USER}:{_PASSWORD}@127.0.0.1:{self.port}/{database}")

    def create(self, database: str) -> DatabaseUrl:
        """Make an empty database."""
        self._say(sql.SQL("create database {}").format(sql.Identifier(database)))
        return self.url(database)

    def drop(self, database: str) -> None:
        """Remove a database, whoever is connected."""
        self._say(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(database)))

    def start(self) -> None:
        """Start, and wait until it answers. Raises ServiceError."""
        options = [f"--{name}={value}" for name, value in _OPTIONS.items()]
        command = [
            str(self._programs / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port),
            "-k", str(self.folder), *options,
        ]  # fmt: skip
        with (self.folder / "server.log").open("ab") as log:
            self._process = psutil.Popen(self._as_owner(command), stdout=log, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "server.log").read_text().strip().splitlines()[-3:]
                raise ServiceError(f"PostgreSQL does not start: {' / '.join(said)}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop as an administrator would: connections are ended."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(timeout=_START_SECONDS)

    def kill(self) -> None:
        """Kill all of its processes at once, as a power cut does."""
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self._process is not None:
            self._process.wait(timeout=_START_SECONDS)

    def suspend(self) -> None:
        """Make all of its processes hang."""
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        """Let its processes go on."""
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def remove(self) -> None:
        """Kill it and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _family(self) -> list[psutil.Process]:
        """Return its processes, the first one first: the others are not told, and do not end by themselves, then."""
        if self._process is None or self._process.poll() is not None:
            return []
        return [self._process, *self._process.children(recursive=True)]

    def _initialise(self) -> None:
        secret = self.folder / "password"
        secret.write_text(_PASSWORD + "\n")
        secret.chmod(0o644)
        command = [
            str(self._programs / "initdb"), "-D", str(self.folder / "data"), "-U", _USER, "--pwfile", str(secret),
            "--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync",
        ]  # fmt: skip
        done = subprocess.run(self._as_owner(command), capture_output=True, text=True, check=False, cwd=self.folder)
        if done.returncode:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise ServiceError(f"initdb failed: {done.stderr.strip()}")

    def _as_owner(self, command: list[str]) -> list[str]:
        """Run as an unprivileged user, which the server insists on, and not longer than this process."""
        owner = ["--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
        return ["setpriv", "--pdeathsig", "INT", *owner, *command]

    def _answers(self) -> bool:
        try:
            self._say(sql.SQL("select 1"))
        except psycopg.OperationalError:
            return False
        return True

    def _say(self, statement: sql.SQL | sql.Composed) -> None:
        with psycopg.connect(self.url().dsn, autocommit=True, connect_timeout=10) as connection:
            connection.execute(statement)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
