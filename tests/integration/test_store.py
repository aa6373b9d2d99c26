"""The store on a real PostgreSQL: all of a commit or nothing of it, once."""

import secrets
import threading
from contextlib import closing
from dataclasses import replace

import psycopg
import pytest
from backup import Backup

from processor.core.model import Checkpoint, Commit, DeadLetter, Increment, LogCommit, Rules
from processor.edges import migrations as module
from processor.edges.generations import Generations
from processor.edges.identity import KnownFile, ReadFiles
from processor.edges.migrations import Migration, migrate, migrations
from processor.edges.session import Connection, ConnectionLostError
from processor.edges.store import Store, Stream, rules_in_words
from processor.errors import (
    CheckpointMovedError,
    ReplacedError,
    RewoundError,
    SettingsError,
    StoreError,
)

HOUR = 455_833  # 2022-01-01T01:00:00Z


@pytest.fixture
def store(connect):
    with closing(Store(connect)) as store:
        store.migrate()
        store.adopt(Rules())
        yield store


@pytest.fixture
def log(store):
    return store.open_logs(["/logs/app.log"])["/logs/app.log"]


def a_commit(log_id, start=0, end=100, dead_letters=()):
    outcomes = {("applied", ""): 3, ("ignored", "FaqClick"): 2}
    if dead_letters:
        outcomes["dead_letter", "late"] = len(dead_letters)
    return Commit(
        (Increment(7, HOUR, 2, 1, 1, 1, 1), Increment(9, HOUR, 5, 0, 0, 0, 0)),
        (
            LogCommit(
                log_id,
                start,
                Checkpoint(end, 1_641_000_000_000_001, start, None, (start,)),
                sum(outcomes.values()),
                outcomes,
                tuple(dead_letters),
            ),
        ),
    )


def everything(connect):
    """Return all that the database holds, save the time of the commit."""
    with connect() as connection:
        return {
            table: connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2").fetchall()
            for table, columns in {
                "hourly_report": "*",
                "checkpoints": "log_id, path, byte_offset, lines, rebuild_from, ahead_offsets",
                "ledger": "*",
                "dead_letters": "*",
            }.items()
        }


def offsets(connect):
    with connect() as connection:
        return connection.execute("SELECT path, byte_offset FROM checkpoints").fetchall()


def test_a_commit_writes_counts_ledger_dead_letters_and_checkpoint(store, log, connect):
    """Everything that a batch says is in the database after its commit."""
    store.commit(a_commit(log.log_id, dead_letters=[DeadLetter(40, 12, "late", "a\tb\\n")]), {})
    found = everything(connect)
    assert [row[0:7] for row in found["hourly_report"]] == [
        (7, found["hourly_report"][0][1], 2, 1, 1, 1, 1),
        (9, found["hourly_report"][1][1], 5, 0, 0, 0, 0),
    ]
    assert [row[7] for row in found["hourly_report"]] == [pytest.approx(0.5), 0]
    assert found["ledger"] == [
        (log.log_id, "applied", "", 3),
        (log.log_id, "dead_letter", "late", 1),
        (log.log_id, "ignored", "FaqClick", 2),
    ]
    assert found["dead_letters"] == [(log.log_id, 40, 12, "late", "a\tb\\n")]
    again = store.open_logs([])["/logs/app.log"]
    assert again.checkpoint == Checkpoint(100, 1_641_000_000_000_001, 0, None, (0,))
    assert again.names == ["FaqClick"]


def test_the_files_of_a_log_are_kept_with_its_offset(store, log):
    """What is known of a file is replaced; what is gone and needed no more is forgotten."""
    first = KnownFile(0, 1, 2**64 - 1, "app.log", 100, "head", "tail", 50)
    store.commit(a_commit(log.log_id), {log.log_id: ReadFiles([first])})
    assert store.open_logs([])["/logs/app.log"].files == [first]
    left = first._replace(inode=3, name="app.log.1", read_bytes=150)
    second = first._replace(start_offset=150, read_bytes=60)
    files = {log.log_id: ReadFiles([left, second])}
    store.commit(a_commit(log.log_id, 100, 190), files)
    store.commit(a_commit(log.log_id, 190, 200), {log.log_id: ReadFiles([], 150)})
    assert store.open_logs([])["/logs/app.log"].files == [left, second]
    store.commit(a_commit(log.log_id, 200, 210), {log.log_id: ReadFiles([], 151)})
    assert store.open_logs([])["/logs/app.log"].files == [second]


