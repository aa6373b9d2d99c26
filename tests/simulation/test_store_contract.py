"""What the store promises, asked of the real one and of the simulated one: each holds for both."""

import random
import threading

import pytest
from backup import Backup
from conftest import forget_all
from simulated_store import Database, SimulatedStore

from processor.core.model import Checkpoint, Commit, DeadLetter, Increment, LogCommit, Rules
from processor.edges.identity import KnownFile, ReadFiles
from processor.edges.migrations import migrate
from processor.edges.session import ConnectionLostError
from processor.edges.store import Store
from processor.errors import (
    CheckpointMovedError,
    ProcessorError,
    RewoundError,
    SettingsError,
    StoreError,
)

HOUR = 455_833
LOG, OTHER = "/logs/app.log", "/logs/other.log"
FIRST = KnownFile(0, 1, 2**64 - 1, "app.log", 100, "head", "tail", 50)


class RealBackend:
    """A real PostgreSQL."""

    def __init__(self, connect):
        self.connect = connect
        self.stores = []
        with connect() as connection:
            migrate(connection)

    def store(self):
        """Return another processor's store."""
        self.stores.append(Store(self.connect))
        return self.stores[-1]

    def cut(self):
        """Break all connections."""
        with self.connect() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    def copy(self):
        """Return what puts back what is there now, and breaks all connections."""
        backup = Backup(self.connect)

        def put_back():
            backup.put_back()
            self.cut()

        return put_back

    def everything(self):
        """Return counts, and by log: offset, lines, ledger, dead letters."""
        with self.connect() as connection:
            counts = connection.execute(
                "SELECT customer_id, (extract(epoch FROM hour) / 3600)::bigint, page_loads, clicks,"
                " unique_user_clicks, related_clicks, clicked_page_loads FROM hourly_counts"
            ).fetchall()
            logs = {}
            for log_id, path, offset, lines, by in connection.execute(
                "SELECT log_id, path, byte_offset, lines, committed_by FROM checkpoints"
            ).fetchall():
                ledger = connection.execute(
                    "SELECT outcome, name, lines FROM ledger WHERE log_id = %s", (log_id,)
                ).fetchall()
                letters = connection.execute(
                    "SELECT byte_offset, byte_length, reason, detail FROM dead_letters"
                    " WHERE log_id = %s",
                    (log_id,),
                ).fetchall()
                logs[path] = offset, lines, by, sorted(ledger), sorted(letters)
        return sorted(counts), logs

    def lose(self, path):
        """Take the checkpoint of a log away, as an older copy of the database would."""
        with self.connect() as connection:
            connection.execute("DELETE FROM checkpoints WHERE path = %s", (path,))

    def answer_while_under_way(self, store, commit, *, lands):
        """Return what `reconcile` says while a commit is under way that lands, or does not."""
        answers = []
        with self.connect() as connection:
            with connection.transaction(force_rollback=not lands):
                connection.execute(
                    "UPDATE checkpoints SET byte_offset = %s, committed_by = %s WHERE log_id = %s",
                    (commit.logs[0].checkpoint.byte_offset, store.identity, commit.logs[0].log_id),
                )
                asking = threading.Thread(target=lambda: answers.append(store.reconcile(commit)))
                asking.start()
                asking.join(0.3)
                assert answers == []
            asking.join(10)
        return answers


class SimulatedBackend:
    """The simulated database."""

    def __init__(self):
        self.database = Database()
        self.stores = []

    def store(self):
        """Return another processor's store."""
        self.stores.append(SimulatedStore(self.database))
        return self.stores[-1]

    def cut(self):
        """Break all connections."""
        self.database.epoch += 1

    def copy(self):
        """Return what puts back what is there now, and breaks all connections."""
        tables = self.database.tables.copy()
        return lambda: self.database.put_back(tables)

    def everything(self):
        """Return counts, and by log: offset, lines, ledger, dead letters."""
        tables = self.database.tables
        counts = sorted((key[1], key[2], *row) for key, row in tables.counts.items())
        return counts, {
            log.path: (
                log.checkpoint.byte_offset,
                log.lines,
                log.by,
                sorted((*key, lines) for key, lines in log.ledger.items()),
                sorted((offset, *letter) for offset, letter in log.dead_letters.items()),
            )
            for log in tables.logs.values()
        }

    def lose(self, path):
        """Take the checkpoint of a log away."""
        logs = self.database.tables.logs
        del logs[next(log_id for log_id, log in logs.items() if log.path == path)]

    def answer_while_under_way(self, store, commit, *, lands):
        """Return what `reconcile` says while a commit is under way that lands, or does not."""
        after = self.database.tables.copy()
        row = after.logs[commit.logs[0].log_id]
        row.checkpoint, row.by = commit.logs[0].checkpoint, store.identity
        self.database.unknown, self.database.lands = after, lambda: lands
        return [store.reconcile(commit)]


