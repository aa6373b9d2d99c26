"""Reads a log by byte offset, through all the files that rotation spread it over.

Never writes. What is cut into lines, and how, `core.framing` decides; which files a log has and how
each is known again, `edges.files` does.

A file is left for the next one once that is there and nothing more has come for `DRAIN_SECONDS`:
who writes may hold the old one open for a moment. What stands at the end of a file that was left,
without a newline, is a line: none will follow it. At the end of the newest file it waits.
"""

import time
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from processor.core.framing import BLOCK_BYTES, Framer
from processor.core.model import Chunk
from processor.edges.files import (
    HEAD_BYTES,
    FileMovedError,
    FoundFile,
    KnownFile,
    PlainFile,
    ReadableFile,
    digest,
    files_of,
    identify,
    open_file,
    unreadable,
)
from processor.errors import GoneError, LogError

ALL_LINES: Final = 1 << 62
DRAIN_SECONDS: Final = 1.0
_OPEN_AT_ONCE: Final = 16
_LOOK_AGAIN_SECONDS: Final = 0.1
_SHORT_LINE_BYTES: Final = 4096


class Segment:
    """A file of a log that is being read. In the log it begins at `start`, once that is known."""

    def __init__(self, found: FoundFile, start: int | None = None, read_bytes: int = 0) -> None:
        self.file: ReadableFile = open_file(found)
        self.start = start
        self.leave_at = 0.0
        self.ends_at: int | None = None  # how long the file was when it was left
        self.is_lost = False  # it was truncated: no more of it can be read
        self.is_folded_anew = False
        self.whole: KnownFile | None = None  # how it is known again, once it was left
        self._read_bytes = read_bytes
        self._head = b""
        self._tail = b""

    def look_at_head(self) -> bytes:
        """Return the first bytes, remembered once there are enough."""
        if len(self._head) < HEAD_BYTES and not self.is_lost:
            self._head = self.file.read_at(0, HEAD_BYTES)
        return self._head

    def take_note(self, chunk: Chunk) -> None:
        """Remember that a chunk was folded, and how it ends."""
        end = chunk.end - (self.start or 0)
        added = 0 if self.ends_at is None else max(end - self.ends_at, 0)
        data = chunk.data[-HEAD_BYTES - added : -added or None]
        self._tail = (self._tail + data)[-HEAD_BYTES:] if chunk.data else b""
        self._read_bytes = end - added
        self.is_folded_anew = True

    def known(self) -> KnownFile:
        """Return how the file is known again."""
        found = self.file.found
        return KnownFile(
            self.start or 0,
            found.device,
            found.inode,
            found.path.name,
            self._read_bytes,
            digest(self._head[: self._read_bytes]),
            digest(self._tail),
            len(self._tail),
        )

    def fingerprint(self) -> KnownFile:
        """Return how the file is known again by all that is in it by now, read or not."""
        if self.whole:
            return self.whole
        if not isinstance(self.file, PlainFile):  # it is not made into another one
            return self.known()
        size = self.file.size_bytes()
        start = max(size - HEAD_BYTES, 0)
        head, tail = self.file.read_at(0, HEAD_BYTES), self.file.read_at(start, size - start)
        return self.known()._replace(
            read_bytes=size, head=digest(head), tail=digest(tail), tail_bytes=len(tail)
        )

    @property
    def id(self) -> tuple[int, int]:
        """What no other file has at the same time."""
        return self.file.found.id


class History:
    """Where the bytes of a log are: its known files, as far as they are still there."""

    def __init__(self, path: Path, known: Sequence[KnownFile]) -> None:
        self.path = path
        self.found = files_of(path)
        self.known = sorted(known)
        self.same = identify(self.found, self.known, path)
        self._by_start = {file.start_offset: found for found, file in self.same.items()}

    def file_at(self, offset: int) -> tuple[int, FoundFile | None]:
        """Return where the file with the byte at `offset` begins, and the file if it is there."""
        if not self.known:
            newest = [found for found in self.found if found.path == self.path]
            return 0, newest[0] if newest else None
        index = bisect_right(self.known, offset, key=lambda file: file.start_offset) - 1
        start = self.known[max(index, 0)].start_offset
        return start, self._by_start.get(start)

    def bytes_at(self, offset: int, most: int) -> bytes:
        """Return up to `most` bytes from `offset` on; none where the file is gone."""
        start, found = self.file_at(offset)
        if found is None:
            return b""
        try:
            file = open_file(found)
        except FileMovedError:
            return b""
        try:
            return file.read_at(offset - start, most)
        finally:
            file.close()

    def line_at(self, offset: int) -> Chunk:
        """Return the line that starts at `offset`.

        Raises:
            GoneError: its file is not there any more.

        """
        line = self.bytes_at(offset, _SHORT_LINE_BYTES)
        if len(line) == _SHORT_LINE_BYTES and b"\n" not in line:
            line = self.bytes_at(offset, BLOCK_BYTES)
        if not line:
            raise gone(self.path, offset)
        line = line.partition(b"\n")[0] + b"\n"
        return Chunk(offset, line, 1, offset + len(line))


