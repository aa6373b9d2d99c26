"""Reads a log by byte offset, through all the files that rotation spread it over.

Never writes. What is cut into lines, and how, `core.framing` decides; which files a log has,
`edges.files`, and which of them is which, `edges.identity`.

A file is left for the next one once that has a line and nothing more has come for `DRAIN_SECONDS`:
who writes may hold the old one open for a moment. What stands at the end of a file that was left,
without a newline, is a line: none will follow it. At the end of the newest file it waits.
"""

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from processor.core.framing import BLOCK_BYTES, Framer
from processor.core.model import Chunk
from processor.edges.files import (
    STDIN,
    FoundFile,
    NotNowError,
    PlainFile,
    ReadableFile,
    check_unmoved,
    find,
    is_compressed,
    open_file,
    with_files,
)
from processor.edges.history import History, gone
from processor.edges.identity import (
    HEAD_BYTES,
    KnownFile,
    ReadFiles,
    begin_alike,
    ends_of,
    identify,
    is_copy,
    know,
    still_holds,
)
from processor.errors import GoneError, LogError

ALL_LINES: Final = 1 << 62
DRAIN_SECONDS: Final = 1.0
_OPEN_AT_ONCE: Final = 64


class _CutOffError(Exception):
    """What was read of a file is no longer in it: it was truncated or rewritten."""


class _Part:
    """The file of a log that is being read: in the log it begins at `start`.

    `length` is its own, once it was left before; None while it may grow. `before` is as what it was
    known before, which goes further than it is read by now when it is read again.
    """

    def __init__(
        self,
        file: ReadableFile,
        start: int,
        offset: int,
        length: int | None,
        before: KnownFile | None = None,
    ) -> None:
        self.file = file
        self.start = start
        self.length = length
        self.is_lost = False
        self._before = before
        self._head, self._tail = ends_of(file, offset - start)
        self._passed = offset
        self._block, self._block_at = b"", offset

    @property
    def may_grow(self) -> bool:
        """Whether more may be written to it, and be read."""
        return self.length is None and not self.is_lost

    def read(self, offset: int, most: int) -> bytes:
        """Return the bytes from `offset` on, if those before are what they were.

        Raises:
            _CutOffError: they are not.

        """
        if self.is_lost:
            return b""
        if self.length is not None:
            most = min(most, self.start + self.length - offset)
        self.pass_to(offset)
        before = len(self._tail)
        data = self.file.read_at(offset - self.start - before, before + most)
        # Looked at again, since it may have been truncated and written to while it was read.
        if data[:before] != self._tail or not self.is_whole():
            raise _CutOffError
        self.take(data[before:])
        return self._block

    def take(self, block: bytes) -> None:
        """Take up a block that was read where reading has come to."""
        self._block, self._block_at = block, self._passed

    def pass_to(self, offset: int) -> None:
        """Take note that all before `offset` was read for good."""
        begin, end = self._passed - self._block_at, offset - self._block_at
        if len(self._head) < HEAD_BYTES:
            self._head = (self._head + self._block[begin:end])[:HEAD_BYTES]
        self._tail = (self._tail + self._block[max(begin, end - HEAD_BYTES) : end])[-HEAD_BYTES:]
        self._passed = offset

    def known(self) -> KnownFile:
        """Return how it is known again, by what was read for good, now or before."""
        if self._before and self._passed <= self._before.end_offset:
            return self._before.now_at(self.file.found)
        read_bytes = self._passed - self.start
        return know(self.file.found, self.start, read_bytes, self._head, self._tail)

    def is_whole(self) -> bool:
        """Whether what was read of it is still in it."""
        place = self._passed - self.start
        tail = self.file.read_at(place - len(self._tail), len(self._tail))
        return tail == self._tail and self._is_as_before()

    def _is_as_before(self) -> bool:
        """Whether what was read of it before, and is read again, is still in it.

        Nobody writes to a compressed one, and to look back in it is to decompress it again.
        """
        before = self._before
        if before is None or self._passed > before.end_offset or self.file.is_compressed:
            return True
        return still_holds(self.file, before)

    def go_on_in(self, copy: ReadableFile) -> None:
        """Read on in a copy of it."""
        self.file.close()
        self.file = copy
        if self._before and self._passed <= self._before.end_offset:
            # It may have been truncated before its ends were read.
            self._head, self._tail = ends_of(copy, self._passed - self.start)


