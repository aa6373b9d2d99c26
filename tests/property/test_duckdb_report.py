"""The report that DuckDB makes of logs is the one that the fold makes, whatever their lines."""

import fcntl
import os
import random
import sys
from datetime import timedelta
from zoneinfo import ZoneInfo

import duckdb
import pytest
from core_helpers import (
    DAY,
    EPOCH,
    HOUR,
    MINUTE,
    RULES,
    YEAR,
    MemoryLog,
    Run,
    beats,
    chunk_of,
    click,
    log_of,
    page_load,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import ISO_HOUR, report
from test_contract_properties import ZONES
from test_contract_properties import lines as hostile_lines
from test_fold_properties import BLOCK_BYTES as CHUNK_BYTES
from test_fold_properties import logs, rules
from test_fuzzed_lines import GOOD, mutated

from processor.core import framing
from processor.core.contract import Event, judge
from processor.core.model import Rules
from processor.edges import duckdb_report
from processor.edges.duckdb_report import report_of
from processor.errors import ProcessorError, SettingsError
from processor.shell.generate import LogShape, generate

NEVER_LATE = 20_000 * YEAR * 1_000_000


def chunks_of(lines, block_bytes):
    log = MemoryLog(log_of(lines), block_bytes=block_bytes)
    while chunk := log.read():
        yield chunk


def table(*logs, rules=RULES):
    """Return {(customer, hour): the five counts} over logs given as chunks, as the oracle does."""
    rows = list(report_of(logs, rules))
    keys = [row[:2] for row in rows]
    assert keys == sorted(set(keys))
    return {
        (customer, f"{EPOCH + timedelta(hours=hour):{ISO_HOUR}}"): tuple(counts)
        for customer, hour, *counts in rows
    }


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    logs=st.lists(logs, min_size=1, max_size=3),
    rules=rules,
    block_bytes=st.sampled_from([1, 1 << 14, 1 << 20]),
    span_lines=st.sampled_from([1, 7, 4096]),
    most_ahead=st.sampled_from([0, 5, 10_000]),
)
def test_any_logs_give_the_table_of_the_fold(logs, rules, block_bytes, span_lines, most_ahead):
    """Late lines, wild clocks, silences, duplicates and noise; wherever a block or a span ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("processor.core.fold.MAX_AHEAD_LINES", most_ahead)
        patch.setattr(duckdb_report, "MAX_AHEAD_LINES", most_ahead)
        patch.setattr(duckdb_report, "_SPAN_LINES", span_lines)
        patch.setattr(duckdb_report, "_BLOCK_BYTES", block_bytes)
        run = Run(*logs, rules=rules, block_bytes=CHUNK_BYTES).to_end()
        assert table(*(chunks_of(log, CHUNK_BYTES) for log in logs), rules=rules) == run.table()


def hold_against_the_contract(lines, timezone):
    """See that DuckDB makes of each line what the contract makes of it.

    Each line is a chunk of its own, so that its bytes do not change how the others are read.
    """
    with duckdb.connect() as database:
        report = duckdb_report._Report(database, Rules(timezone=timezone))  # noqa: SLF001
        report.read([chunk_of([line]) for line in lines])
        rows = database.execute(
            "SELECT is_click, event_id, customer_id, user_id, fired_at FROM block ORDER BY rowid"
        ).fetchall()
    for line, row in zip(lines, rows, strict=True):
        verdict = judge(line, ZoneInfo(timezone))
        expected = tuple(verdict) if isinstance(verdict, Event) else None
        assert (None if row[-1] is None else row) == expected, line


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    lines=st.lists(hostile_lines(), min_size=1, max_size=8),
    timezone=st.sampled_from(ZONES),
)
def test_hostile_lines_are_what_the_contract_says(lines, timezone):
    """Twin keys, values of any type and size, dates that do not exist, torn bytes."""
    hold_against_the_contract([line.replace(b"\n", b"") for line in lines], timezone)


USUAL = {
    "event_id": r'"a\/b"',
    "customer_id": "7",
    "fired_at": r'"01\/31\/2022, 23:59:59"',
    "user_id": "-1",
    "event_type": '"ReferralPageLoad"',
    "ip": '"10.0.0.1"',
    "email": "null",
}
OTHER = {
    "user_id": "999999999999999999",
    "x_y": "true",
    "fired_at": '"2022-03-27 02:30:00.25"',
    "event_id": '"é"',
    "event_type": '"ReferralRecommendClick"',
    "customer_id": "0",
}
PIECES = ['"', "\\", ",", " ", "0", "-", ".5", "e1", "\r", "\0", "\1", "\t", "\x7f", "\ufeff", "é"]
PIECES += ['"user_id":2,', ',"user_id":2', '"fired_at":null,', r'"event\u005fid":"x",', '"x":[],']
VALUES = [
    "null",
    "true",
    "7",
    "-0",
    "007",
    "7.0",
    "7e0",
    "[]",
    "{}",
    '"7"',
    '""',
    '" "',
    r'"\u0061"',
]
VALUES += [f'"{"é" * length}"' for length in (255, 256, 257)]
VALUES += [
    str(sign * (10**digits + step))
    for sign in (1, -1)
    for digits in (17, 18, 19)
    for step in (-1, 0)
]
VALUES += [str(border + step) for border in (-(1 << 63), 1 << 63) for step in (-1, 0)]
VALUES += [
    f'"{text}"'
    for time in ("00:00:00", "23:59:59", "24:00:00", "23:60:00", "23:59:60", "1:00:00", "00:00")
    for date in (
        ("02", "29", "2024"),
        ("02", "29", "2023"),
        ("13", "01", "2022"),
        ("12", "31", "9999"),
        ("01", "01", "0001"),
        ("01", "01", "0000"),
        ("10", "15", "1582"),
    )
    for text in (
        "{}/{}/{}, ".format(*date) + time,
        "{2}-{0}-{1}T".format(*date) + time,
        "{2}-{0}-{1} ".format(*date) + time + ".123456",
        "{2}-{0}-{1}T".format(*date) + time + ",1234567-0330",
        "{2}-{0}-{1}T".format(*date) + time + ".5+23:59",
        "{2}-{0}-{1}T".format(*date) + time + "+24:00",
    )
]


def line_of(fields, space):
    """Return a line of fields that are written as JSON already."""
    pairs = (f'"{name}":{space}{value}' for name, value in fields.items())
    return f"{{{f',{space}'.join(pairs)}}}".encode()


@pytest.mark.parametrize("timezone", ["UTC", "Europe/Berlin"])
@pytest.mark.parametrize("fields", [USUAL, OTHER])
def test_a_plain_line_that_is_changed_somewhere_is_what_the_contract_says(fields, timezone):
    """Any value in any field, and something put in at any place, or in place of a byte."""
    plain = line_of(fields, "")
    lines = [line_of(fields | {name: value}, " ") for name in fields for value in VALUES]
    lines += [
        plain[:at] + piece + plain[at + skipped :]
        for at in range(len(plain) + 1)
        for piece in (b"", b"\xff", *map(str.encode, PIECES))
        for skipped in (0, 1)
    ]
    hold_against_the_contract(lines, timezone)


@pytest.mark.parametrize("seed", range(3))
def test_fuzzed_lines_are_what_the_contract_says(seed):
    """Generated lines with up to four places changed, most of which are still near the contract."""
    dice = random.Random(seed)
    hold_against_the_contract([mutated(dice.choice(GOOD), dice) for _ in range(5_000)], "UTC")


@pytest.mark.torture
@pytest.mark.parametrize("timezone", ["UTC", "Europe/Berlin"])
def test_a_million_fuzzed_lines_are_what_the_contract_says(timezone):
    """More of them."""
    for seed in range(100):
        dice = random.Random(seed)
        lines = [mutated(dice.choice(GOOD), dice) for _ in range(5_000)]
        hold_against_the_contract(lines, timezone)


def test_a_long_log_gives_the_table_of_the_oracle():
    """Longer than what DuckDB reads in one go, so that more than one thread reads it."""
    shape = LogShape(90_000, hours=4, seed=3, duplicates=0.02, malformed=0.01, late=0.01)
    lines = [line.encode() for line in generate(shape)]
    assert len(log_of(lines)) > 2 * 8_000_000
    assert table(chunks_of(lines, framing.BLOCK_BYTES)) == report(lines)


def test_times_before_1970_fall_into_their_hours():
    """An hour is the one that an instant is in, on either side of the epoch."""
    texts = ["1969-12-31T23:59:59.999999Z", "1969-12-31T23:00:00", "1969-12-31T22:59:59.999999"]
    lines = [page_load(0, text, fired_at=text) for text in [*texts, "01/01/1970, 00:00:00"]]
    found = table([chunk_of(lines)], rules=Rules(allowed_lateness_us=NEVER_LATE))
    hours = "1969-12-31T22:00:00Z", "1969-12-31T23:00:00Z", "1970-01-01T00:00:00Z"
    assert found == {(7, hour): (n, 0, 0, 0, 0) for hour, n in zip(hours, (1, 2, 1), strict=True)}


def test_lines_end_with_crlf_too_and_may_be_as_long_as_the_rules_allow():
    """Up to a byte less than a line that is too long."""
    rules = Rules(max_line_bytes=65_536)
    longest = rules.max_line_bytes - 1 - len(page_load(0, "b", padding=""))
    lines = [
        page_load(MINUTE, "a") + b"\r",
        page_load(0, "b", padding="x" * longest),
        page_load(0, "c", padding="x" * (longest + 1)),
        click(2 * MINUTE, "a"),
        click(2 * MINUTE, "b") + b"\r",
        click(2 * MINUTE, "c"),
    ]
    (counts,) = table(chunks_of(lines, rules.max_line_bytes), rules=rules).values()
    assert counts == (2, 3, 1, 2, 2)


def test_no_log_and_no_event_give_no_row():
    """Neither is an error."""
    assert table() == {}
    assert table([], [chunk_of([b"", b"null"])]) == {}


def test_nothing_is_left_of_what_lies_on_the_disk(tmp_path):
    """A folder that only its owner may read is there as long as the report is being made."""
    rows = report_of([[chunk_of(beats(0, HOUR))]], RULES, tmp_path / "new")
    next(rows)
    (scratch,) = (tmp_path / "new").iterdir()
    assert scratch.stat().st_mode & 0o777 == 0o700
    rows.close()
    assert list((tmp_path / "new").iterdir()) == []


def test_what_a_killed_run_left_is_removed_and_what_is_in_use_is_not(tmp_path):
    """The folder of a process that lives is locked."""
    used, left = tmp_path / "processor-duckdb-used", tmp_path / "processor-duckdb-left"
    for folder in (used, left):
        folder.mkdir()
        (folder / "events.tmp").touch()
    fd = os.open(used, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        assert list(report_of([], RULES, tmp_path)) == []
        assert list(tmp_path.iterdir()) == [used]
    finally:
        os.close(fd)


def test_an_error_of_duckdb_does_not_tell_what_was_read(tmp_path, monkeypatch):
    """Its own message does."""
    monkeypatch.setattr(duckdb_report, "_KEEP", "SELECT event_id::BIGINT + $hour FROM block")
    with pytest.raises(ProcessorError, match="ConversionException") as caught:
        list(report_of([[chunk_of([page_load(0, "Qx7316")])]], RULES, tmp_path))
    assert "Qx7316" not in str(caught.value)
    assert caught.value.__suppress_context__
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_told_in_words(tmp_path, monkeypatch):
    """With what to do about it."""
    monkeypatch.setattr(duckdb_report, "_MEMORY", "1MB")
    with pytest.raises(ProcessorError, match="see that there is room"):
        list(report_of([[chunk_of(beats(0, 10 * DAY))]], RULES, tmp_path))


def test_a_folder_that_cannot_be_made_is_told_in_words(tmp_path):
    """With its name."""
    (tmp_path / "file").touch()
    with pytest.raises(ProcessorError, match="file: cannot be written"):
        list(report_of([], RULES, tmp_path / "file"))


def test_without_duckdb_it_says_what_to_install(monkeypatch):
    """At once, before any log is read."""
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(SettingsError, match="install duckdb, which is the extra `duckdb`"):
        report_of([], RULES)
