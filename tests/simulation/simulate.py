"""One run of the whole processor by a seed: files, clock and database simulated, in one thread.

The seed decides what is written, how it is rotated, what fails and when the processor dies. What it
has to come to is the oracle's report over the lines that the logs really had, and ledgers that add
up. The code that runs is the package's own, from `daemon.run` down; `Store` and `Watch` are not.
"""

import errno
import random
from collections import Counter
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import psycopg
from oracle import event_of, on_time, report
from simulated_files import ROOT, SimulatedFiles, installed
from simulated_log import SimulatedLog
from simulated_store import Database, LostCommitError, SimulatedStore

from processor.edges import source
from processor.edges.snapshot import SnapshotFiles
from processor.errors import CheckpointMovedError, GoneError, ProcessorError
from processor.shell import retry, stop
from processor.shell.run import batches, committer, daemon, snapshots
from processor.shell.settings import RunSettings
from processor.shell.stop import Stop

SNAPSHOTS = Path(ROOT) / "checkpoints/snapshots/report"
STATEMENTS = {
    *("connect", "migrate", "begin", "generation", "paths", "generations", "committed", "begin at"),
    *("open log", "compare commits", "read logs", "lock checkpoints", "move checkpoints", "check"),
    *("count commit", "add counts", "dead letters", "ledger", "files", "hours"),
}
IDLE_WAITS = 20
PASSING = ("40001", "40P01", "57014", "53100", "55P03", "25P03", "57P01", "08006", "25006")
REFUSING = ("42501", "42P01")
RULES = [(30, 10), (30, 10), (30, 0), (5, 10), (120, 30)]


class Crash(BaseException):
    """The processor dies."""


class DivergenceError(Exception):
    """What it came to is not what it has to."""


class Clock:
    """Monotonic time, which goes on when somebody waits."""

    def __init__(self, simulation):
        self._simulation = simulation
        self.now = 1_000.0

    def monotonic(self):
        """Return the time, in seconds."""
        self.now += 1e-4
        return self.now

    def sleep(self, seconds):
        """Let time pass."""
        self._simulation.step("sleep")
        self.now += seconds


class Life:
    """One processor, from its start to its end."""

    def __init__(self, number, crash_at, *, once):
        self.number = number
        self.once = once
        self.crash_at = crash_at
        self.steps = 0
        self.is_dead = False
        self.idle_waits = 0
        self.stop = Stop()
        self.excuses = []
        """What was done to it that it may halt for."""
        self.put_back = set()
        """The last commits of the databases that were put back while it ran."""


class Inline:
    """Commits when the outcome is asked for, or at once."""

    def __init__(self, simulation):
        self._simulation = simulation
        self._late = None

    def submit(self, act, *arguments):
        """Begin to act, or leave it until the outcome is asked for."""
        future = _Late(act, arguments)
        if self._simulation.rng.random() < 0.5:
            future.done()
        self._late = future
        return future

    def shutdown(self):
        """End what was begun."""
        if self._late:
            self._late.done()


class _Late(Future):
    def __init__(self, act, arguments):
        super().__init__()
        self._act, self._arguments = act, arguments

    def done(self):
        if not super().done():
            try:
                self.set_result(self._act(*self._arguments))
            except BaseException as error:
                self.set_exception(error)
        return True

    def result(self, timeout=None):
        self.done()
        return super().result(timeout)


class Watch:
    """In the place of `edges.watch.Watch`: the logs go on while the processor waits."""

    def __init__(self, paths):
        self._simulation = current()
        self._seen = self._simulation.changes

    def follow(self, paths):
        """Nothing need be done: of each change it is told."""

    def close(self):
        """Nothing is held."""

    def wait(self, seconds=None):
        """Wait until something changes, or time is up."""
        simulation = self._simulation
        simulation.step("wait")
        if self._seen == simulation.changes:
            simulation.waits(seconds)
        self._seen = simulation.changes


_current = []


def current():
    """Return the simulation that is under way."""
    return _current[-1]


