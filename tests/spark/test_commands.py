"""The commands below `processor spark`: on a cluster of two workers, and killed at random."""

import os
import random
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import on_spark
import pyspark
import pytest
from conftest import forget_all, wait_until
from oracle import report

from processor.shell.generate import LogShape, generate

HOME = Path(pyspark.__file__).parent
CONF = {**on_spark.LOCAL, "spark.executor.memory": "512m", "spark.task.maxFailures": "8"}


def generated(**shape):
    return [line.encode() for line in generate(LogShape(**shape))]


def in_files(folder, lines, count):
    """Write lines to files, one after the other, as if some seconds apart."""
    folder.mkdir()
    size = -(-len(lines) // count)
    for number in range(count):
        path = folder / f"{number:03}.log"
        path.write_bytes(
            b"".join(line + b"\n" for line in lines[number * size : (number + 1) * size])
        )
        os.utime(path, (1_700_000_000 + number,) * 2)


@contextmanager
def process(*arguments, **options):
    """Run a program in a process group of its own, and end all of that."""
    started = subprocess.Popen(arguments, start_new_session=True, **options)
    try:
        yield started
    finally:
        end(started)


def end(started):
    """Kill a process with all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
    started.communicate()


@pytest.fixture
def spark_command(command):
    """The installed command, which starts Spark on loopback."""
    confs = " ".join(f"--conf {key}={value}" for key, value in CONF.items())
    command.environment["PYSPARK_SUBMIT_ARGS"] = f"{confs} pyspark-shell"
    command.environment["SPARK_LOCAL_IP"] = "127.0.0.1"
    return command


@pytest.fixture
def cluster(tmp_path):
    """A master and two workers of one core each; return its URL."""
    environment = {
        **os.environ,
        "SPARK_HOME": str(HOME),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_WORKER_DIR": str(tmp_path / "work"),
    }
    log = (tmp_path / "cluster.log").open("wb")
    options = {"env": environment, "stdout": log, "stderr": log}
    run = (str(HOME / "bin" / "spark-class"), "org.apache.spark.deploy.")
    port = 20_000 + os.getpid() % 20_000
    place = ("--host", "127.0.0.1", "--webui-port", "0")
    url = f"spark://127.0.0.1:{port}"
    master = (run[0], run[1] + "master.Master", *place, "--port", str(port))
    worker = (run[0], run[1] + "worker.Worker", *place, "--cores", "1", "--memory", "700m", url)
    with process(*master, **options), process(*worker, **options), process(*worker, **options):
        said = tmp_path / "cluster.log"
        wait_until(lambda: said.read_bytes().count(b"Registering worker") == 2, 120, "two workers")
        yield url
    log.close()


def ledger_of(command):
    """Return how many lines of all logs are accounted for, having seen that they add up."""
    outcomes = ("applied", "duplicates", "ignored", "dead_letters")
    logs = command.status()
    for log in logs:
        assert log["lines"] == sum(log[outcome] for outcome in outcomes)
    return sum(log["lines"] for log in logs)


def executors(folder):
    """Return the process ids of the executors that workers have started in a folder."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
            here = (process / "cwd").resolve().is_relative_to(folder)
        except OSError:
            continue
        if here and b"CoarseGrainedExecutorBackend" in words:
            found.add(int(process.name))
    return found


def losing_an_executor(command, folder, *arguments):
    """Run a command, and kill one of its two executors once both are there."""
    before = executors(folder)
    driver = command.start(*arguments, start_new_session=True)
    wait_until(lambda: len(executors(folder) - before) > 1 or driver.poll(), 200, "two executors")
    os.kill(max(executors(folder) - before), signal.SIGKILL)
    out, err = driver.communicate(timeout=400)
    assert driver.returncode == 0, (out, err)


def test_a_cluster_gives_the_table_of_the_oracle_though_an_executor_is_killed(
    spark_command, cluster, tmp_path, connect
):
    """A replay, whose generation `verify` finds right and the daemon takes over; and a stream."""
    lines = generated(events=20_000, hours=40, seed=1, duplicates=0.02, malformed=0.01)
    in_files(tmp_path / "logs", lines, 4)
    logs, command = sorted((tmp_path / "logs").iterdir()), spark_command
    losing_an_executor(command, tmp_path, "spark", "replay", *logs, "--master", cluster)
    assert command.report() == report(lines)
    assert ledger_of(command) == len(lines)
    assert "no rows differ" in command("verify", *logs).stdout
    assert "committed 0 lines" in command("run", "--once", *logs).stderr
    forget_all(connect)
    stream = ("spark", "run", "--once", tmp_path / "logs", "--files-per-trigger", 2)
    losing_an_executor(command, tmp_path, *stream, "--master", cluster)
    assert command.report() == report(lines)
    assert ledger_of(command) == len(lines)


@pytest.mark.torture
def test_a_stream_whose_driver_is_killed_at_random_counts_each_line_once(spark_command, tmp_path):
    """Ten times: while it starts, while a batch is under way, or about to be committed."""
    rng = random.Random(seed := random.randrange(1 << 32))
    print("seed", seed)
    lines = generated(events=12_000, hours=40, seed=2, duplicates=0.02, malformed=0.01)
    in_files(tmp_path / "logs", lines, 40)
    command = spark_command
    run = ("spark", "run", "--once", tmp_path / "logs", "--master", "local[2]")
    for number in range(10):
        said = tmp_path / f"run {number}"
        with said.open("wb") as err:
            driver = command.start(
                *run, "--files-per-trigger", 1, start_new_session=True, stdout=err, stderr=err
            )
            if rng.random() < 0.8:
                wait_until(lambda said=said: b"micro-batch" in said.read_bytes(), 200, "a batch")
            with pytest.raises(subprocess.TimeoutExpired):  # else there was too little to do
                driver.wait(rng.uniform(0, 2))
            end(driver)
    command(*run)
    assert command.report() == report(lines)
    assert ledger_of(command) == len(lines)
