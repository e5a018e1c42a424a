"""An MLflow server as the router asks it: two REST calls, without MLflow's own client and the 100 MB it takes.

What the client reads from the environment to log in is read here as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from crossfade.errors import CrossfadeError, ModelUnusable, RegistryUnavailable, without_login
from crossfade.version import COMPILED_FOLDER, LoadedModel, Version

if TYPE_CHECKING:
    from crossfade.registry import Registry

_CONNECT_SECONDS = 2.0
"""A server that does not take a connection is told of soon: a router waits for it at its start."""

_READ_SECONDS = "5"
"""Of silence in the middle of an answer; MLFLOW_HTTP_REQUEST_TIMEOUT is for servers that need longer."""

_OTHER_LOGINS = ("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4")
"""Ways to log in that only MLflow's own client knows."""


def can_ask(tracking_uri: str) -> bool:
    """Tell whether this is a server that can be asked without MLflow's own client."""
    return tracking_uri.startswith(("http://", "https://")) and not any(os.environ.get(name) for name in _OTHER_LOGINS)


class MlflowServer:
    """One registered model on an MLflow server, read only.

    Parameters
    ----------
    tracking_uri : str
        Address of the server.
    name : str
        Name of the registered model.
    """

    def __init__(self, tracking_uri: str, name: str) -> None:
        self.name = name
        self._uri = tracking_uri.rstrip("/")
        self._session = _session()

    def at(self, alias: str) -> Version | None:
        """Return the version an alias points at; None when the alias, or the model, does not exist.

        Raises
        ------
        RegistryUnavailable
            The server does not answer.
        """
        with self._reachable():
            answer = self._get("api/2.0/mlflow/registered-models/alias", name=self.name, alias=alias)
            if answer.status_code in (400, 404):
                told = answer.json()
                if is_missing(told.get("error_code", ""), told.get("message", "")):
                    return None
            answer.raise_for_status()
            found = answer.json()["model_version"]
            tags = {tag["key"]: tag.get("value", "") for tag in found.get("tags", [])}
            return Version.of_mlflow(found["version"], found.get("run_id"), tags, int(found["creation_timestamp"]))

    def fetch_compiled(self, version: Version, folder: Path) -> Path:
        """Fetch the files of a version's compiled form into a folder below; return that.

        Raises
        ------
        RegistryUnavailable
            The server does not answer.
        ModelUnusable
            The version has no compiled form.
        """
        copy = folder / COMPILED_FOLDER
        with self._reachable():
            answer = self._get("api/2.0/mlflow/artifacts/list", run_id=version.run_id, path=COMPILED_FOLDER)
            listed = [] if answer.status_code == 404 else _checked(answer).json().get("files", [])
            paths = [file["path"] for file in listed if not file.get("is_dir")]
            if not paths:
                raise ModelUnusable("it has no compiled form")
            copy.mkdir(exist_ok=True)
            for path in paths:
                content = _checked(self._get("get-artifact", run_id=version.run_id, path=path)).content
                (copy / Path(path).name).write_bytes(content)
        return copy

    def load_trained(self, version: Version, folder: Path) -> LoadedModel:
        """Load a version as it was trained: by MLflow's own client, for its pipeline needs PyCaret and pandas anyhow.

        Raises as `Registry.load_trained` does.
        """
        return self._registry().load_trained(version, folder)

    def _registry(self) -> Registry:
        from crossfade.registry import Registry  # here: most routers do without

        return Registry(self._uri, self.name)

    def _get(self, call: str, **query: str) -> requests.Response:
        timeout = _CONNECT_SECONDS, float(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", _READ_SECONDS))
        return self._session.get(f"{self._uri}/{call}", params=query, timeout=timeout)

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except CrossfadeError:
            raise
        except requests.ConnectionError as error:
            raise unavailable(self._uri, "does not answer") from error
        except (requests.RequestException, ValueError, KeyError, TypeError) as error:
            raise unavailable(self._uri, f"failed ({without_login(str(error))[:200]})") from error


def _session() -> requests.Session:
    """Connect as MLflow's client does where the environment says so."""
    session, given = requests.Session(), os.environ.get
    retries = Retry(int(given("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")), backoff_factor=0.2, allowed_methods={"GET"})
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retries))
    if user := given("MLFLOW_TRACKING_USERNAME"):
        session.auth = (user, given("MLFLOW_TRACKING_PASSWORD", ""))
    elif token := given("MLFLOW_TRACKING_TOKEN"):
        session.headers["Authorization"] = f"Bearer {token}"
    session.verify = given("MLFLOW_TRACKING_SERVER_CERT_PATH") or given("MLFLOW_TRACKING_INSECURE_TLS") != "true"
    session.cert = given("MLFLOW_TRACKING_CLIENT_CERT_PATH")
    return session


def _checked(answer: requests.Response) -> requests.Response:
    answer.raise_for_status()
    return answer


def is_missing(code: str, message: str) -> bool:
    """Tell what MLflow says of a model, and of an alias, that is not there."""
    return code == "RESOURCE_DOES_NOT_EXIST" or (code == "INVALID_PARAMETER_VALUE" and "not found" in message)


def unavailable(tracking_uri: str, what: str) -> RegistryUnavailable:
    """Make the error that says what is wrong with a registry, and what to do."""
    where = without_login(tracking_uri)
    return RegistryUnavailable(f"MLflow at {where} {what}; start it (`crossfade up`) or correct MLFLOW_TRACKING_URI")