def test_a_log_begins_where_it_was_first_said_to(store, log):
    """In the middle of a file; whoever comes later begins there too."""
    first = KnownFile(-100, 1, 2, "app.log", 100, "head", "tail", 50)
    assert store.begin_at(log.log_id, first) == [first]
    assert store.begin_at(log.log_id, first._replace(start_offset=-120)) == [first]
    assert store.open_logs([])["/logs/app.log"].files == [first]


def test_commits_add_up(store, log, connect):
    """A second batch adds to the rows of the first."""
    store.commit(a_commit(log.log_id), {})
    store.commit(a_commit(log.log_id, 100, 250), {})
    store.check()  # is content: nobody else has committed
    found = everything(connect)
    assert [row[2:7] for row in found["hourly_report"]] == [(4, 2, 2, 2, 2), (10, 0, 0, 0, 0)]
    assert found["checkpoints"][0][2:4] == (250, 10)
    assert found["ledger"][0] == (log.log_id, "applied", "", 6)


def test_a_commit_sent_twice_counts_once(store, log, connect):
    """The comparison of the offset refuses a batch that is there already."""
    commit = a_commit(log.log_id, dead_letters=[DeadLetter(40, 12, "late", "x")])
    store.commit(commit, {})
    before = everything(connect)
    with pytest.raises(CheckpointMovedError):
        store.commit(commit, {})
    assert everything(connect) == before


def test_of_two_processors_the_second_is_told_who_was_first(store, log, connect):
    """The loser writes nothing, and its message names the winner."""
    with closing(Store(connect)) as other:
        other.adopt(Rules())
        other.commit(a_commit(log.log_id), {})
        before = everything(connect)
        with pytest.raises(CheckpointMovedError, match=r"app\.log: another processor"):
            store.commit(a_commit(log.log_id, 0, 80), {})
        assert everything(connect) == before
        with pytest.raises(CheckpointMovedError, match=other.identity.rpartition(":")[0]):
            store.reconcile(a_commit(log.log_id, 0, 80))


def test_one_processor_reads_all_logs_of_a_report(store, log, connect):
    """Logs share visits: a second processor on another log of the report writes nothing."""
    other_log = store.open_logs(["/logs/other.log"])["/logs/other.log"]
    with closing(Store(connect)) as other:
        other.adopt(Rules())
        store.commit(a_commit(log.log_id), {})
        before = everything(connect)
        for act in (
            lambda: other.commit(a_commit(other_log.log_id), {}),
            lambda: other.open_logs([]),
        ):
            with pytest.raises(CheckpointMovedError, match=store.identity.rpartition(":")[0]):
                act()
        assert everything(connect) == before


def replaced(connect, rules):
    """Put a generation without logs in the place of the live one; return its number."""
    with closing(Generations(connect)) as generations:
        new = generations.begin(rules, {}, "somebody:1:x")
        with generations.held() as held:
            held.replace(new)
    return new


def test_another_generation_is_noticed_before_a_log_is_opened(store, connect):
    """A processor that goes by the old rules takes up no log of the new generation."""
    rules = Rules(timezone="Europe/Berlin")
    new = replaced(connect, rules)
    with pytest.raises(ReplacedError):
        store.open_logs(["/logs/new.log"])
    assert store.take_over() == rules
    assert store.generation == new
    assert list(store.open_logs(["/logs/new.log"])) == ["/logs/new.log"]


def test_a_batch_over_two_logs_needs_both_checkpoints(store, log, connect):
    """One checkpoint that moved keeps the whole batch out."""
    other = store.open_logs(["/logs/other.log"])["/logs/other.log"]
    both = Commit((), a_commit(log.log_id).logs + a_commit(other.log_id, 5, 10).logs)
    before = everything(connect)
    with pytest.raises(CheckpointMovedError):
        store.commit(both, {})
    assert everything(connect) == before