class LogReader:
    """Gives out the complete lines of one log, from `offset` on.

    `known` are its files as far as they were read before; with `drain_seconds` a file that was
    rotated away is watched so long before it is left.

    Raises:
        LogError: a file cannot be read, or one that is needed is gone.

    """

    def __init__(
        self,
        path: Path,
        offset: int = 0,
        known: Sequence[KnownFile] = (),
        drain_seconds: float = 0.0,
    ) -> None:
        self.path = path
        self.messages: list[str] = []
        self._drain_seconds = drain_seconds
        self.history = History(path, known)
        self._segments: list[Segment] = []
        self._at = 0
        self._framer = Framer(offset)
        self._is_cut_off = False
        self._exhausted = (-1, -1)
        self._recent = b""
        self._block = b""
        self._block_at = offset
        self._listing: object = None  # what a look has dealt with, None when it is to come again
        try:
            self._open_known(offset)
            self._queue_new()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of all files."""
        for segment in self._segments[self._at :]:  # those before are closed
            segment.file.close()
        self._segments = []

    def size_bytes(self) -> int:
        """Return how long the log is now; of a compressed file that is not read yet, its size."""
        end = self._framer.offset
        for segment in self._segments[self._at :]:
            file = segment.file
            size = file.size_bytes() if isinstance(file, PlainFile) else file.found.size_bytes
            end = max(end, size + (end if segment.start is None else segment.start))
        return end

    def read(self, most: int = ALL_LINES, end: int | None = None) -> Chunk | None:
        """Return up to `most` lines that follow the last ones, None when no line is complete.

        With `end`, no byte from that offset on is looked at.
        """
        while True:
            if chunk := self._framer.take(most):
                return chunk
            if self._at == len(self._segments):
                return None  # the next look finds it
            block = self._next_block(end)
            if block and end is None and self._unread() is self._segments[self._at] and self.look():
                continue  # another file came before it, or it was truncated meanwhile
            if block and (chunk := self._framer.feed(block) or self._framer.take(most)):
                self._stay()
                return chunk
            if len(block) == self._framer.block_bytes:
                continue
            if not self._may_leave(end):
                return None
            if chunk := self._leave():
                return chunk

    def take_note(self, chunk: Chunk) -> None:
        """Remember that a chunk was folded: what `known_files` tells ends with it."""
        for segment in reversed(self._segments):
            if segment.start is not None and segment.start <= chunk.offset:
                segment.take_note(chunk)
                return

    def known_files(self) -> list[KnownFile]:
        """Return the files of which more was folded since this was last asked."""
        changed = [segment for segment in self._segments if segment.is_folded_anew]
        if not changed:
            return []
        for segment in changed:
            segment.is_folded_anew = False
        newest = self._segments.index(changed[-1])
        passed = [segment.known() for segment in self._segments[:newest] if not segment.is_lost]
        starts = {file.start_offset for file in passed}
        others = [file for file in self.history.known if file.start_offset not in starts]
        self.history.known = sorted([*others, *passed])
        del self._segments[:newest]
        self._at -= newest
        return [segment.known() for segment in changed]

    def wakes_in(self) -> float | None:
        """Return in how many seconds to look again or to leave a file; None if there is no need."""
        if self._listing is None:
            return _LOOK_AGAIN_SECONDS
        if self._at + 1 >= len(self._segments):
            return None
        return max(self._segments[self._at].leave_at - time.monotonic(), 0)

    def look(self) -> bool:
        """Look which files the log has by now; return whether there is more to read."""
        self.history.found = files_of(self.path)
        if _listing(self.history.found) == self._listing and not self._is_cut_off:
            return False
        before = [segment.file for segment in self._segments]
        if self._is_cut_off:
            self._find_rest()
        self._queue_new()
        return [segment.file for segment in self._segments] != before

    def _open_known(self, offset: int) -> None:
        """Open the known files from `offset` on, as far as they are there."""
        known = self.history.known
        if not known and offset:  # written by a version that knew no files
            _, found = self.history.file_at(offset)
            if found is None or found.size_bytes < offset:
                raise gone(self.path, offset)
            self._append(Segment(found, 0))
        for number, file in enumerate(known):
            end = known[number + 1].start_offset if number + 1 < len(known) else None
            if end is not None and end <= offset:
                continue
            _, found = self.history.file_at(file.start_offset)
            if found is not None:
                self._append(Segment(found, file.start_offset, file.read_bytes))
            elif offset < file.start_offset + file.read_bytes:
                raise gone(self.path, offset)
            else:
                self.messages.append(
                    f"{self.path}: {file.name} is gone; what was written to it after its first "
                    f"{file.read_bytes} bytes is not known"
                )
        for segment in self._segments[:1]:
            segment.look_at_head()
            place = offset - (segment.start or 0)
            start = max(place - HEAD_BYTES, 0)
            if isinstance(segment.file, PlainFile):
                self._recent = segment.file.read_at(start, place - start)

    def _queue_new(self) -> None:
        """Append the files that came after those that are known."""
        found = self.history.found
        at_hand = [segment for segment in self._segments if not segment.is_lost]
        starts = {segment.start for segment in self._segments}
        known = [file for file in self.history.known if file.start_offset not in starts]
        same = identify(found, [*known, *(s.fingerprint() for s in at_hand)], self.path)
        ids = {segment.id for segment in at_hand}
        unread = self._unread()
        if unread:  # nothing but its name tells where it comes: others may have come before it
            ids.discard(unread.file.found.id)
        familiar = [
            at
            for at, file in enumerate(found)
            if file.id in ids or (file in same and not (unread and file.id == unread.id))
        ]
        new = found[familiar[-1] + 1 if familiar else 0 :]
        copies = _copies(new)
        new = [file for file in new if file not in copies]
        self._listing = None
        if unread and [file.id for file in new] != [unread.id]:
            self._segments.remove(unread)
            unread.file.close()
            self._exhausted = (-1, -1)
        elif unread:
            new = []
        for file in new[:_OPEN_AT_ONCE]:
            try:
                segment = Segment(file)
            except FileMovedError:
                return
            if self._segments:
                self._segments[-1].leave_at = time.monotonic() + self._drain_seconds
            self._append(segment)
        if len(new) <= _OPEN_AT_ONCE and not copies:
            self._listing = _listing(found)

    def _unread(self) -> Segment | None:
        """Return the newest file if nothing of it was read."""
        for segment in self._segments[-1:]:
            is_untouched = segment.start == self._framer.next_read and not self._framer.holds_lines
            if segment.start is None or (is_untouched and not segment.is_lost):
                return segment
        return None

    def _append(self, segment: Segment) -> None:
        if self._at == len(self._segments) and segment.start is None:
            segment.start = self._framer.offset
        self._segments.append(segment)

    def _next_block(self, end: int | None) -> bytes:
        """Read a block, or nothing when the file has not grown since nothing was found."""
        segment, offset = self._segments[self._at], self._framer.next_read
        place = offset - (segment.start or 0)
        if segment.is_lost or segment.ends_at is not None or self._is_cut_off:
            return b""
        limit = self._limit(end)
        most = min(self._framer.block_bytes, limit - offset)
        try:
            self._remember_up_to(offset)
            if isinstance(segment.file, PlainFile):
                size = segment.file.size_bytes()
                if self._was_changed(segment.file, place, size):
                    self._is_cut_off = True
                    return b""
                if (offset, size) == self._exhausted:
                    return b""
            segment.look_at_head()
            block = segment.file.read_at(place, most) if most > 0 else b""
        except OSError as error:
            raise unreadable(self.path, error) from error
        if (
            isinstance(segment.file, PlainFile)
            and limit == ALL_LINES
            and place + len(block) == size
        ):
            self._exhausted = (offset, size)
        self._block, self._block_at = block, offset
        return block

    def _stay(self) -> None:
        """Watch a file longer in which there was more while it was about to be left."""
        segment, now = self._segments[self._at], time.monotonic()
        if now < segment.leave_at:
            segment.leave_at = now + self._drain_seconds

    def _limit(self, end: int | None) -> int:
        """Return the offset not to read from: the end asked for, or where the next file begins."""
        following = self._segments[self._at + 1 : self._at + 2]
        starts = [segment.start for segment in following if segment.start is not None]
        return min([ALL_LINES if end is None else end, *starts])

    def _remember_up_to(self, offset: int) -> None:
        """Keep the bytes before `offset`, to know the file again by."""
        read = self._block[: offset - self._block_at]
        self._recent = (self._recent + read[-HEAD_BYTES:])[-HEAD_BYTES:]
        self._block, self._block_at = b"", offset

    def _was_changed(self, file: PlainFile, place: int, size: int) -> bool:
        """Whether what was read of a file is no longer in it."""
        recent = self._recent
        return size < place or file.read_at(place - len(recent), len(recent)) != recent

    def _find_rest(self) -> None:
        """Go on in the copy of a file that was truncated, if there is one."""
        self._is_cut_off = False
        segment = self._segments[self._at]
        place = self._framer.next_read - (segment.start or 0)
        ids = {segment.id for segment in self._segments}
        for found in self.history.found:
            if found.id in ids or found.path == self.path:
                continue
            if copy := self._copy(found, segment, place):
                segment.file.close()
                segment.file = copy
                segment.is_folded_anew = True
                self._exhausted = (-1, -1)
                return
        segment.is_lost = True
        self.messages.append(
            f"{self.path}: was truncated or rewritten after its first {place} bytes were read; "
            "what else was written to it before is not known"
        )

    def _copy(self, found: FoundFile, segment: Segment, place: int) -> ReadableFile | None:
        """Open a file if it has what was read of another one."""
        recent, head = self._recent, segment.look_at_head()[:place]
        try:
            copy = open_file(found)
        except FileMovedError:
            return None
        there = copy.read_at(0, len(head)), copy.read_at(place - len(recent), len(recent))
        if recent and there == (head, recent):
            return copy
        copy.close()
        return None

    def _may_leave(self, end: int | None) -> bool:
        """Whether another file follows, and nothing more is to come in the one in hand."""
        if self._is_cut_off or self._at + 1 >= len(self._segments):
            return False
        segment, following = self._segments[self._at : self._at + 2]
        if end is not None and (following.start is None or self._framer.offset >= end):
            return False
        return following.start is not None or time.monotonic() >= segment.leave_at

    def _leave(self) -> Chunk | None:
        """Go on to the next file; return what is left at the end of this one, if anything is."""
        segment, following = self._segments[self._at : self._at + 2]
        if not segment.is_lost and segment.ends_at is None:
            place = self._framer.next_read - (segment.start or 0)
            rest = segment.file.read_at(place, self._framer.block_bytes - 1)
            if following.start is not None:  # as much as there was when it was left before
                rest = rest[: max(following.start - 1 - self._framer.next_read, 0)]
            segment.ends_at = place + len(rest)
            if self._framer.offset < (segment.start or 0) + segment.ends_at:
                return self._framer.feed(rest + b"\n") or self._framer.take(ALL_LINES)
        if following.start is None:
            following.start = self._framer.offset
        elif following.start != self._framer.offset:
            raise LogError(
                f"{segment.file.found.path}: ends at byte {self._framer.offset} of the log, and "
                f"ended at {following.start} before; it was changed. Put it back, or make the "
                "report anew with `processor replay`"
            )
        segment.whole = segment.fingerprint()
        segment.file.close()
        self._at += 1
        self._framer = Framer(following.start, self._framer.block_bytes)
        self._recent, self._block, self._block_at = b"", b"", following.start
        self._exhausted = (-1, -1)
        return None


def _copies(found: Sequence[FoundFile]) -> set[FoundFile]:
    """Return the files that hold what the newest one begins with: it is about to be truncated.

    Empty ones are among them: a copy may have been begun.
    """
    try:
        newest = open_file(found[-1]) if found else None
    except FileMovedError:
        newest = None
    if newest is None:
        return set()
    try:
        return {file for file in found[:-1] if _is_copy(file, newest)}
    finally:
        newest.close()


def _is_copy(found: FoundFile, newest: ReadableFile) -> bool:
    try:
        file = open_file(found)
    except FileMovedError:
        return False
    try:
        places = (0, max(found.size_bytes - HEAD_BYTES, 0))
        parts = [(at, file.read_at(at, HEAD_BYTES)) for at in places]
        return all(newest.read_at(at, len(part)) == part for at, part in parts)
    finally:
        file.close()


def _listing(found: Sequence[FoundFile]) -> list[object]:
    """Return what is another once a file came or went, or is no longer empty."""
    return [(file.path, file.id, file.size_bytes > 0) for file in found]


def gone(path: Path, offset: int) -> GoneError:
    """Return that the part of a log is gone that begins at `offset`."""
    return GoneError(
        f"{path}: the file with byte {offset} of the log is gone, or was changed, and no snapshot "
        "has what is needed of it. Put it back; or go on without what it held with --accept-loss: "
        "clicks on its page loads will not be related, and lines that come again count again"
    )


def size_of(path: Path) -> int | None:
    """Return how many bytes the files of a log have on the disk, None while there is none.

    Raises:
        LogError: it is no plain file, or out of reach.

    """
    files = files_of(path)
    return sum(file.size_bytes for file in files) if files else None
