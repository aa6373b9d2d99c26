"""Reads back any line of a log, from whichever of its files it is in by now."""

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from processor.core.framing import BLOCK_BYTES
from processor.core.model import Chunk
from processor.edges.files import (
    FoundFile,
    ReadableFile,
    check_unmoved,
    find,
    open_file,
    with_files,
)
from processor.edges.identity import KnownFile, ends_of, identify, know
from processor.errors import GoneError

_SHORT_LINE_BYTES: Final = 4096


class History:
    """The known files of a log, as far as they are still there; one at a time is open."""

    def __init__(
        self, path: Path, known: Sequence[KnownFile], max_line_bytes: int = BLOCK_BYTES
    ) -> None:
        self.path = path
        self.known = known
        self._max_line_bytes = max_line_bytes
        self._starts = [file.start_offset for file in known]
        self._index = -1
        self._file: ReadableFile | None = None

    def close(self) -> None:
        """Let go of the file that is open."""
        if self._file:
            self._file.close()
        self._file, self._index = None, -1

    def bytes_at(self, offset: int, most: int) -> bytes:
        """Return up to `most` bytes from `offset` on, of one file; none where that is gone."""
        index = bisect_right(self._starts, offset) - 1
        if index < 0:
            return b""
        if index != self._index:
            self.close()
            self._index, self._file = index, self.open(index)
        return self._file.read_at(offset - self._starts[index], most) if self._file else b""

    def line_at(self, offset: int) -> Chunk:
        """Return the line that starts at `offset`.

        Raises:
            GoneError: its file is not there any more.

        """
        line = self.bytes_at(offset, _SHORT_LINE_BYTES)
        if len(line) == _SHORT_LINE_BYTES and b"\n" not in line:
            line = self.bytes_at(offset, self._max_line_bytes)
        if not line:
            raise gone(self.path, offset)
        line = line.partition(b"\n")[0] + b"\n"
        return Chunk(offset, line, 1, offset + len(line))

    def open(self, index: int) -> ReadableFile | None:
        """Open one of the known files, None if it is gone."""

        def open_same(found: list[FoundFile]) -> ReadableFile | None:
            same = identify(found, self.known)
            file = next((file for file in same if same[file] is self.known[index]), None)
            if file is None:
                check_unmoved(self.path, found)
                return None
            return open_file(file)

        return with_files(self.path, open_same) if self.known else None


def known_by_its_end(path: Path) -> KnownFile | None:
    """Return how the newest file of a log is known that is not read but from its end on.

    Then it begins before offset zero. None while there is no file.
    """
    found = find(path)
    if found is None:
        return None
    file = open_file(found)
    try:
        end = at = found.size_bytes
        while at > 0:
            at = max(at - BLOCK_BYTES, 0)
            if newline := file.read_at(at, end - at).rfind(b"\n") + 1:
                return know(found, -(at + newline), at + newline, *ends_of(file, at + newline))
            end = at
        return know(found, 0, 0, b"", b"")
    finally:
        file.close()


def known_by(path: Path, files: Sequence[KnownFile], offset: int) -> list[KnownFile]:
    """Return the files of a log that was read up to `offset`.

    Without any, it was read by a version that followed no rotation, and so from its path alone.

    Raises:
        GoneError: the log is not that long.

    """
    if files or not offset:
        return sorted(files)
    found = find(path)
    if found is None or found.size_bytes < offset:
        raise gone(path, offset)
    file = open_file(found)
    try:
        return [know(found, 0, offset, *ends_of(file, offset))]
    finally:
        file.close()


def gone(path: Path, offset: int) -> GoneError:
    """Return that the part of a log is gone that begins at `offset`."""
    return GoneError(
        f"{path}: the file with byte {offset} of the log is gone, or was changed, and no snapshot "
        "has what is needed of it. Put it back; or go on without what it held with --accept-loss: "
        "clicks on its page loads will not be related, and lines that come again count again"
    )
