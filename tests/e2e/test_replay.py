"""Generations of the report as their users make them: replay, switch, drop."""

import csv
import gzip
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import psycopg
import pytest
from conftest import COUNTS, table, wait_until
from oracle import lines_of, report
from replays import (
    OTHER,
    OTHER_RULES,
    append,
    committed,
    contents,
    differing,
    generations,
    large,
    messy,
    progress,
    replaying,
    shown,
    slowed,
    snapshots,
    states,
)

from processor.edges.migrations import LOCK

OF_LOGS = "FROM {} JOIN checkpoints USING (log_id) WHERE generation = %s"


def totals(counted):
    """Return the totals of a report, as JSON has them."""
    sums = [sum(column) for column in zip(*counted.values(), strict=True)]
    return {"rows": len(counted), **dict(zip(COUNTS, sums, strict=True))}


class Page(HTMLParser):
    """What is on a page: its tags, their attributes, and the text of each."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.rows, self.text = [], set(), set(), [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        """Take up a tag."""
        self.tags.add(tag)
        self.attributes.update(attrs)
        if tag == "tr":
            self.rows.append([])
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        """See that it is the one that is open."""
        assert self.open.pop() == tag

    def handle_data(self, data):
        """Take up text."""
        tag = self.open[-1] if self.open else ""
        self.text[tag] = self.text.get(tag, "") + data
        if tag in {"th", "td"}:
            self.rows[-1].append(data)


def cells(before, after):
    """Return the cells that changes are shown in, from row to row, with totals at the end."""
    changed = differing(before, after)
    rows = [
        [str(customer), hour, *map(from_to, old or [0] * 5, new or [0] * 5)]
        for (customer, hour), (old, new) in sorted(changed.items(), key=lambda i: i[0][::-1])
    ]
    sums = [[totals(side)[name] for name in COUNTS] for side in (before, after)]
    return [*rows, ["all hours", *map(from_to, *sums)]]


def from_to(old, new):
    """Return a count, and what it becomes."""
    return str(new) if old == new else f"{old} → {new}"


def test_a_replay_by_other_rules_says_what_changes(command, db, tmp_path):
    """The report is the oracle's by these rules; the changes are told in three ways; and back."""
    log = append(tmp_path / "<img src=x onerror=alert(1)>.log", messy())
    old, new = report(lines_of(log)), report(lines_of(log), **OTHER_RULES)
    assert len(differing(old, new)) > 20
    command("run", "--once", log)
    told = command("replay", log, *OTHER, "--format", "json").stdout
    assert table(db) == new
    assert shown(told) == differing(old, new)
    assert [json.loads(told)[side] for side in ("before", "after")] == [totals(old), totals(new)]
    refused = command("run", "--once", log, exit_code=2)
    assert "processor replay" in refused.stderr
    assert "attribution_window was 0:01:00, is 0:30:00" in refused.stderr
    assert table(db) == new
    command("replay", log, "--format", "html", "--output", "changes.html")
    assert table(db) == old
    page = Page((tmp_path / "changes.html").read_text())
    assert [[cell for cell in row if cell.strip()] for row in page.rows[1:]] == cells(new, old)
    assert page.tags <= {"html", "meta", "title", "style", "h1", "p", "table", "tr", "th", "td"}
    assert page.attributes == {("lang", "en"), ("charset", "utf-8"), ("class", "changed")}
    assert f"{len(differing(old, new))} rows differ" in page.text["p"]
    command("run", "--once", log)
    told = command("replay", log, *OTHER).stdout
    assert table(db) == new
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in told.splitlines()]
    assert [[cell for cell in row if cell] for row in lines if row] == cells(old, new)


def test_a_dry_run_shows_the_same_and_changes_nothing(command, db, tmp_path):
    """Neither tables nor generations nor snapshots; nor of a part of the report."""
    log = append(tmp_path / "app.log", messy())
    command("run", "--once", log)
    before = contents(db), snapshots(command)
    dry = command("replay", log, *OTHER, "--dry-run", "--format", "json").stdout
    none = command("replay", log, "--dry-run", "--from", "2022-01-01T04:00").stdout
    assert (contents(db), snapshots(command)) == before
    assert none.startswith("no rows differ")
    assert command("replay", log, *OTHER, "--format", "json").stdout == dry
    assert len(shown(dry)) > 20


