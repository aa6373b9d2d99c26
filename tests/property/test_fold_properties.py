"""Any batching, order and restart gives the table of the oracle, and the ledger adds up.

A log is written in episodes: traffic of a few visits that come back, leaps and silence, clocks
gone wild, late lines, duplicates, noise. Its times fall on the borders of lateness and window
often.
"""

import itertools
import random
from collections import Counter
from datetime import timedelta
from typing import NamedTuple

import pytest
from core_helpers import (
    CLICK,
    DAY,
    EPOCH,
    HOUR,
    MINUTE,
    PAGE_LOAD,
    YEAR,
    MemoryLog,
    Run,
    event,
    log_of,
    page_load,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import event_of, on_time, report

from processor.core.fold import Fold
from processor.core.machine import NEW_VISIT, click, load_page
from processor.core.model import HOUR_US, MINUTE_US, Rules

BLOCK_BYTES = 1 << 12
NOISE = [
    event("FaqClick", 0),
    event("<script>", 0),
    event("EMPTY_VALUE", 0),
    page_load(0, user="1"),
    page_load(0, fired_at="02/30/2022, 00:00:00"),
    b"not JSON",
    b"[]",
    b"",
    page_load(0, padding="x" * BLOCK_BYTES),
]


class Scribe:
    """Writes the lines of a log, at `now`, in seconds."""

    def __init__(self, now):
        self.now = now
        self.lines = []

    def write(self, rng, at):
        """Write an event of one of a few visits."""
        event_type = rng.choice((PAGE_LOAD, CLICK))
        visit = rng.choice("abc"), rng.choice((7, 8)), rng.choice((1, 1, 2))
        self.lines.append(event(event_type, at, *visit))

    def traffic(self, rng):
        """Go on by a little, sometimes out of order within the lateness."""
        self.now += rng.choice((0, 1, 20, MINUTE, 2 * MINUTE))
        self.write(rng, self.now - rng.choice((0, 0, 0, MINUTE, 10 * MINUTE)))

    def leaps(self, rng):
        """Go on by about the lateness, or the window."""
        self.now += rng.choice((9 * MINUTE, 10 * MINUTE, 10 * MINUTE + 1, 30 * MINUTE, 41 * MINUTE))
        self.write(rng, self.now)

    def silence(self, rng):
        """Go on after some days."""
        self.now += rng.choice((0, 0, 0, 0, 0, 0, 0, DAY, 3 * DAY))
        self.traffic(rng)

    def wild(self, rng):
        """Be a year, or some hours, ahead for a line."""
        self.write(rng, self.now + rng.choice((YEAR, YEAR, YEAR + 30 * MINUTE, 2 * HOUR)))

    def late(self, rng):
        """Be late, more or less."""
        self.write(rng, self.now - rng.choice((MINUTE, 10 * MINUTE, 10 * MINUTE + 1, HOUR, DAY)))

    def again(self, rng):
        """Deliver a line once more."""
        self.lines.append(rng.choice(self.lines[-60:] or NOISE))

    def noise(self, rng):
        """Write what does not count."""
        self.lines.append(rng.choice(NOISE))

    def mixed(self, rng):
        """Do any of it, mostly traffic."""
        kinds = (
            self.traffic,
            self.traffic,
            self.traffic,
            self.wild,
            self.late,
            self.again,
            self.noise,
        )
        rng.choice(kinds)(rng)


KINDS = ["traffic", "mixed", "leaps", "silence", "wild", "late", "again", "noise"]
episodes = st.tuples(st.sampled_from(KINDS), st.integers(1, 60), st.integers(0, 1 << 16))
seeds = st.integers(0, 1 << 16).map(random.Random)
rules = st.sampled_from([(30, 10), (30, 10), (30, 0), (5, 10), (0, 1), (120, 30)]).map(
    lambda minutes: Rules(minutes[0] * MINUTE_US, minutes[1] * MINUTE_US)
)


def written(start, episodes):
    scribe = Scribe(start)
    for kind, lines, seed in episodes:
        rng = random.Random(seed)
        for _ in range(lines):
            getattr(scribe, kind)(rng)
    return scribe.lines


logs = st.builds(
    written, st.sampled_from([0, 0, HOUR, DAY]), st.lists(episodes, min_size=1, max_size=6)
)


def read(lines):
    """Return the lines that are short enough to be decoded: the others cannot be events."""
    return [line for line in lines if len(line) < BLOCK_BYTES]


def expected(rules, *logs):
    window, lateness = rules.attribution_window_us, rules.allowed_lateness_us
    minutes = {
        "window": timedelta(microseconds=window),
        "lateness": timedelta(microseconds=lateness),
    }
    return report(*map(read, logs), **minutes)


@settings(max_examples=200, deadline=None)
@given(log=logs, rules=rules, rng=seeds)
def test_any_batching_and_any_restart_gives_the_table_of_the_oracle(log, rules, rng):
    """Whatever is cut where, and from whichever commit the fold goes on after a crash."""
    run = Run(log, rules=rules, block_bytes=BLOCK_BYTES).anyhow(rng)
    assert run.table() == expected(rules, log)


@settings(max_examples=150, deadline=None)
@given(logs=st.lists(logs, min_size=2, max_size=3), rules=rules, rng=seeds)
def test_several_logs_with_shared_visits_give_the_table_of_the_oracle(logs, rules, rng):
    """Each log has its own watermark, and the one furthest behind is read first."""
    run = Run(*logs, rules=rules, block_bytes=BLOCK_BYTES).anyhow(rng)
    assert run.table() == expected(rules, *logs)


@settings(max_examples=100, deadline=None)
@given(logs=st.lists(logs, min_size=1, max_size=2), rules=rules, rng=seeds)
def test_a_restored_state_goes_on_as_if_it_had_never_stopped(logs, rules, rng):
    """Commit by commit, when a snapshot is restored after each batch.

    Where to rebuild from depends on which lines were read together, and so on where reading began.
    So does, of two logs, which lines make up a batch: their sums are equal.
    """
    batch_lines = rng.choice((1, 7, 40))
    through, restored = (Run(*logs, rules=rules, block_bytes=BLOCK_BYTES) for _ in range(2))
    through.to_end(batch_lines)
    while restored.read(batch_lines - restored.fold.batch_lines):
        if restored.fold.batch_lines >= batch_lines:
            restored.cut()
            restored.restart_from(restored.snapshot(), len(restored.commits))
    restored.cut()
    if len(logs) == 1:
        assert list(map(effect, restored.commits)) == list(map(effect, through.commits))
    assert restored.table() == through.table() == expected(rules, *logs)
    for log_id in restored.logs:
        assert restored.checkpoint(log_id)[:2] == through.checkpoint(log_id)[:2]


def effect(commit):
    """Return what a commit does, save for the place that it has the state rebuilt from."""
    logs = [
        (log.from_offset, log.checkpoint[:2], log.lines, log.outcomes, log.dead_letters)
        for log in commit.logs
    ]
    return commit.increments, logs


class Ledger(NamedTuple):
    """What the lines of a log came to."""

    applied: int
    duplicate: int
    late: int
    other: int


@settings(max_examples=100, deadline=None)
@given(log=logs, rng=seeds)
def test_the_ledger_accounts_for_every_line_and_every_byte(log, rng):
    """In each commit, and over all of them; a dead letter points to its line."""
    run = Run(log, block_bytes=BLOCK_BYTES).anyhow(rng)
    offset = 0
    for commit in run.of_log():
        assert commit.from_offset == offset
        offset = commit.checkpoint.byte_offset
        outcomes = Counter()
        for (outcome, _), lines in commit.outcomes.items():
            outcomes[outcome] += lines
        lines = run.logs[1][commit.from_offset : offset].count(b"\n")
        assert commit.lines == lines == outcomes.total()
        assert outcomes["dead_letter"] == len(commit.dead_letters)
    assert offset == len(run.logs[1])

    counted = [e for e in map(event_of, read(log)) if e is not None]
    kept = list(on_time(counted, timedelta(minutes=10)))
    ledger = run.ledger()
    told = Ledger(
        ledger.pop(("applied", ""), 0),
        ledger.pop(("duplicate", ""), 0),
        ledger.pop(("dead_letter", "late"), 0),
        sum(ledger.values()),
    )
    applied = len(set(kept))
    late, other = len(counted) - len(kept), len(log) - len(counted)
    assert told == Ledger(applied, len(kept) - applied, late, other)

    starts = [0, *itertools.accumulate(len(line) + 1 for line in log)]
    by_start = dict(zip(starts, log, strict=False))
    for letter in run.dead_letters():
        assert letter.byte_length == len(by_start[letter.byte_offset])


@settings(max_examples=60, deadline=None)
@given(log=logs, rng=seeds)
def test_the_ledger_does_not_depend_on_batches_or_restarts(log, rng):
    """Each line has the outcome that it has when all is read in one go."""
    anyhow = Run(log, block_bytes=BLOCK_BYTES).anyhow(rng)
    at_once = Run(log, block_bytes=BLOCK_BYTES).to_end()
    assert anyhow.ledger() == at_once.ledger()
    assert anyhow.dead_letters() == at_once.dead_letters()
    assert anyhow.checkpoint()[:2] == at_once.checkpoint()[:2]


@settings(max_examples=100, deadline=None)
@given(log=logs, rng=seeds, limit=st.integers(0, 5))
def test_the_limit_of_lines_ahead_does_not_depend_on_batches_or_restarts(log, rng, limit):
    """A rebuild refuses the lines that were refused before, and no others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("processor.core.fold.MAX_AHEAD_LINES", limit)
        anyhow = Run(log, block_bytes=BLOCK_BYTES).anyhow(rng)
        at_once = Run(log, block_bytes=BLOCK_BYTES).to_end()
    assert anyhow.dead_letters() == at_once.dead_letters()
    assert anyhow.table() == at_once.table()


@settings(max_examples=60, deadline=None)
@given(episodes=st.lists(episodes, min_size=1, max_size=4), rng=seeds)
def test_any_order_within_the_lateness_gives_the_same_table(episodes, rng):
    """Lines that come up to ten minutes after their time change nothing."""
    lines = [line for line in written(0, episodes) if event_of(line)]
    in_order = sorted(lines, key=lambda line: event_of(line)[-1])
    delays = [timedelta(seconds=rng.randint(0, 10 * MINUTE)) for _ in in_order]
    arrivals = [event_of(line)[-1] + delay for line, delay in zip(in_order, delays, strict=True)]
    order = sorted(range(len(lines)), key=arrivals.__getitem__)
    shuffled = Run([in_order[index] for index in order]).anyhow(rng)
    assert shuffled.table() == Run(in_order).to_end().table()
    assert shuffled.table() == report(lines, lateness=timedelta(days=9_999))


@settings(max_examples=60, deadline=None)
@given(log=logs, rules=rules)
def test_eviction_never_changes_a_result(log, rules):
    """To evict after each line gives what never evicting gives."""
    often = Run(log, rules=rules, block_bytes=BLOCK_BYTES).to_end(batch_lines=1)
    never = Run(log, rules=rules, block_bytes=BLOCK_BYTES)
    while never.read():
        pass
    assert often.fold.open_visits <= never.fold.open_visits
    assert never.to_end().table() == often.table()


instants = st.integers(0, 12)


@settings(max_examples=300, deadline=None)
@given(
    events=st.lists(st.tuples(st.booleans(), instants), max_size=10),
    window=st.integers(0, 6),
)
def test_the_increments_of_a_visit_add_up_to_its_definition(events, window):
    """Related clicks and clicked page loads, each once, in whatever order the events come."""
    state, related, clicked = NEW_VISIT, [], []
    for is_click, fired_at in events:
        transition = (click if is_click else load_page)(state, fired_at, window)
        assert (transition is None) == (fired_at in state[is_click])
        if transition:
            state, newly_related, newly_clicked = transition
            related += newly_related
            clicked += newly_clicked
    loads, clicks = ({at for kind, at in events if kind is wanted} for wanted in (False, True))
    pairs = [(load, c) for load in loads for c in clicks if 0 <= c - load <= window]
    assert sorted(related) == sorted({c for _, c in pairs})
    assert sorted(clicked) == sorted({load for load, _ in pairs})


def test_the_logs_that_are_written_hold_what_they_are_meant_to():
    """The strategies reach what the properties are about: this is not a test of quiet logs."""
    run = Run(written(0, [(kind, 40, 1) for kind in KINDS * 2]), block_bytes=BLOCK_BYTES).to_end()
    reasons = {name for outcome, name in run.ledger() if outcome == "dead_letter"}
    assert reasons == {"late", "malformed", "invalid", "event_type", "too_long"}
    assert run.ledger()["duplicate", ""] > 10
    assert sum(map(sum, run.table().values())) > 100
    assert len(log_of(NOISE)) > BLOCK_BYTES


def counted_from(run, checkpoint):
    """Return the table of a log counted from one of the places that are kept for its hours."""
    start = checkpoint._replace(
        byte_offset=checkpoint.rebuild_from, watermark=checkpoint.rebuild_watermark
    )
    fold = Fold(run.rules)
    state = fold.open(1, start)
    reader = MemoryLog(run.logs[1], start.rebuild_from, run.block_bytes)
    for offset in start.ahead_offsets:
        if offset < start.rebuild_from:
            fold.recall(state, offset, run.decode(reader.line_at(offset)))
    counted = Run(rules=run.rules)
    while chunk := reader.read(7):
        fold.fold(state, chunk, run.decode(chunk))
        counted.commits.append(fold.cut())
    return counted.table()


@given(rules, logs, seeds)
@settings(max_examples=150, deadline=None)
def test_hours_can_be_counted_from_the_place_that_is_kept_for_them(rules, log, rng):
    """From each checkpoint's `rebuild_from` on, the hours a window after its watermark are whole.

    However often it was restarted before.
    """
    run = Run(log, rules=rules, block_bytes=BLOCK_BYTES).anyhow(rng)
    table = run.table()
    seen = {commit.checkpoint.rebuild_watermark: commit.checkpoint for commit in run.of_log()}
    for mark, checkpoint in seen.items():
        if mark is not None:
            first = (mark + rules.attribution_window_us) // HOUR_US + 1
            hour = f"{EPOCH + timedelta(hours=first):%Y-%m-%dT%H:00:00Z}"
            found = counted_from(run, checkpoint)
            assert {key: row for key, row in found.items() if key[1] >= hour} == {
                key: row for key, row in table.items() if key[1] >= hour
            }
