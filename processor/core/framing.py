"""Bytes to complete lines, with their offsets.

A line ends at LF and nowhere else: a bare CR, U+2028 or NUL inside a line does not split it. A
tail without its LF is not a line yet. A line that does not end within `block_bytes` is not decoded
but accounted for, in constant memory. Knows nothing of files: bytes are handed in.
"""

from itertools import accumulate
from typing import Final

from processor.core.model import Lines

BLOCK_BYTES: Final = 1 << 20
"""The unit of reading, and so the longest line that is decoded."""


class Framer:
    """Cuts the bytes of one log into lines, from `offset` on.

    The caller reads up to `block_bytes` bytes at `next_read`, hands them to `feed`, and takes
    lines with `take` until there are none. The tail of a block that holds no LF is not kept: it
    is read again, with what follows it, so that a line never lies in two blocks.
    """

    def __init__(self, offset: int, block_bytes: int = BLOCK_BYTES) -> None:
        self.block_bytes = block_bytes
        self._offset = offset
        self._overlong = 0
        self._lines: list[bytes] = []
        self._next = 0

    @property
    def next_read(self) -> int:
        """The offset at which to read next, once `take` has given all lines out."""
        return self._offset + self._overlong

    def feed(self, block: bytes) -> Lines | None:
        """Take up a block that was read at `next_read`.

        Returns an over-long line once its end is found, as `Lines` without lines: from `offset`
        to `end` lies the one line that is too long.
        """
        newline = block.rfind(b"\n") + 1
        if self._overlong:
            return self._end_overlong(block)
        if newline:
            self._lines = block[: newline - 1].split(b"\n")
            self._next = 0
        elif len(block) >= self.block_bytes:
            self._overlong = len(block)
        return None

    def _end_overlong(self, block: bytes) -> Lines | None:
        newline = block.find(b"\n") + 1
        if not newline:
            self._overlong += len(block)
            return None
        start, self._offset = self._offset, self._offset + self._overlong + newline
        self._overlong = 0
        return Lines(start, [], self._offset)

    def take(self, most: int) -> Lines | None:
        """Give out up to `most` lines, or None when the next block is needed."""
        if self._next >= len(self._lines):
            return None
        lines = self._lines[self._next : self._next + most]
        self._next += len(lines)
        start = self._offset
        self._offset += sum(map(len, lines)) + len(lines)
        return Lines(start, lines, self._offset)


class Offsets:
    """The offsets of the lines of a chunk. Few are asked for, so none is counted until one is."""

    def __init__(self, chunk: Lines) -> None:
        self._chunk = chunk
        self._lengths_before: list[int] | None = None

    def of(self, index: int) -> int:
        """Return the offset of the first byte of a line."""
        if self._lengths_before is None:
            self._lengths_before = list(accumulate(map(len, self._chunk.lines), initial=0))
        return self._chunk.offset + self._lengths_before[index] + index
