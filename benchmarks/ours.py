"""The processor as others use it: its command, on a database of its own for each measurement.

PostgreSQL is the embedded one, with its defaults (commits are durable). It runs before a
measurement begins; its CPU and memory are added to what the processor takes.
"""

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cost
import psycopg
from plan import DATA

from processor.edges.embedded import embedded

WAIT_SECONDS = 120
CHECKPOINTS = DATA / "ours"  # where a measured process keeps its snapshots
OUTPUT = DATA / "processor.out"


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL: the folder of its socket, and its first process."""

    folder: Path
    pid: int

    def url(self, database: str) -> str:
        """Return how to connect."""
        return f"postgresql://processor@/{database}?host={self.folder}"

    def version(self) -> str:
        """Return its version."""
        with psycopg.connect(self.url("postgres")) as connection:
            return str(connection.info.parameter_status("server_version"))

    def fresh(self) -> str:
        """Return the URL of an empty database with our tables; the one before is dropped."""
        shutil.rmtree(CHECKPOINTS, ignore_errors=True)
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute("DROP DATABASE IF EXISTS bench WITH (FORCE)")
            connection.execute("CREATE DATABASE bench")
        done(self.url("bench"), "migrate")
        return self.url("bench")


@contextmanager
def server() -> Iterator[Server]:
    """Keep PostgreSQL running."""
    checkpoints = DATA / "server"
    with embedded(checkpoints), tempfile.TemporaryDirectory() as folder:
        short = Path(folder) / "pg"  # a socket's address has no room for a long path
        short.symlink_to(checkpoints / "postgres")
        pid = (short / "postmaster.pid").read_text(encoding="ascii").split()[0]
        yield Server(short, int(pid))


def command(url: str, *words: object) -> list[str]:
    """Return a command line of the processor."""
    where = ["--database-url", url, "--checkpoints", str(CHECKPOINTS)]
    return [sys.executable, "-m", "processor", *map(str, words), *where]


def done(url: str, *words: object) -> None:
    """Run a command to its end."""
    quiet = subprocess.DEVNULL
    subprocess.run(command(url, *words), check=True, stdout=quiet, stderr=quiet)


def fold(at: Server, log: Path, *options: object, out: Path | None = None) -> cost.Cost:
    """Fold a log into an empty database, from start to exit; write the report to `out` then."""
    url = at.fresh()
    taken = cost.run(command(url, "run", "--once", log, *options), OUTPUT, postgres=at.pid)
    if out is not None:
        done(url, "report", "--format", "csv", "--output", out)
    return taken


@contextmanager
def daemon(url: str, log: Path, *options: object) -> Iterator[int]:
    """Follow a log; yield the process id; stop it cleanly at the end."""
    with OUTPUT.open("wb") as output:
        words = command(url, "run", log, *options)
        process = subprocess.Popen(words, stdout=output, stderr=output)
        try:
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(WAIT_SECONDS)


def watch(url: str) -> psycopg.Connection:
    """Connect, for looking at what is committed."""
    return psycopg.connect(url, autocommit=True)


def await_bytes(connection: psycopg.Connection, size: int, poll_seconds: float = 0.02) -> None:
    """Wait until so many bytes of the one log are committed.

    Raises:
        TimeoutError: they were not, for long: the daemon has ended, say.

    """
    deadline = time.monotonic() + WAIT_SECONDS
    while committed(connection, "byte_offset") < size:
        if time.monotonic() > deadline:
            raise TimeoutError(f"byte {size} was not committed; see {OUTPUT}")
        time.sleep(poll_seconds)


def committed(connection: psycopg.Connection, column: str) -> int:
    """Return how far the one log is folded in: its `byte_offset`, or its `lines`."""
    query = f"SELECT coalesce(max({column}), 0) FROM checkpoints"  # noqa: S608 - of two columns
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0
