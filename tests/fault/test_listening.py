"""What a daemon tells of itself by HTTP, while all goes well and while it does not."""

import json
import os
import signal
import socket
from collections import Counter
from contextlib import closing

import psycopg
import pytest
from conftest import wait_until
from listening import Listening, Writer
from psycopg.conninfo import conninfo_to_dict

STUCK_WHILE_A_FILE_IS_THERE = """
import time
from pathlib import Path
from processor.shell import cli
from processor.shell.run import folding
from processor.shell.operate import pulse
pulse.STUCK_SECONDS, pulse.LOOK_SECONDS = 1, 0.1
turn = folding.Folding.next
def next(self, before):
    while Path("stuck").exists():
        time.sleep(0.02)
    return turn(self, before)
folding.Folding.next = next
cli.main()
"""


@pytest.fixture
def writer(tmp_path):
    """What writes a messy log, bit by bit."""
    return Writer(
        tmp_path / "app.log", events=4_000, hours=5, malformed=0.02, late=0.02, duplicates=0.02
    )


@pytest.fixture
def daemon(command, writer):
    """A daemon that listens, at the end of half a log."""
    writer.write(0.5)
    daemon = Listening(command, writer.path, "--batch-seconds", 0.05, "--ready-lag", 1)
    daemon.wait_for("/readyz", 200)
    return daemon


@pytest.fixture
def admin(server):
    """A connection to the server, not to the database of the test."""
    with psycopg.connect(server, autocommit=True) as connection:
        yield connection


@pytest.fixture
def database(command):
    """The name of the database of the test."""
    return conninfo_to_dict(command.environment["PROCESSOR_DATABASE_URL"])["dbname"]


def counted(daemon):
    """Return lines by outcome, dead letters by reason and ignored lines by name."""
    metrics = daemon.metrics()
    names = ("processor_lines", "processor_dead_letters", "processor_ignored_lines")
    return [
        Counter({labels[0]: int(value) for labels, value in metrics[f"{name}_total"].items()})
        for name in names
    ]


def ledger(command):
    """Return the same from the ledger of all logs."""
    outcomes, reasons, names = Counter(), Counter(), Counter()
    for log in command.status():
        for outcome, column in (
            ("applied", "applied"),
            ("duplicate", "duplicates"),
            ("ignored", "ignored"),
            ("dead_letter", "dead_letters"),
        ):
            outcomes[outcome] += log[column]
        reasons.update(log["dead_letters_by_reason"])
        names.update(log["ignored_by_name"])
    return [outcomes, reasons, names]


def test_counters_grow_as_the_ledger_does(command, daemon, writer):
    """From zero on, through more lines, a restart, and another generation taking over."""
    wait_until(lambda: counted(daemon) == ledger(command), what="the ledger in the metrics")
    assert ledger(command)[0].total() == writer.written
    metrics, label = daemon.metrics(), (str(writer.path),)
    size = writer.path.stat().st_size
    assert metrics["processor_log_offset_bytes"] == {label: size}
    assert metrics["processor_log_lag_bytes"] == metrics["processor_log_lag_seconds"] == {label: 0}
    assert metrics["processor_generation"] == {(): 1}
    assert metrics["processor_open_visits"][()] > 0
    assert metrics["process_resident_memory_bytes"][()] > 1 << 20
    daemon.process.terminate()
    assert daemon.process.wait(10) == 0
    before = ledger(command)
    again = Listening(command, writer.path, "--batch-seconds", 0.05)
    writer.write(0.75)
    grown = wait_for_growth(command, again, before)
    command("replay", writer.path, "--allowed-lateness", "4h")
    replayed = ledger(command)
    writer.write(1)
    after = wait_for_growth(command, again, replayed, since=grown)
    assert after[0].total() > grown[0].total()
    assert again.value("processor_generation") == 2
    assert again.metrics()["processor_rules_info"] == {("14400", "1800", "1048576", "UTC"): 1}


