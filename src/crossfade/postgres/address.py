"""Where a PostgreSQL database is: a URL whose password is never shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from crossfade.errors import without_login

_SCHEMES = ("postgresql", "postgres")


@dataclass(frozen=True)
class DatabaseUrl:
    """Address of a database, as libpq takes it.

    Examples
    --------
    >>> DatabaseUrl("postgresql://me:secret@db/log")
    DatabaseUrl('postgresql://db/log')
    >>> str(DatabaseUrl("postgresql://me:secret@db:6432/log?sslmode=require"))
    'postgresql://db:6432/log'
    """

    dsn: str = field(repr=False)
    """With user, password and options: for connecting, never for showing."""

    def __str__(self) -> str:
        return without_login(self.dsn)

    def __repr__(self) -> str:
        return f"DatabaseUrl({str(self)!r})"

    @classmethod
    def parse(cls, text: str) -> DatabaseUrl:
        """Take a URL.

        Raises
        ------
        ValueError
            It is not one of PostgreSQL.
        """
        allowed = "give a file, or postgresql://<user>:<password>@<host>/<database>"
        try:
            parts = urlsplit(text)
            _ = parts.port
        except ValueError:
            raise ValueError(
                f"the address cannot be read (write : / @ of a password as %3A %2F %40); {allowed}"
            ) from None
        if parts.scheme not in _SCHEMES:
            raise ValueError(allowed)
        if len(parts.path) < 2:
            raise ValueError(f"the database is missing; {allowed}")
        return cls(text)


def is_url(text: str) -> bool:
    """Tell a URL from the name of a file."""
    return "://" in text
