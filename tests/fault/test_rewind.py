"""A database that goes back: by a failover that lost commits, or a backup that was put back.

Whether the processor runs meanwhile or not, what was lost is counted again.
"""

import re
import signal

import pytest
from backup import Backup
from conftest import wait_until
from core_helpers import HOUR, beats, log_of, page_load
from oracle import lines_of, report

from processor.errors import ExitCode
from processor.shell.generate import LogShape, generate

LINES = [f"{line}\n".encode() for line in generate(LogShape(events=6_000, hours=6, seed=41))]

PROGRAM = """
from processor.shell import cli
from processor.shell.run import daemon
daemon.CHECK_SECONDS = 0.2
cli.main()
"""
WATCHFUL = ("-c", PROGRAM)
"""Looks often whether the database still has what was committed."""


def write(path, start, end):
    """Append a part of the lines to a log."""
    with path.open("ab") as file:
        file.writelines(LINES[int(start * len(LINES)) : int(end * len(LINES))])


def follow(command, connect, *logs, program=("-m", "processor")):
    """Start a daemon, and return it once it is at the end of all logs."""
    arguments = ("run", *logs, "--batch-lines", 500, "--batch-seconds", 0.05)
    daemon = command.start(*arguments, program=program)
    wait_until(lambda: is_at_end(connect, *logs), what="the end of the log")
    return daemon


def is_at_end(connect, *logs):
    """Whether these logs are committed to their ends, of the generation that is live."""
    with connect() as connection:
        if connection.execute("SELECT to_regclass('generations')").fetchone() == (None,):
            return False
        rows = connection.execute(
            "SELECT path, byte_offset FROM checkpoints JOIN generations USING (generation) "
            "WHERE state = 'live'"
        ).fetchall()
    return dict(rows) == {str(log): log.stat().st_size for log in logs}


def lines(connect):
    """Return how many lines of the only log are accounted for."""
    with connect() as connection:
        return connection.execute("SELECT lines FROM checkpoints").fetchone()[0]


def ended(daemon):
    """Stop a daemon, and return what it said."""
    daemon.send_signal(signal.SIGTERM)
    _, err = daemon.communicate(timeout=10)
    assert daemon.returncode == 0, err
    return err


@pytest.fixture
def log(tmp_path):
    return tmp_path / "app.log"


def test_a_daemon_counts_again_what_the_database_lost(command, connect, log):
    """Noticed at its next commit; it drops what it has in memory, and goes on."""
    write(log, 0, 0.3)
    daemon = follow(command, connect, log)
    backup = Backup(connect)
    write(log, 0.3, 0.6)
    wait_until(lambda: is_at_end(connect, log), what="the end of the log")
    backup.put_back()
    write(log, 0.6, 1)
    wait_until(lambda: is_at_end(connect, log), what="the end of the log")
    assert "the database went back to an earlier state" in ended(daemon)
    assert command.report() == report(lines_of(log))
    assert command.ledger()["lag_bytes"] == 0


def test_a_daemon_that_has_nothing_to_do_notices_too(command, connect, log):
    """No line comes any more, and yet the report is put right."""
    write(log, 0, 0.5)
    daemon = follow(command, connect, log, program=WATCHFUL)
    backup = Backup(connect)
    write(log, 0.5, 1)
    wait_until(lambda: is_at_end(connect, log), what="the end of the log")
    backup.put_back()
    wait_until(lambda: is_at_end(connect, log), what="the end of the log")
    assert "the database went back to an earlier state" in ended(daemon)
    assert command.report() == report(lines_of(log))


def test_a_database_from_before_a_log_was_opened(command, connect, tmp_path, log):
    """Its checkpoint is gone: it is opened again, and read from its beginning."""
    other = tmp_path / "other.log"
    write(log, 0, 1)
    daemon = follow(command, connect, log)
    backup = Backup(connect)
    ended(daemon)
    write(other, 0, 0.5)
    daemon = follow(command, connect, log, other)
    backup.put_back()
    write(other, 0.5, 1)
    wait_until(lambda: is_at_end(connect, log, other), what="the end of the logs")
    assert "the database went back to an earlier state" in ended(daemon)
    assert command.report() == report(lines_of(log), lines_of(other))


