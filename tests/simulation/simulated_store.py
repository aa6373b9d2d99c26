"""A database in memory, and the writing side of it as `processor.edges.store.Store` is one.

What it promises, `test_store_contract.py` asks of both. Errors are made by their SQLSTATE and go
through the package's own `Session`, so that they become what a real one becomes.

A COMMIT may be left *unknown*: its client sees the connection break, and it is under way until it
lands or fails. Whoever locks what it has written waits for that. `step(what)` is called before each
statement; there a simulation may crash, or fail it.
"""

import copy
import itertools
from contextlib import contextmanager
from datetime import timedelta

import psycopg
from core_helpers import EPOCH

from processor.core.model import Checkpoint, Rules
from processor.edges.session import Session
from processor.edges.store import StoredLog, differing_rules
from processor.errors import (
    CheckpointMovedError,
    ReplacedError,
    RewoundError,
    SettingsError,
    StoreError,
)

_NAMES = itertools.count(1)


class Generation:
    """A row of `generations`."""

    def __init__(self, number, state, rules, commits=0, commit_id=0):
        self.number, self.state, self.rules = number, state, rules
        self.commits, self.commit_id = commits, commit_id

    @property
    def last(self):
        """What was committed last on it."""
        return self.state, self.commits, self.commit_id

    def copy(self):
        """Return the same, to be changed."""
        return Generation(self.number, self.state, self.rules, self.commits, self.commit_id)


class Log:
    """A row of `checkpoints`, with what hangs on it."""

    def __init__(self, log_id, generation, path, by):
        self.log_id, self.generation, self.path, self.by = log_id, generation, path, by
        self.checkpoint = Checkpoint()
        self.lines = 0
        self.committed = 0
        self.ledger = {}
        self.dead_letters = {}
        self.files = {}

    def copy(self):
        """Return the same, to be changed."""
        other = copy.copy(self)
        other.ledger, other.files = dict(self.ledger), dict(self.files)
        other.dead_letters = dict(self.dead_letters)
        return other


class Tables:
    """All that a database holds."""

    def __init__(self):
        self.generations = {}
        self.logs = {}
        self.counts = {}
        self.commits = 0

    def copy(self):
        """Return the same, to be changed."""
        other = Tables()
        other.generations = {n: row.copy() for n, row in self.generations.items()}
        other.logs = {n: row.copy() for n, row in self.logs.items()}
        other.counts, other.commits = dict(self.counts), self.commits
        return other

    def live(self):
        """Return the live generation, if there is one."""
        return next((g for g in self.generations.values() if g.state == "live"), None)

    def report(self, generation):
        """Return {(customer, hour): the five counts}, as the oracle does."""
        return {
            (customer, f"{EPOCH + timedelta(hours=hour):%Y-%m-%dT%H:00:00Z}"): tuple(row)
            for (of, customer, hour), row in self.counts.items()
            if of == generation
        }


class Database:
    """Tables, and the transaction whose COMMIT is under way though its client is gone."""

    def __init__(self, step=lambda _what: None):
        self.step = step
        self.tables = Tables()
        self.unknown = None
        self.lands = lambda: True
        """Whether a COMMIT that is under way succeeds."""
        self.serial = itertools.count(1)
        self.epoch = 0
        self.is_locked = False
        """Whether somebody is in the middle of a transaction: others would wait for its end."""

    def settle(self):
        """End the COMMIT that is under way, if there is one."""
        if self.unknown is not None:
            tables, self.unknown = self.unknown, None
            if self.lands():
                self.tables = tables

    def put_back(self, tables):
        """Restore an older copy; all connections break."""
        self.tables, self.unknown = tables.copy(), None
        self.epoch += 1


class LostCommitError(Exception):
    """To be raised by a step: the answer to a COMMIT does not come.

    `how` it ended is "done" or "failed"; "unknown" is under way.
    """

    def __init__(self, how):
        super().__init__(how)
        self.how = how


class Connection:
    """What the package's session holds; broken when the database was exchanged."""

    def __init__(self, database):
        self.database = database
        self.epoch = database.epoch

    @property
    def closed(self):
        """Whether it is broken."""
        return self.epoch != self.database.epoch

    def close(self):
        """Nothing is held."""