def test_logs_are_not_forgotten_unasked(command, db, tmp_path):
    """Of two logs, one is replayed only with --only-these; a log that is not there, never."""
    one = append(tmp_path / "one.log", messy(events=300))
    two = append(tmp_path / "two.log", messy(events=300, seed=1))
    command("run", "--once", one, two)
    before = contents(db)
    for how in ([], ["--dry-run"]):
        refused = command("replay", one, *how, exit_code=2).stderr
        assert f"the report also counts {two}" in refused
        assert "--only-these" in refused
        for missing in (["nowhere.log", one, two], ["nowhere*.log"]):
            refused = command("replay", *missing, *how, exit_code=2).stderr
            assert "nowhere" in refused
            assert "there is no such file" in refused
    assert contents(db) == before
    command("replay", one, "--only-these")
    assert table(db) == report(lines_of(one))
    assert [log["path"] for log in command.status()] == [str(one)]
    command("replay", one, two)
    assert table(db) == report(lines_of(one), lines_of(two))


def test_a_replay_makes_the_first_report_too(command, db, tmp_path):
    """There need not be one before, for all hours; for some there must be."""
    log = append(tmp_path / "app.log", messy(events=300))
    assert "no report yet" in command("replay", log, "--from", "2022-01-01", exit_code=2).stderr
    assert "no report yet" in command("verify", log, exit_code=2).stderr
    assert command("generations", "--format", "json").stdout == "[]\n"
    told = command("replay", log, *OTHER, "--format", "json").stdout
    assert table(db) == report(lines_of(log), **OTHER_RULES)
    assert shown(told) == differing({}, table(db))
    assert states(command) == {1: "live"}


def test_a_killed_replay_goes_on_where_it_was(command, db, tmp_path):
    """Or begins anew with other settings; the live report is as it was, and goes on meanwhile."""
    lines = messy(events=3_000)
    log = append(tmp_path / "app.log", lines[:2_500])
    command("run", "--once", log)
    with slowed(db):
        killed = replaying(command, db, log, *OTHER)
        killed.kill()
        killed.wait()
    generation, offset, read = progress(db)
    assert 0 < offset < log.stat().st_size
    assert table(db) == report(lines_of(log))
    append(log, lines[2_500:2_700])
    command("run", "--once", log)
    assert table(db) == report(lines_of(log))
    assert progress(db) == (generation, offset, read)
    done = command("replay", log, *OTHER)
    assert f"going on with generation {generation}" in done.stderr
    assert committed(done) == 2_700 - read
    assert table(db) == report(lines_of(log), **OTHER_RULES)
    assert states(command) == {1: "kept", generation: "live"}
    with slowed(db):
        killed = replaying(command, db, log)
        killed.kill()
        killed.wait()
    left = progress(db)[0]
    done = command("replay", log, "--attribution-window", "5m")
    assert f"generation {left} is of a replay with other settings" in done.stderr
    assert committed(done) == 2_700
    assert table(db) == report(lines_of(log), window=timedelta(minutes=5))
    assert states(command) == {generation: "kept", left + 1: "live"}
    append(log, lines[2_700:])
    command("run", "--once", log, "--attribution-window", "5m")
    assert table(db) == report(lines_of(log), window=timedelta(minutes=5))