@pytest.fixture(params=["real", "simulated"])
def backend(request):
    """A database, real or simulated."""
    is_real = request.param == "real"
    made = RealBackend(request.getfixturevalue("connect")) if is_real else SimulatedBackend()
    yield made
    for store in made.stores:
        store.close()


@pytest.fixture
def store(backend):
    """The store of a processor that has begun."""
    store = backend.store()
    store.adopt(Rules())
    return store


@pytest.fixture
def log(store):
    """A log of the report."""
    return store.open_logs([LOG])[LOG]


def a_commit(log_id, start=0, end=100, dead_letters=()):
    """Return a batch of one log."""
    outcomes = {("applied", ""): 3, ("ignored", "FaqClick"): 2}
    if dead_letters:
        outcomes["dead_letter", "late"] = len(dead_letters)
    checkpoint = Checkpoint(end, 1_641_000_000_000_001, start, None, (start,))
    lines = sum(outcomes.values())
    part = LogCommit(log_id, start, checkpoint, lines, outcomes, tuple(dead_letters))
    return Commit((Increment(7, HOUR, 2, 1, 1, 1, 1), Increment(9, HOUR, 5, 0, 0, 0, 0)), (part,))


def test_commits_add_up_and_are_read_back(backend, store, log):
    """Counts, ledger, dead letters, names, files and the checkpoint."""
    letters = [DeadLetter(40, 12, "late", "x")]
    store.commit(a_commit(log.log_id, dead_letters=letters), {log.log_id: ReadFiles([FIRST])})
    store.commit(a_commit(log.log_id, 100, 250), {})
    ledger = [("applied", "", 6), ("dead_letter", "late", 1), ("ignored", "FaqClick", 4)]
    assert backend.everything() == (
        [(7, HOUR, 4, 2, 2, 2, 2), (9, HOUR, 10, 0, 0, 0, 0)],
        {LOG: (250, 11, store.identity, ledger, [(40, 12, "late", "x")])},
    )
    again = store.open_logs([])[LOG]
    checkpoint = Checkpoint(250, 1_641_000_000_000_001, 100, None, (100,))
    assert again == (log.log_id, checkpoint, ["FaqClick"], [FIRST])


def test_a_commit_sent_twice_counts_once(backend, store, log):
    """The comparison of the offset refuses what is there already."""
    store.commit(a_commit(log.log_id), {})
    before = backend.everything()
    with pytest.raises(CheckpointMovedError):
        store.commit(a_commit(log.log_id), {})
    assert backend.everything() == before


def test_a_commit_that_fails_leaves_nothing_behind(backend, store, log):
    """One dead letter twice is refused, after all that came before it."""
    before = backend.everything()
    with pytest.raises(StoreError, match="23505"):
        store.commit(a_commit(log.log_id, dead_letters=[DeadLetter(40, 12, "late", "x")] * 2), {})
    assert backend.everything() == before
    store.commit(a_commit(log.log_id), {})


def test_of_two_processors_one_makes_progress(backend, store, log):
    """The other one is told so whatever it does, on its own log too, and writes nothing."""
    theirs = store.open_logs([OTHER])[OTHER]
    other = backend.store()
    other.adopt(Rules())
    store.commit(a_commit(log.log_id), {})
    before = backend.everything()
    for act in (
        lambda: other.commit(a_commit(log.log_id), {}),
        lambda: other.commit(a_commit(theirs.log_id), {}),
        lambda: other.reconcile(a_commit(log.log_id, 0, 80)),
        lambda: other.open_logs([]),
    ):
        with pytest.raises(CheckpointMovedError):
            act()
        assert backend.everything() == before
    other.take_over()
    other.commit(a_commit(theirs.log_id), {})


def test_after_a_lost_connection_it_is_told_what_was_written(backend, store, log):
    """Previous: not written; mine: written; and the store goes on in both cases."""
    commit = a_commit(log.log_id)
    backend.cut()
    with pytest.raises(ConnectionLostError):
        store.commit(commit, {})
    assert store.reconcile(commit) is False
    store.commit(commit, {})
    backend.cut()
    with pytest.raises(ConnectionLostError):
        store.reconcile(commit)
    assert store.reconcile(commit) is True
    store.commit(a_commit(log.log_id, 100, 200), {})


@pytest.mark.parametrize("lands", [True, False])
def test_a_commit_under_way_is_waited_for(backend, store, log, lands):
    """The answer is what became of it, not what was there before."""
    commit = a_commit(log.log_id)
    assert backend.answer_while_under_way(store, commit, lands=lands) == [lands]


def test_a_log_that_is_gone_is_told(backend, store, log):
    """As after an older copy of the database was put back."""
    backend.lose(LOG)
    with pytest.raises(RewoundError):
        store.commit(a_commit(log.log_id), {})
    assert store.reconcile(a_commit(log.log_id)) is False  # it is sent again, and that is told
    with pytest.raises(RewoundError):
        store.commit(a_commit(log.log_id), {})


