"""Slices counted on a Spark cluster."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossfade.engine.cluster import Cluster, in_a_line, run_pickled
from crossfade.engine.protocol import CONNECT_SECONDS, WORKER_SECONDS, Engine, EngineError

if TYPE_CHECKING:
    from pyspark import SparkConf, SparkContext

JAVA = 17
"""Oldest Java that Spark 4 runs on."""


@contextlib.contextmanager
def on_spark(address: str, workers: int) -> Iterator[Engine]:
    """Open Spark as an engine; arguments and errors as in :func:`crossfade.engine.open_engine`."""
    try:
        from pyspark import SparkConf
    except ModuleNotFoundError as error:
        raise EngineError("ENGINE=spark needs PySpark: pip install 'crossfade[spark]'") from error

    check_java()
    _check_master(address)
    master = address or f"local[{workers}]"
    with tempfile.TemporaryDirectory(prefix="crossfade-spark-") as folder:
        conf = SparkConf().setMaster(master).setAppName("crossfade")
        conf.set("spark.ui.enabled", "false").set("spark.ui.showConsoleProgress", "false")
        conf.set("spark.driver.maxResultSize", "0")
        if master.startswith("local"):
            conf.set("spark.driver.host", "127.0.0.1").set("spark.driver.bindAddress", "127.0.0.1")
            conf.set("spark.local.dir", folder)
        with _spark_context(conf, Path(folder) / "spark.log") as context:
            if master.startswith("local"):
                context.pythonExec = os.environ.get("PYSPARK_PYTHON", sys.executable)  # else any python3 of the PATH

            def spread(function: bytes, items: list[bytes]) -> list[bytes]:
                return context.parallelize(items, len(items)).map(partial(run_pickled, function=function)).collect()

            engine = Cluster("spark", context.defaultParallelism, spread)
            giving_up = threading.Timer(WORKER_SECONDS, context.cancelAllJobs)  # Spark would wait for ever
            giving_up.start()
            try:
                engine.check()
            except EngineError as error:
                if "SPARK_JOB_CANCELLED" not in str(error):
                    raise
                raise EngineError(f"no worker of Spark at {master} took work within {WORKER_SECONDS} s") from error
            finally:
                giving_up.cancel()
            yield engine


@contextlib.contextmanager
def _spark_context(conf: SparkConf, log: Path) -> Iterator[SparkContext]:
    """Start Java with Spark in it, which writes to a log of its own, and end both: `SparkContext.stop` leaves Java."""
    from py4j.protocol import Py4JError
    from pyspark import SparkContext
    from pyspark.errors import PySparkException
    from pyspark.java_gateway import launch_gateway

    if SparkContext._gateway is not None:
        raise EngineError("ENGINE=spark: this process runs Spark already, and a process can do so only once")
    gateway = None
    try:
        with log.open("wb") as output:
            gateway = launch_gateway(conf, {"stdout": output, "stderr": output})
        context = SparkContext(conf=conf, gateway=gateway)
    except (PySparkException, Py4JError) as error:
        _end(gateway)
        written = re.findall(r"^.*(?:Exception|Error).*$", log.read_text(errors="replace"), re.MULTILINE)
        raise EngineError(f"Spark did not start: {(written or [in_a_line(error)])[0].strip()}") from error
    try:
        with context:
            yield context
    finally:
        _end(gateway)


def _end(gateway: Any) -> None:
    """End the Java process, and let PySpark forget it."""
    from pyspark import SparkContext

    SparkContext._gateway = SparkContext._jvm = None
    if gateway is not None:
        gateway.shutdown()
        gateway.proc.stdin.close()  # what Spark's launcher waits for
        gateway.proc.wait()


def check_java() -> None:
    """Raise EngineError unless a Java is found that Spark runs on."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which(f"{home}/bin/java" if home else "java")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr if java else ""
    version = re.search(r'version "(?:1\.)?(\d+)', said)
    if version is None or int(version[1]) < JAVA:
        found = f"Java {version[1]} in {java}" if version else f"none in {home or 'the PATH'}"
        raise EngineError(
            f"ENGINE=spark needs Java {JAVA} or newer, and found {found}; "
            "on Debian: apt-get install default-jre-headless, elsewhere set JAVA_HOME"
        )


def _check_master(address: str) -> None:
    """Refuse what Spark would only refuse after minutes, or in a long text."""
    if address and not re.match(r"local\b|spark://|yarn$|k8s://", address):
        raise EngineError(
            f"ENGINE_ADDRESS={address} is no Spark master; allowed are spark://host:7077, yarn, k8s://..., local[n] "
            "(Spark Connect, sc://, cannot run Python functions over items)"
        )
    for host, port in re.findall(r"([^/,]+):(\d+)", address if address.startswith("spark://") else ""):
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), CONNECT_SECONDS):
            return
    if address.startswith("spark://"):
        raise EngineError(
            f"no Spark master answers at ENGINE_ADDRESS={address}; is it running, and reachable from here?"
        )
