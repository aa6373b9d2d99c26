"""A database that is away, says nothing, or holds a COMMIT: waited for, in bounded memory."""

import os
import re
import signal
import threading
from contextlib import closing
from pathlib import Path

import pytest
from conftest import IMPATIENT, is_asked_by_signals, logged, wait_until
from core_helpers import RULES, beats, log_of
from oracle import lines_of, report
from servers import Server, servers_folder
from test_sqlstates import a_commit, counted

from processor.edges import session
from processor.edges.migrations import LOCK
from processor.edges.store import Store
from processor.errors import ExitCode
from processor.shell.generate import LogShape, generate
from processor.shell.run.committer import Committer
from processor.shell.stop import Stop

PASSWORD = "hunter2"  # noqa: S105 - which is not asked for


@pytest.fixture
def server():
    """A server of one test, which is away until it is started."""
    with servers_folder() as folder:
        server = Server(folder)
        yield server
        server.close()


@pytest.fixture
def database_url(server):
    """A connection string of that server."""
    return server.url(password=PASSWORD, connect_timeout=2)


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "app.log"
    lines = generate(LogShape(events=3_000, hours=6, seed=51))
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def said(daemon, words):
    """Read what a daemon says up to a line with these words."""
    for line in daemon.stderr:
        if re.search(words, line):
            return
    raise AssertionError(f"it ended without saying {words}")


def end(daemon):
    """Ask a daemon to stop, which it does in time."""
    daemon.terminate()
    assert daemon.wait(5) == ExitCode.DONE


def wait_for_end(server, log):
    def is_at_end():
        if server.sql("SELECT to_regclass('generations')") == [(None,)]:
            return False
        return server.sql("SELECT byte_offset FROM checkpoints") == [(log.stat().st_size,)]

    wait_until(is_at_end, seconds=60, what="the end of the log")


def test_a_daemon_waits_for_a_database_that_is_not_there_yet(server, command, log):
    """In words; and once it is there, nothing is missing."""
    daemon = command.start("run", log, program=IMPATIENT)
    said(daemon, "the database is away or held up.*trying again")
    said(daemon, "trying again")
    server.start()
    wait_for_end(server, log)
    end(daemon)
    assert command.report() == report(lines_of(log))


def test_a_daemon_that_waits_for_the_database_stops_when_asked_to(command, log):
    """It has nothing to commit."""
    daemon = command.start("run", log)
    said(daemon, "trying again")
    end(daemon)


@pytest.mark.parametrize("arguments", [["run", "--once"], ["replay"]])
def test_who_has_an_end_gives_up_in_the_end(command, log, arguments):
    """So that a job fails, and is seen to."""
    failed = command(*arguments, log, program=IMPATIENT, exit_code=ExitCode.FAILED)
    (words,) = logged(failed.stderr, "error")
    assert words.startswith("the database is away or held up: connection")
    assert PASSWORD not in failed.stderr


def test_a_server_that_stops_is_waited_for_and_a_stop_ends_that(server, command, log):
    """SIGSTOP of all its processes: it takes connections and says nothing, and then goes on."""
    server.start()
    daemon = command.start("run", log, "--batch-seconds", 0.05, program=IMPATIENT)
    wait_for_end(server, log)
    server.signal(signal.SIGSTOP)
    try:
        with log.open("ab") as file:
            file.write(log_of(beats(6 * 3600, 8 * 3600)))
        said(daemon, "no answer within 1 s")
        said(daemon, "trying again")
        starting = command.start("run", log)
        wait_until(lambda: is_asked_by_signals(starting.pid), what="its start")
        end(starting)
    finally:
        server.signal(signal.SIGCONT)
    wait_for_end(server, log)
    end(daemon)
    assert command.report() == report(lines_of(log))


def memory_bytes(pid):
    """Return how much memory a process has, and those that it started."""
    pids = [pid, *Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_memory_is_bounded_while_the_database_is_away(server, command, log):
    """One batch waits to be committed, and the next one to follow it; no more is read."""
    server.start()
    daemon = command.start("run", log, "--batch-lines", 2_000, "--workers", 1, program=IMPATIENT)
    wait_for_end(server, log)
    server.close()
    lines = [f"{line}\n" for line in generate(LogShape(events=50_000, hours=100, seed=52))]
    before = memory_bytes(daemon.pid)
    with log.open("a") as file:
        for _ in range(8):
            file.writelines(lines)
    for _ in range(6):
        said(daemon, "trying again")
        assert memory_bytes(daemon.pid) < before + (24 << 20)
    assert log.stat().st_size > 75_000_000
    end(daemon)


@pytest.mark.parametrize("is_written", [True, False])
def test_a_commit_that_hangs_is_given_up_and_asked_for(server, connect, monkeypatch, is_written):
    """By a clock of our own; then the server says what became of it, once it can."""
    monkeypatch.setattr(session, "ANSWER_SECONDS", 0.5)
    server.start()
    with closing(Store(connect)) as store, connect() as connection:
        store.migrate()
        store.adopt(RULES)
        log = store.open_logs(["/logs/app.log"])["/logs/app.log"]
        connection.execute(
            """
            CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                PERFORM pg_advisory_xact_lock(1); RETURN NULL;
            END $$;
            CREATE CONSTRAINT TRIGGER hangs AFTER UPDATE ON checkpoints
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION hang();
            SELECT pg_advisory_lock(1)"""
        )
        committer = Committer(store, Stop(), is_patient=True)
        committer.begin(*a_commit(log.log_id, 0))
        hangs = "FROM pg_stat_activity WHERE query = 'COMMIT' AND wait_event_type = 'Lock'"
        asks = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype <> 'advisory'"
        wait_until(lambda: connection.execute(asks).fetchone() > (0,), what="the question")
        if not is_written:
            connection.execute(f"SELECT pg_terminate_backend(pid) {hangs}")
        connection.execute("SELECT pg_advisory_unlock(1)")
        assert committer.finish()
        committer.close()
        assert counted(connection) == (100, 2, 1, 3, 1)


def test_a_migration_waits_for_a_lock_for_a_while_and_leaves_nothing_of_a_step(server, connect):
    """Who comes after it waits for it too, so it is short; then it is tried again."""
    server.start()
    with closing(Store(connect)) as store, connect() as connection:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
            waiting = threading.Thread(target=store.migrate)
            waiting.start()
            locks = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            wait_until(lambda: connection.execute(locks).fetchone() == (1,), what="who waits")
        waiting.join(30)
        assert not waiting.is_alive()
        assert store.migrate() == []
