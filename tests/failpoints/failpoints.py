"""Failpoints at every step of a run, set from outside: the package holds none.

A step is met before and after each statement, COMMIT and connection, each read of a log, fold,
and each thing that is done to a snapshot's file. A `Failpoints` counts how often each was met, and
at the hit that it is set for it crashes the processor, has the step fail, or holds it up.

A crash is abandonment: the sockets are closed as the kernel would, and whatever the processor does
afterwards crashes again.
"""

import errno
import os
import re
import tempfile
from collections import Counter
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import psycopg

from processor.core.fold import Fold
from processor.edges import files, session, snapshot
from processor.edges.source import LogReader
from processor.errors import LedgerError
from processor.shell import retry
from processor.shell.run import committer, daemon

TABLES = [
    "hourly_counts",
    "dead_letters",
    "hour_offsets",
    "log_files",
    "ledger",
    "checkpoints",
    "generations",
    "schema_migrations",
]
ACTIONS = ("crash", "error", "delay")
STATES = ("40001", "40P01", "57014", "55P03", "25P03")


class Crash(BaseException):
    """The processor dies."""


class Failpoints:
    """Counts the steps of a processor, and does `action` at the hits numbered `at` of `step`."""

    def __init__(self, step=None, at=(), action="crash", meanwhile=lambda: None):
        self.step, self.at, self.action = step, at, action
        self.meanwhile = meanwhile
        """What happens while a step is held up."""
        self.loses = False
        """Whether the answer to each COMMIT of a batch is lost."""
        self.hits = Counter()
        self.is_dead = False
        self.acted = 0
        """At how many hits it acted."""
        self.met = lambda _step: None
        self._connections = []

    def hit(self, step, error):
        """Come by a step; `error` makes what it fails with."""
        if self.is_dead:
            raise Crash
        self.hits[step] += 1
        self.met(step)
        if step == self.step and self.hits[step] in self.at:
            self.acted += 1
            self._act(error)

    def _act(self, error):
        if self.action == "crash":
            self.is_dead = True
            for connection in self._connections:
                connection.pgconn.finish()
            raise Crash
        if self.action == "error":
            raise error()
        self.meanwhile()

    @contextmanager
    def around(self, name, error, after=None):
        """Come by a step before it, and after it."""
        self.hit(f"before {name}", error)
        yield
        self.hit(f"after {name}", after or error)

    def connection(self, connect):
        """Return what connects in the place of `connect`."""

        def lost():
            return psycopg.OperationalError("the connection is lost")

        def open_connection():
            with self.around("connect", lost):
                connection = connect()
                self._connections.append(connection)
                connection.points = self
            return connection

        return open_connection

    def close(self):
        """Let go of the connections that a processor left."""
        for connection in self._connections:
            connection.close()
        self._connections = []


class Cursor(psycopg.Cursor):
    """Comes by a step before and after each statement."""

    def execute(self, query, *arguments, **options):
        """Execute a statement."""
        with self._step(query):
            return super().execute(query, *arguments, **options)

    def executemany(self, query, *arguments, **options):
        """Execute a statement more than once."""
        with self._step(query):
            return super().executemany(query, *arguments, **options)

    @contextmanager
    def copy(self, query, *arguments, **options):
        """Copy rows into a table."""
        with self._step(query), super().copy(query, *arguments, **options) as copy:
            yield copy

    def _step(self, query):
        def refused():
            state = STATES[points.hits["errors"] % len(STATES)]
            points.hits["errors"] += 1
            return psycopg.errors.lookup(state)("set by a failpoint")

        points = self.connection.points
        self.connection.writes |= name_of(query) == "UPDATE checkpoints"
        return points.around(name_of(query), refused, lambda: lost(self.connection))


def lost(connection):
    """Break a connection; return what psycopg says of that."""
    connection.pgconn.finish()
    return psycopg.OperationalError("the connection is lost")


class Connection(session.Connection):
    """A connection whose statements and COMMITs are steps."""

    points = Failpoints()
    writes = False

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.cursor_factory = Cursor

    def commit(self):
        """Commit."""
        with self.points.around("COMMIT", lambda: lost(self)):
            super().commit()
        if self.writes and self.points.loses:
            raise lost(self)
        self.writes = False

    @contextmanager
    def transaction(self, *arguments, **options):
        """Begin a transaction, and commit it."""
        with super().transaction(*arguments, **options) as transaction:
            yield transaction
            self.points.hit("before COMMIT of a migration", lambda: lost(self))
        self.points.hit("after COMMIT of a migration", lambda: lost(self))


def name_of(query):
    """Return what a statement is called: its verb, and the first table that it names."""
    text = query.decode() if isinstance(query, bytes) else str(query)
    text = re.sub("--.*", "", text)
    verb = re.search(r"[A-Z]+", text)[0]
    places = {table: text.find(table) for table in TABLES if table in text}
    return " ".join([verb, *([min(places, key=places.get)] if places else [])])


class Inline:
    """Commits at once, in the thread of the fold: the order of all steps is given."""

    def submit(self, act, *arguments):
        """Act."""
        future = Future()
        try:
            future.set_result(act(*arguments))
        except BaseException as error:  # noqa: BLE001 - a crash is one
            future.set_exception(error)
        return future

    def shutdown(self):
        """Nothing is under way."""


def _failed():
    return OSError(errno.EIO, "Input/output error")


def _full():
    return OSError(errno.ENOSPC, "No space left on device")


def _around(points, name, error, real):
    def method(*arguments, **options):
        with points.around(name, error):
            return real(*arguments, **options)

    return method


@contextmanager
def installed(points):
    """Have the files, folds and snapshots of this process come by the steps of `points`."""
    places = (
        (Fold, "fold", "fold", lambda: LedgerError("set by a failpoint")),
        (Fold, "cut", "cut", lambda: LedgerError("set by a failpoint")),
        (LogReader, "look", "look", lambda: files.NotNowError("set by a failpoint")),
        (snapshot, "_write_lines", "snapshot write", _full),
        (snapshot, "_sync", "snapshot folder fsync", _full),
        (snapshot, "_is_whole", "snapshot read", _failed),
        (Path, "replace", "snapshot rename", _full),
    )
    log_os = SimpleNamespace(**{**vars(os), "pread": _around(points, "read", _failed, os.pread)})
    snapshot_os = SimpleNamespace(
        **{**vars(os), "fsync": _around(points, "snapshot fsync", _full, os.fsync)}
    )
    opened = SimpleNamespace(mkstemp=_around(points, "snapshot open", _full, tempfile.mkstemp))
    with ExitStack() as stack:
        for owner, attribute, name, error in places:
            real = getattr(owner, attribute)
            stack.enter_context(patch.object(owner, attribute, _around(points, name, error, real)))
        for owner, attribute, value in (
            (files, "os", log_os),
            (snapshot, "os", snapshot_os),
            (snapshot, "tempfile", opened),
            (committer, "ThreadPoolExecutor", lambda **_: Inline()),
            (daemon, "collect_seldom", lambda: None),
            (retry, "_FIRST_RETRY_SECONDS", 1e-4),
        ):
            stack.enter_context(patch.object(owner, attribute, value))
        yield
