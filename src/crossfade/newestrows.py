"""The end of a request log, read without pandas and Arrow: the router has to stay light.

Of a log in files only those that are being written are read, not the parts that older rows were moved to, so after a
rotation there is little to see for a while.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from crossfade.csvline import whole_rows
from crossfade.errors import LogUnavailable
from crossfade.logversion import columns_in
from crossfade.requestlog import COLUMNS, LABEL_COLUMNS

_MOST_BYTES = 2**25
"""Of either file that is read; what is beyond it is not seen."""

_MOST_LABELS = 20_000
"""Late labels that are looked through, the newest."""

_ROW_BYTES = 512
"""A guess, to begin with."""


class Newest(Protocol):
    """The end of a request log."""

    def rows(self, most: int) -> tuple[list[dict[str, str]], int]:
        """Return the newest rows, as text by column, oldest first, and how many lines among them are no rows.

        Raises
        ------
        LogUnavailable
            The log cannot be read.
        """

    def labels(self, request_ids: Sequence[str]) -> Mapping[str, str]:
        """Return the late labels, the last one of a request, among them those of these. Raises LogUnavailable."""


class NewestInFiles:
    """The last lines of the two files.

    Parameters
    ----------
    path : Path
        The rows.
    labels_path : Path
        The labels that came later.
    """

    def __init__(self, path: Path, labels_path: Path) -> None:
        self._path = path
        self._labels_path = labels_path

    def rows(self, most: int) -> tuple[list[dict[str, str]], int]:
        """Return the newest rows, oldest first, and how many lines among them are no rows. Raises LogUnavailable."""
        lines, torn = _last_lines(self._path, most, COLUMNS)
        rows, set_aside = whole_rows(lines, len(COLUMNS))
        return [dict(zip(COLUMNS, _cells(row), strict=True)) for row in rows], set_aside + torn

    def labels(self, request_ids: Sequence[str]) -> dict[str, str]:  # noqa: ARG002 - a file has to be read anyway
        """Return the newest late labels: the last one of a request counts. Raises LogUnavailable."""
        lines, _ = _last_lines(self._labels_path, _MOST_LABELS, LABEL_COLUMNS)
        rows, _ = whole_rows(lines, len(LABEL_COLUMNS))
        return {request_id: label for _, request_id, label in map(_cells, rows)}


def _last_lines(path: Path, wanted: int, columns: tuple[str, ...]) -> tuple[list[bytes], int]:
    """Read the last whole lines of a CSV file, its header left out, and tell whether one follows that is not whole."""
    try:
        with path.open("rb") as file:
            header = file.readline()
            size = file.seek(0, 2)
            length = min(wanted * _ROW_BYTES, _MOST_BYTES)
            while True:
                start = max(0, size - length)
                file.seek(start)
                data = file.read(size - start)
                if start == 0 or length >= _MOST_BYTES or data.count(b"\n") > wanted:
                    break
                length = min(2 * length, _MOST_BYTES)
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise LogUnavailable(f"{path} cannot be read: {error.strerror}. Fix its rights.") from error
    if header:
        columns_in(path, header, columns)
    _, *lines = data.split(b"\n")
    last = lines.pop() if lines else b""
    return [line for line in lines if line.strip()][-wanted:], int(last != b"")


def _cells(row: bytes) -> list[str]:
    return next(csv.reader([row.decode()], strict=True))
