"""A million messy lines: the oracle's report, however they are batched or shuffled."""

import random
from collections import Counter
from datetime import UTC, datetime

import pytest
from oracle import ISO_HOUR, lines_of, report

from processor.core.decode import Decoder
from processor.core.fold import Fold
from processor.core.framing import Framer
from processor.core.model import Checkpoint, Rules
from processor.shell.generate import LogShape, generate

SHAPE = LogShape(events=1_000_000, hours=24, seed=11, duplicates=0.02, malformed=0.01, late=0.01)
STRETCH = 1_000_000 // (24 * 12)  # lines in five minutes


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("million") / "app.log"
    path.write_text("".join(f"{line}\n" for line in generate(SHAPE)))
    return path


@pytest.fixture(scope="module")
def expected(log):
    return report(lines_of(log))


@pytest.mark.parametrize("batch_lines", [1_000, 100_000])
def test_the_report_equals_the_oracles(command, log, expected, batch_lines):
    """From the file through the command into Postgres."""
    command("run", "--once", log, "--batch-lines", batch_lines)
    assert command.report() == expected
    assert command.ledger()["lines"] == 1_000_000


@pytest.mark.parametrize(
    ("batch_lines", "lines"),
    [
        (7, 100_000),
        pytest.param(7, SHAPE.events, marks=pytest.mark.torture),
        pytest.param(1, SHAPE.events, marks=pytest.mark.torture),
    ],
)
def test_small_batches_add_up_to_the_same(log, expected, tmp_path, batch_lines, lines):
    """Up to a million commits: their increments add up to the oracle's report."""
    if lines < SHAPE.events:
        head = lines_of(log)[:lines]
        log, expected = tmp_path / "head.log", report(head)
        log.write_bytes(b"\n".join(head) + b"\n")
    table, counted = Counter(), 0
    for commit in commits(log, batch_lines):
        counted += commit.lines
        for increment in commit.increments:
            for column, count in zip(increment._fields[2:], increment[2:], strict=True):
                table[increment.customer_id, increment.hour, column] += count
    assert counted == lines
    assert {key: count for key, count in table.items() if count} == {
        (customer, hour_number(hour), column): count
        for (customer, hour), counts in expected.items()
        for column, count in zip(increment._fields[2:], counts, strict=True)
        if count
    }


def commits(log, batch_lines):
    """Yield what the fold commits of a file, batch by batch."""
    fold, framer, decoder = Fold(Rules()), Framer(0), Decoder()
    state = fold.open(1, Checkpoint())
    with log.open("rb") as file:
        while block := _read(file, framer):
            framer.feed(block)
            while chunk := framer.take(batch_lines):
                fold.fold(state, chunk, decoder.decode(chunk))
                yield fold.cut()


def _read(file, framer):
    file.seek(framer.next_read)
    return file.read(framer.block_bytes)


def hour_number(text):
    """Return an hour as the fold counts them."""
    return int(datetime.strptime(text, ISO_HOUR).replace(tzinfo=UTC).timestamp()) // 3600


def test_shuffled_lines_give_the_oracles_report(command, log, tmp_path):
    """The lines of each five-minute stretch in any order."""
    lines, dice = lines_of(log), random.Random(12)
    for start in range(0, len(lines), STRETCH):
        stretch = lines[start : start + STRETCH]
        dice.shuffle(stretch)
        lines[start : start + STRETCH] = stretch
    shuffled = tmp_path / "app.log"
    shuffled.write_bytes(b"\n".join(lines) + b"\n")
    command("run", "--once", shuffled)
    assert command.report() == report(lines)
