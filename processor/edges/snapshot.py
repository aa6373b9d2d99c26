"""Files that hold a working state: a cache, so whatever is wrong with one, it is not used.

A snapshot is JSON lines: a line with the version of the format, the head (`Head`), the pieces of
the open visits, and the checksum of all that. It is written beside its place, flushed to the disk
and moved there, so that a crash leaves the old one or the new one. It is read twice: nothing of
it is decoded before its checksum has been compared. That is SHA-256: a CRC of 32 bits would let one
damaged file in four billion pass, and saves less than half a second a gigabyte.

It holds the ids of users and visits, so only its owner may read it. What the pieces hold is the
fold's business, which database they belong to the shell's.
"""

import os
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import orjson

from processor.core.model import LogImage, Piece, Rules
from processor.errors import ProcessorError

FORMAT: Final = b"processor snapshot 2\n"
"""To be raised with whatever changes what is in a snapshot, or what it means."""

_CHECKSUM_BYTES: Final = len(sha256().hexdigest()) + 1
_BLOCK_BYTES: Final = 1 << 20


class SnapshotError(ProcessorError):
    """A file is no snapshot that can be used; the message says why."""


class SnapshotFiles(NamedTuple):
    """Where the snapshots of a report live: one for each generation, beside each other."""

    base: Path

    def of(self, generation: int) -> Path:
        """Return where the snapshot of a generation lives."""
        return self.base.with_name(f"{self.base.name}.{generation}")

    def keep_only(self, generations: Collection[int]) -> None:
        """Remove the snapshots of generations that are no more: they hold ids of users."""
        with suppress(OSError):
            if self.base.exists() and not self.of(1).exists():
                self.base.rename(self.of(1))  # a version without generations wrote it
        kept = [self.of(generation).name for generation in generations]
        with suppress(OSError):  # what cannot be listed now is listed the next time
            for path in self.base.parent.glob(f"{self.base.name}*"):
                if not any(path.name == name or path.name.startswith(f"{name}.") for name in kept):
                    with suppress(OSError):  # one that stays must not keep the others
                        path.unlink(missing_ok=True)


class LogTrace(NamedTuple):
    """A log that a snapshot holds, and what the fold knew of it."""

    path: str
    image: LogImage


@dataclass(frozen=True, slots=True)
class Head:
    """Which working state it is: made by which rules, from how much of which logs.

    `let_go` has the logs that are in the state and are not read on: their ids and offsets.
    """

    contract_version: int
    rules: Rules
    open_from: int
    logs: tuple[LogTrace, ...]
    let_go: dict[str, tuple[int, int]]


def write(path: Path, head: Head, pieces: Iterable[Piece]) -> int:
    """Put a snapshot at `path` in place of the one that is there; return its size in bytes.

    Raises:
        OSError: it cannot be written; the one before it is still there.

    """
    folder = path.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left_over in folder.glob(f"{path.name}.*.tmp"):
        with suppress(OSError):
            left_over.unlink(missing_ok=True)
    fd, name = tempfile.mkstemp(".tmp", f"{path.name}.", folder)  # of mode 0600
    try:
        with os.fdopen(fd, "wb", buffering=_BLOCK_BYTES) as file:
            size_bytes = _write_lines(file, head, pieces)
            file.flush()
            os.fsync(fd)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink(missing_ok=True)
        raise
    _sync(folder)
    return size_bytes


def read(path: Path) -> tuple[Head, Iterator[Piece]]:
    """Return what a snapshot holds, once all of it has been compared with its checksum.

    Raises:
        SnapshotError: it is damaged, or of another version.
        OSError: it cannot be read.

    """
    lines = _lines(path)
    try:
        return _head(next(lines)), map(orjson.loads, lines)
    except (ValueError, LookupError, TypeError, StopIteration) as error:
        raise SnapshotError("it is not what this version writes") from error


def _write_lines(file: BinaryIO, head: Head, pieces: Iterable[Piece]) -> int:
    checksum, size_bytes = sha256(), 0
    for line in _encoded(head, pieces):
        checksum.update(line)
        size_bytes += file.write(line)
    return size_bytes + file.write(checksum.hexdigest().encode() + b"\n")


def _encoded(head: Head, pieces: Iterable[Piece]) -> Iterator[bytes]:
    yield FORMAT
    logs = [(log.path, log.image) for log in head.logs]
    fields = (head.contract_version, head.rules, head.open_from, logs, head.let_go)
    names = Head.__dataclass_fields__
    yield orjson.dumps(dict(zip(names, fields, strict=True)), option=orjson.OPT_APPEND_NEWLINE)
    for piece in pieces:
        yield orjson.dumps(piece, option=orjson.OPT_APPEND_NEWLINE)


def _head(line: bytes) -> Head:
    fields: dict[str, Any] = orjson.loads(line)
    logs = tuple(LogTrace(path, LogImage(**image)) for path, image in fields.pop("logs"))
    let_go = {path: (log_id, offset) for path, (log_id, offset) in fields.pop("let_go").items()}
    return Head(rules=Rules(**fields.pop("rules")), logs=logs, let_go=let_go, **fields)


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines between the first and the last, having looked at all of the file."""
    with path.open("rb") as file:
        if file.readline(len(FORMAT)) != FORMAT:
            raise SnapshotError("it is no snapshot of this version")
        end = os.fstat(file.fileno()).st_size - _CHECKSUM_BYTES
        if end < len(FORMAT) or not _is_whole(file, end):
            raise SnapshotError("it is damaged")
        file.seek(len(FORMAT))
        while file.tell() < end:
            yield file.readline()


def _is_whole(file: BinaryIO, end: int) -> bool:
    """Whether the checksum at `end` is that of what comes before it."""
    file.seek(0)
    checksum, left = sha256(), end
    while left and (block := file.read(min(left, _BLOCK_BYTES))):
        checksum.update(block)
        left -= len(block)
    return file.read() == checksum.hexdigest().encode() + b"\n"


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