class SimulatedStore:
    """The writing side of one generation, as `processor.edges.store.Store`."""

    def __init__(self, database):
        self._database = database
        self._session = Session(self._connect)
        self._sent = 0
        self._last = "live", 0, 0
        self.generation = 0
        self.rules = Rules()
        self.identity = f"simulated:{next(_NAMES)}:x"

    @property
    def last(self):
        """What this processor knows as committed last: state, how many commits, id."""
        return self._last

    def _connect(self):
        self._database.step("connect")
        return Connection(self._database)

    def _do(self, what):
        """Do a statement of this connection."""
        self._check_connection()
        self._database.step(what)
        self._check_connection()

    def _check_connection(self):
        if self._session._connection.closed:
            raise psycopg.OperationalError("the connection is closed")

    @contextmanager
    def _transaction(self):
        """Hand out tables to be changed; what was changed is there once all is done."""
        database = self._database
        with self._session.connection():
            self._do("begin")
            database.settle()  # what it locks waits for that
            database.is_locked = True
            try:
                tables = database.tables.copy()
                yield tables
                self._end(tables)
            finally:
                database.is_locked = False
            self._do("committed")

    def _end(self, tables):
        try:
            self._do("COMMIT")
        except LostCommitError as error:
            if error.how == "done":
                self._database.tables = tables
            elif error.how == "unknown":
                self._database.unknown = tables
            raise psycopg.OperationalError("the connection is lost") from error
        self._database.tables = tables

    def close(self):
        """Let go of the connection."""
        self._session.close()

    def migrate(self):
        """Bring the schema up to date."""
        with self._session.connection():
            self._do("migrate")
        return []

    def adopt(self, rules):
        """Write to the live generation, which is made by `rules` if there is none yet."""
        with self._transaction() as tables:
            self._do("generation")
            if tables.live() is None:
                number = max(tables.generations, default=0) + 1
                tables.generations[number] = Generation(number, "live", rules)
        kept = self.take_over()
        if differences := differing_rules(kept, rules):
            raise SettingsError(f"the report was made by other rules ({differences})")
        return rules

    def take_over(self):
        """Write to the generation that is live by now, and return its rules."""
        with self._transaction() as tables:
            self._do("generation")
            live = tables.live()
        if live is None:
            raise StoreError("no report is live in this database")
        self.generation, self.rules, self._last = live.number, live.rules, live.last
        return self.rules

    def bind(self, generation, rules):
        """Write to a generation that is not live."""
        with self._transaction() as tables:
            found = tables.generations.get(generation)
        if found is None:
            raise CheckpointMovedError(f"generation {generation} was dropped by somebody else")
        self.generation, self.rules, self._last = generation, rules, found.last

    def check(self):
        """See whether the generation still is as this processor left it."""
        with self._session.connection():
            self._do("check")
            self._check_generation(self._database.tables)

    def generations(self):
        """Return the numbers of all generations."""
        with self._session.connection():
            self._do("generations")
            return list(self._database.tables.generations)

    def known_paths(self):
        """Return the paths of the logs of the generation."""
        with self._session.connection():
            self._do("paths")
            return sorted(log.path for log in self._logs(self._database.tables))

    def open_logs(self, paths):
        """Return all logs of the generation; those at `paths` are made if they are new."""
        with self._transaction() as tables:
            known = {log.path for log in self._logs(tables)}
            for path in paths:
                self._do("open log")
                if path not in known and self.generation in tables.generations:
                    log_id = next(self._database.serial)
                    tables.logs[log_id] = Log(log_id, self.generation, path, self.identity)
                    known.add(path)
            self._do("compare commits")
            self._check_generation(tables)
            self._do("read logs")
            return {
                log.path: StoredLog(
                    log.log_id,
                    log.checkpoint,
                    [name for outcome, name in log.ledger if outcome == "ignored"],
                    [log.files[start] for start in sorted(log.files)],
                )
                for log in sorted(self._logs(tables), key=lambda log: log.path)
            }

    def begin_at(self, log_id, file):
        """Have a log begin in the middle of a file, unless it has begun; return its files."""
        with self._transaction() as tables:
            self._do("begin at")
            files = tables.logs[log_id].files
            if not files:
                files[file.start_offset] = file
            return [files[start] for start in sorted(files)]

    def commit(self, commit, files):
        """Write one batch, and what the files of its logs are known by."""
        with self._transaction() as tables:
            self._do("move checkpoints")
            if not all(self._is_at(tables, log) for log in commit.logs):
                raise self._why_not()
            self._do("count commit")
            self._sent = next(self._database.serial)
            found = tables.generations.get(self.generation)
            if found is None or (found.state, found.commit_id) != self._last[::2]:
                raise self._why_not()
            found.commits, found.commit_id = found.commits + 1, self._sent
            tables.commits += 1
            self._do("add counts")
            for customer, hour, *counts in commit.increments:
                key = self.generation, customer, hour
                before = tables.counts.get(key, [0] * 5)
                tables.counts[key] = [a + b for a, b in zip(before, counts, strict=True)]
            for log in commit.logs:
                self._write(tables, tables.logs[log.log_id], log, files.get(log.log_id))
        self._go_on_from_sent()

    def reconcile(self, commit):
        """Tell whether `commit`, sent before the connection was lost, was written."""
        with self._transaction() as tables:
            self._do("lock checkpoints")
            rows = {log.log_id: tables.logs.get(log.log_id) for log in commit.logs}
            found = {n: (row.checkpoint.byte_offset, row.by) for n, row in rows.items() if row}
            written = found == {
                log.log_id: (log.checkpoint.byte_offset, self.identity) for log in commit.logs
            }
            if not written:
                self._check_generation(tables)
        if written:
            self._go_on_from_sent()
        return written

    def _go_on_from_sent(self):
        self._last = self._last[0], self._last[1] + 1, self._sent

    def _logs(self, tables):
        return [log for log in tables.logs.values() if log.generation == self.generation]

    def _is_at(self, tables, log):
        row = tables.logs.get(log.log_id)
        return row is not None and row.checkpoint.byte_offset == log.from_offset

    def _write(self, tables, row, log, files):
        if not 0 <= log.checkpoint.rebuild_from <= log.checkpoint.byte_offset:
            raise psycopg.errors.CheckViolation("checkpoints")
        row.checkpoint, row.by = log.checkpoint, self.identity
        row.lines += log.lines
        row.committed = tables.commits
        self._do("dead letters")
        for offset, length, reason, detail in log.dead_letters:
            if offset in row.dead_letters:
                raise psycopg.errors.UniqueViolation("duplicate key")
            row.dead_letters[offset] = length, reason, detail
        self._do("ledger")
        for key, lines in log.outcomes.items():
            row.ledger[key] = row.ledger.get(key, 0) + lines
        self._do("files")
        if files:
            if not all(0 <= file.tail_bytes <= file.read_bytes for file in files.changed):
                raise psycopg.errors.CheckViolation("log_files")
            row.files |= {file.start_offset: file for file in files.changed}
            if files.oldest:
                oldest = min(
                    files.oldest, log.checkpoint.rebuild_from, *log.checkpoint.ahead_offsets
                )
                row.files = {s: file for s, file in row.files.items() if file.end_offset >= oldest}
        self._do("hours")

    def _check_generation(self, tables):
        found = tables.generations.get(self.generation)
        if found is None or found.last != self._last:
            raise self._why_not()

    def _why_not(self):
        """Return why nothing can be written."""
        tables = self._database.tables
        found = tables.generations.get(self.generation)
        if found is None or found.state != self._last[0]:
            if self._last[0] == "live":
                return ReplacedError("another generation of the report is live")
            return CheckpointMovedError("the generation that this replay makes was dropped")
        moved = max(self._logs(tables), key=lambda log: log.committed, default=None)
        is_back = found.commits < self._last[1] or found.last == self._last
        if is_back or moved is None or moved.by == self.identity:
            return RewoundError("the database went back to an earlier state")
        return CheckpointMovedError(f"{moved.path}: another processor, {moved.by}, works on it")
