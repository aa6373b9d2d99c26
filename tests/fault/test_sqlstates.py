"""Errors of Postgres at each statement of a commit, and at its COMMIT, by their SQLSTATE."""

from contextlib import closing

import psycopg
import pytest
from conftest import wait_until
from core_helpers import RULES, us

from processor.core.model import Checkpoint, Commit, DeadLetter, Increment, LogCommit
from processor.edges.identity import KnownFile, ReadFiles
from processor.edges.session import ConnectionLostError, DiskFullError, Session
from processor.edges.store import Store
from processor.errors import StoreError
from processor.shell import retry
from processor.shell.run.committer import Committer
from processor.shell.stop import Stop

PASSING = (
    "08000",
    "08003",
    "08006",
    "08P01",
    "25006",
    "25P03",
    "25P04",
    "40001",
    "40003",
    "40P01",
    "53000",
    "53100",
    "53200",
    "53300",
    "53400",
    "55P03",
    "57000",
    "57014",
    "57P01",
    "57P02",
    "57P03",
    "57P05",
    "58000",
    "58030",
)
HALTING = (
    "22003",
    "22P05",
    "23505",
    "23514",
    "25001",
    "28000",
    "28P01",
    "3D000",
    "42501",
    "42703",
    "42P01",
    "XX000",
    "XX001",
)

PLACES = {
    "checkpoints": "BEFORE UPDATE",
    "generations": "BEFORE UPDATE",
    "hourly_counts": "BEFORE INSERT",
    "dead_letters": "BEFORE INSERT",
    "ledger": "BEFORE INSERT",
    "log_files": "BEFORE INSERT",
    "hour_offsets": "BEFORE INSERT",
    "COMMIT": "AFTER UPDATE",
}
"""Where it fails: each statement of a commit by the table that it writes to, and the COMMIT."""


@pytest.fixture
def store(connect):
    with closing(Store(connect)) as store:
        store.migrate()
        store.adopt(RULES)
        yield store


def a_commit(log_id, start):
    """Return a batch that makes each statement of a commit do something, and its files."""
    hour = start // 100
    checkpoint = Checkpoint(start + 100, us(3600 * hour), start, us(3600 * hour))
    outcomes = {("applied", ""): 2, ("dead_letter", "late"): 1}
    dead_letters = (DeadLetter(start, 9, "late", "x"),)
    log = LogCommit(log_id, start, checkpoint, 3, outcomes, dead_letters)
    file = KnownFile(0, 1, 2, "app.log", start + 100, "head", "tail", 50)
    return Commit((Increment(7, 455_832 + hour, 2, 0, 0, 0, 0),), (log,)), {
        log_id: ReadFiles([file], 1)
    }


def fail(connection, place, state, times=1):
    """Have the server raise an error so many times, whatever is rolled back."""
    table = "checkpoints" if place == "COMMIT" else place
    kind, when = ("", "STATEMENT")
    if place == "COMMIT":
        kind, when = "CONSTRAINT", "ROW"
    deferred = "DEFERRABLE INITIALLY DEFERRED" if kind else ""
    connection.execute(
        f"""
        DROP SEQUENCE IF EXISTS tries; CREATE SEQUENCE tries;
        CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('tries') <= {times} THEN RAISE 'told to' USING ERRCODE = '{state}'; END IF;
            RETURN NEW;
        END $$;
        DROP TRIGGER IF EXISTS fails ON {table};
        CREATE {kind} TRIGGER fails {PLACES[place]} ON {table} {deferred}
            FOR EACH {when} EXECUTE FUNCTION fail()"""
    )


def counted(connection):
    """Return offset, page loads, dead letters, lines and commits: all that a commit adds to."""
    return connection.execute(
        "SELECT byte_offset, (SELECT coalesce(sum(page_loads), 0) FROM hourly_counts)::int, "
        "(SELECT count(*) FROM dead_letters), (SELECT sum(lines) FROM ledger)::int, "
        "(SELECT commits FROM generations) FROM checkpoints"
    ).fetchone()


