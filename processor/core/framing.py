"""Bytes to chunks of complete lines, with their offsets.

A line ends at LF and nowhere else: a bare CR, U+2028 or NUL inside a line does not split it. A
tail without its LF is not a line yet. A line that does not end within `block_bytes` is not decoded
but accounted for, in constant memory. Knows nothing of files: bytes are handed in.
"""

from io import BytesIO
from itertools import accumulate
from typing import Final

from processor.core.model import Chunk

BLOCK_BYTES: Final = 1 << 20
"""The unit of reading: a line as long as that is not decoded."""


class Framer:
    """Cuts the bytes of one log into chunks of lines, from `offset` on.

    The caller reads up to `block_bytes` bytes at `next_read`, hands them to `feed`, and takes
    chunks with `take` until there are none. The tail of a block that holds no LF is not kept: it
    is read again, with what follows it, so that a line never lies in two blocks.
    """

    def __init__(self, offset: int, block_bytes: int = BLOCK_BYTES) -> None:
        self.block_bytes = block_bytes
        self._offset = offset
        self._overlong = 0
        self._data = b""
        self._next = 0
        self._lines = 0

    @property
    def offset(self) -> int:
        """The offset of what was not given out yet."""
        return self._offset

    @property
    def holds_lines(self) -> bool:
        """Whether there are lines that were fed and not given out yet."""
        return self._lines > 0

    @property
    def next_read(self) -> int:
        """The offset at which to read next, once `take` has given all lines out."""
        return self._offset + self._overlong

    def feed(self, block: bytes) -> Chunk | None:
        """Take up a block that was read at `next_read`.

        Returns an over-long line once its end is found.
        """
        if self._overlong:
            return self._end_overlong(block)
        self._data = block[: block.rfind(b"\n") + 1]
        self._next, self._lines = 0, self._data.count(b"\n")
        if not self._lines and len(block) >= self.block_bytes:
            self._overlong = len(block)
        return None

    def _end_overlong(self, block: bytes) -> Chunk | None:
        newline = block.find(b"\n") + 1
        if not newline:
            self._overlong += len(block)
            return None
        start, self._offset = self._offset, self._offset + self._overlong + newline
        self._overlong = 0
        return Chunk(start, b"", 1, self._offset)

    def take(self, most: int) -> Chunk | None:
        """Give out up to `most` lines, or None when the next block is needed."""
        if not self._lines:
            return None
        lines, end = self._lines, len(self._data)
        if most < lines:
            lines, end = most, self._next
            for _ in range(most):
                end = self._data.index(b"\n", end) + 1
        data = self._data[self._next : end]
        self._lines -= lines
        self._next = end
        start = self._offset
        self._offset += len(data)
        return Chunk(start, data, lines, self._offset)


def starts_of(data: bytes) -> list[int]:
    """Return where each line of a chunk's data starts, and the end of the last."""
    return list(accumulate(map(len, BytesIO(data)), initial=0))
