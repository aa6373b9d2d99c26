"""`processor prune`: what is old is forgotten, and does not come back."""

from datetime import UTC, datetime, timedelta

import psycopg
from conftest import table, wait_until
from oracle import lines_of, report
from replays import OTHER, OTHER_RULES, append, at_hour, messy, replaying, slowed, snapshots, states

from processor.shell.generate import START


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
