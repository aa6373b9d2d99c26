"""The Spark session: what all that is here relies on is set, the rest is spark-submit's to set."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from py4j.protocol import Py4JError
from pyspark import SparkConf
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from processor.errors import ProcessorError, SettingsError

_STREAMING: Final = "spark.sql.streaming"
_NEEDED: Final = {
    "spark.sql.session.timeZone": "UTC",
    f"{_STREAMING}.stateStore.providerClass": "org.apache.spark.sql.execution.streaming.state."
    "RocksDBStateStoreProvider",
    # All that counts is told of at once, so a batch without lines would have nothing to tell.
    f"{_STREAMING}.noDataMicroBatches.enabled": "false",
}
_UNLESS_SET: Final = {
    "spark.app.name": "processor",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}
_PARTITIONS: Final = "spark.sql.shuffle.partitions"
"""Each is a state store of its own in each operator of a stream. Spark says 200, whatever cores."""
_MOST_CHARS: Final = 300


def spark_session(master: str | None) -> SparkSession:
    """Return the session, on `master` or on what spark-submit was told.

    Raises:
        SettingsError: Spark cannot be started here.

    """
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.umask(0o077)  # what Spark keeps on the disks of this machine holds ids
    logging.getLogger("py4j").setLevel(logging.WARNING)
    try:
        conf = SparkConf()
        for key, value in _UNLESS_SET.items():
            conf.setIfMissing(key, value)
        for key, value in _NEEDED.items():
            conf.set(key, value)
        if master:
            conf.setMaster(master)
        session = SparkSession.builder.config(conf=conf).getOrCreate()
    except (PySparkException, Py4JError) as error:
        raise SettingsError(
            f"Spark does not start: {_first_line(error)}. It needs Java 17 or later, on the PATH "
            "or at JAVA_HOME, and a master that it reaches; above is what it said"
        ) from error
    if conf.get(_PARTITIONS) is None:
        session.conf.set(_PARTITIONS, max(2, session.sparkContext.defaultParallelism))
    session.sparkContext.setLogLevel("ERROR")
    return session


@contextmanager
def in_words() -> Iterator[None]:
    """Say in words what Spark cannot do.

    Raises:
        ProcessorError: that is so.

    """
    try:
        yield
    except (PySparkException, Py4JError) as error:
        raise ProcessorError(
            f"Spark cannot go on: {_first_line(error)}. What it was at is not committed; above is "
            "what it said. Start this again once it can"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:_MOST_CHARS]
