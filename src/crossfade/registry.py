"""6. The model registry: versions, their tags, and the aliases that say who serves.

The only module that talks to MLflow's registry. Serving reads it, the learning loop writes it.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model as MlflowModel
from mlflow.models import ModelSignature, get_model_info
from mlflow.protos.databricks_pb2 import (
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
    ErrorCode,
)

from crossfade.errors import AliasMoved, CrossfadeError, ModelUnusable
from crossfade.mlflowserver import is_missing, unavailable
from crossfade.model import SklearnModel
from crossfade.schema import FeatureSchema
from crossfade.signature import schema_of
from crossfade.version import COMPILED_FOLDER, LoadedModel, Version, digest_of

_log = logging.getLogger(__name__)

_MODEL_FILES = "*.pkl"
"""Those that make the model; MLflow's descriptions of it differ per version."""

_WHAT_IT_IS = (
    "Kept by Crossfade. Aliases say who serves: `prod` answers arm A, `staging` the challenger's arm B, and `previous` "
    "is what a roll-back puts back. The page of each version says why it was trained, how it did against the champion, "
    "and what users' labels made of it."
)

# A dead registry is noticed in seconds, not after MLflow's own 7 retries of 120 s.
_CLIENT_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def connect(tracking_uri: str) -> None:
    """Point MLflow at its server, with limits that let a dead one be noticed (the environment's own win)."""
    for name, value in _CLIENT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    mlflow.set_tracking_uri(tracking_uri)


