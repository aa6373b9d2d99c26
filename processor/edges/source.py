"""Reads log files by byte offset, without ever writing to them.

A log is a plain file that only grows. What is cut into lines, and how, `core.framing` decides.
"""

import os
import stat
from pathlib import Path
from typing import Final

from processor.core.framing import Framer
from processor.core.model import Chunk
from processor.errors import LogError

ALL_LINES: Final = 1 << 62
_SHORT_LINE_BYTES: Final = 4096


class LogReader:
    """Gives out the complete lines of one log file, from `offset` on.

    Raises:
        LogError: the file cannot be read, or is shorter than what was read of it.

    """

    def __init__(self, path: Path, offset: int) -> None:
        self.path = path
        self._framer = Framer(offset)
        self._exhausted = (-1, -1)
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _unreadable(path, error) from error

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)

    def size_bytes(self) -> int:
        """Return how long the file is now."""
        return os.fstat(self._fd).st_size

    def read(self, most: int = ALL_LINES, end: int | None = None) -> Chunk | None:
        """Return up to `most` lines that follow the last ones, None when no line is complete.

        With `end`, no byte from that offset on is looked at.
        """
        if chunk := self._framer.take(most):
            return chunk
        while block := self._next_block(end):
            if chunk := self._framer.feed(block) or self._framer.take(most):
                return chunk
            if len(block) < self._framer.block_bytes:
                break
        return None

    def line_at(self, offset: int) -> Chunk:
        """Return the line that starts at `offset`, without moving on."""
        line = self.bytes_at(offset, _SHORT_LINE_BYTES)
        if b"\n" not in line:
            line = self.bytes_at(offset, self._framer.block_bytes)
        line = line[: line.find(b"\n") + 1]
        return Chunk(offset, line, 1, offset + len(line))

    def bytes_at(self, offset: int, most: int) -> bytes:
        """Return up to `most` bytes from `offset` on, without moving on."""
        return os.pread(self._fd, most, offset)

    def _next_block(self, end: int | None) -> bytes:
        """Read a block, or nothing when the file has not grown since nothing was found."""
        offset = self._framer.next_read
        try:
            size = self.size_bytes()
            if size < offset:
                raise LogError(
                    f"{self.path}: is {size} bytes long, but its first {offset} bytes were read "
                    "before; it was truncated. Put it back, or run `processor replay`"
                )
            if (offset, size) == self._exhausted:
                return b""
            most = self._framer.block_bytes if end is None else end - offset
            block = os.pread(self._fd, min(most, self._framer.block_bytes), offset)
        except OSError as error:
            raise _unreadable(self.path, error) from error
        if end is None and offset + len(block) == size:
            self._exhausted = (offset, size)
        return block


def size_of(path: Path) -> int | None:
    """Return how many bytes a log has, None while it is not there.

    Raises:
        LogError: it is no plain file, or out of reach.

    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise LogError(f"{path}: is not a plain file. Name the log itself")
    return status.st_size


def _unreadable(path: Path, error: OSError) -> LogError:
    return LogError(f"{path}: cannot be read: {error.strerror}. Check the path and its rights")
