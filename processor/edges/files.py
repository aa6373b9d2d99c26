"""The files that a log lies in: how rotation names them, and how each is known again.

A log is one stream of lines at one path. Rotation spreads it over files beside that path:
`app.log` is the newest, `app.log.1` or `app.log-20220101` older, `app.log.2.gz` older still. One
after the other, oldest first, they are the log, and an offset counts from the first byte of the
first of them.

A file is known by its device and inode together with its content: the bytes at its start, and those
before the place up to which it was read. So one that was renamed is known by both, one that was
compressed or copied by its content alone, and one that was truncated, rewritten or born again under
an old inode is not taken for what it was. No file is too small for that.
"""

import gzip
import os
import re
import stat
import zlib
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from processor.errors import LogError

HEAD_BYTES: Final = 4096
"""So much of a file's start, and of what was read of it last, makes up its fingerprint."""

_ROTATED: Final = re.compile(r"[.-]?(\d[\d._T:-]*?)(\.gz)?", re.ASCII)
_INDEX: Final = re.compile(r"\.\d{1,4}", re.ASCII)
_LISTINGS: Final = 5


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


class FoundFile(NamedTuple):
    """A file as it was found in its folder; `size_bytes` is its size on the disk."""

    path: Path
    device: int
    inode: int
    size_bytes: int

    @property
    def id(self) -> tuple[int, int]:
        """What no other file has at the same time."""
        return self.device, self.inode


class ReadableFile(Protocol):
    """An open file of a log, plain or compressed."""

    found: FoundFile

    def read_at(self, offset: int, most: int) -> bytes:
        """Return the bytes from `offset` on, fewer than `most` only at the end of the file."""

    def close(self) -> None:
        """Let go of the file."""


class PlainFile:
    """A file that is read as it is."""

    def __init__(self, found: FoundFile) -> None:
        self.found = found
        self._fd = _open(found)

    def read_at(self, offset: int, most: int) -> bytes:
        """Return the bytes from `offset` on, fewer than `most` only at the end of the file."""
        data = b""
        while more := os.pread(self._fd, most - len(data), offset + len(data)):
            data += more  # a read may be shorter than asked for
        return data

    def size_bytes(self) -> int:
        """Return how long the file is now."""
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)


class GzipFile:
    """A file that is decompressed while it is read; what was read last is kept, to go back to."""

    def __init__(self, found: FoundFile) -> None:
        self.found = found
        self._file = gzip.open(os.fdopen(_open(found), "rb"))  # noqa: SIM115 - closed in `close`
        self._start, self._data = 0, b""

    def read_at(self, offset: int, most: int) -> bytes:
        """Return the bytes from `offset` on, fewer than `most` only at the end of the file."""
        end = self._start + len(self._data)
        try:
            if not self._start <= offset <= end:
                self._file.seek(offset)
                self._start, self._data, end = offset, b"", offset
            if offset + most > end:
                more = self._file.read(offset + most - end)
                self._start, self._data = offset, self._data[offset - self._start :] + more
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise LogError(
                f"{self.found.path}: cannot be decompressed ({error}); it is damaged, or not yet "
                "complete. Put it right, or take it out of the folder"
            ) from error
        return self._data[offset - self._start :][:most]

    def close(self) -> None:
        """Let go of the file."""
        self._file.fileobj.close()  # type: ignore[union-attr]
        self._file.close()


class FileMovedError(Exception):
    """A file is no longer where it was found: look again."""


def open_file(found: FoundFile) -> "PlainFile | GzipFile":
    """Open a file that was found.

    Raises:
        FileMovedError: another one, or none, is at its path by now.
        LogError: it cannot be read.

    """
    return (GzipFile if found.path.suffix == ".gz" else PlainFile)(found)


