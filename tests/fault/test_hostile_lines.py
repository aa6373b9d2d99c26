"""Lines as they are in life: none stops anything, each is accounted for, and the next is read."""

import json
import os
import random
import resource
from itertools import accumulate

import pytest
from conftest import logged, wait_until
from oracle import report

from processor.edges.source import LogReader
from processor.errors import LogError
from processor.shell.generate import LogShape, generate

PAGE_LOAD, CLICK = "ReferralPageLoad", "ReferralRecommendClick"


def line(
    at="2022-01-01T00:00:00Z", event_type=PAGE_LOAD, event_id="v1", customer=1, user=1, **more
):
    """Return a line of a log."""
    fields = {
        "event_id": event_id,
        "customer_id": customer,
        "fired_at": at,
        "user_id": user,
        "event_type": event_type,
    }
    return json.dumps(fields | more).encode()


def write(path, *lines, mode="wb"):
    """Write lines, and return them."""
    with path.open(mode) as log:
        log.writelines(one + b"\n" for one in lines)
    return list(lines)


def good(seed=1, events=200, hours=1):
    """Return lines in the shape of a real log, in the first hours of the year."""
    return [one.encode() for one in generate(LogShape(seed=seed, events=events, hours=hours))]


def raw(field, value):
    """Return a line with one field written as it is told."""
    return line(**{field: "@@"}).replace(b'"@@"', value)


HOSTILE = {
    "malformed": [
        b"",
        b"   ",
        b"not json",
        b"[]",
        b"17",
        b"null",
        b'"text"',
        b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        line()[:-1],
        line() + line(),
        b"\xff\xfe" + line(),
        line(event_id="\udcff").replace(b"\\udcff", b"\xff"),
        b"\0" * 300,
        line().replace(b"v1", b"v\0"),
        raw("user", b"1" * 5_000),
        raw("user", b"1e999"),
        raw("user", b"NaN"),
        raw("user", b"-Infinity"),
    ],
    "event_type": [line(event_type=kind) for kind in ("", None, "EMPTY_VALUE")],
    "invalid": [
        raw("user", b'"1"'),
        raw("user", b"1.0"),
        raw("user", b"true"),
        raw("user", b"null"),
        raw("user", b"9223372036854775808"),
        raw("customer", b"-9223372036854775809"),
        raw("event_id", b'""'),
        raw("event_id", b"5"),
        line(event_id="x" * 10_240),
        *(
            line(at=time)
            for time in (
                "02/29/2022, 00:00:00",
                "04/31/2022, 00:00:00",
                "01/01/2022, 24:00:00",
                "01/01/2022, 00:00:60",
                "2022-13-01T00:00:00Z",
                "0001-01-01T00:00:00+10:00",
                "9999-12-31T23:59:59-10:00",
                "",
                "yesterday",
            )
        ),
        raw("at", b"1641000000"),
    ],
}


def test_hostile_lines_are_dead_letters_with_a_reason_and_poison_no_batch(command, tmp_path):
    """Faults 17 and 18: whatever the batch they are in."""
    bad = [(reason, one) for reason, lines in HOSTILE.items() for one in lines]
    random.Random(5).shuffle(bad)
    lines = good(events=len(bad) * 3)
    mixed = [
        one for at, (_, hostile) in enumerate(bad) for one in (*lines[3 * at : 3 * at + 3], hostile)
    ]
    write(tmp_path / "app.log", *mixed)
    for batch_lines in (7, 100_000):
        command("replay", "app.log", "--batch-lines", batch_lines)
        assert command.report() == report(lines)
        found = json.loads(command("dead-letters", "--each", "--format", "json").stdout)
        starts = accumulate((len(one) + 1 for one in mixed), initial=0)
        at = dict(zip(starts, mixed, strict=False))
        said = {at[letter["byte_offset"]]: letter for letter in found}
        for reason, one in bad:
            assert said[one]["reason"] == reason, (one[:80], said[one])
            assert said[one]["byte_length"] == len(one)
            assert said[one]["detail"]
            assert len(said[one]["detail"]) < 300
    assert command.ledger()["lines"] == len(mixed)


def test_keys_that_come_twice_count_as_the_last_and_odd_zones_are_read(command, tmp_path):
    """Faults 17 and 18: what is no dead letter has one documented meaning."""
    lines = write(
        tmp_path / "app.log",
        line(at="2022-01-01T05:30:00+05:30", event_id="a"),
        line(at="2021-12-31T20:30:00-03:30", event_id="b"),
        line(event_id="c").replace(b'"user_id": 1', b'"user_id": 9, "user_id": 1'),
        line(at="02/29/2024, 00:00:00", event_id="d"),
    )
    command("run", "--once", "app.log")
    assert command.report() == report(lines)
    assert command.ledger()["applied"] == len(lines)


