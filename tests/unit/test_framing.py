"""Bytes to lines: each case whole, byte by byte, and with a torn line behind it."""

import pytest
from core_helpers import MemoryLog, pieces

from processor.core.framing import BLOCK_BYTES, Framer, starts_of
from processor.core.model import Chunk

CASES = [
    (b"", []),
    (b"\n", [(0, b"")]),
    (b"a\n", [(0, b"a")]),
    (b"a\nbc\n", [(0, b"a"), (2, b"bc")]),
    (b"\n\na\n\n", [(0, b""), (1, b""), (2, b"a"), (4, b"")]),
    (b"a\r\nb\rc\n", [(0, b"a\r"), (3, b"b\rc")]),
    ("a\u2028b\u2029c\x85\n".encode(), [(0, "a\u2028b\u2029c\x85".encode())]),
    (b"a\0b\x0b\x0c\x1c\n\0\n", [(0, b"a\0b\x0b\x0c\x1c"), (7, b"\0")]),
    (b"\xff\xfe\n\xef\xbb\xbfa\n", [(0, b"\xff\xfe"), (3, b"\xef\xbb\xbfa")]),
    (b"123456789abcdef\nx\n", [(0, b"123456789abcdef"), (16, b"x")]),
    (b"123456789abcdef0\nx\n", [(0, None), (17, b"x")]),
    (b"x\n123456789abcdef0\n\n", [(0, b"x"), (2, None), (19, b"")]),
    (b"1" * 40 + b"\n" + b"2" * 40 + b"\nx\n", [(0, None), (41, None), (82, b"x")]),
]
BLOCK = 16


def all_pieces(reader):
    return [piece for chunk in iter(reader.read, None) for piece in pieces(chunk)]


@pytest.mark.parametrize("tail", [b"", b"torn", b"torn by more than a block"])
@pytest.mark.parametrize(("data", "lines"), CASES)
def test_only_a_newline_ends_a_line(data, lines, tail):
    """A tail without its newline is no line yet, and an over-long line comes out as None."""
    assert all_pieces(MemoryLog(data + tail, block_bytes=BLOCK)) == lines


@pytest.mark.parametrize(("data", "lines"), CASES)
def test_a_log_that_grows_byte_by_byte_gives_the_same_lines(data, lines):
    """It does not matter how far a line was written when it was first seen."""
    reader, found = MemoryLog(data, block_bytes=BLOCK), []
    for reader.visible in range(len(data) + 1):
        found += all_pieces(reader)
    assert found == lines


@pytest.mark.parametrize(("data", "lines"), CASES)
def test_a_log_read_from_any_of_its_lines_on_gives_the_lines_from_there(data, lines):
    """Offsets count from the start of the log, wherever reading started."""
    for first, (offset, _) in enumerate(lines):
        assert all_pieces(MemoryLog(data, offset, BLOCK)) == lines[first:]


@pytest.mark.parametrize("most", [1, 2, 3, 100])
def test_lines_are_given_out_in_portions_that_follow_each_other(most):
    """Each portion says from which offset to which it accounts for."""
    framer = Framer(10)
    framer.feed(b"a\nbb\n\nccc\ntorn")
    portions = list(iter(lambda: framer.take(most), None))
    assert b"".join(portion.data for portion in portions) == b"a\nbb\n\nccc\n"
    assert [p.end for p in portions[:-1]] == [p.offset for p in portions[1:]]
    assert (portions[0].offset, portions[-1].end) == (10, 20)
    assert [portion.lines for portion in portions] == [p.data.count(b"\n") for p in portions]
    assert max(portion.lines for portion in portions) == min(most, 4)


def test_a_torn_line_is_read_again_with_what_follows_it():
    """The next read starts where the torn line does."""
    framer = Framer(0)
    assert framer.feed(b"a\ntorn") is None
    assert framer.take(9) == Chunk(0, b"a\n", 1, 2)
    assert framer.next_read == 2
    assert framer.feed(b"torn") is None
    assert framer.take(9) is None
    assert framer.next_read == 2


def test_an_over_long_line_is_passed_over_without_being_kept():
    """Reading goes on behind each block of it, and its end gives one line of the whole length."""
    framer = Framer(5, block_bytes=4)
    for blocks in range(1, 4):
        assert framer.feed(b"long") is None
        assert framer.take(9) is None
        assert framer.next_read == 5 + 4 * blocks
    assert framer.feed(b"g\nab") == Chunk(5, b"", 1, 19)
    assert framer.take(9) is None
    assert framer.next_read == 19


@pytest.mark.parametrize(("length", "decoded"), [(BLOCK_BYTES - 1, True), (BLOCK_BYTES, False)])
def test_the_longest_line_fills_one_block_with_its_newline(length, decoded):
    """The limit is exact, and the line behind is read either way."""
    line = b"x" * length
    assert all_pieces(MemoryLog(line + b"\nnext\n")) == [
        (0, line if decoded else None),
        (length + 1, b"next"),
    ]


def test_the_starts_of_lines_are_those_in_the_data_and_its_end():
    """A bare CR or another break does not start one."""
    assert starts_of("a\n\nc\r\u2028c\n".encode()) == [0, 2, 3, 10]
    assert starts_of(b"") == [0]
