"""What can go wrong, one class per failure that is handled differently.

Every message says what came, what is allowed and what to do next. HTTP status codes belong to the web layer
(:mod:`crossfade.serving.web`), exit codes to the command line.
"""

from __future__ import annotations

import re


class CrossfadeError(Exception):
    """Base of every error that Crossfade raises on purpose."""


class SettingsError(CrossfadeError):
    """A setting has a value that is not allowed: the program does not start."""


class DataError(CrossfadeError):
    """A table cannot be used: it is missing, empty, or does not hold what the settings promise."""


class InvalidInput(CrossfadeError):
    """A request, label or row was refused.

    Parameters
    ----------
    field : str
        The place in the input, for example ``features.petal width (cm)``.
    problem : str
        What came and what is allowed.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class NoModel(CrossfadeError):
    """No version stands under the alias `prod`: nobody can be served yet."""


class ModelUnusable(CrossfadeError):
    """A registered version cannot be served: broken artifact, no signature, or other features than prod's."""


class RegistryUnavailable(CrossfadeError):
    """The model registry does not answer; what is loaded stays in service."""


class AliasMoved(CrossfadeError):
    """An alias no longer points where the evaluation saw it, so it was not moved."""


class LogUnavailable(CrossfadeError):
    """The request log cannot be written or read."""


class SchemaTooNew(CrossfadeError):
    """A newer Crossfade has changed the tables of the request log: this one does not start."""


class StoreUnavailable(CrossfadeError):
    """The feature store cannot be written or read."""


class BatchConflict(CrossfadeError):
    """The feature store holds a batch of that id already, with other rows."""


class ServiceError(CrossfadeError):
    """A service of the stack did not start, stop or answer."""


def without_login(url: str) -> str:
    """Take user, password and query out of an address, for messages that others may read.

    Examples
    --------
    >>> without_login("postgresql://me:s/cr@t@db/rows?password=secret")
    'postgresql://db/rows'
    """
    return re.sub(r"\?\S*", "", re.sub(r"//[^\s]*@", "//", url))
