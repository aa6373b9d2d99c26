"""Generations of the report as their users make them: replay, verify, switch, drop, prune."""

import contextlib
import csv
import gzip
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import psycopg
import pytest
from conftest import PROJECT, wait_until
from oracle import ISO_HOUR, lines_of, report

from processor.core.contract import CLICK, PAGE_LOAD
from processor.edges.generations import Generations
from processor.edges.migrations import LOCK
from processor.edges.view import ALL_HOURS
from processor.errors import GoneError
from processor.shell.generate import START, LogShape, generate
from processor.shell.replay.recount import recounted
from processor.shell.settings import RunSettings
from processor.shell.stop import Stop

ENGINES = ["fold", "duckdb"]
"""What `verify` counts with."""

OTHER = ("--allowed-lateness", "4h", "--attribution-window", "60s")
OTHER_RULES = {"lateness": timedelta(hours=4), "window": timedelta(seconds=60)}
"""The same for the oracle."""

COUNTS = ("page_loads", "clicks", "unique_user_clicks", "related_clicks", "clicked_page_loads")
TABLES = (
    "generations",
    "hourly_counts",
    "checkpoints",
    "ledger",
    "dead_letters",
    "log_files",
    "hour_offsets",
)
FIRED_AT = re.compile(r'"fired_at":"[^"]*"')
OF_LOGS = "FROM {} JOIN checkpoints USING (log_id) WHERE generation = %s"


