"""The router as the learning loop knows it: told that an alias moved, asked and told B's share of the users."""

from __future__ import annotations

import logging
from typing import Any, Protocol

import requests

from crossfade.errors import CrossfadeError, ServiceError
from crossfade.postgres.address import DatabaseUrl
from crossfade.settings import Settings

_log = logging.getLogger(__name__)

_SECONDS = 60
_DATABASE_SECONDS = 10.0


class Router(Protocol):
    """Whoever splits the traffic."""

    def split_b(self) -> float:
        """Return B's share of the users; in [0, 1]. Raises ServiceError."""

    def change_split_b(self, share: float) -> None:
        """Put a share in force; it is, in every worker, when this returns. Raises ServiceError."""

    def reload(self) -> None:
        """Make it look at the registry now. It would find out by itself, so a failure is only told."""


class HttpRouter:
    """The running router, over HTTP.

    Parameters
    ----------
    settings : Settings
        Its address, and the token that it asks for.
    """

    def __init__(self, settings: Settings) -> None:
        self._url = settings.router_url
        token = settings.router_admin_token
        self._log = settings.request_log
        self._headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}

    def split_b(self) -> float:
        """Ask for B's share."""
        return float(self._call("GET", "/config")["ab_split_b"])

    def change_split_b(self, share: float) -> None:
        """Change B's share."""
        self._call("POST", "/config", {"ab_split_b": share})

    def reload(self) -> None:
        """Tell every worker, of every router on the same database; they poll the registry as well."""
        try:
            self._call("POST", "/reload")
        except ServiceError as error:
            _log.warning("the router was not told; it polls the registry itself (%s)", error)
            self._announce()

    def _announce(self) -> None:
        """Tell the other routers, where there are some: the one that was asked would have done it."""
        if not isinstance(self._log, DatabaseUrl):
            return
        from crossfade.postgres.shared import SharedState  # here: psycopg is for those who have a database

        try:
            SharedState(self._log, _DATABASE_SECONDS).announce()
        except CrossfadeError as error:
            _log.warning("no router was told (%s)", error)

    def _call(self, method: str, path: str, body: dict[str, float] | None = None) -> dict[str, Any]:
        try:
            answer = requests.request(method, self._url + path, json=body, headers=self._headers, timeout=_SECONDS)
            answer.raise_for_status()
            return dict(answer.json())
        except (requests.RequestException, ValueError) as error:
            raise ServiceError(
                f"{method} {self._url}{path} failed: {error}. Start the router (`crossfade up`), "
                "or correct ROUTER_URL or ROUTER_ADMIN_TOKEN."
            ) from error
