"""Which Crossfade wrote a log: the header is the version.

A version only ever adds columns, at the end. So a file whose header goes on after our columns was written by a newer
Crossfade: nobody reads it or adds to it, for nobody here knows what its rows mean. One that stops at the columns of
an earlier version is read, what it lacks as empty; it is not added to, for its rows would be of two lengths.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from crossfade.errors import LogUnavailable

Columns = tuple[str, ...]

EARLIER: Mapping[Columns, Collection[int]] = {}
"""By today's columns of a kind of log: how many of them each earlier version had. Version 1 is the only one so far."""


def columns_in(path: Path, header: bytes, columns: Columns) -> Columns:
    r"""Return the columns of a CSV file by its first line.

    Parameters
    ----------
    path : Path
        The file, for the message.
    header : bytes
        Its first line.
    columns : tuple of str
        Those that this Crossfade writes.

    Raises
    ------
    LogUnavailable
        It was written by a newer Crossfade, or is no such log.

    Examples
    --------
    >>> columns_in(Path("labels.csv"), b"ts_utc,request_id,label\n", ("ts_utc", "request_id", "label"))
    ('ts_utc', 'request_id', 'label')
    """
    return known_columns(path, tuple(header.rstrip(b"\r\n").decode(errors="replace").split(",")), columns)


def known_columns(path: Path, found: Columns, columns: Columns) -> Columns:
    """Return the columns that a file was found to have, if this Crossfade knows them. Raises as `columns_in` does."""
    if found == columns:
        return columns
    if found[: len(columns)] == columns:
        more = ", ".join(found[len(columns) :])[:200]
        raise LogUnavailable(
            f"{path} was written by a newer Crossfade: it has the columns {more} as well. Update this installation."
        )
    if len(found) in EARLIER.get(columns, ()) and found == columns[: len(found)]:
        return found
    raise LogUnavailable(f"{path} does not start with the columns {','.join(columns)}. Move the file away.")


def refuse_other(path: Path, header: bytes, columns: Columns) -> None:
    """Refuse to add rows to a file of another version. Raises LogUnavailable."""
    if columns_in(path, header, columns) != columns:
        raise LogUnavailable(
            f"{path} was begun by an older Crossfade. Rename it to {path.stem}.<day of its first row>.csv: "
            "there it is read, and a new file is begun."
        )
