"""Which logs are read, and from where: patterns, standard input, many of them at once."""

import gzip
import json
import os
import resource
import subprocess
import time

import pytest
from conftest import logged, wait_until
from oracle import report

from processor.shell.generate import LogShape, generate


def write(path, seed, **shape):
    """Append a generated log to a file; return its lines."""
    lines = list(generate(LogShape(seed=seed, **{"events": 300, "hours": 2, **shape})))
    with path.open("a") as log:
        log.writelines(f"{line}\n" for line in lines)
    return [line.encode() for line in lines]


def by_name(command):
    """Return the status of each log, by the name of its file."""
    shown = command("status", "--format", "json", exit_code=None).stdout
    return {log["path"].rpartition("/")[2]: log for log in json.loads(shown or "[]")}


def test_logs_that_match_a_pattern_are_found_while_it_runs(command, tmp_path):
    """Fault 3: and what was rotated into a name that matches too is not a log of its own."""
    one = write(tmp_path / "one.log", 1)
    daemon = command.start("run", tmp_path / "*.log*")
    wait_until(lambda: by_name(command).get("one.log", {}).get("lag_bytes") == 0)
    two = write(tmp_path / "two.log", 2)
    wait_until(lambda: by_name(command).get("two.log", {}).get("lag_bytes") == 0)
    (tmp_path / "one.log").rename(tmp_path / "one.log.1")
    time.sleep(1.2)  # a look at the folder, while the log is not there
    one += write(tmp_path / "one.log", 3)
    with gzip.open(tmp_path / "one.log.1.gz", "wb") as packed:
        packed.write((tmp_path / "one.log.1").read_bytes())
    (tmp_path / "one.log.1").unlink()
    wait_until(lambda: by_name(command)["one.log"]["lines"] == len(one))
    daemon.terminate()
    assert daemon.wait() == 0
    assert list(by_name(command)) == ["one.log", "two.log"]
    assert command.report() == report(one, two)
    command("run", "--once", *sorted(tmp_path.glob("*.log*")))  # as a shell would expand it
    assert list(by_name(command)) == ["one.log", "two.log"]
    assert command.report() == report(one, two)


def test_a_pattern_that_matches_nothing_is_an_error_once_and_waits_else(command, tmp_path):
    """Fault 15: clear words, and a daemon waits."""
    failed = command("run", "--once", tmp_path / "*.log", exit_code=1)
    assert "there is no such file" in failed.stderr
    daemon = command.start("run", tmp_path / "*.log")
    time.sleep(1)
    lines = write(tmp_path / "new.log", 4)
    wait_until(lambda: by_name(command).get("new.log", {}).get("lines") == len(lines))
    daemon.terminate()
    assert daemon.wait() == 0


def test_a_log_seen_for_the_first_time_may_be_read_from_its_end(command, tmp_path):
    """Only what comes later counts, also after a restart, and of older files nothing."""
    log = tmp_path / "app.log"
    write(tmp_path / "app.log.1", 5)
    write(log, 6)
    with log.open("a") as half:
        half.write('{"event_id":')
    command("run", "--once", log, "--from", "end")
    assert command.ledger()["lines"] == 0
    with log.open("a") as rest:
        rest.write("\n")
    lines = write(log, 7)
    for _ in range(2):
        command("run", "--once", log, "--from", "end")
        ledger = command.ledger()
        assert ledger["lines"] == len(lines) + 1
        assert ledger["dead_letters_by_reason"]["malformed"] == 1
        assert command.report() == report(lines)
    log.rename(tmp_path / "app.log.0")
    lines += write(log, 8, hours=4)
    command("run", "--once", log)
    assert command.report() == report(lines)
    assert '"{""event_id"":"' in command("dead-letters", "--show", "--format", "csv").stdout


def test_standard_input_is_read_once_however_often_it_is_given(command, tmp_path):
    """Each run gives the next part of it; one that was read already adds nothing."""
    parts = [write(tmp_path / "one.log", 9, hours=1), write(tmp_path / "two.log", 10, hours=3)]
    for name in ("one.log", "one.log", "two.log", "two.log"):
        with subprocess.Popen(["cat", tmp_path / name], stdout=subprocess.PIPE) as cat:
            said = command("run", "--once", "-", stdin=cat.stdout)
        assert logged(said.stderr, "warning") == []
    assert command.ledger()["lines"] == sum(map(len, parts))
    assert command.report() == report(parts[0] + parts[1])
    (tmp_path / "last").write_bytes(b"no line, no end")
    with (tmp_path / "last").open() as last:
        command("run", "--once", "-", stdin=last)
    assert "--once" in command("run", "-", exit_code=2).stderr


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.torture), 2])
def test_a_hundred_logs_of_unequal_age_are_replayed_at_once(command, tmp_path, workers):
    """The table is the oracle's, and the state is that of a few: the oldest is read first."""
    lines = list(
        generate(LogShape(seed=11, events=60_000, hours=100, duplicates=0.02, users=5_000))
    )
    shares = [lines[at : at + 600] for at in range(0, len(lines), 600)]
    for number, share in enumerate(shares):
        # No order of names is the order of time.
        path = tmp_path / f"{number * 37 % 100:02}.log"
        path.write_text("".join(f"{line}\n" for line in share))
    said = command(
        "run",
        "--once",
        *sorted(tmp_path.glob("*.log")),
        "--workers",
        workers,
        "--batch-lines",
        2_000,
    ).stderr
    expected = report(*([line.encode() for line in share] for share in shares))
    assert command.report() == expected
    assert int(said.partition("snapshot of ")[2].split()[0]) < 3_000
    command("replay", *tmp_path.glob("*.log"), "--workers", workers)
    assert command.report() == expected


