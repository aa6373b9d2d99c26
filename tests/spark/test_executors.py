"""What runs in the executors, without Spark: it decides as the decoder and the fold do."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from zoneinfo import ZoneInfo

import on_spark  # noqa: F401 - skips these tests where there is no Spark
import pytest

# isort: split

import numpy as np
import pyarrow as pa
from core_helpers import Run, log_of, page_load, us
from hypothesis import given, settings
from hypothesis import strategies as st
from test_contract_properties import ZONES
from test_contract_properties import lines as hostile_lines
from test_fold_properties import BLOCK_BYTES, expected, logs, rules, seeds

from processor.core.contract import Event, Ignored, judge
from processor.core.model import Rules
from processor.spark.lateness import Lateness
from processor.spark.lines import TOO_LONG_DETAIL, Place, _Decoding, note_of

RULES = Rules(max_line_bytes=BLOCK_BYTES)


def batches_of(splits, rng=None):
    """Return splits, {(file, start): lines}, as Spark hands them over, in batches of any size."""
    rows = [
        (line + b"\n" if len(line) < BLOCK_BYTES else None, len(line), file, start, 1 << 20)
        for (file, start), lines in splits.items()
        for line in lines
    ]
    types = (pa.binary(), pa.int64(), pa.string(), pa.int64(), pa.int64())
    names = ("line", "length", "file", "start", "size")
    cuts = sorted({0, len(rows), *(rng.randint(0, len(rows)) for _ in range(3) if rng)})
    for first, end in pairwise(cuts):
        columns = zip(*rows[first:end], strict=True)
        yield pa.RecordBatch.from_arrays(list(map(pa.array, columns, types)), names=list(names))


def a_log_each(file, start):
    """Return the place of a split as if it were a log of its own."""
    return Place(f"{file} {start}", start)


def decode(splits, rng, rules=RULES, place_of=a_log_each, *, is_judged=False):
    """Return the rows that splits come to: events, and notes with what is in them."""
    decoding = _Decoding(rules, place_of, is_judged=is_judged)
    rows = [row for batch in decoding(batches_of(splits, rng)) for row in batch.to_pylist()]
    notes = [{**row, "note": note_of(row["note"])} for row in rows if row["note"]]
    return [row for row in rows if row["visit"] is not None], notes


def in_log(rows, log):
    return [row for row in rows if row["log"] == log]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    splits=st.lists(st.lists(hostile_lines(), max_size=8), min_size=1, max_size=3),
    timezone=st.sampled_from(ZONES),
    rng=seeds,
)
def test_every_line_is_judged_as_by_the_contract(splits, timezone, rng):
    """Whatever its bytes, with its place in the log; wherever splits and batches of them end."""
    splits = {
        (f"/{number // 2}", 1000 * number): [line.replace(b"\n", b"") for line in lines]
        for number, lines in enumerate(splits)
    }
    rules = Rules(timezone=timezone, max_line_bytes=BLOCK_BYTES)
    events, notes = decode(splits, rng, rules)
    for (file, start), lines in splits.items():
        found, letters, ignored, offset = [], [], Counter(), start
        for line in lines:
            verdict = judge(line, ZoneInfo(timezone))
            if len(line) >= BLOCK_BYTES:
                letters.append([offset, len(line), "too_long", TOO_LONG_DETAIL])
            elif isinstance(verdict, Event):
                visit = f"{verdict.customer_id} {verdict.user_id} {verdict.event_id}"
                user = verdict.user_id if verdict.is_click else 0
                row = visit, verdict.customer_id, user, verdict.is_click, verdict.fired_at
                found.append((offset, offset + len(line), *row))
            elif isinstance(verdict, Ignored):
                ignored[verdict.event_type] += 1
            else:
                letters.append([offset, len(line), verdict.reason, verdict.detail])
            offset += len(line) + 1
        columns = "offset", "end", "visit", "customer", "user", "is_click", "fired_at"
        mine = in_log(events, f"{file} {start}")
        assert [tuple(row[column] for column in columns) for row in mine] == found
        mine = [row["note"] for row in in_log(notes, f"{file} {start}")]
        assert (sum(n.lines for n in mine), sum(n.events for n in mine)) == (len(lines), len(found))
        assert [letter for note in mine for letter in note.refused] == letters
        assert sum((Counter(note.ignored) for note in mine), Counter()) == ignored


def test_what_is_behind_the_end_of_a_log_is_not_read():
    """Half a line there, or what was written since."""
    lines = [page_load(at) for at in range(3)]
    size = len(log_of(lines[:2]))
    for end in (size, size + 1, size + len(lines[2])):
        events, notes = decode(
            {("/a", 0): lines}, None, place_of=lambda file, start, end=end: Place(file, start, end)
        )
        assert [row["fired_at"] for row in events] == [us(0), us(1)]
        assert [(row["end"], row["note"].lines) for row in notes] == [(size, 2)]


def judged_by(log, rules, rng):
    """Return what `Lateness` refuses of a log, read in any chunks, and how the log stands then."""
    lateness, letters = Lateness(rules), []
    _, notes = decode({("/a", 0): log}, rng)
    for row in notes:
        places = np.frombuffer(row["places"], np.int64).reshape(3, -1)
        refused = lateness.refused(row["offset"], row["end"], places[2], places[0])
        letters += [(*places[:2, at].tolist(), why.reason, why.detail) for at, why in refused]
    return letters, lateness.checkpoint()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(log=logs, rules=rules, most_ahead=st.sampled_from([3, 10_000]), rng=seeds)
def test_the_watermark_refuses_what_it_refuses_in_the_fold(log, rules, most_ahead, rng):
    """Late lines, wild clocks, silences; in chunks of any size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("processor.core.fold.MAX_AHEAD_LINES", most_ahead)
        patch.setattr("processor.spark.lateness.MAX_AHEAD_LINES", most_ahead)
        letters, checkpoint = judged_by(log, rules, rng)
        run = Run(log, rules=rules, block_bytes=BLOCK_BYTES).to_end()
    of_fold = [tuple(letter) for letter in run.dead_letters() if letter[2] in ("late", "ahead")]
    assert letters == of_fold
    assert checkpoint[:2] == run.checkpoint()[:2]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(log=logs, rules=rules, rng=seeds)
def test_the_fold_takes_over_from_where_a_log_stands(log, rules, rng):
    """Wherever that is, the rest of the log gives the table that all of it gives."""
    first, rest = log[: (cut := rng.randint(0, len(log)))], log[cut:]
    run = Run(first, rules=rules, block_bytes=BLOCK_BYTES).to_end()
    _, checkpoint = judged_by(first, rules, rng)
    run.logs[1] = log_of(first + rest)
    if first:
        commit = run.commits[-1]
        last = replace(commit.logs[0], checkpoint=checkpoint)
        run.commits[-1] = replace(commit, logs=(last,))
    run.restart(len(run.commits))
    assert run.to_end().table() == expected(rules, log)