def test_only_a_line_feed_ends_a_line(command, tmp_path):
    """Fault 13: not CR, U+2028 or U+0085; CRLF does, and a byte order mark is skipped."""
    lines = [line(event_id="a", note="\u2028\u0085"), line(event_id="b"), line(event_id="c")]
    path = tmp_path / "app.log"
    path.write_bytes(
        b"\xef\xbb\xbf"
        + lines[0].decode("unicode_escape").encode()
        + b"\n"
        + lines[1].replace(b", ", b",\r")
        + b"\r\n"
        + lines[2]
        + b"\n"
    )
    command("run", "--once", "app.log")
    ledger = command.ledger()
    assert (ledger["lines"], ledger["applied"]) == (3, 3)
    assert command.report() == report(lines)


def test_half_a_line_waits_and_counts_once_when_it_is_finished(command, tmp_path):
    """Fault 9: a SIGTERM in between changes nothing."""
    path = tmp_path / "app.log"
    lines = good()
    half = len(lines[-1]) // 2
    path.write_bytes(b"\n".join(lines[:-1]) + b"\n" + lines[-1][:half])
    daemon = command.start("run", "app.log")
    wait_until(lambda: command("status", exit_code=None).stdout.count("byte_offset"))
    wait_until(lambda: command.ledger()["lines"] == len(lines) - 1)
    daemon.terminate()
    assert daemon.wait() == 0
    with path.open("ab") as log:
        log.write(lines[-1][half:] + b"\n")
    for _ in range(2):
        command("run", "--once", "app.log")
        assert command.ledger()["lines"] == len(lines)
    assert command.report() == report(lines)


@pytest.mark.parametrize("limit", [pytest.param(1 << 16, marks=pytest.mark.torture), 1 << 20])
def test_a_line_of_a_gigabyte_is_passed_in_constant_memory(command, tmp_path, limit):
    """Fault 11: also when a restart comes in its midst; the lines after it are read once."""
    path = tmp_path / "app.log"
    lines = good()
    write(path, *lines[:100])
    start = path.stat().st_size
    os.truncate(path, start + (1 << 30))  # a hole: NULs that take no room

    def small():
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    options = ("--max-line-bytes", limit, "--workers", 1)
    command("run", "--once", "app.log", *options, preexec_fn=small)
    assert command.ledger()["byte_offset"] == start
    write(path, b"", *lines[100:], mode="ab")
    for _ in range(2):
        command("run", "--once", "app.log", *options, preexec_fn=small)
        assert command.ledger()["dead_letters_by_reason"]["too_long"] == 1
        assert command.ledger()["lines"] == len(lines) + 1
    assert command.report() == report(lines)
    (letter,) = (
        one
        for one in json.loads(command("dead-letters", "--each", "--format", "json").stdout)
        if one["reason"] == "too_long"
    )
    assert (letter["byte_offset"], letter["byte_length"]) == (start, 1 << 30)
    if limit != 1 << 20:
        assert "max_line_bytes was" in command("run", "--once", "app.log", exit_code=2).stderr


def test_a_tail_of_nuls_is_overwritten_and_the_new_lines_are_seen(command, tmp_path):
    """Fault 12: after a power cut, and while the daemon looks on."""
    path = tmp_path / "app.log"
    lines = good()
    write(path, *lines[:150])
    size = path.stat().st_size
    os.truncate(path, size + 4_000)
    daemon = command.start("run", "app.log")
    wait_until(lambda: command("status", exit_code=None).stdout.count("byte_offset"))
    wait_until(lambda: command.ledger()["lines"] == 150)
    with path.open("r+b") as log:
        log.seek(size)
        log.write(b"\n".join(lines[150:]) + b"\n")
        log.truncate()
    wait_until(lambda: command.ledger()["lines"] == len(lines))
    daemon.terminate()
    _, said = daemon.communicate(timeout=20)
    assert logged(said, "warning") == []
    command("run", "--once", "app.log")
    assert command.report() == report(lines)


def test_duplicates_count_once_wherever_they_are(command, tmp_path):
    """Fault 19: side by side, batches apart, across a restart, a rotation and files."""
    path, other = tmp_path / "app.log", tmp_path / "other.log"
    lines = good(events=60)
    write(path, *(one for one in lines for _ in range(2)))
    command("run", "--once", "app.log", "--batch-lines", 3)
    write(path, *lines[-30:], mode="ab")
    command("run", "--once", "app.log", "--batch-lines", 3)
    path.rename(tmp_path / "app.log.1")
    write(path, *lines[-20:])
    write(other, *lines[-10:])
    command("run", "--once", "app.log", "other.log")
    assert command.report() == report(lines)
    applied = sum(log["applied"] for log in command.status())
    assert applied == sum(map(sum, ((row[0], row[1]) for row in report(lines).values())))


