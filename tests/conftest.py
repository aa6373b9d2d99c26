"""What tests stand on: a real PostgreSQL, a fresh database for each test, and the command."""

import contextlib
import csv
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC
from pathlib import Path

import psycopg
import pytest
from oracle import ISO_HOUR
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from processor.edges.embedded import embedded
from processor.edges.session import Connection
from processor.shell.generate import LogShape, generate

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A connection string of a server: PROCESSOR_TEST_DATABASE_URL, or an embedded one."""
    if url := os.environ.get("PROCESSOR_TEST_DATABASE_URL"):
        yield url
        return
    checkpoints = tmp_path_factory.mktemp("pg")
    with embedded(checkpoints):
        yield make_conninfo(host=str(checkpoints / "postgres"), user="processor", dbname="postgres")


@contextlib.contextmanager
def new_database(server):
    """Make a new and empty database, and yield its connection string."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    yield make_conninfo(**{**conninfo_to_dict(server), "dbname": name})
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def database_url(server):
    """A connection string of a new and empty database."""
    with new_database(server) as url:
        yield url


@pytest.fixture
def connect(database_url):
    """What connects to the database of the test, as the package does."""
    return lambda: Connection.open(**conninfo_to_dict(database_url))


HOSTILE_NAME = "<img src=x onerror=window.hit=1><script>window.hit=1;<b>&amp;\"'.log"
"""Of a log. It is the one value of the report that somebody else may choose."""


@pytest.fixture(scope="session")
def folded_url(server, tmp_path_factory):
    """A connection string of a database that holds a report of 30 hours; it is only read."""
    log = tmp_path_factory.mktemp("folded") / HOSTILE_NAME
    log.write_text("".join(f"{line}\n" for line in generate(LogShape(3_000, hours=30, seed=3))))
    with new_database(server) as url:
        Command(url, log.parent)("run", "--once", log)
        yield url


def forget_all(connect):
    """Empty the database of a test."""
    with connect() as connection:
        connection.execute("TRUNCATE generations, hourly_counts, dead_letters CASCADE")


COUNTS = ("page_loads", "clicks", "unique_user_clicks", "related_clicks", "clicked_page_loads")


def table(db):
    """Return the live report as the oracle does."""
    rows = db.execute(f"SELECT customer_id, hour, {', '.join(COUNTS)} FROM hourly_report")
    return {
        (customer, hour.astimezone(UTC).strftime(ISO_HOUR)): tuple(counts)
        for customer, hour, *counts in rows
    }


IMPATIENT = (
    "-c",
    """
from processor.edges import session
from processor.shell import cli, retry

session.ANSWER_SECONDS = retry.PATIENCE_SECONDS = 1
retry._LAST_RETRY_SECONDS = 0.2
cli.main()
""",
)
"""The command, which waits for an answer or a database for a second."""


class Command:
    """The installed command, against the database of the test."""

    def __init__(self, database_url, folder):
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PROCESSOR_")},
            "COLUMNS": "200",
        }
        if database_url:
            self.environment["PROCESSOR_DATABASE_URL"] = database_url
        self.folder = folder
        self.started = []

    def start(self, *arguments, program=("-m", "processor"), **options):
        """Start it, and let it run."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(
            [sys.executable, *program, *map(str, arguments)],
            **{"env": self.environment, "cwd": self.folder, **pipes, **options},
        )
        self.started.append(process)
        return process

    def __call__(self, *arguments, exit_code=0, **options):
        """Run it to its end, and return what it printed."""
        process = self.start(*arguments, **options)
        out, err = process.communicate(timeout=240)
        assert exit_code in (None, process.returncode), err
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def report(self):
        """Return {(customer, hour): the five counts} from the report.

        As Postgres has it; of an embedded database, as the command says.
        """
        if url := self.environment.get("PROCESSOR_DATABASE_URL"):
            with psycopg.connect(url, autocommit=True) as db:
                return table(db)
        rows = csv.DictReader(io.StringIO(self("report", "--format", "csv").stdout))
        return {
            (int(row["customer_id"]), row["hour"]): tuple(int(row[count]) for count in COUNTS)
            for row in rows
        }

    def status(self):
        """Return the status of all logs."""
        return json.loads(self("status", "--format", "json").stdout)

    def ledger(self):
        """Return the status of the only log, having seen that its ledger adds up."""
        (log,) = self.status()
        outcomes = ("applied", "duplicates", "ignored", "dead_letters")
        assert log["lines"] == sum(log[outcome] for outcome in outcomes)
        return log


def logged(stderr, level):
    """Return what the command said of itself at a level; all it says is JSON lines."""
    entries = map(json.loads, stderr.splitlines())
    return [entry["event"] for entry in entries if entry["level"] == level]


@pytest.fixture
def command(database_url, tmp_path):
    """The installed command, in a folder of its own."""
    yield from running_command(database_url, tmp_path)


@pytest.fixture
def db(command):
    """A connection to the database of the command."""
    url = command.environment["PROCESSOR_DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def embedded_command(tmp_path):
    """The installed command with the embedded database."""
    yield from running_command(None, tmp_path)


def running_command(database_url, folder):
    """Yield the command, and end what it has started."""
    command = Command(database_url, folder)
    yield command
    for process in command.started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def make_log(tmp_path):
    """Write a generated log, and return its path."""

    def make(name="app.log", **shape):
        path = tmp_path / name
        path.write_text("".join(f"{line}\n" for line in generate(LogShape(**shape))))
        return path

    return make


def is_asked_by_signals(pid):
    """Whether a process has come so far that signals ask it to stop."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("SigCgt:")[1].split()[0], 16) >> (signal.SIGALRM - 1) & 1


def wait_until(condition, seconds=30, what="the condition"):
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds} s"
        time.sleep(0.02)


PROJECT = Path(__file__).parents[1]