@pytest.fixture
def db(command):
    """A connection to the database of the command."""
    url = command.environment["PROCESSOR_DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def messy(**shape):
    """Return lines with all that is odd in a log."""
    odd = {"duplicates": 0.03, "malformed": 0.02, "late": 0.03}
    return list(generate(LogShape(**{"events": 2_000, "hours": 8, **odd, **shape})))


def append(path, lines):
    """Write more lines to a log; return its path."""
    with path.open("a") as log:
        log.writelines(f"{line}\n" for line in lines)
    return path


def table(db):
    """Return the live report as the oracle does."""
    rows = db.execute(f"SELECT customer_id, hour, {', '.join(COUNTS)} FROM hourly_report")
    return {
        (customer, hour.astimezone(UTC).strftime(ISO_HOUR)): tuple(counts)
        for customer, hour, *counts in rows
    }


def contents(db):
    """Return all that is in the database."""
    return {name: sorted(map(repr, db.execute(f"SELECT * FROM {name}"))) for name in TABLES}


def snapshots(command):
    """Return what each snapshot holds, by its name."""
    folder = command.folder / "checkpoints/snapshots"
    return {file.name: file.read_bytes() for file in folder.glob("*")}


def generations(command):
    """Return {number: what is told of a generation}."""
    listed = json.loads(command("generations", "--format", "json").stdout)
    return {one["generation"]: one for one in listed}


def states(command):
    """Return {number: state} of the generations."""
    return {number: one["state"] for number, one in generations(command).items()}


def differing(before, after):
    """Return {(customer, hour): (counts before, counts after)} of rows that two reports have."""
    return {
        key: (before.get(key), after.get(key))
        for key in before | after
        if before.get(key) != after.get(key)
    }


def shown(text):
    """Return the changes written as JSON, as `differing` does, having added them up."""
    told = json.loads(text)
    rows = {
        (row["customer_id"], row["hour"]): tuple(
            row[side] and tuple(row[side][name] for name in COUNTS) for side in ("before", "after")
        )
        for row in told["changes"]
    }
    assert told["changed_rows"] == len(told["changes"]) == len(rows)
    assert list(rows) == sorted(rows, key=lambda key: (key[1], key[0]))
    return rows


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


@contextlib.contextmanager
def slowed(db, seconds=0.05):
    """Have each commit of a replay take some time; until then, none is done."""
    pace = (
        "CREATE OR REPLACE FUNCTION pace() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep({}); RETURN NEW; END $$"
    )
    db.execute(pace.format(seconds))
    db.execute(
        "CREATE OR REPLACE TRIGGER pace BEFORE UPDATE ON generations FOR EACH ROW "
        "WHEN (NEW.state = 'replay') EXECUTE FUNCTION pace()"
    )
    try:
        yield
    finally:
        db.execute(pace.format(0))


def replaying(command, db, log, *options, lines=300):
    """Start a replay in small batches, and wait until it has committed so many lines."""
    replay = command.start("replay", log, "--batch-lines", 100, *options)

    def is_under_way():
        assert replay.poll() is None, replay.communicate()
        return (progress(db) or (0, 0, 0))[2] >= lines

    wait_until(is_under_way, what="a replay under way")
    return replay


def progress(db):
    """Return the generation that a replay makes, and the offset and lines that it has come to."""
    return db.execute(
        "SELECT generation, byte_offset, lines FROM generations JOIN checkpoints USING (generation)"
        "WHERE state = 'replay'"
    ).fetchone()


def committed(done):
    """Return how many lines a command says that it has committed."""
    return int(re.findall(r"committed (\d+) lines", done.stderr)[-1])


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


def verify(command, log, engine, exit_code=0):
    """Return the rows that differ, having seen that nothing was changed."""
    done = command("verify", log, "--engine", engine, "--format", "json", exit_code=exit_code)
    assert "Traceback" not in done.stderr
    return shown(done.stdout)


@pytest.mark.parametrize("engine", ENGINES)
def test_verify_finds_the_rows_that_were_changed(command, db, tmp_path, engine):
    """Changed, deleted or made up; in an untouched report none, though the log has grown."""
    lines = messy()
    log = append(tmp_path / "app.log", lines[:1_500])
    command("run", "--once", log, "--batch-lines", 100)
    right = table(db)
    append(log, lines[1_500:])
    before = contents(db), snapshots(command)
    assert verify(command, log, engine) == {}
    one = "(customer_id, hour) = (SELECT customer_id, hour FROM hourly_counts ORDER BY {} LIMIT 1)"
    counts = ", ".join(COUNTS)
    insert = f"INSERT INTO hourly_counts (generation, customer_id, hour, {counts})"
    for change in (
        f"UPDATE hourly_counts SET related_clicks = related_clicks + 1 WHERE {one.format('1, 2')}",
        f"DELETE FROM hourly_counts WHERE {one.format('1 DESC, 2')}",
        f"{insert} VALUES (1, 999999, '2022-01-01T03:00Z', 1, 0, 0, 0, 0)",
        f"{insert} SELECT 1, customer_id, '2021-12-31', {counts} FROM hourly_counts LIMIT 1",
    ):
        assert db.execute(change).rowcount == 1
        wrong = table(db)
        before = contents(db), before[1]
        assert verify(command, log, engine, exit_code=4) == differing(wrong, right)
        assert (contents(db), snapshots(command)) == before
    assert len(differing(wrong, right)) == 4
    for format_ in ("table", "html"):
        done = command("verify", log, "--engine", engine, "--format", format_, exit_code=4)
        assert "4 rows differ" in done.stdout


@pytest.mark.parametrize("engine", ENGINES)
def test_verify_finds_the_rows_of_a_batch_that_was_lost(command, db, tmp_path, engine):
    """Checkpoint and ledger say that it is there; the counts are those before it."""
    lines = messy()
    log = append(tmp_path / "app.log", lines[:1_400])
    command("run", "--once", log, "--batch-lines", 100)
    lost = report(lines_of(log))
    db.execute("CREATE TABLE lost AS SELECT * FROM hourly_counts")
    append(log, lines[1_400:1_500])
    command("run", "--once", log, "--batch-lines", 100)
    right = report(lines_of(log))
    db.execute("TRUNCATE hourly_counts")
    db.execute("INSERT INTO hourly_counts SELECT * FROM lost")
    assert verify(command, log, engine, exit_code=4) == differing(lost, right)
    assert 0 < len(differing(lost, right)) < len(right) / 2
    command("replay", log)
    assert table(db) == right


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("column", "rule", "rules"),
    [
        ("attribution_window_us", 60_000_000, {"window": timedelta(seconds=60)}),
        ("allowed_lateness_us", 7_200_000_000, {"lateness": timedelta(hours=2)}),
    ],
)
def test_verify_finds_the_rows_that_another_rule_counts_otherwise(
    command, db, tmp_path, engine, column, rule, rules
):
    """The report says that it is made by a rule by which it is not."""
    log = append(tmp_path / "app.log", messy(customers=12))
    command("run", "--once", log, "--batch-lines", 500)
    assert db.execute(f"UPDATE generations SET {column} = %s", (rule,)).rowcount == 1
    differs = differing(report(lines_of(log)), report(lines_of(log), **rules))
    assert verify(command, log, engine, exit_code=4) == differs
    assert 5 < len(differs) < len(table(db))


