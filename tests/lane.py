"""A log that grows, a server of its own, and the processor between them.

Whatever faults are put in (see `faults`), at the end report and ledger are the oracle's.
"""

import random
import re
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections import Counter
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path

import psycopg
from conftest import Command, wait_until
from growing_log import Growing, GrowingLog, settle
from proxy import Proxy
from psycopg.errors import OperationalError
from servers import Server, servers_folder

EAGER = """
import sys
from processor.shell import cli
from processor.shell.run import snapshots
snapshots.WORTH_BYTES, snapshots.EVERY_SECONDS = 1, 0
cli.main()
"""
"""The command, for which any snapshot is worth it at any time."""
RECOVERY_SECONDS = 120
AT_WORK = "FROM pg_stat_activity WHERE application_name = 'processor'"


class Score:
    """What a phase has come to. Several threads write to it."""

    def __init__(self, name):
        self.name = name
        self.faults = Counter()
        self.ended_by_itself = Counter()
        self.recoveries = []
        self.divergences = []
        self.notes = []
        self._lock = threading.Lock()

    def fault(self, kind):
        """Note a fault."""
        with self._lock:
            self.faults[kind] += 1

    def recovered(self, seconds):
        """Note that the processor committed again, and after how long."""
        with self._lock:
            self.recoveries.append(seconds)

    def diverged(self, seed, where):
        """Note that something is not as it must be, and where to look."""
        with self._lock:
            self.divergences.append((seed, where))


class Attempt:
    """A folder for one log; what goes wrong in it is noted, and then it stays to be looked at."""

    def __init__(self, score, seed):
        self._score, self._seed = score, seed
        self._folder = Path(tempfile.mkdtemp(prefix=f"torture-{score.name}-"))

    def __enter__(self):
        """Return the folder."""
        return self._folder

    def __exit__(self, kind, error, trace):
        """Remove the folder, or note the error and go on with other logs."""
        if error is None:
            shutil.rmtree(self._folder)
        elif isinstance(error, Exception):
            self._score.diverged(self._seed, self._folder)
            traceback.print_exception(kind, error, trace)
        return isinstance(error, Exception)


class Lane:
    """One log, one server, one report. The processor reaches the server through a proxy."""

    def __init__(self, folder, server, proxy, seed, score, **url):
        self.folder, self.server, self.proxy, self.score = folder, server, proxy, score
        self.dice = random.Random(seed)
        self.log = GrowingLog(folder, seed)
        self.command = Command(proxy.url(connect_timeout=2, **url), folder)
        self.daemon = None
        self.start_seconds = 0.0
        self._errors = (folder / "processor.log").open("a")

    def close(self):
        """End what runs, the server that took another's place too."""
        self.server.close()
        for process in self.command.started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        self._errors.close()
        self.log.close()

    def another(self, *, is_eager=None):
        """Start a processor on the log."""
        eager = self.dice.random() < 0.5 if is_eager is None else is_eager
        program = ("-c", EAGER) if eager else ("-m", "processor")
        batch = "--batch-lines", self.dice.choice([20, 200, 5_000]), "--batch-seconds", 0.05
        return self.command.start(
            "run", self.log.path, *batch, program=program, stderr=self._errors
        )

    def tend(self):
        """Start the processor if it does not run."""
        if self.daemon is None or self.daemon.poll() is not None:
            if self.daemon is not None and self.daemon.returncode > 0:
                self.score.ended_by_itself[self.daemon.returncode] += 1
            self.daemon = self.another()

    def end(self, number=signal.SIGKILL):
        """End the processor by a signal."""
        self.daemon.send_signal(number)
        assert self.daemon.wait(30) in (0, 3, -number)
        self.daemon = None

    def committed(self):
        """Return how far the log is committed, and by which process; None if nobody can tell."""
        with suppress(OperationalError, psycopg.errors.UndefinedTable):
            rows = self.server.sql("SELECT byte_offset, committed_by FROM checkpoints")
            return (rows[0][0], int(rows[0][1].split(":")[1])) if rows else None
        return None

    def recover(self, *, measure=True):
        """Have the processor go on, until it commits once more; note how long that takes."""
        mark, started = self.committed() or (0, 0), time.monotonic()

        def has_committed():
            self.tend()
            now = self.committed()
            return now is not None and now[0] > mark[0]

        wait_until(has_committed, RECOVERY_SECONDS, "a commit after a fault")
        if measure:
            self.score.recovered(time.monotonic() - started)

    def settle(self):
        """Let the processor finish the log, and compare report and ledger with the oracle."""
        if self.daemon and self.daemon.poll() is None:
            self.end(signal.SIGTERM)
        settle(self.command, self.log)

    def pause(self, most_seconds):
        """Let it work for a moment."""
        time.sleep(self.dice.random() * most_seconds)


@contextmanager
def lane(
    folder, seed, score, *, through=nullcontext, lines_a_second=1_500, rotate_seconds=4, **url
):
    """Yield a lane whose log grows, and at the end compare its report with the oracle's.

    The server is reached `through` what is given, a pooler say, and by more parameters of the URL.
    """
    with (
        servers_folder() as servers,
        closing(Server(servers).start()) as server,
        through(server) as target,
        Proxy(target) as proxy,
        closing(Lane(folder, server, proxy, seed, score, **url)) as made,
    ):
        with Growing(made.log, lines_a_second, rotate_seconds):
            started = time.monotonic()
            made.recover(measure=False)
            made.start_seconds = time.monotonic() - started
            yield made
        made.settle()


def resources(pid):
    """Return the resident memory of a process in MiB, and its open files; None if it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        resident = re.search(r"VmRSS:\s+(\d+) kB", status)
        files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        return (int(resident[1]) / 1024, files) if resident else None
    except OSError:
        return None
