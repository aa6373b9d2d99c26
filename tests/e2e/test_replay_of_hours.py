"""A replay of some hours: only they are made anew, from no more of the log than they need."""

import re
import shutil
from datetime import datetime, timedelta

import pytest
from conftest import table
from oracle import lines_of, report
from replays import OTHER, append, at_hour, contents, differing, messy, shown

from processor.core.contract import CLICK, PAGE_LOAD
from processor.shell.generate import START

FIRED_AT = re.compile(r'"fired_at":"[^"]*"')


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