@pytest.mark.parametrize("engine", ENGINES)
def test_verify_refuses_to_leave_out_a_log(command, tmp_path, engine):
    """The rows of the others would differ."""
    one = append(tmp_path / "one.log", messy(events=100))
    two = append(tmp_path / "two.log", messy(events=100, seed=1))
    command("run", "--once", one, two)
    refused = command("verify", one, "--engine", engine, exit_code=2)
    assert str(two) in refused.stderr
    assert "`processor replay --only-these`" in refused.stderr
    command("verify", one, two, "--engine", engine)


def large(path, lines):
    """Write a log of so many lines, of which a reader has not all at once; return its path."""
    email = '"email":"' + "x" * 8_000
    return append(path, [line.replace('"email":"', email) for line in messy(events=lines)])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_log_that_is_truncated_is_not_verified(command, connect, tmp_path, engine):
    """While it is counted again: that is told, and not that rows differ."""
    log = large(tmp_path / "app.log", 2_000)
    command("run", "--once", log)

    def truncate(_done, _all):
        os.truncate(log, 0)

    settings = RunSettings(logs=(log,), batch_lines=10)
    with (
        contextlib.closing(Generations(connect)) as generations,
        pytest.raises(GoneError, match="is gone, or was changed"),
        recounted(
            generations, settings, ALL_HOURS, Stop(), truncate, engine=engine, scratch=tmp_path
        ),
    ):
        pass


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


def at_hour(hour):
    """Return an hour, counted from the first of the log, as options and reports write it."""
    return (START + timedelta(hours=hour)).strftime(ISO_HOUR)


def damage(db, extra=1_000):
    """Make all rows wrong by hand."""
    db.execute("UPDATE hourly_counts SET page_loads = page_loads + %s", (extra,))


def damaged(counted, hours, extra=1_000):
    """Return a report with the rows of some hours made wrong as `damage` does."""
    names = set(map(at_hour, hours))
    return {
        key: (counts[0] + extra, *counts[1:]) if key[1] in names else counts
        for key, counts in counted.items()
    }


def wild(lines, clicks_after):
    """Have some lines fire hours too early, by a clock that is ahead, and come again in time.

    And some page loads clicked when so many more lines were written.
    """
    for number, line in enumerate(lines):
        yield line
        ahead = number + len(lines) // 3
        if number % 50 == 0 and ahead < len(lines) and "fired_at" in lines[ahead]:
            yield lines[ahead]
        loaded = lines[number - clicks_after] if number > clicks_after else ""
        if number % 7 == 0 and "PageLoad" in loaded and (now := FIRED_AT.search(line)):
            yield FIRED_AT.sub(now[0].replace("\\", r"\\"), loaded).replace(PAGE_LOAD, CLICK)


