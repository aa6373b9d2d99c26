"""The daemon while it waits: it sees what comes, commits what it has, and stops when asked to."""

import signal
import time

import pytest
from conftest import wait_until

from processor.shell.generate import LogShape, generate

LINES = [f"{line}\n" for line in generate(LogShape(events=300, seed=3))]


def lines_committed(command):
    """Return how many lines the report accounts for."""
    return sum(log["lines"] for log in command.status())


def test_a_log_is_followed_from_the_folder_that_is_not_there_yet_on(command, tmp_path):
    """Folder, file, more lines, and another log that is renamed into place."""
    first, second = tmp_path / "logs" / "one.log", tmp_path / "logs" / "other.log"
    command("migrate")
    daemon = command.start("run", first, second, "--batch-seconds", 0.05)
    assert "waiting for it" in daemon.stderr.readline()
    first.parent.mkdir()
    with first.open("a") as file:
        for end in (100, 200):
            file.writelines(LINES[end - 100 : end])
            file.flush()
            wait_until(lambda end=end: lines_committed(command) == end, what=f"line {end}")
    new = tmp_path / "new.log"
    new.write_text("".join(LINES[200:]))
    new.rename(second)
    wait_until(lambda: lines_committed(command) == 300, what="the other log")
    daemon.terminate()
    assert daemon.wait(5) == 0


def test_a_batch_is_committed_in_time_though_nothing_follows_it(command, tmp_path):
    """It need not wait for another line."""
    log = tmp_path / "app.log"
    log.write_text("".join(LINES[:100]))
    command("run", "--once", log)
    command.start("run", log, "--batch-seconds", 1)
    with log.open("a") as file:
        file.writelines(LINES[100:])
    wait_until(lambda: lines_committed(command) == 300, seconds=10, what="the last batch")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_while_it_waits(command, tmp_path, number):
    """Whether there are logs or none yet."""
    command("migrate")
    daemon = command.start("run", tmp_path / "app.log")
    assert "waiting for it" in daemon.stderr.readline()
    started = time.monotonic()
    daemon.send_signal(number)
    assert daemon.wait(5) == 0
    assert time.monotonic() - started < 2