def files_of(path: Path) -> list[FoundFile]:
    """Return the files of the log at `path` that are there, oldest first.

    Raises:
        LogError: what is at `path` is no file, or out of reach.

    """
    files = _listed(path)
    for _ in range(_LISTINGS):  # rotation renames one after the other, maybe just now
        again = _listed(path)
        if [file[:3] for file in again] == [file[:3] for file in files]:
            break
        files = again
    return files


def digest(data: bytes) -> str:
    """Return what tells some bytes from others."""
    return blake2b(data, digest_size=16).hexdigest()


def identify(
    found: Sequence[FoundFile], known: Iterable[KnownFile], newest: Path
) -> dict[FoundFile, KnownFile]:
    """Return which of the files that were found are known, and as what.

    The file at the path of the log, `newest`, is known by its inode only: no copy is made there.
    """
    left = list(known)
    same: dict[FoundFile, KnownFile] = {}
    for by_inode in (True, False):
        for file in found:
            if file in same or (not by_inode and file.path == newest):
                continue
            for candidate in left:
                if by_inode:
                    if file.id != (candidate.device, candidate.inode):
                        continue
                elif not candidate.read_bytes:
                    continue
                if _holds(file, candidate, or_less=not by_inode):
                    same[file] = candidate
                    left.remove(candidate)
                    break
    return same


def _holds(found: FoundFile, known: KnownFile, *, or_less: bool) -> bool:
    """Whether a file has what was read of a known one; a copy may have been made with `or_less`."""
    try:
        file = open_file(found)
    except (FileMovedError, LogError):
        return False
    try:
        head = file.read_at(0, min(HEAD_BYTES, known.read_bytes))
        if digest(head) != known.head:
            return False
        tail = file.read_at(known.read_bytes - known.tail_bytes, known.tail_bytes)
        if or_less and len(tail) < known.tail_bytes:
            return len(head) == HEAD_BYTES
        return digest(tail) == known.tail
    except LogError:
        return False
    finally:
        file.close()


def _listed(path: Path) -> list[FoundFile]:
    names: dict[str, tuple[int, tuple[int, ...]]] = {path.name: (2, ())}
    try:
        beside = [file.name for file in path.parent.iterdir()]
    except OSError:
        beside = []  # it need not be allowed to list the folder of a log
    names |= {name: age for name in beside if (age := _age(path.name, name))}
    files = []
    for name, age in names.items():
        if name.endswith(".gz") and name.removesuffix(".gz") in names and name != path.name:
            continue  # it is being compressed
        if file := _find(path.with_name(name), must_be_plain=name == path.name):
            files.append((age, name, file))
    return [file for _, _, file in sorted(files)]


def _age(name: str, other: str) -> tuple[int, tuple[int, ...]] | None:
    """Return where a file comes among those of a log, None if it is none of them."""
    if not other.startswith(name) or other == name:
        return None
    rest = other.removeprefix(name)
    match = _ROTATED.fullmatch(rest)
    if match is None or rest[0] not in ".-":
        return None
    if _INDEX.fullmatch(rest.removesuffix(".gz")):
        return 0, (-int(match[1]),)
    return 1, tuple(map(int, re.findall(r"\d+", match[1])))


def _find(path: Path, *, must_be_plain: bool) -> FoundFile | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        if must_be_plain:
            raise unreadable(path, error) from error
        return None
    if not stat.S_ISREG(status.st_mode):
        if must_be_plain:
            raise LogError(f"{path}: is not a plain file. Name the log itself")
        return None
    return FoundFile(path, status.st_dev, status.st_ino, status.st_size)


def _open(found: FoundFile) -> int:
    try:
        fd = os.open(found.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise FileMovedError from error
    except OSError as error:
        raise unreadable(found.path, error) from error
    status = os.fstat(fd)
    if (status.st_dev, status.st_ino) != (found.device, found.inode):
        os.close(fd)
        raise FileMovedError
    return fd


def unreadable(path: Path, error: OSError) -> LogError:
    """Return that a file cannot be read, in words."""
    return LogError(f"{path}: cannot be read: {error.strerror}. Check the path and its rights")
