"""Spark for tests, on loopback. To import this skips a module of tests where it cannot be.

Comes before all imports that stand on Spark; brings the inputs of other tests within reach.
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

LOCAL = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.sql.shuffle.partitions": "2",
}


def why_not():
    """Return why Spark is not tested here; None if it is."""
    if not os.environ.get("PROCESSOR_TEST_SPARK"):
        return "Spark is tested by `make test-spark`"
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        return "there is no Java here, which Spark needs"
    if importlib.util.find_spec("pyspark") is None:
        return "pyspark is not installed: the extra `spark`"
    return None


if reason := why_not():
    pytest.skip(reason, allow_module_level=True)

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("property", "fault")]
os.environ["PYSPARK_SUBMIT_ARGS"] = " ".join(
    [*(f"--conf {key}={value}" for key, value in LOCAL.items()), "pyspark-shell"]
)


@pytest.fixture(scope="module")
def spark():
    """A session on two cores of this machine."""
    from processor.spark.session import spark_session  # noqa: PLC0415 - it may not be installed

    session = spark_session("local[2]")
    yield session
    session.stop()
