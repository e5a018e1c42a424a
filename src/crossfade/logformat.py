"""How the router's log lines look: text for people, JSON for machines, one line per event that nothing can forge.

A line belongs to a request when its caller says so, by `extra={"request_id": ...}`.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

LogFormat = Literal["text", "json"]


class TextLines(logging.Formatter):
    """`2026-11-21 09:30:00.123Z [4711] WARNING crossfade.router: message`; a traceback follows, indented.

    What a terminal would obey or a reader could take for another line is escaped, in the traceback too: an error's text
    may hold what a caller sent.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and the indented ones of a traceback."""
        head = f"{_time_of(record):%Y-%m-%d %H:%M:%S.%f}"[:-3] + "Z"
        lines = [f"{head} [{record.process}] {record.levelname} {record.name}: {_printable(record.getMessage())}"]
        if traceback := _traceback(self, record):
            lines += [f"    {_printable(line)}" for line in traceback.split("\n")]
        return "\n".join(lines)


class JsonLines(logging.Formatter):
    """A JSON object in ASCII: time, level, logger, process, message; request_id and exception where there are any."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object."""
        told: dict[str, object] = {
            "time": _time_of(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        if request_id := getattr(record, "request_id", None):
            told["request_id"] = str(request_id)
        if traceback := _traceback(self, record):
            told["exception"] = traceback
        return json.dumps(told)


def log_to_stdout(form: LogFormat) -> None:
    """Write log lines from INFO on to standard output, unless somebody has arranged for something else."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def server_config(form: LogFormat) -> Path:
    """Return the file that tells gunicorn and Granian to write as we do (`logging.config`'s dictionary)."""
    return Path(__file__).with_name("logconfig") / f"{form}.json"


def _time_of(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info else []
    return "\n".join([*parts, *([formatter.formatStack(record.stack_info)] if record.stack_info else [])])


def _printable(text: str) -> str:
    """Escape what is not to be seen: line ends, a terminal's commands, characters that turn the reading direction."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
