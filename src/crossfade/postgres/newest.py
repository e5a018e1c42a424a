"""The end of a request log in PostgreSQL, without Arrow: the router has to stay light."""

from __future__ import annotations

from collections.abc import Sequence

from crossfade.postgres.address import DatabaseUrl
from crossfade.postgres.lines import LABELS, ROWS
from crossfade.postgres.link import opened
from crossfade.postgres.reading import as_text

_SECONDS = 5
"""Nobody waits longer for a look."""


class NewestInDatabase:
    """The newest rows of the tables.

    Parameters
    ----------
    url : DatabaseUrl
        The database.
    """

    def __init__(self, url: DatabaseUrl) -> None:
        self._url = url

    def rows(self, most: int) -> tuple[list[dict[str, str]], int]:
        """Return the newest rows, oldest first; none is ever torn. Raises LogUnavailable."""
        names = ", ".join(f"coalesce(({as_text(name, name)})::text, '')" for name in ROWS.columns)
        found = self._ask(f"select {names} from {ROWS.name} order by id desc limit %s", most)  # noqa: S608 - of constants
        return [dict(zip(ROWS.columns, row, strict=True)) for row in reversed(found)], 0

    def labels(self, request_ids: Sequence[str]) -> dict[str, str]:
        """Return the late labels of these requests, the last one of each. Raises LogUnavailable."""
        newest = f"select distinct on (request_id) request_id, label from {LABELS.name} where request_id = any(%s)"  # noqa: S608 - a constant
        found = self._ask(f"{newest} order by request_id, id desc", list(request_ids))
        return {row[0]: row[1] for row in found}

    def _ask(self, query: str, value: object) -> list[tuple[str, ...]]:
        with opened(self._url, _SECONDS) as link:
            link.execute(f"set statement_timeout = '{_SECONDS}s'")
            return link.execute(query, [value]).fetchall()