def test_the_files_of_a_log_are_kept_as_long_as_they_are_needed(store, log):
    """What is gone and ends before all that is needed is forgotten."""
    second = FIRST._replace(start_offset=150, read_bytes=60)
    left = FIRST._replace(inode=3, read_bytes=150)
    store.commit(a_commit(log.log_id), {log.log_id: ReadFiles([FIRST])})
    store.commit(a_commit(log.log_id, 100, 190), {log.log_id: ReadFiles([left, second])})
    store.commit(a_commit(log.log_id, 190, 200), {log.log_id: ReadFiles([], 150)})
    assert store.open_logs([])[LOG].files == [left, second]
    store.commit(a_commit(log.log_id, 200, 210), {log.log_id: ReadFiles([], 151)})
    assert store.open_logs([])[LOG].files == [second]


def test_a_log_begins_where_it_was_first_said_to(store, log):
    """Whoever comes later begins there too."""
    first = KnownFile(-100, 1, 2, "app.log", 100, "head", "tail", 50)
    assert store.begin_at(log.log_id, first) == [first]
    assert store.begin_at(log.log_id, first._replace(start_offset=-120)) == [first]


@pytest.mark.usefixtures("log")
def test_a_report_is_gone_on_with_by_its_rules_only(backend, store):
    """Whoever has others is told."""
    other = backend.store()
    with pytest.raises(SettingsError, match="was made by other rules"):
        other.adopt(Rules(allowed_lateness_us=1))
    assert other.adopt(Rules()) == store.rules
    assert (other.generations(), other.known_paths()) == ([store.generation], [LOG])


class Processors:
    """Two processors that do anything, on one backend; answers name no ids."""

    def __init__(self, backend):
        self.backend = backend
        self.stores = [backend.store(), backend.store()]
        self.logs = [{}, {}]
        self.sent = [None, None]
        self.copies = [backend.copy()]

    def do(self, who, what, path, end):
        """Do something; return what came of it, and what is there then."""
        try:
            answer = getattr(self, what)(who, path, end)
        except ProcessorError as error:
            answer = type(error).__name__
        counts, logs = self.backend.everything()
        names = [store.identity for store in self.stores]
        shown = {p: (row[0], row[1], names.index(row[2]), *row[3:]) for p, row in logs.items()}
        return answer, counts, shown

    def open(self, who, path, _end):
        """Take over, and open a log."""
        self.stores[who].adopt(Rules())
        found = self.stores[who].open_logs([path])
        self.logs[who] = {path: (log.log_id, log.checkpoint[0]) for path, log in found.items()}
        return {path: (log.checkpoint, sorted(log.names), log.files) for path, log in found.items()}

    def send(self, who, path, end):
        """Commit a batch from where it believes to be."""
        if path not in self.logs[who]:
            return None
        log_id, offset = self.logs[who][path]
        commit = a_commit(log_id, offset, offset + end, [DeadLetter(offset, 3, "late", "x")])
        self.sent[who] = commit
        self.stores[who].commit(commit, {log_id: ReadFiles([FIRST._replace(read_bytes=end)])})
        self.logs[who][path] = log_id, offset + end
        return "written"

    def ask(self, who, _path, _end):
        """Ask whether the last batch was written; after its answer was lost, as it were."""
        return self.sent[who] and self.stores[who].reconcile(self.sent[who])

    def cut(self, _who, _path, _end):
        """Break the connections."""
        self.backend.cut()

    def check(self, who, _path, _end):
        """See whether all is as it was left."""
        self.stores[who].check()

    def copy(self, _who, _path, _end):
        """Make a copy of the database."""
        self.copies.append(self.backend.copy())

    def put_back(self, _who, _path, end):
        """Put a copy back, an earlier or a later one."""
        self.copies[end % len(self.copies)]()


@pytest.mark.parametrize("seed", range(6))
def test_both_do_the_same_whatever_is_done_to_them(connect, seed):
    """Two processors, any calls in any order: answers, errors and tables are equal step by step."""
    rng = random.Random(seed)
    real = RealBackend(connect)
    simulated = SimulatedBackend()
    for backend in (real, simulated):
        backend.store().adopt(Rules())
    pair = Processors(real), Processors(simulated)
    for store in (store for one in pair for store in one.stores):
        store.adopt(Rules())
    for _ in range(40):
        what = rng.choice(
            ("open", "send", "send", "send", "ask", "cut", "check", "copy", "put_back")
        )
        step = rng.randrange(2), what, rng.choice((LOG, OTHER)), rng.randrange(40, 90)
        assert pair[0].do(*step) == pair[1].do(*step), step
    for store in real.stores:
        store.close()
    forget_all(connect)