def test_logs_that_were_read_to_their_end_cost_the_next_run_nothing(command, tmp_path):
    """Only what has more lines decides how far back the working state must reach."""
    old, new = tmp_path / "old.log", tmp_path / "new.log"
    lines = [line.encode() for line in generate(LogShape(seed=12, events=3_000, hours=48))]
    old.write_bytes(b"".join(line + b"\n" for line in lines[:1_500]))
    command("run", "--once", old)
    for cut in (2_000, 3_000):
        new.write_bytes(b"".join(line + b"\n" for line in lines[1_500:cut]))
        command("run", "--once", old, new)
        assert command.report() == report(lines[:1_500], lines[1_500:cut])
    more = write(old, 12, events=1_500, hours=24)  # again what it had, and so duplicates or late
    command("run", "--once", old, new)
    assert command.report() == report(lines[:1_500] + more, lines[1_500:])


def test_with_too_few_handles_it_goes_on_once_there_are_more(command, tmp_path):
    """Fault 14: more files at once than may be open."""
    log = tmp_path / "app.log"
    lines = write(log, 13)

    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 4_096))

    daemon = command.start("run", log, preexec_fn=few)
    wait_until(lambda: by_name(command).get("app.log", {}).get("lag_bytes") == 0)
    daemon.send_signal(19)
    for number in range(60):
        log.rename(tmp_path / f"app.log-20220101{number:02}")
        lines += write(log, 100 + number, events=20)
    daemon.send_signal(18)
    wait_until(lambda: by_name(command)["app.log"]["lines"] == len(lines))
    daemon.terminate()
    _, said = daemon.communicate(timeout=20)
    assert daemon.returncode == 0, said
    assert command.report() == report(lines)


def test_what_is_not_readable_is_said_in_clear_words(command, tmp_path):
    """Fault 15: a folder, a missing file, a file that must not be read."""
    (tmp_path / "folder.log").mkdir()
    assert "is not a plain file" in command("run", "--once", "folder.log", exit_code=1).stderr
    assert "there is no such file" in command("run", "--once", "none.log", exit_code=1).stderr
    if os.geteuid() != 0:
        write(tmp_path / "secret.log", 14)
        (tmp_path / "secret.log").chmod(0)
        assert (
            "Check the path and its rights"
            in command("run", "--once", "secret.log", exit_code=1).stderr
        )


def test_logs_that_fell_silent_hold_no_state_and_are_counted_exactly_when_they_go_on(
    command, tmp_path
):
    """Fault 21: dated logs under a pattern; one goes on days later, another where it was."""
    lines = list(generate(LogShape(seed=15, events=9_000, hours=72, users=500, duplicates=0.02)))
    shares = [lines[at : at + 250] for at in range(0, len(lines), 250)]
    held_back = [shares[0][200:], shares[-1][100:]]
    written = [shares[0][:200], *shares[1:-1], shares[-1][:100]]
    for number, share in enumerate(written):
        (tmp_path / f"{number:02}.log").write_text("".join(f"{line}\n" for line in share))
    options = ("--batch-lines", 300, "--batch-seconds", 0.05)
    daemon = command.start("run", tmp_path / "*.log", *options)

    def is_read():
        said = by_name(command)
        return sum(log["lines"] for log in said.values()) == sum(map(len, written))

    def go_on(number, share):
        written[number] = written[number] + share
        with (tmp_path / f"{number:02}.log").open("a") as log:
            log.writelines(f"{line}\n" for line in share)
        wait_until(is_read)
        assert command.report() == report(
            *([line.encode() for line in one] for one in written if one)
        )

    wait_until(is_read)
    time.sleep(1.5)  # a look at all of them
    go_on(5, held_back[1])  # three days later, in a log of the first day
    go_on(0, held_back[0])  # as if there had been no silence
    daemon.terminate()
    _, said = daemon.communicate(timeout=20)
    assert daemon.returncode == 0, said
    command("run", "--once", tmp_path / "*.log")
    daemon = command.start("run", tmp_path / "*.log", *options)
    wait_until(lambda: daemon.poll() is None and is_read())
    go_on(7, [held_back[1][0].replace("ReferralPageLoad", "FaqClick")])
    daemon.terminate()
    _, said = daemon.communicate(timeout=20)
    assert daemon.returncode == 0, said
    assert int(said.rpartition("snapshot of ")[2].split()[0]) < 1_500