class Simulation:
    """What a seed makes."""

    def __init__(self, seed):
        self.seed = seed
        rng = self.rng = random.Random(seed)
        self.counts = Counter()
        self.clock = Clock(self)
        self.files = SimulatedFiles(self.step)
        self.database = Database(self.step)
        self.database.lands = lambda: rng.random() < 0.6
        self.life = None
        self.changes = 0
        self.is_calm = False
        self.mishaps = rng.choice((0, 5, 20, 40))
        self.event_every = rng.choice((3, 8, 25, 80))
        self.rewinds = rng.random() < 0.25
        self.deletes = not self.rewinds and rng.random() < 0.2
        self.depth = 0
        self._acting = False
        self._next_event = 0
        self._steps = 0
        self._copies = []
        window, lateness = rng.choice(RULES)
        self.window, self.lateness = timedelta(minutes=window), timedelta(minutes=lateness)
        self.longest = rng.choice((8_000, 1 << 16, 1 << 20))
        names = ["a.log", "b.log", "c.log"][: rng.choice((1, 1, 1, 2, 3))]
        self.logs = [
            SimulatedLog(
                self.files, f"{ROOT}/logs/{name}", rng, rng.choice((20, 60, 150, 300)), self.longest
            )
            for name in names
        ]
        pattern = rng.random() < 0.2
        paths = [f"{ROOT}/logs/*.log"] if pattern else [log.path for log in self.logs]
        self.settings = RunSettings(
            logs=tuple(map(Path, paths)),
            batch_lines=rng.choice((1, 3, 10, 40)),
            batch_seconds=rng.choice((0.01, 0.5, 5)),
            attribution_window=self.window,
            allowed_lateness=self.lateness,
        ).model_copy(update={"max_line_bytes": self.longest})
        self.files.most_read = (lambda: rng.randint(1, 3_000)) if rng.random() < 0.1 else None
        self.worth_bytes = rng.choice((1, 5_000, 1 << 26))
        self.every_seconds = rng.choice((0.01, 1, 300))

    # What the seams tell.

    def step(self, what, path=""):
        """Whatever the processor does, it comes by here before."""
        life = self.life
        if life.is_dead:
            raise Crash
        if self._acting or self.is_calm:
            return
        life.steps += 1
        self._steps += 1
        self.counts[what] += 1
        if life.steps == life.crash_at:
            self.die()
        if self._steps >= self._next_event:
            self._next_event = self._steps + 1 + int(self.rng.expovariate(1 / self.event_every))
            self.befall(what, path)

    def die(self):
        """The processor dies here."""
        self.counts["crashes"] += 1
        self.life.is_dead = True
        raise Crash

    def befall(self, what, path):
        """Something happens."""
        if self.mishaps <= 0 or self.rng.random() < 0.7:
            self.go_on()
            return
        self.mishaps -= 1
        kinds = [self.go_on]
        if what in STATEMENTS:
            kinds += [self.refuse]
        if what == "COMMIT":
            kinds = [self.lose_commit] * 4 + [self.refuse]
        if what in ("read", "stat", "list"):
            kinds += [self.fail_to_read]
        if what in ("write", "fsync", "rename", "renamed", "unlink"):
            kinds += [self.fill_disk] * 2
        if what == "open" and "/logs/" in path:
            kinds += [lambda: self.fail_to_open(path)] * 2
        if self.rewinds:
            kinds += [self.rewind]
        if self.depth < 1 and not self.database.is_locked:
            kinds += [self.duel]
        if what == "wait":
            kinds += [self.ask_to_stop]
        self.rng.choice(kinds)()

    def go_on(self):
        """Let the logs go on."""
        self._acting = True
        try:
            for _ in range(self.rng.choice((1, 1, 2, 6))):
                log = self.rng.choice(self.logs)
                if not log.is_done:
                    self.changes += 1
                    log.act()
            if self.deletes and self.rng.random() < 0.05:
                log = self.rng.choice(self.logs)
                log.delete_oldest(self.committed().get(log.path, 0))
            if self.rewinds and self.database.tables.live() and self.rng.random() < 0.2:
                self._copies.append(self.database.tables.copy())
        finally:
            self._acting = False

    def committed(self):
        """Return how much of each log is in the report."""
        live = self.database.tables.live()
        rows = self.database.tables.logs.values() if live else ()
        return {r.path: r.checkpoint.byte_offset for r in rows if r.generation == live.number}

    def waits(self, seconds):
        """Let time pass, and logs go on."""
        if not self.is_calm:
            self.go_on()
        if all(log.is_done for log in self.logs):
            self.life.idle_waits += 1
            if seconds is None or self.life.idle_waits > IDLE_WAITS:
                self.life.stop.requested = True  # nothing would wake it, or so often for nothing
        self.clock.now += self.rng.choice((0, 0.05, 0.3, 1.1)) if seconds is None else seconds

    def refuse(self):
        """A statement fails."""
        self.counts["refused statements"] += 1
        state = self.rng.choice(PASSING * 3 + REFUSING)
        if state in REFUSING or (state == "53100" and self.life.once):
            self.life.excuses.append(state)
        raise psycopg.errors.lookup(state)("simulated")

    def lose_commit(self):
        """The answer to a COMMIT is lost."""
        how = self.rng.choice(("done", "failed", "unknown"))
        self.counts[f"commits {how}"] += 1
        raise LostCommitError(how)

    def fail_to_read(self):
        """A read fails."""
        self.counts["failed reads"] += 1
        self.life.excuses.append("EIO")
        raise OSError(errno.EIO, "Input/output error")

    def fill_disk(self):
        """A write fails."""
        self.counts["full disks"] += 1
        raise OSError(errno.ENOSPC, "No space left on device")

    def fail_to_open(self, path):
        """A file cannot be opened for a moment."""
        self.counts["failed opens"] += 1
        self.life.excuses.append("EACCES")
        number = self.rng.choice((errno.EACCES, errno.EMFILE))
        raise OSError(number, "cannot be opened", path)

    def rewind(self):
        """An older copy of the database is put back."""
        if self._copies:
            self.counts["rewinds"] += 1
            copy = self.rng.choice(self._copies)
            self.database.put_back(copy)
            self.life.put_back.add(copy.live().commit_id)

    def duel(self):
        """Another processor runs meanwhile."""
        self.counts["duels"] += 1
        life = self.life
        life.excuses.append("duel")
        self.depth += 1
        crash_at = self.rng.choice((5, 20, 60, 150, 400))
        try:
            self.live(crash_at, once=self.rng.random() < 0.5, excuses=["duel"])
        finally:
            self.depth -= 1
            self.life = life
            self.files.owner = life.number

    def ask_to_stop(self):
        """SIGTERM."""
        self.counts["stops"] += 1
        self.life.stop.requested = True

    # What a run is made of.

    def live(self, crash_at, *, once, excuses=()):
        """Have a processor run until it ends, however it does; return whether it was done."""
        self.counts["lives"] += 1
        life = self.life = Life(self.counts["lives"], crash_at, once=once)
        life.excuses += excuses
        self.files.owner = life.number
        store = SimulatedStore(self.database)
        try:
            settings = self.settings.model_copy(update={"once": once})
            daemon.run(store, settings, life.stop, snapshots=SnapshotFiles(SNAPSHOTS))
            if self.files.close_all(life.number):
                raise DivergenceError("files were left open")
        except Crash:
            return False
        except ProcessorError as error:
            self.counts["halts"] += 1
            if isinstance(error, GoneError) and any(log.deleted for log in self.logs):
                return False
            is_missing = "there is no such file" in str(error) and once and not self.is_calm
            if not life.excuses and not is_missing and not self.is_put_ahead(error, life, store):
                raise DivergenceError(f"halted without a reason: {error!r}") from error
            return False
        else:
            return True
        finally:
            life.is_dead = True
            self.files.close_all(life.number)

    def is_put_ahead(self, error, life, store):
        """Whether a later copy was put back, with commits of others: as if one had gone on."""
        if type(error) is not CheckpointMovedError:  # its subclass has to be gone on from
            return False
        found = self.database.tables.live()
        is_other = found.last != store.last and found.commit_id in life.put_back
        is_ahead = is_other and found.commits >= store.last[1]
        self.counts["halts before a later copy"] += is_ahead
        return is_ahead

    def run(self):
        """Have it live and die, and then come to its end; return what happened how often."""
        with self.in_place():
            for _ in range(self.rng.choice((2, 5, 10, 20))):
                crash_at = int(self.rng.expovariate(1 / self.rng.choice((20, 100, 300)))) + 1
                self.live(crash_at, once=self.rng.random() < 0.25)
                self.check()
                self.between()
                if all(log.is_done for log in self.logs) and self.rng.random() < 0.5:
                    break
            self.is_calm = True
            self.end()
        return self.counts

    def between(self):
        """What happens while it is down."""
        for _ in range(self.rng.choice((0, 0, 1, 5, 20))):
            self.go_on()
        if self.rewinds and self._copies and self.rng.random() < 0.2:
            self.counts["rewinds"] += 1
            self.database.put_back(self.rng.choice(self._copies))
        name = f"{SNAPSHOTS}.1"
        if name in self.files.names and self.rng.random() < 0.1:
            self.counts["damaged snapshots"] += 1
            inode = self.files.names[name]
            at = self.rng.randrange(len(inode.data) or 1)
            inode.data = inode.data[:at] + self.rng.choice((b"", b"\0" + inode.data[at + 1 :]))

    def end(self):
        """All is written; a daemon reads it to its end, and so does the next run."""
        self.database.settle()
        for log in self.logs:
            log.end()
        self.changes += 1
        for once in (self.rng.random() < 0.5, True):
            if not self.live(0, once=once):
                self.counts["halted at the end"] += 1
                return
        self.check(whole=True)

    def check(self, *, whole=False):
        """Compare with the oracle what the database holds, over what it says was read."""
        tables = self.database.tables
        if (live := tables.live()) is None:
            return
        rows = {log.path: log for log in tables.logs.values() if log.generation == live.number}
        texts = []
        for log in self.logs:
            row, text = rows.get(log.path), log.text()
            offset = row.checkpoint.byte_offset if row else 0
            if whole and offset != len(text):
                raise DivergenceError(f"{log.path}: read up to {offset} of {len(text)}")
            lines = text[:offset].split(b"\n")
            if lines.pop():
                raise DivergenceError(f"{log.path}: offset {offset} is in the middle of a line")
            if row and (row.lines, sum(row.ledger.values())) != (len(lines), len(lines)):
                raise DivergenceError(f"{log.path}: {len(lines)} lines, {row.lines} {row.ledger}")
            texts.append([line for line in lines if len(line) < self.longest])
        expected = report(*texts, window=self.window, lateness=self.lateness)
        found = tables.report(live.number)
        if found != expected:
            differ = sorted(k for k in {*found, *expected} if found.get(k) != expected.get(k))
            shown = [(k, found.get(k), expected.get(k)) for k in differ[:4]]
            raise DivergenceError(f"the report is not the oracle's: {shown}")
        self.check_outcomes(list(rows.values()), texts)

    def check_outcomes(self, rows, texts):
        """Compare how many lines counted, and how many were late."""
        events = [[e for e in map(event_of, lines) if e] for lines in texts]
        kept = [list(on_time(lines, self.lateness)) for lines in events]
        found = Counter()
        for row in rows:
            found.update(row.ledger)
            buried = sum(n for (outcome, _), n in row.ledger.items() if outcome == "dead_letter")
            if buried != len(row.dead_letters):
                raise DivergenceError(
                    f"{row.path}: {buried} dead letters, {len(row.dead_letters)} rows"
                )
        applied = len({event for lines in kept for event in lines})
        late = sum(map(len, events)) - sum(map(len, kept))
        counted = found["applied", ""], found["dead_letter", "late"]
        if counted != (applied, late):
            raise DivergenceError(f"{counted} counted and late, not {(applied, late)}")

    @contextmanager
    def in_place(self):
        """Put all that is simulated in the place of the real."""
        with ExitStack() as stack:
            stack.enter_context(installed(self.files))
            for module in (source, batches, daemon, snapshots, committer, retry, stop):
                stack.enter_context(patch.object(module, "time", self.clock))
            for module, name, value in (
                (retry, "random", self.rng),
                (committer, "ThreadPoolExecutor", lambda **_: Inline(self)),
                (daemon, "Watch", Watch),
                (daemon, "collect_seldom", lambda: None),
                (snapshots, "WORTH_BYTES", self.worth_bytes),
                (snapshots, "EVERY_SECONDS", self.every_seconds),
            ):
                stack.enter_context(patch.object(module, name, value))
            _current.append(self)
            try:
                yield
            finally:
                _current.pop()


def simulate(seed):
    """Run a seed; return what happened how often.

    Raises:
        DivergenceError: what it came to is not what it has to.

    """
    return Simulation(seed).run()