class Registry:
    """One registered model in MLflow.

    Parameters
    ----------
    tracking_uri : str
        MLflow server or database URL.
    name : str
        Name of the registered model.
    """

    def __init__(self, tracking_uri: str, name: str) -> None:
        connect(tracking_uri)
        self.name = name
        self._uri = tracking_uri
        self._client = MlflowClient(tracking_uri, tracking_uri)

    def at(self, alias: str) -> Version | None:
        """Return the version an alias points at; None when the alias, or the model, does not exist.

        Raises
        ------
        RegistryUnavailable
            MLflow does not answer.
        """
        with self._reachable():
            try:
                return _version(self._client.get_model_version_by_alias(self.name, alias))
            except MlflowException as error:
                if is_missing(error.error_code, str(error)):
                    return None
                raise

    def get(self, number: str) -> Version:
        """Return a version by its number."""
        with self._reachable():
            return _version(self._client.get_model_version(self.name, number))

    def versions(self) -> list[Version]:
        """Return all versions, oldest first."""
        with self._reachable():
            found = self._client.search_model_versions(f"name = '{self.name}'")
        return sorted((_version(v) for v in found), key=lambda v: int(v.number))

    def aliases(self) -> dict[str, str]:
        """Return where each alias points, also at a version that is deleted; empty where the model does not exist."""
        with self._reachable():
            try:
                found = self._client.get_registered_model(self.name).aliases
            except MlflowException as error:
                if is_missing(error.error_code, str(error)):
                    return {}
                raise
        return {alias: str(number) for alias, number in found.items()}

    def register(self, run_id: str, model_uri: str, tags: Mapping[str, str]) -> Version:
        """Register the model of a run; a run that is registered already keeps its version."""
        known = next((v for v in self.versions() if v.run_id == run_id), None)
        if known is not None:
            return known
        with self._reachable():
            try:
                self._client.create_registered_model(self.name, description=_WHAT_IT_IS)
            except MlflowException as error:
                if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                    raise
            model_id = model_uri.removeprefix("models:/")
            return _version(
                self._client.create_model_version(self.name, model_uri, run_id, tags=dict(tags), model_id=model_id)
            )

    def tag(self, number: str, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        with self._reachable():
            for key, value in tags.items():
                self._client.set_model_version_tag(self.name, number, key, value)

    def describe(self, number: str, text: str) -> None:
        """Write on a version's page, as Markdown; MLflow keeps 5,000 characters."""
        with self._reachable():
            self._client.update_model_version(self.name, number, text)

    def move(self, alias: str, to: str, expected: str | None) -> None:
        """Point an alias at a version, if it still points where the caller saw it.

        Parameters
        ----------
        alias : str
            The alias.
        to : str
            Number of the version.
        expected : str or None
            Where the caller saw the alias; None when it did not exist. MLflow has no compare-and-set, so a change
            within the milliseconds between look and move can still be lost.

        Raises
        ------
        AliasMoved
            Somebody else moved it meanwhile.
        """
        self.expect(alias, expected)
        with self._reachable():
            self._client.set_registered_model_alias(self.name, alias, to)
        _log.info("alias %s: version %s -> %s", alias, expected or "none", to)

    def drop(self, alias: str, expected: str) -> None:
        """Take an alias away, if it still points where the caller saw it."""
        self.expect(alias, expected)
        with self._reachable():
            self._client.delete_registered_model_alias(self.name, alias)
        _log.info("alias %s: version %s -> none", alias, expected)

    def load(self, version: Version) -> LoadedModel:
        """Fetch a version and load it as it was trained. Raises as `load_trained` does."""
        with tempfile.TemporaryDirectory(prefix="crossfade-model-") as folder:
            return self.load_trained(version, Path(folder))

    def load_trained(self, version: Version, folder: Path) -> LoadedModel:
        """Load a version as it was trained.

        Parameters
        ----------
        version : Version
            The version.
        folder : Path
            Its files are fetched to below here, unless they are there.

        Raises
        ------
        RegistryUnavailable
            MLflow does not answer.
        ModelUnusable
            The artifact is missing or broken, or says nothing about its features or classes.
        """
        with self._reachable():
            return _load(self._fetch(version, folder), version)

    def fetch_compiled(self, version: Version, folder: Path) -> Path:
        """Fetch the files of a version's compiled form into a folder below; return that.

        Raises
        ------
        RegistryUnavailable
            MLflow does not answer.
        ModelUnusable
            The version has no compiled form.
        """
        with self._reachable():
            try:
                path = mlflow.artifacts.download_artifacts(
                    run_id=version.run_id, artifact_path=COMPILED_FOLDER, dst_path=str(folder), tracking_uri=self._uri
                )
            except (MlflowException, OSError) as error:
                if not _is_gone(error):
                    raise
                raise ModelUnusable("it has no compiled form") from error
        return Path(path)

    def digest(self, version: Version) -> str:
        """Fetch a version's files and hash those that make the model. Raises as `load` does."""
        with self._reachable(), tempfile.TemporaryDirectory(prefix="crossfade-model-") as folder:
            return digest_of(self._fetch(version, Path(folder)), _MODEL_FILES)

    def schema(self, version: Version) -> FeatureSchema:
        """Return the features a version takes, without loading its model.

        Raises
        ------
        RegistryUnavailable
            MLflow does not answer.
        ModelUnusable
            Its files are missing, or say nothing about its features.
        """
        with self._reachable():
            try:
                info = get_model_info(f"models:/{self.name}/{version.number}")
            except (MlflowException, OSError) as error:
                if not _is_gone(error):
                    raise
                raise ModelUnusable(f"version {version.number}: its files cannot be fetched: {error}") from error
        return _schema(info.signature, version)

    def _fetch(self, version: Version, folder: Path) -> Path:
        copy = folder / "model"
        if copy.is_dir():
            return copy
        copy.mkdir()
        uri = f"models:/{self.name}/{version.number}"
        try:
            path = mlflow.artifacts.download_artifacts(
                artifact_uri=uri, dst_path=str(copy), tracking_uri=self._uri, registry_uri=self._uri
            )
        except (MlflowException, FileNotFoundError) as error:
            if not _is_gone(error):
                raise
            raise ModelUnusable(f"version {version.number}: its files cannot be fetched: {error}") from error
        return Path(path)

    def expect(self, alias: str, expected: str | None) -> None:
        """Raise AliasMoved unless an alias points where the caller saw it."""
        found = self.at(alias)
        number = found.number if found else None
        if number != expected:
            raise AliasMoved(
                f"alias {alias} points at version {number or 'none'}, not at {expected or 'none'} as seen before; "
                "it was left alone. Run the step again: it will start from what it finds."
            )

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        """Turn whatever MLflow's client raises (HTTP, database or file errors) into one error of ours."""
        try:
            yield
        except CrossfadeError:
            raise
        except Exception as error:
            _log.debug("%s", error)
            what = "does not answer" if _is_down(error) else f"failed ({str(error).splitlines()[0][:200]})"
            raise unavailable(self._uri, what) from error


def _version(found: ModelVersion) -> Version:
    return Version.of_mlflow(found.version, found.run_id, found.tags, found.creation_timestamp)


def _is_down(error: Exception) -> bool:
    """Tell a server that does not answer from one that answers with an error."""
    text = str(error)
    return isinstance(error, ConnectionError) or "API request to" in text or "Max retries exceeded" in text


def _is_gone(error: Exception) -> bool:
    """Tell files that are not there from a fetch that broke, which the next one may mend."""
    code = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)
    return isinstance(error, FileNotFoundError) or getattr(error, "error_code", "") == code or "404" in str(error)


def _load(path: Path, version: Version) -> LoadedModel:
    # PyCaret opens a log file in the working directory as soon as it is imported, which unpickling does.
    os.environ.setdefault("PYCARET_CUSTOM_LOGGING_PATH", os.devnull)
    try:
        described = MlflowModel.load(str(path))
        pipeline = mlflow.sklearn.load_model(str(path))
    except Exception as error:  # unpickling may raise anything at all
        raise ModelUnusable(f"version {version.number}: its files cannot be loaded: {error}") from error
    metadata = described.metadata or {}
    if "classes" not in metadata:
        raise ModelUnusable(f"version {version.number} has no list of classes: train it with Crossfade")
    schema = _schema(described.signature, version)
    return LoadedModel(
        version, SklearnModel(pipeline, schema, tuple(metadata["classes"])), digest_of(path, _MODEL_FILES)
    )


def _schema(signature: ModelSignature | None, version: Version) -> FeatureSchema:
    schema = schema_of(signature)
    if schema is None:
        raise ModelUnusable(
            f"version {version.number} has no signature of numbers, text and booleans by name: train it with Crossfade"
        )
    return schema
