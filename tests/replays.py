"""Replays, what they say, and what they leave in the database."""

import contextlib
import json
import re
from datetime import timedelta

from conftest import COUNTS, wait_until
from oracle import ISO_HOUR

from processor.shell.generate import START, LogShape, generate

OTHER = ("--allowed-lateness", "4h", "--attribution-window", "60s")

OTHER_RULES = {"lateness": timedelta(hours=4), "window": timedelta(seconds=60)}
"""The same for the oracle."""

TABLES = (
    "generations",
    "hourly_counts",
    "checkpoints",
    "ledger",
    "dead_letters",
    "log_files",
    "hour_offsets",
)


def messy(**shape):
    """Return lines with all that is odd in a log."""
    odd = {"duplicates": 0.03, "malformed": 0.02, "late": 0.03}
    return list(generate(LogShape(**{"events": 2_000, "hours": 8, **odd, **shape})))


def append(path, lines):
    """Write more lines to a log; return its path."""
    with path.open("a") as log:
        log.writelines(f"{line}\n" for line in lines)
    return path


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


def large(path, lines):
    """Write a log of so many lines, of which a reader has not all at once; return its path."""
    email = '"email":"' + "x" * 8_000
    return append(path, [line.replace('"email":"', email) for line in messy(events=lines)])


def at_hour(hour):
    """Return an hour, counted from the first of the log, as options and reports write it."""
    return (START + timedelta(hours=hour)).strftime(ISO_HOUR)
