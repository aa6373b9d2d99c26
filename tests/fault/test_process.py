"""The processor killed, doubled, stopped and cut off: the report stays the oracle's."""

import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import psycopg
import pytest
from conftest import is_asked_by_signals, wait_until
from oracle import lines_of, report

from processor.edges.embedded import binaries
from processor.shell.generate import LogShape, generate

KILLS = 15  # `make torture` does it a thousand times
CUTS = 8


class Writer:
    """Appends a generated log to a file, a torn piece at a time."""

    def __init__(self, path, seed, **shape):
        lines = generate(LogShape(seed=seed, duplicates=0.03, malformed=0.02, late=0.02, **shape))
        self._bytes = "".join(f"{line}\n" for line in lines).encode()
        self._written = 0
        self._path = path

    def write(self, share):
        """Append up to this share of the log; the end may tear a line."""
        end = max(int(len(self._bytes) * min(share, 1)), self._written)
        with self._path.open("ab") as log:
            log.write(self._bytes[self._written : end])
        self._written = end


def settle(command, log):
    """Let a last run finish the log, and compare with the oracle."""
    command("run", "--once", log)
    assert command.report() == report(lines_of(log))
    assert command.ledger()["lag_bytes"] == 0


def test_kill_9_again_and_again_counts_every_line_once(command, tmp_path):
    """50 kills at random moments while the log grows: at start, rebuild, fold and commit."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    log = tmp_path / "app.log"
    writer = Writer(log, seed, events=60_000, hours=12)
    writer.write(0.02)
    offsets = set()
    command("migrate")
    started = time.monotonic()
    command("migrate")
    start_seconds = time.monotonic() - started
    with psycopg.connect(command.environment["PROCESSOR_DATABASE_URL"], autocommit=True) as db:
        for kill in range(KILLS):
            daemon = command.start(
                "run", log, "--batch-lines", dice.choice([20, 200, 2_000]), "--batch-seconds", 0.05
            )
            lives_until = time.monotonic() + dice.uniform(0.5, 1.7) * start_seconds
            while time.monotonic() < lives_until:
                writer.write((kill + dice.random()) / KILLS)
                time.sleep(0.01)
            daemon.send_signal(signal.SIGKILL)
            daemon.communicate()
            met = len(offsets)
            offsets.update(db.execute("SELECT byte_offset FROM checkpoints").fetchall())
            # How long a start takes depends on what else the machine does: follow it.
            start_seconds *= 0.95 if len(offsets) > met else 1.1
    assert len(offsets) > KILLS // 5, "too few kills met a daemon at work to prove anything"
    writer.write(1)
    settle(command, log)


def test_two_daemons_on_one_log_count_every_line_once(command, tmp_path):
    """One of them makes progress, the other ends with code 3 and names the one that does."""
    log = tmp_path / "app.log"
    writer = Writer(log, 5, events=20_000, hours=6)
    writer.write(0.01)
    daemons = [
        command.start("run", log, "--batch-lines", 100, "--batch-seconds", 0.05) for _ in range(2)
    ]
    share = 0.01
    while all(daemon.poll() is None for daemon in daemons):
        assert share < 1, "neither noticed the other"
        share += 0.005
        writer.write(share)
        time.sleep(0.02)
    loser = next(daemon for daemon in daemons if daemon.poll() is not None)
    winner = next(daemon for daemon in daemons if daemon is not loser)
    _, err = loser.communicate()
    assert loser.returncode == 3, err
    assert re.search(rf"another processor, \S+:{winner.pid}, (owns|works on) this", err)
    writer.write(1)
    winner.terminate()
    assert winner.wait(5) == 0
    settle(command, log)


def test_a_stopped_processor_that_wakes_up_after_a_takeover_halts(command, tmp_path):
    """SIGSTOP, another one goes on, SIGCONT: the stale one writes nothing."""
    log = tmp_path / "app.log"
    writer = Writer(log, 6, events=20_000, hours=6)
    writer.write(0.3)
    stale = command.start("run", log, "--batch-lines", 500, "--batch-seconds", 0.05)
    wait_until(lambda: has_committed(command, stale.pid), what="the first commit")
    stale.send_signal(signal.SIGSTOP)
    try:
        end_its_transaction(command)
        writer.write(0.6)
        command("run", "--once", log)
        writer.write(1)
    finally:
        stale.send_signal(signal.SIGCONT)
    assert stale.wait(10) == 3
    settle(command, log)


def has_committed(command, pid):
    """Tell whether a process has committed."""
    with psycopg.connect(command.environment["PROCESSOR_DATABASE_URL"], autocommit=True) as db:
        if db.execute("SELECT to_regclass('checkpoints')").fetchone()[0] is None:
            return False
        row = db.execute("SELECT committed_by FROM checkpoints WHERE byte_offset > 0").fetchone()
    return row is not None and f":{pid}:" in row[0]


def end_its_transaction(command):
    """Cut off whoever holds a transaction open, as a server's idle time-out would."""
    others = (
        "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database() "
        "AND state <> 'idle'"
    )
    with psycopg.connect(command.environment["PROCESSOR_DATABASE_URL"], autocommit=True) as db:

        def is_ended():
            waits = "AND (wait_event_type = 'Client' OR state LIKE 'idle in transaction%')"
            db.execute(f"SELECT pg_terminate_backend(pid) {others} {waits}")
            return not db.execute(f"SELECT {others}").fetchall()

        wait_until(is_ended, what="the end of the transaction")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(command, tmp_path, number):
    """Within five seconds, with code 0, and what it had read is committed or left for later."""
    log = tmp_path / "app.log"
    writer = Writer(log, 7, events=5_000, hours=6)
    writer.write(0.5)
    daemon = command.start("run", log, "--batch-seconds", 60)
    wait_until(lambda: is_asked_by_signals(daemon.pid), what="its start")
    writer.write(0.51)
    daemon.send_signal(number)
    assert daemon.wait(5) == 0
    writer.write(1)
    settle(command, log)


