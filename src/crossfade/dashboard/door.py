"""Who may look, and who may act.

To look: whoever reaches the port, until ROUTER_API_TOKEN closes what the router shows of anybody's data; then a browser
asks for it (any user name; the token, or ROUTER_ADMIN_TOKEN, as the password). To act: as at the router. Where
ROUTER_ADMIN_TOKEN is set, the page asks the person for it with every act; the server compares and never sends it.
Where it is not, acts are open to whoever reaches the port, but for pages of other sites: a browser must have come
here under an address of this machine, and from this very page.
"""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from flask import Flask, Request, Response, request

from crossfade.errors import CrossfadeError
from crossfade.settings import Settings

OPEN = ("/health",)
"""Paths that need no token: they tell nothing."""

_HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",  # nobody's page may lay ours under its own buttons
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class NotAllowed(CrossfadeError):
    """Somebody wants to act who may not."""


class Door:
    """Lets people in, and act.

    Parameters
    ----------
    settings : Settings
        The tokens, and where the page is served.
    """

    def __init__(self, settings: Settings) -> None:
        admin = settings.router_admin_token
        self._admin = admin.get_secret_value() if admin else None
        self._api = settings.api_token
        self._host = settings.bind_host

    @property
    def asks_for_token(self) -> bool:
        """Whether acting takes a token."""
        return self._admin is not None

    def guard(self, server: Flask) -> None:
        """Put the door in front of a server."""

        @server.before_request
        def come_in() -> Response | None:
            if request.path in OPEN or self.may_look(request):
                return None
            asking = {"WWW-Authenticate": 'Basic realm="Crossfade: the password is ROUTER_API_TOKEN", charset="UTF-8"'}
            return Response("ROUTER_API_TOKEN is needed, as the password of any user name\n", 401, asking)

        @server.after_request
        def protect(response: Response) -> Response:
            response.headers.update(_HEADERS)
            return response

    def may_look(self, asked: Request) -> bool:
        """Tell whether a request may see the page and what is on it."""
        if self._api is None:
            return True
        given = asked.authorization
        said = (given.password if given.type == "basic" else given.token) if given else None
        return any(_same(said, token) for token in (self._api, self._admin))

    def may_act(self, asked: Request, token: str | None) -> None:
        """Raise NotAllowed unless a request with this token may act."""
        origin = asked.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != asked.host:
            raise NotAllowed("a page of another site asked for this: open the dashboard itself")
        if self._admin is not None:
            if not _same(token, self._admin):
                raise NotAllowed(
                    "ROUTER_ADMIN_TOKEN is needed, and this is not it" if token else "ROUTER_ADMIN_TOKEN is needed"
                )
        elif urlsplit(f"//{asked.host}").hostname not in ("127.0.0.1", "localhost", "::1", self._host):
            raise NotAllowed(
                f"without ROUTER_ADMIN_TOKEN nobody may act who came by the name {asked.host}: set the token, or open "
                "the page under 127.0.0.1"
            )


def _same(given: str | None, token: str | None) -> bool:
    return token is not None and hmac.compare_digest((given or "").encode(), token.encode())
