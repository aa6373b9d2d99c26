"""A million good lines with some bytes changed: nothing raises, and all is accounted for."""

import random

import pytest
from core_helpers import RULES, chunk_of, judged
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.core.decode import Decoder
from processor.core.fold import Fold
from processor.core.model import Checkpoint
from processor.shell.generate import LogShape, generate

LINES = 500
GOOD = [line.encode() for line in generate(LogShape(seed=1, events=2_000, malformed=0.01))]
PIECES = [
    *(
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b"\0",
        b"\r",
        b"\x7f",
        b"\xff",
        b"\xef\xbb\xbf",
    ),
    *(
        b"null",
        b"true",
        b"1e999",
        b"-0",
        b"9223372036854775808",
        b"\\ud800",
        b"\\u0000",
        b"EMPTY_VALUE",
    ),
    *(
        b"ReferralPageLoad",
        b"01\\/32\\/2022",
        b"2022-02-30T00:00:00Z",
        b"\xe2\x80\xa8",
        b"\xf0\x9f\x98\x80",
    ),
]


def mutated(line, dice):
    """Return a line with up to four places changed."""
    for _ in range(dice.randrange(5)):
        at = dice.randrange(len(line) + 1)
        to = min(at + dice.choice([0, 1, 1, 2, 8, 40]), len(line))
        other = dice.choice(GOOD)
        start = dice.randrange(len(other) + 1)
        piece = dice.choice(
            [
                b"",
                bytes([dice.randrange(256)]).replace(b"\n", b""),
                dice.choice(PIECES),
                line[at:to] * 2,
                other[start : start + dice.randrange(40)],
            ]
        )
        line = line[:at] + piece + line[to:]
    return line


def fold(seed):
    """Hold the hot path against the model, line by line, and fold what came of it."""
    dice = random.Random(seed)
    lines = [mutated(dice.choice(GOOD), dice) for _ in range(LINES)]
    chunk = chunk_of(lines)
    decoded = Decoder().decode(chunk)
    assert decoded == judged(chunk)
    fold = Fold(RULES)
    state = fold.open(1, Checkpoint())
    fold.fold(state, chunk, decoded)
    (log,) = fold.cut().logs
    assert log.lines == LINES == sum(log.outcomes.values())
    assert log.checkpoint.byte_offset == len(chunk.data)
    for dead_letter in log.dead_letters:
        assert len(dead_letter.detail) < 300


@given(st.integers(0, 1 << 64))
@settings(max_examples=20, deadline=None)
def test_fuzzed_lines_are_judged_alike_and_accounted_for(seed):
    """Some of them."""
    fold(seed)


@pytest.mark.torture
@given(st.integers(0, 1 << 64))
@settings(max_examples=1_000_000 // LINES, deadline=None)
def test_a_million_fuzzed_lines_are_judged_alike_and_accounted_for(seed):
    """All of them."""
    fold(seed)
