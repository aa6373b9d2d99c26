"""Any way in which bytes arrive and lines are taken gives the same lines at the same offsets."""

import itertools

from core_helpers import MemoryLog, log_of, pieces
from hypothesis import given, settings
from hypothesis import strategies as st

BYTES = st.sampled_from([b"a", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", "\u2028".encode(), b"\x85"])
LINES = st.lists(st.lists(BYTES, max_size=12).map(b"".join), max_size=12)
TAILS = st.lists(BYTES, max_size=30).map(b"".join)


def expected(lines, block_bytes):
    """Return [(offset, line)], None for a line that does not fit a block with its newline."""
    offsets = itertools.accumulate((len(line) + 1 for line in lines), initial=0)
    return [
        (offset, line if len(line) < block_bytes else None)
        for offset, line in zip(offsets, lines, strict=False)
    ]


@settings(max_examples=400, deadline=None)
@given(
    lines=LINES,
    tail=TAILS,
    block_bytes=st.integers(1, 24),
    growth=st.lists(st.integers(0, 20), max_size=30),
    portions=st.lists(st.integers(1, 5), min_size=1, max_size=5),
)
def test_any_chunking_gives_the_same_lines(lines, tail, block_bytes, growth, portions):
    """However the log grows, in blocks of whatever size, and in whatever portions it is taken."""
    data = log_of(lines) + tail
    reader, found, end = MemoryLog(data, block_bytes=block_bytes), [], 0
    most = itertools.cycle(portions)
    for visible in [*itertools.accumulate(growth), len(data)]:
        reader.visible = min(visible, len(data))
        while chunk := reader.read(next(most)):
            assert chunk.offset == end
            end = chunk.end
            found += pieces(chunk)
    assert found == expected(lines, block_bytes)
    assert end == len(log_of(lines))


@settings(max_examples=200, deadline=None)
@given(lines=LINES, tail=TAILS, block_bytes=st.integers(1, 24), data=st.data())
def test_reading_on_from_any_line_gives_the_rest(lines, tail, block_bytes, data):
    """A checkpoint lies between two lines, and a rebuild ends at one as if the log ended there."""
    log, all_lines = log_of(lines) + tail, expected(lines, block_bytes)
    offsets = [offset for offset, _ in all_lines] + [len(log_of(lines))]
    start, end = sorted(data.draw(st.lists(st.sampled_from(offsets), min_size=2, max_size=2)))
    reader, found = MemoryLog(log, start, block_bytes), []
    while chunk := reader.read(end=end):
        found += pieces(chunk)
    assert found == [piece for piece in all_lines if start <= piece[0] < end]
    while chunk := reader.read():
        found += pieces(chunk)
    assert found == [piece for piece in all_lines if start <= piece[0]]
