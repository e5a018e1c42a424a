"""A process that appends to a PostgreSQL log from several threads, and notes in a file what it was answered.

python appender.py DSN SPOOL NAME ANSWERED THREADS SECONDS; it ends, in order, when its standard input does.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from pathlib import Path

from crossfade.errors import LogUnavailable
from crossfade.postgres.address import DatabaseUrl
from crossfade.postgres.log import PostgresRequestLog
from crossfade.requestlog import LateLabel, LogRow, utc_now


def row(request_id: str) -> LogRow:
    return LogRow(
        utc_now(), request_id, "u", "m-v1-v2", "A", "prod", "m", "1", 0.5, '{"a": 1.5}', "", "1", 0.75, 1.25, 200
    )


def append(log: PostgresRequestLog, name: str, answered: int, over: threading.Event) -> None:
    for number in itertools.count():
        if over.wait(0.002):
            return
        request_id = f"{name}-{number}"
        try:
            log.append([row(request_id)])
            if number % 4 == 0:
                log.append_labels([LateLabel(utc_now(), request_id, "1")])
        except LogUnavailable as error:
            os.write(2, f"{error}\n".encode())
        else:
            os.write(answered, f"{request_id}\n".encode())


def main(dsn: str, spool: str, name: str, answered: str, threads: str, seconds: str) -> None:
    log = PostgresRequestLog(DatabaseUrl(dsn), Path(spool), timeout_seconds=float(seconds))
    log.start()
    file = os.open(answered, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    over = threading.Event()
    runners = [
        threading.Thread(target=append, args=(log, f"{name}.{thread}", file, over)) for thread in range(int(threads))
    ]
    for runner in runners:
        runner.start()
    sys.stdin.read()
    over.set()
    for runner in runners:
        runner.join()
    deadline = time.monotonic() + 90
    while log.waiting_bytes and time.monotonic() < deadline:  # what others left is taken over within seconds, too
        time.sleep(0.02)
    log.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