def test_a_database_from_before_a_replay(command, connect, log):
    """The generation that was live then is live again; it is gone on with, by its rules."""
    write(log, 0, 0.5)
    daemon = follow(command, connect, log)
    backup = Backup(connect)
    command("replay", log, "--allowed-lateness", "4h")
    write(log, 0.5, 0.7)
    wait_until(lambda: is_at_end(connect, log), what="the end of the log")
    backup.put_back()
    write(log, 0.7, 1)
    wait_until(lambda: is_at_end(connect, log), what="the end of the log")
    ended(daemon)
    assert command.report() == report(lines_of(log))
    command("run", "--once", log)


def test_a_log_that_was_silent_then_is_read_again(command, connect, tmp_path, log):
    """It was at its end, and set aside; what the database lost of it is not."""
    silent = tmp_path / "silent.log"
    silent.write_bytes(log_of(beats(0, HOUR)))
    log.write_bytes(log_of(beats(0, 4 * HOUR)))
    command("run", "--once", silent, log)
    backup = Backup(connect)
    with silent.open("ab") as file:
        file.write(log_of(page_load(HOUR + at, f"visit {at}", 2, 2) for at in range(60)))
    with log.open("ab") as file:
        file.write(log_of(beats(4 * HOUR, 8 * HOUR)))
    daemon = follow(command, connect, silent, log, program=WATCHFUL)
    backup.put_back()
    wait_until(lambda: is_at_end(connect, log, silent), what="the end of the logs")
    ended(daemon)
    assert command.report() == report(lines_of(silent), lines_of(log))


def test_a_database_that_went_back_while_nothing_ran(command, connect, log):
    """The snapshot that is there is newer, and not used."""
    write(log, 0, 0.5)
    command("run", "--once", log)
    backup = Backup(connect)
    write(log, 0.5, 0.8)
    command("run", "--once", log)
    backup.put_back()
    write(log, 0.8, 1)
    assert "newer than the database" in command("run", "--once", log).stderr
    assert command.report() == report(lines_of(log))
    assert command.ledger()["lag_bytes"] == 0


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (["migrate"], "no report is live in this database"),
        (["run", "--once", "app.log"], r"bytes 0 to \d+ are in no file any more.*--accept-loss"),
    ],
)
def test_a_log_without_its_beginning_is_not_taken_for_a_new_one(
    command, connect, log, before, words
):
    """The database went back to before it, and what it holds tells nothing of what was read."""
    log.touch()
    command(*before)
    backup = Backup(connect)
    write(log, 0, 0.5)
    daemon = follow(command, connect, log, program=WATCHFUL)
    rotate(log, keep=False)
    write(log, 0.5, 1)
    wait_until(lambda: lines(connect) == len(LINES), what="the next file")
    backup.put_back()
    _, err = daemon.communicate(timeout=30)
    assert daemon.returncode == ExitCode.FAILED, err
    assert re.search(words, err)


def rotate(log, keep):
    """Rename the log away, and delete or keep it."""
    log.rename(log.with_name("app.log.1"))
    if not keep:
        log.with_name("app.log.1").unlink()


@pytest.mark.parametrize("accepts", [False, True])
def test_a_log_that_does_not_reach_back_so_far_halts_unless_told_to_go_on(
    command, connect, log, accepts
):
    """What the database lost is in no file any more; the words say which file, and what to do."""
    hours = 4
    log.write_bytes(log_of(beats(0, HOUR)))
    options = ("--accept-loss",) if accepts else ()
    daemon = command.start("run", log, "--batch-seconds", 0.05, *options)
    wait_until(lambda: is_at_end(connect, log), what="the end of the log")
    backup = Backup(connect)
    with log.open("ab") as file:
        file.write(log_of(beats(HOUR, 2 * HOUR)))
    wait_until(lambda: is_at_end(connect, log), what="the end of the log")
    rotate(log, keep=False)
    log.write_bytes(log_of(beats(2 * HOUR, 3 * HOUR)))
    wait_until(lambda: lines(connect) == 180, what="the next file")
    backup.put_back()
    with log.open("ab") as file:
        file.write(log_of(beats(3 * HOUR, hours * HOUR)))
    if accepts:
        wait_until(lambda: lines(connect) == 180, what="what is left")
        assert "going on without" in ended(daemon)
        lost = log_of(beats(0, HOUR)).split(b"\n")[:-1]
        assert command.report() == report(lost + lines_of(log))
        return
    _, err = daemon.communicate(timeout=30)
    assert daemon.returncode == ExitCode.FAILED
    assert "the database went back to an earlier state" in err
    assert "--accept-loss" in err