@pytest.mark.parametrize("place", PLACES)
def test_what_can_pass_is_tried_again_as_a_whole_and_counts_once(
    store, connect, place, monkeypatch
):
    """Whichever statement failed, COMMIT included."""
    monkeypatch.setattr(retry, "_FIRST_RETRY_SECONDS", 0.001)
    log = store.open_logs(["/logs/app.log"])["/logs/app.log"]
    with connect() as connection:
        committer = Committer(store, Stop(), is_patient=True)
        for number, state in enumerate(PASSING, 1):
            fail(connection, place, state)
            committer.begin(*a_commit(log.log_id, 100 * (number - 1)))
            assert committer.finish()
            assert connection.execute("SELECT last_value FROM tries").fetchone() >= (2,), state
            assert counted(connection) == (100 * number, 2 * number, number, 3 * number, number)
        committer.close()


@pytest.mark.parametrize("place", PLACES)
def test_what_cannot_pass_halts_and_nothing_is_written(store, connect, place):
    """The words name the SQLSTATE; once it is mended, the same batch goes in."""
    log = store.open_logs(["/logs/app.log"])["/logs/app.log"]
    with connect() as connection:
        before = counted(connection)
        for state in HALTING:
            fail(connection, place, state)
            with pytest.raises(StoreError, match=rf"\({state}\): told to.*nothing") as caught:
                store.commit(*a_commit(log.log_id, 0))
            assert not isinstance(caught.value, ConnectionLostError)
            assert counted(connection) == before
        store.commit(*a_commit(log.log_id, 0))
        assert counted(connection)[0] == 100


def test_who_is_not_patient_does_not_wait_for_room(store, connect):
    """A replay ends in words; a daemon waits for somebody to make room."""
    log = store.open_logs(["/logs/app.log"])["/logs/app.log"]
    with connect() as connection:
        fail(connection, "ledger", "53100")
        committer = Committer(store, Stop(), is_patient=False)
        committer.begin(*a_commit(log.log_id, 0))
        with pytest.raises(DiskFullError, match="no room"):
            committer.finish()
        committer.close()


def test_who_is_not_patient_gives_up_in_the_end(store, connect, monkeypatch):
    """With what the database said last."""
    monkeypatch.setattr(retry, "PATIENCE_SECONDS", 0.3)
    log = store.open_logs(["/logs/app.log"])["/logs/app.log"]
    with connect() as connection:
        fail(connection, "ledger", "57014", times=1_000_000)
        committer = Committer(store, Stop(), is_patient=False)
        committer.begin(*a_commit(log.log_id, 0))
        with pytest.raises(ConnectionLostError, match="away or held up: told to"):
            committer.finish()
        committer.close()


def test_an_error_that_somebody_swallowed_does_not_pass_for_a_commit(connect):
    """Postgres answers the COMMIT of a failed transaction as if nothing had been wrong."""
    with (
        closing(Session(connect)) as session,
        pytest.raises(StoreError, match="nothing was written"),
        session.transaction() as connection,
        pytest.raises(psycopg.errors.DivisionByZero),
    ):
        connection.execute("SELECT 1 / 0")


def test_a_commit_that_nobody_waits_for_any_more_ends_no_daemon(store, connect):
    """A run that begins anew, since files cannot be opened just now, say, goes on."""
    log = store.open_logs(["/logs/app.log"])["/logs/app.log"]
    stop = Stop()
    with connect() as connection:
        fail(connection, "ledger", "57014", times=1_000_000)
        committer = Committer(store, stop, is_patient=True)
        committer.begin(*a_commit(log.log_id, 0))
        tries = "SELECT last_value FROM tries"
        wait_until(lambda: connection.execute(tries).fetchone() > (1,), what="the second try")
        committer.close()
        assert not committer.finish()
    assert not stop.requested
