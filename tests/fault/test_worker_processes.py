"""The installed command with workers: the oracle's report, however many there are and die."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from conftest import wait_until
from oracle import lines_of, report

from processor.shell.generate import LogShape, generate

SHAPE = LogShape(events=80_000, hours=30, seed=21, duplicates=0.02, malformed=0.01, late=0.01)
PADDING = '{"padding":"' + 900 * "x" + '",'  # workers are started by bytes, and lines take time


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A log that workers are started for."""
    path = tmp_path_factory.mktemp("workers") / "app.log"
    lines = (line.replace("{", PADDING, 1) for line in generate(SHAPE))
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def expected(log):
    return report(lines_of(log))


def workers_of(daemon):
    """Return the pids of the workers of a process."""
    try:
        children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text()
    except OSError:
        return []
    return [pid for pid in map(int, children.split()) if b"workers" in command_of(pid)]


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(("workers", "batch_lines"), [(2, 7_000), (3, 100_000)])
def test_any_number_of_workers_gives_the_oracles_report(
    command, log, expected, workers, batch_lines
):
    """Late, broken and repeated lines included, in batches that end within what was read ahead."""
    command("run", "--once", log, "--workers", workers, "--batch-lines", batch_lines)
    assert command.report() == expected
    assert command.ledger()["lines"] == SHAPE.events


def test_the_number_of_workers_may_change_at_any_restart(command, log, expected):
    """Killed with some, and gone on with others; no worker outlives its parent."""
    dice = random.Random(5)
    for workers in (2, 3, 1, 2):
        daemon = command.start("run", log, "--workers", workers, "--batch-lines", 100)
        if workers > 1:
            wait_until(lambda daemon=daemon: workers_of(daemon), what="a worker")
        time.sleep(dice.uniform(0.05, 0.4))
        left_behind = workers_of(daemon)
        daemon.kill()
        daemon.wait()
        wait_until(lambda pids=left_behind: not any(b"workers" in command_of(p) for p in pids))
    command("run", "--once", log, "--workers", 2)
    assert command.report() == expected
    assert command.ledger()["lines"] == SHAPE.events


def test_a_worker_that_dies_costs_time_and_nothing_else(command, log, expected):
    """Kill -9 of one worker after another, while the log is folded."""
    daemon = command.start("run", "--once", log, "--workers", 2, "--batch-lines", 2_000)
    killed = 0
    while daemon.poll() is None:
        for pid in workers_of(daemon)[:1]:
            os.kill(pid, signal.SIGKILL)
            killed += 1
        time.sleep(0.1)
    _, err = daemon.communicate()
    assert daemon.returncode == 0, err
    assert killed
    assert command.report() == expected
    assert command.ledger()["lines"] == SHAPE.events


def test_workers_end_when_there_is_nothing_more_to_read(command, log):
    """A process that follows a log has none, and ends in time when told to."""
    daemon = command.start("run", log, "--workers", 2)
    wait_until(lambda: workers_of(daemon), what="a worker")
    wait_until(lambda: (command.status() or [{"lag_bytes": 1}])[0]["lag_bytes"] == 0, 60)
    wait_until(lambda: not workers_of(daemon), what="the end of the workers")
    daemon.terminate()
    assert daemon.wait(5) == 0


def test_a_signal_to_the_whole_group_stops_workers_and_all(command, log):
    """As a terminal sends it: the parent decides, and commits what it has."""
    daemon = command.start("run", log, "--workers", 2, start_new_session=True)
    wait_until(lambda: workers_of(daemon), what="a worker")
    pids = workers_of(daemon)
    os.killpg(daemon.pid, signal.SIGINT)
    _, err = daemon.communicate(timeout=5)
    assert daemon.returncode == 0, err
    assert "a worker died" not in err
    assert not any(b"workers" in command_of(pid) for pid in pids)
