"""Where the rows of earlier days are: beside the log `requests.csv`, as `requests.2026-11-20.csv` or `.parquet`.

A part is named by the day it was begun, the UTC day of its first row. It becomes Parquet when no process can append to
it any more. While both stand there the CSV is the one to read.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

_DAY = re.compile(r"\d{4}-\d\d-\d\d")

_FIRST_BYTES = 2**16


def part_of(log: Path, day: date, ending: str) -> Path:
    """Return the path of a day's part."""
    return log.with_name(f"{log.stem}.{day}{ending}")


def parts_of(log: Path) -> list[Path]:
    """Return the parts, oldest first, one per day; Parquet that somebody else has put there is one as well."""
    found: dict[str, Path] = {}
    for path in sorted(_beside(log), reverse=True):
        if path.suffix == ".parquet" or (path.suffix == ".csv" and day_of(log, path)):
            found[path.stem] = path  # CSV comes last, and stays
    return [found[name] for name in sorted(found)]


def day_parts_of(log: Path, ending: str) -> dict[date, list[Path]]:
    """Return the parts that rotation has made, CSV and Parquet, by day, with an ending or all."""
    found: dict[date, list[Path]] = {}
    for path in sorted(_beside(log)):
        day = day_of(log, path)
        if day and path.suffix in (".csv", ".parquet") and path.suffix.endswith(ending):
            found.setdefault(day, []).append(path)
    return found


def day_of(log: Path, part: Path) -> date | None:
    """Return the day in a part's name; None: it has another name."""
    text = part.stem.removeprefix(f"{log.stem}.")
    with contextlib.suppress(ValueError):
        return date.fromisoformat(text) if _DAY.fullmatch(text) else None
    return None


def first_day(log: Path) -> date | None:
    """Return the day of the first row; None: there is no row, or no file.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    try:
        with log.open("rb") as file:
            lines = file.read(_FIRST_BYTES).split(b"\n")[1:]
            written = datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC).date()
    except FileNotFoundError:
        return None
    for line in lines:
        with contextlib.suppress(ValueError):
            return date.fromisoformat(line[:10].decode())
    return written if any(lines) else None  # nothing but torn lines: when they were written will do


@contextlib.contextmanager
def only_one(log: Path) -> Iterator[bool]:
    """Tell whether this process is the one that may move parts now; whoever dies lets the next one in.

    Raises
    ------
    OSError
        The log's folder cannot be written.
    """
    descriptor = os.open(lock_of(log), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


def lock_of(log: Path) -> Path:
    """Return the file that `only_one` locks."""
    return log.with_name(f".{log.name}.lock")


def is_at_rest(part: Path) -> bool:
    """Tell whether no process can append to a part any more: then none ever will. Raises OSError."""
    descriptor = os.open(part, os.O_RDWR)  # a network file system locks only what may be written
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(log: Path) -> list[Path]:
    try:
        names = os.listdir(log.parent)  # noqa: PTH208 - one look, as short as can be
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [log.with_name(name) for name in names if name.startswith(f"{log.stem}.") and name != log.name]
