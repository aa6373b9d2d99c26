"""A process without memory or room, killed while it migrates, under odd clocks and hash seeds."""

import random
import re
import resource
import signal
import time
from pathlib import Path

import pytest
from conftest import wait_until
from oracle import lines_of, report
from test_process import Writer, has_committed, settle
from test_snapshots import PROGRAM, USED, WRITTEN

MIB = 1 << 20
WILD_CLOCK = """
import random, sys, time
tell = time.time
time.time = lambda: tell() + random.choice([-1, 1]) * random.randrange(10**9)
time.time_ns = lambda: int(time.time() * 1e9)
from processor.shell import cli
cli.main()
"""
"""The command, for which the wall clock jumps by up to thirty years whenever it is asked."""


@pytest.mark.torture
def test_kill_9_while_it_migrates_leaves_a_schema_that_can_be_gone_on_from(command, make_log):
    """Fault 24: each step of the schema is there, or none of it."""
    log = make_log(events=1_000, hours=2)
    dice = random.Random(24)
    started = time.monotonic()
    command("--help")
    start_seconds = time.monotonic() - started
    for _ in range(4):
        process = command.start("migrate")
        time.sleep(dice.uniform(0.8, 1.6) * start_seconds)
        process.kill()
        process.wait()
    settle(command, log)


def test_a_second_signal_ends_it_at_once(command, tmp_path):
    """Fault 25: with code 1; what was in hand is counted by the next run."""
    log = tmp_path / "app.log"
    Writer(log, 25, events=2_000, hours=2).write(1)
    daemon = command.start("run", log, "--batch-seconds", 0.05)
    wait_until(lambda: has_committed(command, daemon.pid), what="the first commit")
    daemon.send_signal(signal.SIGSTOP)  # so that both come before it can act on the first
    daemon.send_signal(signal.SIGTERM)
    daemon.send_signal(signal.SIGINT)
    daemon.send_signal(signal.SIGCONT)
    assert daemon.wait(5) == 1
    settle(command, log)


@pytest.mark.parametrize("more_mib", [0, 16])
def test_without_memory_it_ends_before_it_counts_wrongly(command, tmp_path, more_mib):
    """Fault 30: with so much more than it has at first, it goes on or ends; both are exact."""
    log = tmp_path / "app.log"
    writer = Writer(log, 30, events=50_000, hours=2, users=5_000)
    writer.write(0.01)
    daemon = command.start("run", log, "--batch-lines", 20_000, "--workers", 1)
    wait_until(lambda: has_committed(command, daemon.pid), what="the first commit")
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    limit_bytes = int(re.search(r"VmSize:\s+(\d+) kB", status)[1]) * 1024 + more_mib * MIB
    resource.prlimit(daemon.pid, resource.RLIMIT_AS, (limit_bytes, limit_bytes))
    writer.write(1)
    wait_until(lambda: daemon.poll() is not None or command.ledger()["lag_bytes"] == 0)
    daemon.terminate()
    _, err = daemon.communicate(timeout=10)
    if daemon.returncode != 0:
        assert daemon.returncode == 1, err
        assert "there is not enough memory" in err
        assert "Traceback" not in err
    settle(command, log)


def test_a_disk_without_room_for_snapshots_is_said_and_gone_on_without(command, tmp_path):
    """Fault 29: no file may grow beyond a few bytes; with room again, the next is written."""
    log = tmp_path / "app.log"
    writer = Writer(log, 29, events=20_000, hours=12)
    writer.write(0.3)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, resource.RLIM_INFINITY))

    daemon = command.start(
        "run", log, "--batch-lines", 500, "--batch-seconds", 0.05,
        program=("-c", PROGRAM), preexec_fn=limit,
    )  # fmt: skip
    wait_until(lambda: has_committed(command, daemon.pid), what="the first commit")
    writer.write(0.6)
    wait_until(lambda: command.ledger()["lag_bytes"] < 300, what="the end of the log")
    assert not [*(tmp_path / "checkpoints").rglob("*.1")]
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    writer.write(1)
    wait_until(lambda: [*(tmp_path / "checkpoints").rglob("*.1")], what="a snapshot")
    daemon.terminate()
    _, err = daemon.communicate(timeout=10)
    assert daemon.returncode == 0
    assert err.count("cannot be written") == 1
    assert WRITTEN in err
    again = command.start("run", "--once", log, program=("-c", PROGRAM))
    assert USED in again.communicate(timeout=60)[1]
    settle(command, log)


@pytest.mark.parametrize("hash_seed", ["0", "4294967295"])
def test_hash_seeds_and_wall_clocks_change_nothing(command, make_log, hash_seed):
    """Fault 32: over a restart, by workers, and whatever the time is said to be."""
    log = make_log(events=20_000, hours=8, duplicates=0.02, malformed=0.02, late=0.02)
    command.environment["PYTHONHASHSEED"] = hash_seed
    whole = log.read_bytes()
    for share in (0.5, 1):
        log.write_bytes(whole[: int(len(whole) * share)])
        command("run", "--once", log, program=("-c", WILD_CLOCK), exit_code=0)
    assert command.report() == report(lines_of(log))
    assert command.ledger()["lines"] == 20_000