def test_a_failing_statement_leaves_nothing_behind(store, log, connect):
    """The last statement but one fails: the checkpoint has not moved either."""
    twice = [DeadLetter(40, 12, "late", "x")] * 2
    before = everything(connect)
    with pytest.raises(StoreError, match="23505"):
        store.commit(a_commit(log.log_id, dead_letters=twice), {})
    assert everything(connect) == before
    store.commit(a_commit(log.log_id), {})  # and the store goes on


def test_a_batch_that_counts_nothing_moves_the_checkpoint(store, log, connect):
    """Lines that are all ignored are accounted for, and read only once."""
    (moved,) = a_commit(log.log_id).logs
    store.commit(Commit((), (moved,)), {})
    found = everything(connect)
    assert found["hourly_report"] == []
    assert found["checkpoints"][0][2:4] == (100, 5)


def test_the_logs_of_the_report_are_known_by_path(store, log):
    """Opened once, a log is known; opened again, it is the same one."""
    assert store.open_logs(["/logs/app.log"]) == {"/logs/app.log": log}
    assert list(store.open_logs(["/logs/a.log"])) == ["/logs/a.log", "/logs/app.log"]
    assert store.known_paths() == ["/logs/a.log", "/logs/app.log"]


def cut_connections(connect):
    with connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_a_copy_that_a_pooler_breaks_off_is_a_lost_connection(store, log, connect):
    """Of the two answers to its end, psycopg makes a ValueError."""
    commit = a_commit(log.log_id, dead_letters=[DeadLetter(40, 12, "late", "x")])
    before = everything(connect)

    def breaks_off(_copy, _error):
        raise ValueError("too many values to unpack (expected 1)")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg.Copy, "finish", breaks_off)
        with pytest.raises(ConnectionLostError, match="COPY"):
            store.commit(commit, {})
    assert everything(connect) == before
    assert store.reconcile(commit) is False
    store.commit(commit, {})


def test_a_batch_that_was_not_written_is_told_from_one_that_was(store, log, connect):
    """After a lost connection, reconcile answers from what is there."""
    commit = a_commit(log.log_id)
    cut_connections(connect)
    with pytest.raises(ConnectionLostError):
        store.commit(commit, {})
    assert store.reconcile(commit) is False
    store.commit(commit, {})
    cut_connections(connect)
    with pytest.raises(ConnectionLostError):
        store.reconcile(commit)
    assert store.reconcile(commit) is True
    assert everything(connect)["checkpoints"][0][2] == 100


def test_a_reconcile_that_is_cut_off_may_be_asked_again(store, log):
    """The connection is lost once more while the answer is on its way."""
    commit = a_commit(log.log_id)
    ends = psycopg.Connection.commit

    def is_lost(connection):
        ends(connection)
        connection.close()
        raise psycopg.OperationalError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg.Connection, "commit", is_lost)
        with pytest.raises(ConnectionLostError):
            store.commit(commit, {})
        for _ in range(2):
            with pytest.raises(ConnectionLostError):
                store.reconcile(commit)
    assert store.reconcile(commit) is True
    store.commit(a_commit(log.log_id, 100, 200), {})


def test_reconcile_waits_for_a_commit_that_is_still_under_way(store, log, connect):
    """FOR UPDATE: the answer is that of the open transaction, not of the moment before it."""
    commit = a_commit(log.log_id)
    answers = []
    with connect() as connection:
        with connection.transaction():
            connection.execute(
                "UPDATE checkpoints SET byte_offset = 100, committed_by = %s", (store.identity,)
            )
            asking = threading.Thread(target=lambda: answers.append(store.reconcile(commit)))
            asking.start()
            asking.join(0.5)
            assert answers == []
        asking.join(10)
    assert answers == [True]


@pytest.mark.parametrize("is_dropped", [False, True])
def test_nothing_is_written_to_a_generation_that_was_replaced(store, log, connect, is_dropped):
    """Neither a commit, nor one of which it is not known whether it was written."""
    old = store.generation
    replaced(connect, Rules())
    if is_dropped:
        with closing(Generations(connect)) as generations:
            generations.drop(old)
    before = everything(connect)
    for commit in (a_commit(log.log_id), a_commit(log.log_id, 50, 100)):
        with pytest.raises(ReplacedError):
            store.commit(commit, {})
        assert everything(connect) == before
    with pytest.raises(ReplacedError):
        store.reconcile(a_commit(log.log_id, 50, 100))


