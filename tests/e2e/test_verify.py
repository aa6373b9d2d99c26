"""`processor verify`: the rows that differ are found, and only they, by either engine."""

import contextlib
import os
from datetime import timedelta

import pytest
from conftest import COUNTS, table
from oracle import lines_of, report
from replays import append, contents, differing, large, messy, shown, snapshots

from processor.edges.generations import Generations
from processor.edges.view import ALL_HOURS
from processor.errors import GoneError
from processor.shell.replay.recount import recounted
from processor.shell.settings import RunSettings
from processor.shell.stop import Stop

ENGINES = ["fold", "duckdb"]
"""What `verify` counts with."""


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