def wait_for_growth(command, daemon, before, since=None):
    """Wait until the counters grew, `since` a scrape, as the ledger did since `before`."""
    since = since or [Counter(), Counter(), Counter()]
    lines = ledger(command)[0].total

    def has_grown():
        now = counted(daemon)
        return now[0].total() > since[0].total() and [
            after - earlier for after, earlier in zip(ledger(command), before, strict=True)
        ] == [after - earlier for after, earlier in zip(now, since, strict=True)]

    wait_until(has_grown, what=f"the growth of a ledger of {lines()} lines")
    return counted(daemon)


def test_without_a_database_it_is_alive_and_not_ready(command, daemon, writer, admin, database):
    """Starting anew would not help; once the database is back, it is ready by itself."""
    for allow in ("false", "true"):
        admin.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS {allow}')
        if allow == "false":
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                [database],
            )
            daemon.wait_for("/readyz", 503, "The database does not answer.")
            writer.write(0.8)
            daemon.wait_for("/readyz", 503, "The last commit failed")
            daemon.wait_for("/readyz", 503, "more than 0:00:01 (--ready-lag)")
            assert daemon.get("/healthz")[0] == 200
            assert daemon.value("processor_log_lag_bytes", str(writer.path)) > 0
            assert daemon.value("processor_log_lag_seconds", str(writer.path)) > 1
            assert daemon.value("processor_commit_failures_total") > 0
            lagged = writer.path.stat().st_size
            writer.write(0.9)  # nobody reads it now, but it is seen
            grown = writer.path.stat().st_size - lagged
            assert daemon.value("processor_log_lag_bytes", str(writer.path)) >= grown
    daemon.wait_for("/readyz", 200)
    wait_until(lambda: daemon.value("processor_log_lag_bytes", str(writer.path)) == 0)
    wait_until(lambda: counted(daemon) == ledger(command))
    assert ledger(command)[0].total() == writer.written


def test_a_commit_that_hangs_is_not_ready(daemon, writer, connect):
    """Nothing failed, but lines wait for longer than is allowed."""
    with connect() as connection, connection.transaction():
        connection.execute("LOCK TABLE checkpoints IN EXCLUSIVE MODE")
        writer.write(0.6)
        daemon.wait_for("/readyz", 503, "(--ready-lag)")
        assert daemon.get("/healthz")[0] == 200
    daemon.wait_for("/readyz", 200)


def test_it_is_not_ready_before_its_logs_are_open(command, writer, connect):
    """While another one brings the schema up to date, say."""
    with connect() as connection, connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [0x70726F63])
        daemon = Listening(command, writer.path)
        daemon.wait_for("/readyz", 503, "The working state is not there yet")
        assert daemon.get("/healthz")[0] == 200
    writer.write(1)
    daemon.wait_for("/readyz", 200)


def test_a_loop_that_is_stuck_is_not_alive(command, writer, tmp_path):
    """There, starting anew helps."""
    daemon = Listening(command, writer.path, program=("-c", STUCK_WHILE_A_FILE_IS_THERE))
    daemon.wait_for("/healthz", 200)
    writer.write(0.5)
    daemon.wait_for("/readyz", 200)
    (tmp_path / "stuck").touch()
    writer.write(1)
    daemon.wait_for("/healthz", 503, "start anew")
    address = daemon.url.removeprefix("http://")
    assert "start anew" in command("healthcheck", "--listen", address, exit_code=1).stdout
    daemon.wait_for("/readyz", 503, "The loop does not turn.")
    (tmp_path / "stuck").unlink()
    daemon.wait_for("/healthz", 200)
    assert command("healthcheck", "--listen", address).stdout == "The loop turns.\n"
    daemon.wait_for("/readyz", 200)


def test_half_a_line_does_not_make_it_late(daemon, writer):
    """It waits for its other half, and nobody can do anything about it."""
    with writer.path.open("a") as log:
        log.write('{"event_id"')
    label = str(writer.path)
    wait_until(lambda: daemon.value("processor_log_lag_bytes", label) == len('{"event_id"'))
    wait_until(lambda: daemon.value("processor_log_lag_seconds", label) == 0)
    assert daemon.get("/readyz")[0] == 200