def test_a_log_is_not_opened_in_a_generation_that_was_dropped(store, connect):
    """A daemon that was idle meanwhile is told that another one is live."""
    old = store.generation
    replaced(connect, Rules())
    with closing(Generations(connect)) as generations:
        generations.drop(old)
    with pytest.raises(ReplacedError):
        store.open_logs(["/logs/new.log"])


def test_what_is_written_to_a_replay_ends_with_it(store, connect):
    """A generation that was dropped, or became live, is not written to by who made it."""
    with closing(Store(connect)) as other, closing(Generations(connect)) as generations:
        new = generations.begin(Rules(), {}, other.identity)
        other.bind(new, Rules())
        log = other.open_logs(["/logs/app.log"])["/logs/app.log"]
        other.commit(a_commit(log.log_id), {})
        generations.drop(new)
        with pytest.raises(CheckpointMovedError, match="dropped"):
            other.commit(a_commit(log.log_id, 100, 200), {})
        with pytest.raises(CheckpointMovedError, match="dropped"):
            other.bind(new, Rules())
        assert other.generations() == [store.generation]
    assert everything(connect)["hourly_report"] == []


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ("SET contract_version = 99", SettingsError, "contract version 99.*replay"),
        ("SET state = 'kept'", StoreError, "no report is live"),
    ],
)
def test_a_report_that_cannot_be_gone_on_with_is_told(store, connect, change, error, words):
    """One of another version, or none that is live."""
    with connect() as connection:
        connection.execute(f"UPDATE generations {change}")
    with pytest.raises(error, match=words):
        store.take_over()


def test_the_first_place_to_read_an_hour_from_is_kept(store, log, connect):
    """One for each hour of event time: offset and watermark, and the lines ahead before it."""
    hour, minute = 3_600_000_000, 60_000_000
    offset = 0
    for mark, start, ahead in (
        (None, 0, ()),
        (5 * hour + minute, 100, (20, 100, 130)),
        (5 * hour + 2 * minute, 200, ()),
        (7 * hour, 300, (20,)),
    ):
        (one,) = a_commit(log.log_id, offset, offset := offset + 400).logs
        checkpoint = one.checkpoint._replace(
            rebuild_from=start, rebuild_watermark=mark, ahead_offsets=ahead
        )
        store.commit(Commit((), (replace(one, checkpoint=checkpoint),)), {})
    with connect() as connection:
        found = connection.execute(
            "SELECT extract(epoch FROM hour)::int / 3600, byte_offset, ahead_offsets, "
            "extract(epoch FROM watermark)::bigint * 1000000 FROM hour_offsets ORDER BY hour"
        ).fetchall()
    assert found == [(5, 100, [20], 5 * hour + minute), (7, 300, [20], 7 * hour)]


def test_a_vanished_checkpoint_is_reported_as_such(store, log, connect):
    """A database that was put back: a stale batch finds nothing to move."""
    with connect() as connection:
        connection.execute("DELETE FROM checkpoints")
    before = everything(connect)
    with pytest.raises(RewoundError, match=r"earlier state.*Start again, to go on"):
        store.commit(a_commit(log.log_id), {})
    assert everything(connect) == before


def test_another_history_of_as_many_commits_is_not_gone_on_with(store, log, connect):
    """The same offset after as many commits, by another processor: its batches may be others."""
    backup = Backup(connect)
    store.commit(a_commit(log.log_id), {})
    backup.put_back()
    with closing(Store(connect)) as other:
        other.adopt(Rules())
        other.commit(a_commit(log.log_id), {})
        with pytest.raises(CheckpointMovedError, match="another processor") as caught:
            store.commit(a_commit(log.log_id, 100, 200), {})
    assert not isinstance(caught.value, RewoundError)