class _Waiting:
    """A file that comes after the one that is being read, seen first at `since`."""

    def __init__(self, found: FoundFile, since: float) -> None:
        self.file: ReadableFile = open_file(found)
        self.since = since


class LogReader:
    """Gives out the complete lines of one log, from `offset` on.

    `known` are its files as far as they were read before; with `drain_seconds` a file that was
    rotated away is watched so long before it is left.

    Raises:
        GoneError: a file that is needed is gone.
        LogError: a file cannot be read, or was changed.

    """

    def __init__(
        self,
        path: Path,
        offset: int = 0,
        known: Sequence[KnownFile] = (),
        drain_seconds: float = 0.0,
        max_line_bytes: int = BLOCK_BYTES,
    ) -> None:
        self.path = path
        self.messages: list[str] = []
        self._drain_seconds = drain_seconds
        self._stays_until = 0.0
        self._looks_again = False
        self._grown: set[int] = set()
        self._framer = Framer(offset, max_line_bytes)
        self._left = sorted(known)
        """The files before and after the one that is being read, as far as they were read."""
        starts = [file.start_offset for file in self._left]
        self._at = max(bisect_right(starts, offset) - 1, 0)
        """Which of them is to be read next."""
        self._part: _Part | None = None
        self._waiting: list[_Waiting] = []
        self._read: deque[tuple[int, KnownFile]] = deque()
        self._oldest = 0
        try:
            self._check_left()
            self._open_left()
            with_files(self.path, self._take_up)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of all files."""
        if self._part:
            self._part.file.close()
        for waiting in self._waiting:
            waiting.file.close()
        self._part, self._waiting = None, []

    def read(self, most: int = ALL_LINES, end: int | None = None) -> Chunk | None:
        """Return up to `most` lines that follow the last ones, None when no line is complete.

        With `end`, no byte from that offset on is looked at.
        """
        chunk = self._framer.take(most)
        while chunk is None and (end is None or self._framer.offset < end):
            try:
                chunk, has_more = self._read_on(end)
            except _CutOffError:
                if self._part and (self._part.length is not None or self._part.file.is_compressed):
                    raise gone(self.path, self._framer.offset) from None
                has_more = self._relisted()
            if not has_more:
                return None
            chunk = chunk or self._framer.take(most)
        return self._give_out(chunk) if chunk else None

    def files_up_to(self, offset: int) -> ReadFiles:
        """Return what became known of the files since this was last asked, up to `offset`."""
        changed: dict[int, KnownFile] = {}
        while self._read and self._read[0][0] <= offset:
            _, file = self._read.popleft()
            changed[file.start_offset] = file
        oldest, self._oldest = self._oldest, 0
        return ReadFiles(list(changed.values()), oldest)

    def history(self) -> History:
        """Return what reads lines back."""
        return History(self.path, self._known(), self._framer.block_bytes)

    def size_bytes(self) -> int:
        """Return how long the log is now; of a compressed file that is not read yet, its size."""
        end = max([self._framer.next_read, *(known.end_offset for known in self._left[-1:])])
        part = self._part
        if part and part.may_grow:
            end = max(end, part.start + _size_bytes(part.file))
        return end + sum(_size_bytes(waiting.file) for waiting in self._waiting)

    def wakes_in(self) -> float | None:
        """Return in how many seconds to read or to look again, though no file was changed."""
        left = self._leaves_at() - time.monotonic() if self._waiting else 0
        if left <= 0 and (self._waiting or self._looks_again):
            return DRAIN_SECONDS  # whoever writes to a file that was renamed is not told of
        return left if self._waiting else None

    def look(self) -> bool:
        """Look whether the log goes on in another file by now; return whether that may be read."""
        newest = find(self.path)
        if newest and self._part and not self._waiting and newest.id == self._part.file.id:
            return False
        before = self._waiting
        return self._relisted() and self._waiting != before

    def _known(self) -> list[KnownFile]:
        """Return how each file is known again, in order, as far as it was read."""
        part = self._part
        return [*self._left, part.known()] if part and part.length is None else self._left

    def _give_out(self, chunk: Chunk) -> Chunk:
        if self._part and self._part.length is None:
            self._part.pass_to(chunk.end)
            self._read.append((chunk.end, self._part.known()))
        return chunk

    def _read_on(self, end: int | None) -> tuple[Chunk | None, bool]:
        """Read a block; return an overlong line if one ends in it, and whether to go on."""
        part, offset, most = self._part, self._framer.next_read, self._framer.block_bytes
        if part is None:
            return None, self._open_left() or (end is None and self._open_waiting())
        is_overlong = offset != self._framer.offset
        block = part.read(offset, most if end is None else min(most, end - offset))
        chunk = self._framer.feed(block)
        if chunk or self._framer.holds_lines or len(block) == most:
            self._stay()
            return chunk, True
        rest = b"" if is_overlong else block  # the framer has it already
        was_left = end == self._framer.next_read + len(rest) + 1  # a line without a newline
        if not was_left and not self._may_leave(part):
            return None, False
        return self._leave(part, rest), True

    def _stay(self) -> None:
        """Watch a file longer in which there was more while it was about to be left."""
        now = time.monotonic()
        if self._waiting and now < self._leaves_at():
            self._stays_until = now + self._drain_seconds

    def _leaves_at(self, index: int = 0) -> float:
        """Return when to begin with a waiting file, and leave the one before it."""
        return max(self._waiting[index].since + self._drain_seconds, self._stays_until)

    def _may_leave(self, part: _Part) -> bool:
        """Whether nothing more is to come in the file in hand, and another one follows."""
        if not part.may_grow:
            return True
        is_drained = self._waiting and time.monotonic() >= self._leaves_at()
        return bool(is_drained and self._first_block())

    def _leave(self, part: _Part, rest: bytes) -> Chunk | None:
        """Leave the file in hand; what is at its end without a newline is a line."""
        part.file.close()
        self._part = None
        end = self._framer.next_read + len(rest)
        part.pass_to(end)
        chunk = None
        if end > self._framer.offset:
            chunk = self._framer.feed(rest + b"\n") or self._framer.take(1)
        known = part.known()
        if part.length is None:
            self._left.append(known)
            self._at = len(self._left)
            self._read.append((self._framer.offset, known))
        elif self._left[self._at].start_offset != self._framer.offset:
            raise LogError(
                f"{part.file.found.path}: ends at byte {self._framer.offset} of the log, and "
                f"ended at {self._left[self._at].start_offset} before; it was changed. Put it "
                "back, or make the report anew with `processor replay`"
            )
        return chunk

    def _check_left(self) -> None:
        """Look whether all is there that was read before and is to be read again."""
        offset = self._framer.offset
        needed = [k for k in self._left[self._at :] if offset < k.end_offset]

        def missing(found: list[FoundFile]) -> list[KnownFile]:
            there = identify(found, self._left).values()
            if missed := [file for file in needed if file not in there]:
                check_unmoved(self.path, found)
            return missed

        for file in with_files(self.path, missing) if needed else ():
            raise gone(self.path, max(offset, file.start_offset))

    def _open_left(self) -> bool:
        """Open the file that comes next of those that were read before, if there is one."""
        if self._at == len(self._left):
            return False
        offset, known = self._framer.offset, self._left[self._at]
        if offset > known.end_offset:  # its last line had no newline
            self._at += 1
            return False
        file = History(self.path, self._left).open(self._at)
        is_newest = known is self._left[-1]
        if file:
            length = None if is_newest else known.read_bytes
            try:
                self._part = _Part(file, known.start_offset, offset, length, known)
            except BaseException:
                file.close()
                raise
        elif offset < known.end_offset:
            raise gone(self.path, offset)
        elif self.path != STDIN:
            self.messages.append(
                f"{self.path}: {known.name} is gone, or was rewritten; what was written to it "
                f"after its first {known.read_bytes} bytes is not known"
            )
        if file and is_newest:
            del self._left[-1]
        else:
            self._at += 1
        return file is not None

    def _open_waiting(self) -> bool:
        """Begin with the file that waits first, if it has a line."""
        while self._waiting and (block := self._first_block()):
            first = self._waiting[0]
            if not self._has_line(block) and time.monotonic() < self._leaves_at(1):
                return False  # it would be known by nothing until it is left
            # It may have been truncated before it was read: then its copy has come before it.
            if first.file.found.path == self.path and not self._relisted():
                return False
            if self._waiting[:1] == [first]:
                del self._waiting[0]
                offset = self._framer.offset
                self._part = _Part(first.file, offset, offset, None)
                self._part.take(block)
                self._framer.feed(block)
                return True
        return False

    def _first_block(self, index: int = 0) -> bytes:
        """Return how a waiting file begins, nothing while that is no line.

        Without a newline it is one only if more files follow.
        """
        if index == len(self._waiting):
            return b""
        file = self._waiting[index].file
        block = file.read_at(0, self._framer.block_bytes)
        if self._has_line(block):
            return block
        return block if file.found.path != self.path and self._first_block(index + 1) else b""

    def _has_line(self, block: bytes) -> bool:
        """Whether a line ends in the first block of a file, or is too long to."""
        return b"\n" in block or len(block) == self._framer.block_bytes

    def _relisted(self) -> bool:
        """List the files anew; return whether that was possible."""
        try:
            with_files(self.path, self._take_up)
        except NotNowError as error:
            if self._drain_seconds == 0:  # nobody will look again
                raise
            if not self._looks_again:
                self.messages.append(f"{error}; trying again")
            self._looks_again = True
            return False
        self._looks_again = False
        return True

    def _take_up(self, found: list[FoundFile]) -> None:
        """Find out which of the files are which: those after the last one that is known are new."""
        part = self._part
        same: dict[FoundFile, KnownFile] = {}
        if part and part.may_grow and part.is_whole():
            same = {file: part.known() for file in found if file.id == part.file.id}
        known = self._left if same else self._known()
        same |= identify([file for file in found if file not in same], known)
        if part and part.may_grow and part.start not in {k.start_offset for k in same.values()}:
            check_unmoved(self.path, found)
        self._follow({known.start_offset: file for file, known in same.items()}, len(found))
        self._wait_for(found, same)

    def _follow(self, there: dict[int, FoundFile], files: int) -> None:
        """Know each file by where it is by now; go on in the copy of one that was truncated."""
        if files > 1:  # else it may be that the folder cannot be listed
            self._forget(there)
        for index, known in enumerate(self._left):
            if file := there.get(known.start_offset):
                self._follow_left(index, file)
        part = self._part
        if part is None or not part.may_grow:
            return
        file = there.get(part.start)
        if file and (
            file.id == part.file.id or (part.is_whole() and not self._outgrew(file, part))
        ):
            part.file.found = file
        elif file:  # it was truncated, or another file took its place
            part.go_on_in(open_file(file))
        elif not part.is_whole():
            part.is_lost = True
            self.messages.append(
                f"{self.path}: was truncated or rewritten after its first "
                f"{part.known().read_bytes} bytes were read; what else was written to it before "
                "is not known"
            )

    def _outgrew(self, copy: FoundFile, part: _Part) -> bool:
        """Whether what is written to the log goes, or went, to a copy of the file in hand."""
        has_more = not is_compressed(copy) and copy.size_bytes > _size_bytes(part.file)
        return copy.path == self.path or has_more

    def _follow_left(self, index: int, file: FoundFile) -> None:
        known = self._left[index]
        if file.id != known.id:
            self._left[index] = known.now_at(file)
            self._read.append((self._framer.offset, self._left[index]))
        more = file.size_bytes - known.read_bytes
        is_plain = file.id == known.id and not is_compressed(file)
        if is_plain and more > 0 and index < self._at and known.start_offset not in self._grown:
            self._grown.add(known.start_offset)
            self.messages.append(
                f"{file.path}: {more} bytes were written to it after it was left for the next "
                "file; they are not read. Have whoever writes open the log anew sooner"
            )

    def _forget(self, there: dict[int, FoundFile]) -> None:
        """Let go of the oldest files, if they were read and are gone, and younger ones are not."""
        kept = [n for n, file in enumerate(self._left[: self._at]) if file.start_offset in there]
        if kept and kept[0] > 0:
            del self._left[: kept[0]]
            self._at -= kept[0]
            self._oldest = self._left[0].start_offset

    def _wait_for(self, found: list[FoundFile], same: Collection[FoundFile]) -> None:
        """Open the files that are new, and keep those open that waited and are found no more."""
        at_hand = {waiting.file.id: waiting for waiting in self._waiting}
        last = max((index for index, file in enumerate(found) if file in same), default=-1)
        new = [
            file
            for index, file in enumerate(found)
            if (index > last or file.id in at_hand)
            and file not in same
            and (file.size_bytes or file.path == self.path)
        ]
        opened: list[_Waiting] = []
        try:
            waiting = self._opened(new, at_hand, opened)
        except BaseException:
            _close(other for other in opened if other not in self._waiting)
            raise
        ids = {file.id for file in found}
        place = 0
        for other in self._waiting:  # one that is gone stays behind the one that it was behind
            if other in waiting:
                place = waiting.index(other) + 1
            elif other.file.id not in ids and not any(_is_same(other, w) for w in waiting):
                waiting.insert(place, other)
                place += 1
        _close(other for other in {*self._waiting, *opened} if other not in waiting)
        self._waiting = waiting

    def _opened(
        self,
        new: Sequence[FoundFile],
        at_hand: Mapping[tuple[int, int], _Waiting],
        opened: list[_Waiting],
    ) -> list[_Waiting]:
        """Open files that are new; return those of them that are to be read."""
        try:
            for file in new[:_OPEN_AT_ONCE]:
                opened.append(at_hand.get(file.id) or _Waiting(file, time.monotonic()))
                opened[-1].file.found = file
        except NotNowError:
            if not opened:
                raise  # else the others can wait
        waiting = list(opened)
        newest = waiting[-1] if waiting else None
        if newest and newest.file.found.path == self.path:
            # A file that holds the same is a copy, or becomes one: this one will be truncated.
            waiting = [w for w in waiting if w is newest or not is_copy(w.file, newest.file)]
        return [w for w in waiting if not w.file.is_compressed or w.file.read_at(0, 1)]


def _close(files: Iterable[_Waiting]) -> None:
    for waiting in files:
        waiting.file.close()


def _size_bytes(file: ReadableFile) -> int:
    return file.size_bytes() if isinstance(file, PlainFile) else file.found.size_bytes


def _is_same(gone: _Waiting, there: _Waiting) -> bool:
    """Whether a file that is gone is there as another one: renamed over, compressed, copied."""
    if gone.file.is_compressed:
        return begin_alike(there.file, gone.file)
    return is_copy(gone.file, there.file)


def readable_from(path: Path, known: Sequence[KnownFile], offset: int) -> int:
    """Return from which offset on all of a log is there that was read, up to `offset`."""
    starts = {0, *(file.start_offset for file in known if 0 < file.start_offset < offset)}
    for start in sorted(starts):
        with suppress(GoneError):
            LogReader(path, start, known).close()
            return start
    return offset