def test_a_killed_replay_whose_process_id_is_had_again_goes_on(command, db, tmp_path):
    """As in a container that is started anew: it does not take itself for the one before."""
    log = append(tmp_path / "app.log", messy(events=1_000))
    command("run", "--once", log)
    with slowed(db):
        killed = replaying(command, db, log, *OTHER)
        killed.kill()
        killed.wait()
    shell = ["-c", 'echo $$; read; exec "$@"', "sh", sys.executable, "-m", "processor"]
    again = subprocess.Popen(
        ["/bin/sh", *shell, "replay", log, *OTHER],
        env=command.environment,
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    made_by = f"{socket.gethostname()}:{again.stdout.readline().strip()}:x"
    db.execute("UPDATE generations SET made_by = %s WHERE state = 'replay'", (made_by,))
    _, err = again.communicate("\n", timeout=30)
    assert again.returncode == 0, err
    assert "going on with generation 2" in err
    assert table(db) == report(lines_of(log), **OTHER_RULES)


def test_a_second_replay_at_once_is_told_of_the_first(command, db, tmp_path):
    """It ends with exit code 3 and the name of the first, which comes to its end."""
    log = append(tmp_path / "app.log", messy(events=3_000))
    command("run", "--once", log)
    with slowed(db, 0.5):
        first = replaying(command, db, log, *OTHER, lines=100)
        second = command("replay", log, exit_code=3)
        assert re.search(rf"another replay, \S+:{first.pid}, is under way", second.stderr)
        assert "Traceback" not in second.stderr
    _, err = first.communicate(timeout=30)
    assert first.returncode == 0, err
    assert table(db) == report(lines_of(log), **OTHER_RULES)


def test_a_replay_waits_for_a_migration(command, db, tmp_path):
    """It says so, and goes on once that is done; the live report is as it was until then."""
    log = append(tmp_path / "app.log", messy(events=300))
    command("run", "--once", log)
    with db.transaction():
        db.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        replay = command.start("replay", log, *OTHER)
        said = replay.stderr.readline()
        assert "another processor brings the schema up to date; waiting for it" in said
        assert table(db) == report(lines_of(log))
    _, err = replay.communicate(timeout=30)
    assert replay.returncode == 0, err
    assert table(db) == report(lines_of(log), **OTHER_RULES)


def test_a_replay_whose_changes_cannot_be_written_says_that_it_is_live(command, db, tmp_path):
    """With exit code 1; what was replaced is kept, so that changes can be looked at."""
    log = append(tmp_path / "app.log", messy(events=300))
    command("run", "--once", log)
    with Path("/dev/full").open("w") as full:
        failed = command("replay", log, *OTHER, "--keep", 0, exit_code=1, stdout=full)
    assert "the new report is live, but what changed cannot be written: No space" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert states(command) == {1: "kept", 2: "live"}
    assert table(db) == report(lines_of(log), **OTHER_RULES)


def test_a_replay_with_its_output_closed_is_done_all_the_same(command, db, tmp_path):
    """What it would print goes nowhere, not even where a file took the number of the output."""
    log = append(tmp_path / "app.log", messy(events=300))
    command("run", "--once", log)
    closed = ["-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "processor"]
    done = subprocess.run(
        ["/bin/sh", *closed, "replay", log, *OTHER, "--keep", "0"],
        env=command.environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert states(command) == {2: "live"}
    assert table(db) == report(lines_of(log), **OTHER_RULES)


def test_a_replay_whose_generation_is_dropped_ends(command, db, tmp_path):
    """In words, with exit code 3; the live report is as it was."""
    log = append(tmp_path / "app.log", messy(events=3_000))
    command("run", "--once", log)
    with slowed(db, 0.2):
        replay = replaying(command, db, log, *OTHER)
        command("generations", "drop", progress(db)[0])
    _, err = replay.communicate(timeout=30)
    assert replay.returncode == 3, err
    assert "was dropped" in err
    assert states(command) == {1: "live"}
    assert table(db) == report(lines_of(log))


def test_a_signal_ends_a_replay(command, db, tmp_path):
    """Within five seconds, with code 0; what is live is as it was, and the replay can go on."""
    log = append(tmp_path / "app.log", messy(events=3_000))
    command("run", "--once", log, "--batch-lines", 100)
    with slowed(db, 0.2):
        replay = command.start("replay", log, "--batch-lines", 100)
        wait_until(lambda: progress(db), what="a replay under way")
        replay.send_signal(signal.SIGTERM)
        _, err = replay.communicate(timeout=5)
    assert replay.returncode == 0, err
    assert "what is live is as it was" in err
    assert table(db) == report(lines_of(log))
    assert states(command) == {1: "live", 2: "replay"}
    command("replay", log)
    assert table(db) == report(lines_of(log))
    assert states(command)[1] == "kept"


def test_a_signal_ends_a_replay_of_some_hours(command, db, tmp_path):
    """While its copy waits for a lock: nothing is left of it, and it can be begun again."""
    log = append(tmp_path / "app.log", messy(events=3_000))
    part = ("replay", log, "--from", "2022-01-01T02:00")
    command("run", "--once", log, "--batch-lines", 100)
    url = command.environment["PROCESSOR_DATABASE_URL"]
    with psycopg.connect(url) as other:
        other.execute("LOCK TABLE dead_letters")
        replay = command.start(*part)
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        wait_until(lambda: db.execute(waiting).fetchone() > (0,), what="a copy that waits")
        replay.send_signal(signal.SIGTERM)
        _, err = replay.communicate(timeout=5)
    assert replay.returncode == 0, err
    assert states(command) == {1: "live"}
    assert "no rows differ" in command(*part).stdout


def test_a_replay_that_loses_the_database_in_its_switch_claims_nothing(
    command, db, server, tmp_path
):
    """Stopped before it is back, it says that it does not know whether the new report is live."""
    log = append(tmp_path / "app.log", messy(events=300))
    command("run", "--once", log)
    db.execute(
        "CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(5); RETURN NEW; END $$"
    )
    db.execute(
        "CREATE TRIGGER hang BEFORE UPDATE ON generations FOR EACH ROW "
        "WHEN (NEW.state = 'kept') EXECUTE FUNCTION hang()"
    )
    replay = command.start("replay", log, *OTHER)
    assert any("trying again" in line for line in replay.stderr)
    name = db.info.dbname
    with psycopg.connect(server, autocommit=True) as other:
        other.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s "
            "AND pid <> %s",
            (name, db.info.backend_pid),
        )
        replay.send_signal(signal.SIGTERM)
        out, err = replay.communicate(timeout=10)
        other.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    assert (replay.returncode, out) == (1, ""), err
    assert "stopped before it was known whether the new report is live" in err
    assert states(command) == {1: "live", 2: "replay"}


def test_so_many_generations_are_kept_as_asked_for(command, db, tmp_path):
    """They are listed in three ways; one is dropped with all that it has; the live one is not."""
    log = append(tmp_path / "app.log", messy(events=500, hours=2))
    command("run", "--once", log)
    small = ("--batch-lines", 20, "--keep", 2)
    for _ in range(3):
        assert command("replay", log, *small).stdout.startswith("no rows differ")
    assert states(command) == {2: "kept", 3: "kept", 4: "live"}
    for name in ("hourly_counts", "checkpoints"):
        numbers = db.execute(f"SELECT DISTINCT generation FROM {name}").fetchall()
        assert sorted(numbers) == [(2,), (3,), (4,)]
    command("replay", log, *OTHER, *small)
    listed = generations(command)
    assert {number: one["state"] for number, one in listed.items()} == {
        3: "kept",
        4: "kept",
        5: "live",
    }
    assert listed[5]["lines"] == 500
    assert "attribution_window 0:01:00, allowed_lateness 4:00:00" in listed[5]["rules"]
    as_csv = command("generations", "--format", "csv").stdout
    rows = csv.DictReader(io.StringIO(as_csv))
    assert [
        {k: "" if v is None else str(v) for k, v in one.items()} for one in listed.values()
    ] == [*rows]
    drawn = command("generations").stdout
    assert all(one["rules"] in drawn and one["begun_at"] in drawn for one in listed.values())

    assert "generation 5 is live" in command("generations", "drop", 5, exit_code=2).stderr
    assert "no generation 17" in command("generations", "drop", 17, exit_code=2).stderr
    assert "not one that is kept" in command("generations", "switch", 5, exit_code=2).stderr
    parts = [OF_LOGS.format(name) for name in ("ledger", "dead_letters", "log_files")]
    parts += ["FROM hourly_counts WHERE generation = %s", "FROM checkpoints WHERE generation = %s"]
    parts.append(OF_LOGS.format("hour_offsets"))
    ids = db.execute("SELECT log_id FROM checkpoints WHERE generation = 3").fetchall()
    assert 0 not in [db.execute(f"SELECT count(*) {part}", (3,)).fetchone()[0] for part in parts]
    assert {name.rpartition(".")[2] for name in snapshots(command)} == {"3", "4", "5"}
    before = table(db)
    command("generations", "drop", 3)
    assert not any(db.execute(f"SELECT count(*) {part}", (3,)).fetchone()[0] for part in parts)
    for name in ("ledger", "dead_letters", "log_files", "hour_offsets"):
        left = db.execute(f"SELECT log_id FROM {name} WHERE log_id = ANY(%s)", ([*ids[0]],))
        assert left.fetchall() == []
    assert {name.rpartition(".")[2] for name in snapshots(command)} == {"4", "5"}
    assert table(db) == before
    command("replay", log, "--keep", 0)
    assert list(states(command).values()) == ["live"]
    assert len(snapshots(command)) == 1


def test_a_kept_generation_is_switched_to_again(command, db, tmp_path):
    """By its rules, over all lines that the one in its place has read; runs go on from there."""
    lines = messy()
    log = append(tmp_path / "app.log", lines[:1_000])
    command("run", "--once", log)
    command("replay", log, *OTHER)
    append(log, lines[1_000:1_600])
    new = append(tmp_path / "new.log", messy(seed=1, events=500))
    command("run", "--once", log, new, *OTHER)
    read = lines_of(log), lines_of(new)
    append(log, lines[1_600:])
    told = command("generations", "switch", 1, "--format", "json")
    assert table(db) == report(*read)
    assert shown(told.stdout) == differing(report(*read, **OTHER_RULES), report(*read))
    assert committed(told) == 600 + 500
    assert states(command) == {1: "live", 2: "kept"}
    assert "replay" in command("run", "--once", log, *OTHER, exit_code=2).stderr
    command("run", "--once", log, new)
    assert table(db) == report(lines_of(log), lines_of(new))
    assert [one["lines"] for one in command.status()] == [len(lines), 500]


def test_a_log_that_only_a_kept_generation_counts_may_be_gone(command, db, tmp_path):
    """It is switched to all the same; back again only with the log, which would be lost."""
    gone = append(tmp_path / "gone.log", messy(events=200, seed=1))
    log = append(tmp_path / "app.log", messy(events=200))
    both = report(lines_of(log), lines_of(gone))
    command("run", "--once", log, gone)
    command("replay", log, "--only-these")
    gone.unlink()
    command("generations", "switch", 1)
    assert table(db) == both
    refused = command("generations", "switch", 2, exit_code=1).stderr
    assert "in no file any more" in refused
    assert table(db) == both


def test_a_log_may_be_named_as_a_pattern_is(command, db, tmp_path):
    """Also while it is rotated, and nothing is at its path."""
    log = append(tmp_path / "app[1].log", messy(events=300))
    command("run", "--once", log)
    log.rename(tmp_path / "app[1].log.1")
    command("verify", log)
    command("replay", log, *OTHER)
    assert table(db) == report(lines_of(tmp_path / "app[1].log.1"), **OTHER_RULES)
    command("generations", "switch", 1)


def test_standard_input_is_replayed(command, db, tmp_path):
    """Given again; but not to switch back, since nothing more is to be read."""
    lines = append(tmp_path / "lines", messy(events=300))
    with lines.open() as given:
        command("run", "--once", "-", stdin=given)
    with lines.open() as given:
        command("replay", "-", *OTHER, stdin=given)
    assert table(db) == report(lines_of(lines), **OTHER_RULES)
    with lines.open() as given:
        command("verify", "-", stdin=given)
    command("generations", "switch", 1)
    assert table(db) == report(lines_of(lines))


def test_a_log_that_is_truncated_ends_a_replay(command, db, tmp_path):
    """In words: what it lacks will not come, however long it is waited for."""
    log = large(tmp_path / "app.log", 2_000)
    command("run", "--once", log)
    counted = table(db)
    with slowed(db, 0.1):
        replay = replaying(command, db, log, *OTHER, lines=100)
        os.truncate(log, log.stat().st_size - 20_000)
    _, err = replay.communicate(timeout=60)
    assert replay.returncode == 1, err
    assert "is gone, or was changed" in err
    assert "--accept-loss" in err
    assert states(command) == {1: "live", 2: "replay"}
    assert table(db) == counted


HOSTILE = [
    "",
    " ",
    "null",
    "{",
    '"' * 3,
    "[" * 500,
    '{"event_id":"\\ud800","event_type":"ReferralPageLoad"}',
    "\x00\x1b[31m\x7f",
    '{"event_type":"' + "x" * 3_000 + '"}',
    '{"event_type":"<script>alert(1)</script>"}',
    '{"event_id":"v","customer_id":1e400,"user_id":1,"event_type":"ReferralPageLoad"}',
    '{"event_id":"v","customer_id":99999999999999999999,"event_type":"ReferralRecommendClick"}',
    "'); DROP TABLE hourly_counts; --",
    "x" * ((1 << 20) + 5),
    *[f'{{"event_type":"no {number}"}}' for number in range(120)],
]


def hostile(lines, every=60):
    """Put hostile lines among others, and a clock that goes wild now and then."""
    for number, line in enumerate(lines):
        yield line
        if number % every == 0:
            yield HOSTILE[number // every % len(HOSTILE)]
        if number % every == every // 2:
            yield line.replace("01\\/01\\/2022", "01\\/01\\/2023")


def rotated(command, folder, lines):
    """Have runs read a log in three parts, each after a rotation; return its path."""
    log, third = folder / "app.log", len(lines) // 3
    for part, batch_lines in enumerate((50, 333, 100_000)):
        if part == 2:
            old = folder / "app.log.1"
            (folder / "app.log.2.gz").write_bytes(gzip.compress(old.read_bytes(), 1))
            old.unlink()
        if part:
            log.rename(folder / "app.log.1")
        append(log, lines[part * third : None if part == 2 else (part + 1) * third])
        command("run", "--once", log, "--batch-lines", batch_lines)
    assert len(list(folder.glob("app.log*"))) == 3
    return log


def in_bytes(db):
    """Return the live report, ledger and dead letters, as COPY writes them."""
    of_live = "JOIN generations USING (generation) WHERE state = 'live' ORDER BY path"
    of_logs = f"JOIN checkpoints USING (log_id) {of_live}"
    found = b""
    for query in (
        "SELECT * FROM hourly_report ORDER BY hour, customer_id",
        f"SELECT path, byte_offset, lines, watermark FROM checkpoints {of_live}",
        f"SELECT path, outcome, name, t.lines FROM ledger t {of_logs}, outcome, name",
        f"SELECT path, d.byte_offset, byte_length, reason, detail FROM dead_letters d {of_logs}, 2",
    ):
        with db.cursor().copy(f"COPY ({query}) TO STDOUT") as copy:
            found += b"".join(map(bytes, copy))
    return found


@pytest.mark.parametrize(
    ("events", "padding", "batches"),
    [(360, 0, (1,)), (3_000, 10_000, (7, 1_000, 100_000))],
)
def test_a_replay_makes_byte_for_byte_what_runs_have_made(
    command, db, tmp_path, events, padding, batches
):
    """Rotated, compressed, late, duplicated, hostile; with workers, and in batches of any size."""
    email = '"email":"' + "x" * padding  # so that there is work for workers
    lines = [line.replace('"email":"', email) for line in messy(events=events, hours=6)]
    lines = list(hostile(lines))
    log = rotated(command, tmp_path, lines)
    assert table(db) == report([line.encode() for line in lines])
    expected = in_bytes(db)
    for workers in (1, 3):
        for batch_lines in batches:
            command("replay", log, "--workers", workers, "--batch-lines", batch_lines)
            assert in_bytes(db) == expected, (workers, batch_lines)
    assert list(states(command).values()) == ["kept", "live"]