def test_a_later_copy_that_another_wrote_is_not_gone_on_with_but_by_who_starts(store, log, connect):
    """It looks as if the other went on: whatever is done is refused, and the words say so."""
    before = Backup(connect)
    store.commit(a_commit(log.log_id), {})
    later = Backup(connect)
    before.put_back()
    with closing(Store(connect)) as other:
        other.adopt(Rules())
        later.put_back()
        for act in (
            other.check,
            lambda: other.open_logs(()),
            lambda: other.commit(a_commit(log.log_id), {}),
            lambda: other.commit(a_commit(log.log_id, 100, 200), {}),
            lambda: other.reconcile(a_commit(log.log_id)),
        ):
            with pytest.raises(CheckpointMovedError, match=r"later copy.*start again, to go on"):
                act()
        other.adopt(Rules())
        other.commit(a_commit(log.log_id, 100, 200), {})


def test_a_lost_history_of_ones_own_is_not_gone_on_with(store, connect):
    """Hence and forth between two servers, each with commits that the other does not have."""
    logs = store.open_logs(["/logs/a.log", "/logs/b.log"])
    first, second = (log.log_id for log in logs.values())
    backup = Backup(connect)
    store.commit(a_commit(first), {})
    there = Backup(connect)
    backup.put_back()
    with pytest.raises(RewoundError, match="from 1 commits to 0"):
        store.check()
    store.take_over()
    store.commit(a_commit(second), {})
    there.put_back()
    # It has as many commits, and neither offset of this batch tells.
    with pytest.raises(RewoundError):
        store.commit(a_commit(second, 0, 200), {})


def test_a_commit_whose_answer_was_lost_with_the_commit(store, log, connect):
    """It was there, and then the database went back: sent again, or all anew."""
    before = Backup(connect)
    store.commit(a_commit(log.log_id), {})
    between = Backup(connect)
    commit = a_commit(log.log_id, 100, 200)
    between.put_back()
    assert store.reconcile(commit) is False
    before.put_back()
    with pytest.raises(RewoundError):
        store.reconcile(commit)


def test_other_rules_are_refused_with_what_differs(store):
    """A report made with one attribution window is not continued with another."""
    with pytest.raises(SettingsError, match=r"attribution_window was 0:30:00, is 1:00:00.*replay"):
        store.adopt(Rules(attribution_window_us=3_600_000_000))


def test_a_read_only_database_is_refused_at_first_and_waited_for_later(store, log, connect):
    """A standby may be promoted while a processor runs; one that starts there is wrong."""
    with connect() as connection:
        connection.execute(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on',"
            " current_database()); END $$"
        )
    store.close()
    with pytest.raises(StoreError, match=r"read-only.*target_session_attrs") as caught:
        store.adopt(Rules())
    assert not isinstance(caught.value, ConnectionLostError)
    with pytest.raises(ConnectionLostError, match="read-only"):
        store.commit(a_commit(log.log_id), {})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("DROP TABLE ledger, dead_letters", "tables are missing: dead_letters, ledger. .*backup"),
        ("ALTER TABLE hourly_counts SET UNLOGGED", "unlogged: hourly_counts.*SET LOGGED"),
        ("REVOKE INSERT, UPDATE ON ledger FROM CURRENT_USER", "INSERT, UPDATE on ledger. Grant"),
    ],
)
@pytest.mark.usefixtures("store")
def test_what_could_not_be_written_for_good_is_refused_at_first(connect, change, words):
    """A table that is gone, that a crash would empty, or that is somebody else's."""
    role = f"clerk_{secrets.token_hex(4)}"
    with connect() as connection:
        connection.execute(
            f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA public TO {role};"
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role};"
            + change.replace("CURRENT_USER", role)
        )
        parameters = connection.info.get_parameters()
    try:
        with (
            closing(Store(lambda: Connection.open(**{**parameters, "user": role}))) as clerk,
            pytest.raises(StoreError, match=words),
        ):
            clerk.adopt(Rules())
    finally:
        with connect() as connection:
            connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_column_that_is_gone_halts_before_anything_is_written(store, log, connect):
    """It is no reason to try again."""
    with connect() as connection:
        connection.execute("ALTER TABLE ledger DROP COLUMN name CASCADE")
    before = offsets(connect)
    with pytest.raises(StoreError, match="42703") as caught:
        store.commit(a_commit(log.log_id), {})
    assert not isinstance(caught.value, ConnectionLostError)
    assert offsets(connect) == before


