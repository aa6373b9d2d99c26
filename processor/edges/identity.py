"""Which file of a log is which: known again whatever rotation does to it.

A file is known by its device and inode together with its content: the bytes at its start, and those
before the place up to which it was read. So one that was renamed is known by both, one that was
compressed, copied or restored by its content alone, and one that was truncated, rewritten or born
again under an old inode is not taken for what it was. No file is too small for that.
"""

from collections.abc import Sequence
from contextlib import closing
from hashlib import blake2b
from typing import Final, NamedTuple

from processor.edges.files import (
    DamagedError,
    FoundFile,
    NotNowError,
    PlainFile,
    ReadableFile,
    open_file,
)

HEAD_BYTES: Final = 4096
"""So much of a file's start, and of what was read of it last, makes up its fingerprint."""


class KnownFile(NamedTuple):
    """A file of a log, as it is known again: `start_offset` is where it begins in the log.

    `read_bytes` of it are accounted for; `head` is the digest of its first bytes, `tail` that of
    the last `tail_bytes` before that place.
    """

    start_offset: int
    device: int
    inode: int
    name: str
    read_bytes: int
    head: str
    tail: str
    tail_bytes: int

    @property
    def id(self) -> tuple[int, int]:
        """What no other file had at the same time."""
        return self.device, self.inode

    @property
    def end_offset(self) -> int:
        """Where in the log that ends of it which is accounted for."""
        return self.start_offset + self.read_bytes

    def now_at(self, found: FoundFile) -> "KnownFile":
        """Return the same, as it was found."""
        return self._replace(device=found.device, inode=found.inode, name=found.path.name)


class ReadFiles(NamedTuple):
    """What reading on has made known of the files of a log, to be kept with the offset.

    `changed` are those of which more was read. All that end before the offset `oldest` are gone.
    """

    changed: list[KnownFile]
    oldest: int = 0


def know(found: FoundFile, start: int, read_bytes: int, head: bytes, tail: bytes) -> KnownFile:
    """Return how a file is known again by its first bytes, and the last that were read."""
    return KnownFile(
        start,
        found.device,
        found.inode,
        found.path.name,
        read_bytes,
        _digest(head),
        _digest(tail),
        len(tail),
    )


def ends_of(file: ReadableFile, size_bytes: int) -> tuple[bytes, bytes]:
    """Return the first and the last of the first `size_bytes` of a file."""
    start = max(size_bytes - HEAD_BYTES, 0)
    head = file.read_at(0, min(size_bytes, HEAD_BYTES))
    return head, file.read_at(start, size_bytes - start)


def begins_with(file: ReadableFile, plain: PlainFile) -> bool:
    """Whether a file begins with all that another one holds, as far as its ends tell."""
    size_bytes = plain.size_bytes()
    return begin_alike(file, plain, size_bytes) and (
        size_bytes <= HEAD_BYTES or ends_of(file, size_bytes) == ends_of(plain, size_bytes)
    )


def is_copy(file: ReadableFile, original: ReadableFile) -> bool:
    """Whether all that a plain file holds is in another one too."""
    return isinstance(file, PlainFile) and begins_with(original, file)


def begin_alike(one: ReadableFile, other: ReadableFile, most: int = HEAD_BYTES) -> bool:
    """Whether two files have the same bytes at their start, up to `most`."""
    most = min(most, HEAD_BYTES)
    return one.read_at(0, most) == other.read_at(0, most)


def identify(found: Sequence[FoundFile], known: Sequence[KnownFile]) -> dict[FoundFile, KnownFile]:
    """Return which of the files that were found are known, and as what; `known` by offset.

    Only the last of those that are known may have been written to since.

    Raises:
        FileMovedError: a file was renamed meanwhile: look again.
        NotNowError: a file cannot be opened for now that may be one of those that are known.
        LogError: a file cannot be read, so that it is not known which it is.

    """
    left = list(known)
    same: dict[FoundFile, KnownFile] = {}
    closed: NotNowError | None = None
    for by_inode in (True, False):
        for file in found:
            if file in same:
                continue
            for candidate in left:
                may_differ = by_inode or candidate is known[-1]
                try:
                    if (
                        (file.id == candidate.id or not by_inode)
                        and _holds(file, candidate, by_inode=by_inode, or_more=may_differ)
                        and (candidate is not known[-1] or not _is_copy_of_newest(file, found[-1]))
                    ):
                        same[file] = candidate
                        left.remove(candidate)
                        break
                except NotNowError as error:
                    closed = error
    if closed and left:
        raise closed
    return same


def _is_copy_of_newest(file: FoundFile, newest: FoundFile) -> bool:
    if file is newest:
        return False
    with closing(open_file(file)) as one, closing(open_file(newest)) as other:
        return is_copy(one, other)


def _holds(found: FoundFile, known: KnownFile, *, by_inode: bool, or_more: bool) -> bool:
    """Whether a file has what was read of a known one; `or_more` of it, or just that."""
    if not (by_inode or known.read_bytes):
        return False
    with closing(open_file(found)) as file:
        is_short = known.read_bytes < HEAD_BYTES  # others may begin like it
        more = 1 if is_short and not or_more else 0
        return still_holds(file, known, more, to_the_end=not (by_inode and file.is_compressed))


def still_holds(
    file: ReadableFile, known: KnownFile, more: int = 0, *, to_the_end: bool = True
) -> bool:
    """Whether an open file has what was read of a known one, and no more if that would show.

    To get `to_the_end` of a compressed file takes long.
    """
    try:
        if _digest(file.read_at(0, min(HEAD_BYTES, known.read_bytes))) != known.head:
            return False
        if not to_the_end:
            return True
        tail = file.read_at(known.read_bytes - known.tail_bytes, known.tail_bytes + more)
        return _digest(tail) == known.tail
    except DamagedError:
        return False


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()
