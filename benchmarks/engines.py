"""A drift window of a million rows, counted by threads, by Dask and by Spark, from files and from PostgreSQL.

    .venv/bin/python benchmarks/engines.py [--rows 1000000] [--rounds 3] [--engines local,dask,spark] [--json]

Everybody counts the same window of the same rows, in turn, and must come to the same numbers to the last digit. A
cluster is two worker processes on this machine; its start is told apart, for a real one is there already. Without Debian's
postgresql, or Java for Spark, that part is left out and said so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from log_reading import COUNTER, write_log

from crossfade.csvrows import read_rows
from crossfade.engine import Engine, EngineError, EngineName, open_engine
from crossfade.errors import ServiceError
from crossfade.loop.window import Window
from crossfade.requestlog import CsvRequestLog, LogRow, RequestLog

WORKERS = 2