@pytest.mark.parametrize("batch_lines", [pytest.param(40, marks=pytest.mark.torture), 700])
def test_only_the_hours_that_are_asked_for_are_made_anew(command, db, tmp_path, batch_lines):
    """Of several logs, with visits across the borders, late lines and lines ahead of time."""
    lines = messy(events=4_000, hours=10, customers=3, users=30)
    lines = list(wild(lines, clicks_after=500))  # 75 minutes
    rule = ("--attribution-window", "90m")
    logs = [tmp_path / "a.log", tmp_path / "b.log"]
    first, rest = lines[: len(lines) * 4 // 5], lines[len(lines) * 4 // 5 :]
    for number, log in enumerate(logs):
        append(log, first[number::2])
    command("run", "--once", *logs, *rule, "--batch-lines", batch_lines)
    right = report(*map(lines_of, logs), window=timedelta(minutes=90))
    assert table(db) == right
    damage(db)
    wrong = set(range(-3, 10))
    for first_hour, end_hour in ((3, 5), (None, 2), (6, 7), (7, None)):
        options = ["--from", at_hour(first_hour)] if first_hour else []
        options += ["--to", at_hour(end_hour)] if end_hour else []
        options += ["--batch-lines", batch_lines, "--format", "json"]
        told = command("replay", *logs, *rule, *options).stdout
        before = damaged(right, wrong)
        wrong -= set(range(first_hour or -3, end_hour or 10))
        assert table(db) == damaged(right, wrong)
        assert shown(told) == differing(before, damaged(right, wrong))
        assert shown(command("verify", *logs, *options).stdout) == {}
    assert wrong == {2, 5}
    for number, log in enumerate(logs):
        append(log, rest[number::2])
    command("run", "--once", *logs, *rule)
    assert table(db) == damaged(report(*map(lines_of, logs), window=timedelta(minutes=90)), wrong)
    told = command("verify", *logs, "--from", at_hour(1), "--format", "json", exit_code=4).stdout
    assert {hour for _, hour in shown(told)} == {at_hour(2), at_hour(5)}


def test_some_hours_are_whole_hours_made_by_the_rules_of_the_report(command, db, tmp_path):
    """What cannot be is refused in words, and changes nothing."""
    log = append(tmp_path / "app.log", messy(events=300))
    command("run", "--once", log)
    before = contents(db)
    for options, words in (
        (["--from", "2022-01-01T02:30"], "is not the start of an hour"),
        (["--to", "2022-01-01T02:00:00.5"], "is not the start of an hour"),
        (["--from", at_hour(3), "--to", at_hour(3)], "must be before --to"),
        (["--from", at_hour(3), *OTHER], "only all of it can be made anew"),
        (["--from", at_hour(3), *OTHER, "--dry-run"], "only all of it can be made anew"),
    ):
        refused = command("replay", log, *options, exit_code=2)
        assert words in refused.stderr
        assert "Traceback" not in refused.stderr
    assert contents(db) == before
    all_hours = ["--from", "0001-01-01", "--to", "9999-12-31"]
    assert command("replay", log, *all_hours).stdout.startswith("no rows differ")


def without_its_beginning(command, db, folder, lines):
    """Return a log that was read in small batches, and damaged in the table; one file is gone.

    And the lines that are left.
    """
    log = append(folder / "app.log", lines[: len(lines) // 2])
    command("run", "--once", log, "--batch-lines", 50)
    log.rename(folder / "app.log.1")
    append(log, lines[len(lines) // 2 :])
    command("run", "--once", log, "--batch-lines", 50)
    damage(db)
    (folder / "app.log.1").unlink()
    return log


def suggested(stderr, lost):
    """Return the hour that a message suggests to begin with, having read the rest of it."""
    assert f"bytes 0 to {lost} are in no file any more" in stderr
    return datetime.fromisoformat(re.search(r"--from ([\d:T-]+)", stderr)[1]).hour


def test_late_hours_are_made_anew_without_the_beginning_of_the_log(command, db, tmp_path):
    """Only what they need is read; all of it is refused, and told from where on it can be."""
    lines = messy(events=3_000, hours=12)
    right = report([line.encode() for line in lines])
    lost = sum(len(line) + 1 for line in lines[:1_500])
    log = without_its_beginning(command, db, tmp_path, lines)
    before = contents(db)
    refused = command("replay", log, exit_code=1)
    assert "--accept-loss" in refused.stderr
    hour = suggested(refused.stderr, lost)
    assert 6 <= hour <= 8
    assert suggested(command("replay", log, "--to", at_hour(9), exit_code=1).stderr, lost) == hour
    assert suggested(command("replay", log, "--dry-run", exit_code=1).stderr, lost) == hour
    unverified = command("verify", log, exit_code=1).stderr
    assert suggested(unverified, lost) == hour
    assert "--accept-loss goes on without them" in unverified
    assert contents(db) == before
    command("replay", log, "--from", at_hour(10))
    assert table(db) == damaged(right, range(-3, 10))
    command("replay", log, "--from", at_hour(hour))
    assert table(db) == damaged(right, range(-3, hour))
    command("verify", log, "--from", at_hour(hour))
    done = command("replay", log, "--accept-loss")
    assert f"bytes 0 to {lost} are in no file any more" in done.stderr
    assert table(db) == report(lines_of(log))
    assert command.ledger()["byte_offset"] == lost + log.stat().st_size
    assert "--accept-loss" in command("verify", log, exit_code=1).stderr
    assert "no rows differ" in command("verify", log, "--accept-loss").stdout
    append(log, messy(events=100, hours=1, start=START + timedelta(hours=12)))
    command("run", "--once", log)
    assert table(db) == report(lines_of(log))


def test_a_line_that_was_ahead_in_what_is_gone_is_told_of(command, db, tmp_path):
    """It may belong to any hour: late ones are made anew without it only if that is accepted."""
    lines = messy(events=3_000, hours=12)
    lines[200:200] = [lines[900].replace("01\\/01\\/2022", "01\\/01\\/2023")]
    right = report([line.encode() for line in lines])
    log = append(without_its_beginning(command, db, tmp_path, lines), [""])
    shutil.rmtree(tmp_path / "checkpoints")
    assert "--accept-loss" in command("run", "--once", log, exit_code=1).stderr
    assert "going on without" in command("run", "--once", log, "--accept-loss").stderr
    assert command.ledger()["lag_bytes"] == 0
    before = contents(db)
    refused = command("replay", log, "--from", at_hour(9), exit_code=1)
    assert "--accept-loss" in refused.stderr
    assert contents(db) == before
    command("replay", log, "--from", at_hour(9), "--to", at_hour(15), "--accept-loss")
    assert table(db) == damaged(right, [*range(-3, 9), *range(365 * 24, 366 * 24)])


def age(hour):
    """Return how long ago an hour of the first day was, as an option says it."""
    then = START + timedelta(hours=hour, minutes=5)
    return f"{(datetime.now(UTC) - then).total_seconds():.0f}s"


def from_hour(counted, hour):
    """Return the rows of a report from an hour of the first day on."""
    return {key: counts for key, counts in counted.items() if key[1] >= at_hour(hour)}


def test_old_dead_letters_are_forgotten(command, db, tmp_path):
    """Those of lines older than an age; how many there were stays in the ledger."""
    log = append(tmp_path / "app.log", messy(events=3_000))
    command("run", "--once", log, "--batch-lines", 50)
    ledger, counted = command.ledger(), table(db)
    letters = db.execute("SELECT byte_offset FROM dead_letters ORDER BY 1").fetchall()
    assert "pruned 0 dead letters, 0 gen" in command("prune", "--older-than", age(0)).stdout
    told = command("prune", "--older-than", age(4)).stdout
    left = db.execute("SELECT byte_offset FROM dead_letters ORDER BY 1").fetchall()
    assert f"pruned {len(letters) - len(left)} dead letters" in told
    assert 0.3 < len(left) / len(letters) < 0.7
    assert left == letters[-len(left) :]
    assert command.ledger() == ledger
    assert table(db) == counted
    command("verify", log)
    assert "--older-than" in command("prune", "--older-than", "soon", exit_code=2).stderr


def test_nothing_is_older_than_time_itself(command, db, tmp_path):
    """An age before the year 1 is refused in words; of a log of that year, all hours may change."""
    log = append(tmp_path / "app.log", messy(events=100, start=datetime(1, 1, 1, 4, tzinfo=UTC)))
    command("run", "--once", log)
    refused = command("prune", "--older-than", "1000000d", exit_code=2).stderr
    assert "--older-than: '1000000d' ago is before the year 1" in refused
    command("replay", log, "--attribution-window", "1d")
    counted = table(db)
    assert " 0 rows of" in command("prune", "--older-than", "1d", "--report-hours").stdout
    assert table(db) == counted == report(lines_of(log), window=timedelta(days=1))


def test_generations_that_were_replaced_long_ago_are_forgotten(command, db, tmp_path):
    """So is what a replay left; the live one never is."""
    log = append(tmp_path / "app.log", messy(events=1_000))
    command("run", "--once", log)
    command("replay", log, "--keep", 5)
    command("replay", log, "--keep", 5)
    with slowed(db):
        killed = replaying(command, db, log)
        killed.kill()
        killed.wait()
    db.execute("UPDATE generations SET live_until = now() - interval '3 days' WHERE generation = 1")
    assert " 1 generations, 0 rows" in command("prune", "--older-than", "2d").stdout
    assert states(command) == {2: "kept", 3: "live", 4: "replay"}
    assert len(snapshots(command)) == 2
    counted = table(db)
    assert " 2 generations, 0 rows" in command("prune", "--older-than", "0s").stdout
    assert states(command) == {3: "live"}
    assert table(db) == counted == report(lines_of(log))
    assert len(snapshots(command)) == 1


def test_old_hours_are_forgotten_and_do_not_come_back(command, db, tmp_path):
    """But for those that lines to come may change; replay and verify agree with what is left."""
    lines = messy(events=4_000, hours=10, late=0.05)
    log = append(tmp_path / "app.log", lines[:2_000])
    command("run", "--once", log, "--batch-lines", 100)
    command("replay", log)
    told = command("prune", "--older-than", age(2), "--report-hours").stdout
    counted = report(lines_of(log))
    assert table(db) == from_hour(counted, 2)
    rows = len(counted) - len(table(db))
    assert f" {2 * rows} rows of the report" in told  # of two generations
    append(log, lines[2_000:3_000])
    command("run", "--once", log)
    assert table(db) == from_hour(report(lines_of(log)), 2)
    command("prune", "--older-than", "1d", "--report-hours")  # all of it is older
    first = min(hour for _, hour in table(db))
    assert first in {at_hour(6), at_hour(7)}
    append(log, lines[3_000:])
    command("run", "--once", log)
    left = {k: v for k, v in report(lines_of(log)).items() if k[1] >= first}
    assert table(db) == left
    command("verify", log)
    assert command("replay", log).stdout.startswith("no rows differ")
    assert table(db) == left
    command("replay", log, "--from", at_hour(3))
    command("replay", log, *OTHER)
    expected = report(lines_of(log), **OTHER_RULES)
    assert table(db) == {k: v for k, v in expected.items() if k[1] >= first}
    command("verify", log)


def test_hours_that_are_pruned_while_others_are_made_anew_do_not_come_back(command, db, tmp_path):
    """The copy that a replay of some hours makes was begun before them."""
    log = append(tmp_path / "app.log", messy(events=2_000, hours=10))
    command("run", "--once", log)
    with psycopg.connect(command.environment["PROCESSOR_DATABASE_URL"]) as other:
        other.execute("LOCK TABLE ledger IN EXCLUSIVE MODE")
        replay = command.start("replay", log, "--from", at_hour(8))
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        wait_until(lambda: db.execute(waiting).fetchone() > (0,), what="a copy that waits")
        command("prune", "--older-than", age(4), "--report-hours")
    out, err = replay.communicate(timeout=60)
    assert replay.returncode == 0, err
    assert out.startswith("no rows differ")
    assert table(db) == from_hour(report(lines_of(log)), 4)
    assert states(command) == {1: "kept", 2: "live"}
    command("verify", log)


def as_version_4(db):
    """Put the database back to the schema of version 4, with all that is in it."""
    kept = {}
    for name in ("hourly_counts", "checkpoints", "ledger", "dead_letters", "log_files"):
        cursor = db.execute(f"SELECT * FROM {name}")
        columns = [column.name for column in cursor.description]
        kept[name] = [dict(zip(columns, row, strict=True)) for row in cursor]
    cursor = db.execute("SELECT * FROM generations")
    columns = [column.name for column in cursor.description]
    (rules,) = [dict(zip(columns, row, strict=True)) for row in cursor]
    db.execute("DROP SCHEMA public CASCADE")
    db.execute("CREATE SCHEMA public")
    db.execute(
        "CREATE TABLE schema_migrations (version integer PRIMARY KEY, name text NOT NULL, "
        "applied_at timestamptz NOT NULL DEFAULT now())"
    )
    for file in sorted((PROJECT / "schema").glob("000[1-4]_*.sql")):
        db.execute(file.read_text().encode())
        version, _, name = file.stem.partition("_")
        db.execute("INSERT INTO schema_migrations VALUES (%s, %s)", (int(version), name))
    names = ("contract_version", "attribution_window_us", "allowed_lateness_us", "timezone")
    insert(db, "rules", {name: rules[name] for name in (*names, "max_line_bytes", "commits")})
    for name, rows in kept.items():
        for row in rows:
            insert(db, name, {key: value for key, value in row.items() if key != "generation"})


def insert(db, name, row):
    """Insert a row."""
    places = ", ".join(f"%({column})s" for column in row)
    overriding = "OVERRIDING SYSTEM VALUE" if name == "checkpoints" else ""
    db.execute(f"INSERT INTO {name} ({', '.join(row)}) {overriding} VALUES ({places})", row)


def test_a_database_of_version_4_becomes_the_first_generation(command, db, tmp_path):
    """Runs go on with it, replays replace it, and who was allowed to read the report still is."""
    lines = messy()
    log = append(tmp_path / "app.log", lines[:1_200])
    command("run", "--once", log, "--batch-lines", 100)
    before, letters = table(db), db.execute("SELECT count(*) FROM dead_letters").fetchone()
    as_version_4(db)
    shutil.rmtree(tmp_path / "checkpoints")
    assert table(db) == before
    role = f"reader_{os.getpid()}"
    db.execute(f"CREATE ROLE {role}")
    try:
        db.execute(f"GRANT USAGE ON SCHEMA public TO {role}")
        db.execute(f"GRANT SELECT ON hourly_report TO {role}")
        assert command("migrate").stdout.splitlines()[0] == "applied 0005_generations"
        db.execute(f"SET ROLE {role}")
        assert table(db) == before
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            db.execute("SELECT * FROM hourly_counts")
        db.execute("RESET ROLE")
        assert states(command) == {1: "live"}
        assert generations(command)[1]["lines"] == 1_200
        assert db.execute("SELECT count(*) FROM dead_letters").fetchone() == letters
        command("verify", log)
        append(log, lines[1_200:])
        command("run", "--once", log)
        assert table(db) == report(lines_of(log))
        assert command.ledger()["lines"] == len(lines)
        command("replay", log, *OTHER)
        db.execute(f"SET ROLE {role}")
        assert table(db) == report(lines_of(log), **OTHER_RULES)
        db.execute("RESET ROLE")
        assert states(command) == {1: "kept", 2: "live"}
        assert "replay" in command("run", "--once", log, exit_code=2).stderr
    finally:
        db.execute(f"DROP OWNED BY {role}")
        db.execute(f"DROP ROLE {role}")


def test_an_empty_database_of_version_4_has_no_generation(command, db, tmp_path):
    """The first run makes it."""
    log = append(tmp_path / "app.log", messy(events=100))
    command("run", "--once", log)
    as_version_4(db)
    db.execute("TRUNCATE rules, hourly_counts, checkpoints, dead_letters CASCADE")
    command("run", "--once", log)
    assert states(command) == {1: "live"}
    assert table(db) == report(lines_of(log))