def test_what_a_log_says_is_in_no_metric(command, tmp_path):
    """No user, visit, address or e-mail; names of event types are bounded and escaped."""
    canary = {"event_id": "canary-visit", "user_id": 777000777, "customer_id": 424242424}
    canary |= {"ip": "203.0.113.77", "email": "canary@example.org"}
    hostile = ['"} 1\nprocessor_lines_total 1 # {', "\x1b[2J", "<script>", "\u202e", "="]
    log = tmp_path / 'a"b\n.log'
    with log.open("w") as file:
        for number in range(400):
            type_ = (*hostile, "canary@example.org", f"Type{number}")[number % 7]
            if number < 100:
                type_ = "ReferralPageLoad"
            event = {**canary, "event_type": type_, "fired_at": "01/01/2022, 00:00:00"}
            file.write(
                json.dumps(event if number % 3 else {**event, "user_id": "777000777"}) + "\n"
            )
    daemon = Listening(command, log)
    daemon.wait_for("/readyz", 200)
    _, text = daemon.get("/metrics")
    assert not [value for value in map(str, canary.values()) if value in text]
    metrics = daemon.metrics()
    assert set(metrics["processor_log_lag_bytes"]) == {(str(log),)}
    assert sum(metrics["processor_lines_total"].values()) == 400
    assert command.environment["PROCESSOR_DATABASE_URL"] not in text


def test_an_address_in_use_is_a_wrong_setting(command, writer):
    """It is told before anything is done."""
    writer.write(1)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused = command("run", "--once", writer.path, "--listen", address, exit_code=2)
    assert f"--listen: {address}: Address already in use; choose another" in refused.stderr
    assert "write 127.0.0.1:9464" in command("run", "x", "--listen", "9464", exit_code=2).stderr
    assert "--ready-lag" in command("run", "x", "--ready-lag", "soon", exit_code=2).stderr


@pytest.fixture
def systemd(command, tmp_path):
    """What a service tells systemd, played by a socket; the watchdog wants to hear it."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(20)
        command.environment["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        command.environment["WATCHDOG_USEC"] = "1000000"
        yield notified


def heard(systemd):
    """Return the next thing it is told."""
    return systemd.recv(1024).decode()


def test_systemd_is_told_how_it_goes(command, writer, systemd, connect):
    """Ready once the logs are open, alive while the loop turns, stopping when asked to."""
    writer.write(0.5)
    with connect() as connection, connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [0x70726F63])
        daemon = command.start("run", writer.path)
        assert "waiting for it" in daemon.stderr.readline()
        systemd.settimeout(0.2)
        with pytest.raises(TimeoutError):
            heard(systemd)
    systemd.settimeout(20)
    told = [heard(systemd) for _ in range(10)]
    assert "READY=1" in told[:3]
    assert Counter(told) == {"READY=1": 1, "WATCHDOG=1": 9}
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(10) == 0
    systemd.settimeout(0)
    rest = []
    while True:
        try:
            rest.append(heard(systemd))
        except BlockingIOError:
            break
    assert rest.count("STOPPING=1") == 1


def test_the_watchdog_hears_nothing_of_a_loop_that_is_stuck(command, writer, systemd, tmp_path):
    """So that systemd starts it anew."""
    daemon = command.start("run", writer.path, program=("-c", STUCK_WHILE_A_FILE_IS_THERE))
    while heard(systemd) != "READY=1":
        pass
    (tmp_path / "stuck").touch()
    writer.write(1)
    systemd.settimeout(1.5)

    def is_silent():
        try:
            heard(systemd)
        except TimeoutError:
            return True
        return False

    wait_until(is_silent, what="silence")
    os.kill(daemon.pid, signal.SIGKILL)