def test_a_signal_while_the_database_holds_a_statement_up_still_stops_it(command, tmp_path):
    """A lock that somebody else holds does not keep the process from ending in time."""
    log = tmp_path / "app.log"
    Writer(log, 8, events=5_000, hours=6).write(1)
    command("migrate")
    with psycopg.connect(command.environment["PROCESSOR_DATABASE_URL"]) as db:
        db.execute("LOCK TABLE hourly_counts")
        daemon = command.start("run", log, "--batch-seconds", 0.05)
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        wait_until(lambda: db.execute(waiting).fetchone()[0] > 0, what="a blocked commit")
        daemon.terminate()
        assert daemon.wait(5) == 0
    settle(command, log)


def test_cut_connections_are_mended_and_no_batch_counts_twice(command, tmp_path):
    """pg_terminate_backend, again and again while it commits."""
    log = tmp_path / "app.log"
    writer = Writer(log, 9, events=30_000, hours=12)
    daemon = command.start("run", log, "--batch-lines", 50, "--batch-seconds", 0.05)
    writer.write(0.01)
    wait_until(lambda: has_committed(command, daemon.pid), what="the first commit")
    cuts, share, deadline = 0, 0.01, time.monotonic() + 60
    with psycopg.connect(command.environment["PROCESSOR_DATABASE_URL"], autocommit=True) as db:
        while cuts < CUTS:
            assert time.monotonic() < deadline, f"only {cuts} connections to cut"
            share = min(share + 0.01, 0.9)
            writer.write(share)
            time.sleep(0.02)
            cuts += db.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchone()[0]
    writer.write(1)
    wait_until(
        lambda: (command.status() or [{"lag_bytes": None}])[0]["lag_bytes"] == 0,
        what="the end of the log",
    )
    daemon.terminate()
    _, err = daemon.communicate(timeout=5)
    assert daemon.returncode == 0, err
    assert "trying again" in err
    settle(command, log)


def test_the_embedded_database_may_be_killed_while_it_is_written_to(embedded_command, tmp_path):
    """Kill -9 of the postmaster: the daemon starts it again, and goes on."""
    log = tmp_path / "app.log"
    writer = Writer(log, 10, events=20_000, hours=12)
    daemon = embedded_command.start("run", log, "--batch-lines", 100, "--batch-seconds", 0.05)
    pid_file = tmp_path / "checkpoints/postgres/postmaster.pid"

    def is_up():
        text = pid_file.read_text() if pid_file.exists() else ""
        # The file of a server that was killed stays until the next one begins.
        return text.count("\n") > 7 and Path(f"/proc/{text.split()[0]}").exists()

    writer.write(0.1)
    wait_until(lambda: "byte_offset" in embedded_command("status", exit_code=None).stdout)
    for kill in range(1, 4):
        writer.write(kill / 4)
        time.sleep(0.5)
        wait_until(is_up, what="a server that runs")
        os.kill(int(pid_file.read_text().split()[0]), signal.SIGKILL)
    writer.write(1)
    wait_until(lambda: embedded_command.status()[0]["lag_bytes"] == 0, what="the end of the log")
    daemon.terminate()
    assert daemon.wait(5) == 0
    settle(embedded_command, log)


def test_no_personal_data_leaves_the_log(command, tmp_path):
    """A canary in every field: not in a dump of the database, not in what any command prints."""
    canaries = {
        "event_id": "canary-event-id",
        "user_id": 777_000_777_000,
        "ip": "203.0.113.77",
        "email": "canary@example.org",
    }
    good = (
        '{{"event_id":"canary-event-id","customer_id":1,"fired_at":"01\\/01\\/2022, 00:00:{:02}",'
        '"user_id":777000777000,"event_type":"{}","ip":"203.0.113.77","email":"canary@example.org"}}'
    )
    types = (
        "ReferralPageLoad",
        "ReferralRecommendClick",
        "FaqClick",
        "EMPTY_VALUE",
        "canary@example.org",
    )
    lines = [good.format(second, type_) for second in range(30) for type_ in types]
    broken = [line.replace(":1,", ':"canary@example.org",') for line in lines[:10]]
    broken += [line.replace("01\\/01", "canary@example.org") for line in lines[:10]]
    broken += [line[: len(line) - cut] for cut, line in enumerate(lines[:50], 1)]
    log = tmp_path / "app.log"
    log.write_text("\n".join(lines + broken) + "\n")
    printed = ""
    for arguments in (
        ["run", "--once", log],
        ["report"],
        ["report", "--format", "json"],
        ["status"],
        ["dead-letters"],
        ["dead-letters", "--each", "--format", "csv"],
        ["replay", log],
    ):
        done = command(*arguments)
        printed += done.stdout + done.stderr
    dump = subprocess.run(
        [binaries() / "pg_dump", command.environment["PROCESSOR_DATABASE_URL"]],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "COPY public.dead_letters" in dump
    assert command.ledger()["dead_letters"] >= 70
    for canary in map(str, canaries.values()):
        assert canary not in printed
        assert canary not in dump