def test_a_click_before_its_page_load_in_the_log_is_related(command, tmp_path):
    """Fault 20: in another file too, across the hour, and across midnight."""
    loads = [
        line("2022-01-01T22:59:50Z", event_id="a"),
        line("2022-01-01T23:59:50Z", event_id="b"),
        line("2022-01-01T23:50:00Z", event_id="c"),
    ]
    clicks = [
        line("2022-01-01T23:00:10Z", CLICK, event_id="a"),
        line("2022-01-02T00:00:10Z", CLICK, event_id="b"),
        line("2022-01-02T00:20:00Z", CLICK, event_id="c"),
    ]
    write(tmp_path / "a.log", clicks[0], loads[0], clicks[1], loads[1])
    write(tmp_path / "b.log", clicks[2])
    write(tmp_path / "c.log", loads[2])
    command("run", "--once", "b.log")
    command("run", "--once", "a.log", "b.log", "c.log")
    assert command.report() == report(clicks + loads)
    assert sum(row[3] for row in command.report().values()) == 3


def test_wild_clocks_and_silence_lose_no_line(command, tmp_path):
    """Fault 21: some lines a year ahead, late ones, and a log that was silent for three days."""
    before = good(seed=2, events=300, hours=2)
    wild = [line("2023-06-01T00:00:00Z", event_id=f"w{n}") for n in range(5)]
    late = [line("2021-12-30T00:00:00Z", event_id="late")]
    after = [one.replace(b"01\\/01\\/2022", b"01\\/04\\/2022") for one in good(seed=3, events=300)]
    assert after[0] != good(seed=3, events=300)[0]
    lines = [*before[:100], *wild[:3], *before[100:], *late, *wild[3:], *after]
    write(tmp_path / "app.log", *lines)
    command("run", "--once", "app.log", "--batch-lines", 50)
    assert command.report() == report(lines)
    assert command.ledger()["dead_letters_by_reason"]["late"] == 1


def test_what_values_hold_can_harm_no_reader(command, tmp_path):
    """Fault 22: SQL, escapes, bidi marks, markup and formulas, where values are shown at all."""
    nasty = [
        "'; DROP TABLE checkpoints; --",
        "\x1b]0;owned\x07\x1b[31m",
        "\u202eevil\u2066",
        "<script>alert(1)</script>",
        "=cmd|' /C calc'!A0",
        "a\nb\r\tc",
        "x" * 100_000,
    ]
    lines = [line(event_id=f"n{at}", event_type=text) for at, text in enumerate(nasty)]
    lines += [line(event_id=text[:200], at="2022-01-01T00:00:01Z") for text in nasty]
    write(tmp_path / "app.log", *lines)
    command("run", "--once", "app.log")
    assert command.ledger()["ignored"] == len(nasty)
    assert command.report() == report(lines)
    for arguments in (
        ["status"],
        ["status", "--format", "json"],
        ["dead-letters", "--show"],
        ["report", "--format", "csv"],
    ):
        shown = command(*arguments).stdout
        assert not set(shown) & set("\x1b\x07\u202e\u2066\r\t")
        assert len(shown) < 20_000


def test_a_thousand_unknown_types_are_counted_under_a_hundred_names(command, tmp_path):
    """Fault 23: neither memory nor output grows with their number."""
    write(tmp_path / "app.log", *(line(event_type=f"Type{n}") for n in range(1_000)))
    command("run", "--once", "app.log", "--batch-lines", 30)
    ledger = command.ledger()
    assert ledger["ignored"] == 1_000
    assert len(ledger["ignored_by_name"]) <= 101
    assert sum(ledger["ignored_by_name"].values()) == 1_000


def test_short_reads_and_failing_ones_lose_nothing(tmp_path, monkeypatch):
    """Fault 16: a read gives less than asked for, or fails, at every N-th time."""
    path = tmp_path / "app.log"
    write(path, *good(events=20_000))
    pread, chance = os.pread, random.Random(3)
    calls = 0

    def faulty(fd, size, offset):
        nonlocal calls
        calls += 1
        if calls % 40 == 0:
            raise OSError(5, "Input/output error")
        return pread(fd, min(chance.randint(1, 20_000), size), offset)

    monkeypatch.setattr(os, "pread", faulty)
    read, known, failures = b"", {}, 0
    while len(read) < path.stat().st_size:
        try:
            reader = LogReader(path, len(read), list(known.values()), 0, 1 << 16)
        except LogError:
            failures += 1
            continue
        try:
            while chunk := reader.read(100):
                assert chunk.offset == len(read)
                read += chunk.data
        except LogError:
            failures += 1
        finally:
            known |= {file.start_offset: file for file in reader.files_up_to(len(read)).changed}
            reader.close()
    assert read == path.read_bytes()
    assert failures > 3