def test_a_dropped_table_halts_in_words(store, log, connect):
    """A missing table is named."""
    with connect() as connection:
        connection.execute("DROP TABLE ledger")
    with pytest.raises(StoreError, match="ledger"):
        store.commit(a_commit(log.log_id), {})


def test_migrations_are_applied_once(connect):
    """A second run finds nothing to do."""
    with connect() as connection:
        assert [m.version for m in migrate(connection)] == [m.version for m in migrations()]
        assert migrate(connection) == []


def test_migrations_that_start_at_once_apply_each_step_once(connect):
    """Two processors that start together do not get into each other's way."""
    results, errors = [], []

    def start():
        try:
            with connect() as connection:
                results.append(len(migrate(connection)))
        except psycopg.Error as error:
            errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sum(results) == len(migrations())


def test_a_migration_that_is_cut_off_leaves_nothing_of_its_step(connect, monkeypatch):
    """The next one begins with that step again."""
    known = migrations()
    cut = Migration(known[-1].version + 1, "cut", "CREATE TABLE half(); {}")
    ends = "SELECT pg_terminate_backend(pg_backend_pid())"
    monkeypatch.setattr(
        module, "migrations", lambda: [*known, cut._replace(sql=cut.sql.format(ends))]
    )
    with closing(Store(connect)) as store:
        with pytest.raises(ConnectionLostError):
            store.migrate()
        with connect() as connection:
            halves = connection.execute(
                "SELECT to_regclass('half'), max(version) FROM schema_migrations"
            )
            assert halves.fetchone() == (None, known[-1].version)
        monkeypatch.setattr(
            module, "migrations", lambda: [*known, cut._replace(sql=cut.sql.format(""))]
        )
        assert [migration.name for migration in store.migrate()] == ["cut"]


def test_a_newer_schema_is_refused(store, connect):
    """An old processor does not write into what it does not know."""
    with connect() as connection:
        connection.execute("INSERT INTO schema_migrations VALUES (9999, 'from_the_future')")
    with pytest.raises(StoreError, match=r"schema version 9999.*newer processor"):
        store.migrate()


def test_a_log_that_cannot_exist_in_the_table_is_not_a_wrong_row(connect):
    """The tables refuse negative counts, half hours and rebuilds from behind the offset."""
    with connect() as connection:
        migrate(connection)
        for values in (
            "(1, '2022-01-01T00:30:00Z', 0, 0, 0, 0, 0, 1)",
            "(1, '2022-01-01T00:00:00Z', -1, 0, 0, 0, 0, 1)",
        ):
            with pytest.raises(psycopg.errors.CheckViolation):
                connection.execute(f"INSERT INTO hourly_counts VALUES {values}")
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute(
                "INSERT INTO checkpoints (generation, path, rebuild_from, committed_by) "
                "VALUES (1, 'x', 1, 'y')"
            )


def test_rules_are_told_in_words():
    """As `generations` lists them."""
    assert rules_in_words(Rules()) == (
        "attribution_window 0:30:00, allowed_lateness 0:10:00, timezone UTC, max_line_bytes 1048576"
    )


def test_a_stream_moves_by_one_batch_with_what_the_batch_counts(store, log, connect):
    """A micro-batch that is handed over twice, or after one is missing, is not written."""
    assert store.stream("file:/state") == Stream("file:/state", -1)
    first = Stream("file:/state", 0, 1_641_000_000_000_001)
    store.commit(a_commit(log.log_id), {}, first)
    assert store.stream("file:/state") == first
    before = everything(connect)
    for batch in (0, 2):
        with pytest.raises(CheckpointMovedError, match=f"batch {batch} is not the next one"):
            store.commit(a_commit(log.log_id, 100, 200), {}, first._replace(batch=batch))
    assert everything(connect) == before
    second = Stream("file:/state", 1, 1_641_000_000_000_002, 1_641_000_000_000_001)
    store.commit(Commit((), ()), {}, second)
    assert store.stream("file:/state") == second
    assert store.stream("file:/other").batch == -1
