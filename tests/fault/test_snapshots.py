"""Restarts from a snapshot, and from what is left of one: the report stays the oracle's."""

import random
import signal
import stat

import pytest
from conftest import logged, wait_until
from oracle import lines_of, report
from test_process import Writer, has_committed, settle

from processor.shell.run.snapshots import WORTH_BYTES

PROGRAM = """
import sys
from processor.shell import cli
from processor.shell.run import snapshots
snapshots.WORTH_BYTES, snapshots.EVERY_SECONDS = 1, 0
cli.main()
"""
"""The command, for which any snapshot is worth it at any time."""
USED = "open visits from a snapshot"
WRITTEN = "wrote a snapshot"


@pytest.fixture
def eager(command):
    """Start the command with snapshots of small logs after each batch."""
    return lambda *arguments: command.start(*arguments, program=("-c", PROGRAM))


def snapshot_of(command):
    (path,) = (command.folder / "checkpoints/snapshots").iterdir()
    return path


def has_caught_up(command, daemon):
    """Whether only the torn end of the log is left; that is shorter than a line."""
    return has_committed(command, daemon.pid) and command.ledger()["lag_bytes"] < 300


def ended(process, exit_code=0):
    _, err = process.communicate(timeout=30)
    assert process.returncode == exit_code, err
    return err


def test_a_restart_takes_up_the_snapshot_of_a_clean_stop(command, eager, tmp_path):
    """SIGTERM, more lines, start: nothing is counted twice or forgotten, and the log says how."""
    log = tmp_path / "app.log"
    writer = Writer(log, 21, events=20_000, hours=12)
    writer.write(0.5)
    daemon = eager("run", log, "--batch-seconds", 0.05)
    wait_until(lambda: has_caught_up(command, daemon), what="the end of the log")
    daemon.send_signal(signal.SIGTERM)
    assert WRITTEN in ended(daemon)
    assert stat.S_IMODE(snapshot_of(command).stat().st_mode) == 0o600
    writer.write(1)
    err = ended(eager("run", "--once", log))
    assert USED in err
    assert logged(err, "warning") == []
    settle(command, log)


def test_the_end_of_a_run_saves_a_small_state_whatever_the_log(command, tmp_path):
    """So that the next one can begin without the file that it came from."""
    log = tmp_path / "app.log"
    Writer(log, 22, events=5_000, hours=2).write(1)
    assert log.stat().st_size < WORTH_BYTES
    assert WRITTEN in command("run", "--once", log).stderr
    assert WRITTEN not in command("run", "--once", log).stderr
    settle(command, log)


def test_kill_9_again_and_again_with_snapshots_counts_every_line_once(command, eager, tmp_path):
    """At any moment, in the middle of writing a snapshot too; the newest one may be older."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    log = tmp_path / "app.log"
    writer = Writer(log, seed, events=40_000, hours=12)
    used, start_seconds = 0, 1.0
    for kill in range(1, 13):
        writer.write(kill / 13)
        daemon = eager(
            "run", log, "--batch-lines", dice.choice([20, 200, 2_000]), "--batch-seconds", 0.05
        )
        with pytest.raises(Exception, match="timed out"):
            daemon.communicate(timeout=dice.uniform(0.6, 1.5) * start_seconds)
        daemon.send_signal(signal.SIGKILL)
        is_used = USED in daemon.communicate()[1]
        used += is_used
        # How long a start takes depends on what else the machine does: follow it.
        start_seconds *= 0.95 if is_used else 1.2
    assert used > 2, "too few runs started from a snapshot to prove anything"
    writer.write(1)
    ended(eager("run", "--once", log))
    settle(command, log)


def test_a_damaged_snapshot_costs_a_warning_and_no_line(command, eager, tmp_path):
    """A flipped bit, a torn end, nothing at all, and one that is newer than the database."""
    log = tmp_path / "app.log"
    writer = Writer(log, 23, events=20_000, hours=12)
    for step, damage in enumerate(
        (
            lambda whole: whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:],
            lambda whole: whole[: len(whole) // 2],
            lambda _: b"",
            lambda whole: whole,
        ),
        1,
    ):
        writer.write(step / 5)
        ended(eager("run", "--once", log))
        path = snapshot_of(command)
        path.write_bytes(damage(path.read_bytes()))
        writer.write((step + 0.5) / 5)
        assert bool(logged(ended(eager("run", "--once", log)), "warning")) == (step < 4)
    newer = snapshot_of(command).read_bytes()
    ended(eager("replay", log, "--keep", 0))
    snapshot_of(command).write_bytes(newer)
    writer.write(1)
    assert "is not used" in ended(eager("run", "--once", log))
    settle(command, log)


def test_without_a_place_for_snapshots_it_goes_on(command, eager, tmp_path):
    """A file where the folder should be: said once, and written as soon as it is gone."""
    log = tmp_path / "app.log"
    writer = Writer(log, 24, events=20_000, hours=12)
    writer.write(0.3)
    checkpoints = tmp_path / "checkpoints"
    checkpoints.touch()
    daemon = eager("run", log, "--batch-lines", 100, "--batch-seconds", 0.05)
    wait_until(lambda: has_caught_up(command, daemon), what="the end of the log")
    checkpoints.unlink()
    writer.write(1)
    wait_until((checkpoints / "snapshots").exists, what="a snapshot")
    daemon.terminate()
    err = ended(daemon)
    assert err.count("cannot be written") == 1
    assert WRITTEN in err
    assert USED in ended(eager("run", "--once", log))
    assert command.report() == report(lines_of(log))


def test_the_other_log_of_a_report_is_in_the_snapshot_too(command, eager, tmp_path):
    """A run that reads one of two, and then both again."""
    first, second = tmp_path / "1.log", tmp_path / "2.log"
    writers = [Writer(first, 25, events=10_000, hours=6), Writer(second, 26, events=9_000, hours=6)]
    for writer in writers:
        writer.write(0.5)
    ended(eager("run", "--once", first, second))
    writers[0].write(0.8)
    assert USED in ended(eager("run", "--once", first))
    writers[0].write(0.9)
    assert USED in ended(eager("run", "--once", first))
    writers[0].write(0.95)
    writers[1].write(0.9)
    assert "is of other logs" in ended(eager("run", "--once", first, second))
    for writer in writers:
        writer.write(1)
    assert USED in ended(eager("run", "--once", first, second))
    assert command.report() == report(lines_of(first), lines_of(second))
