"""The files that a log lies in: how rotation names them, and what is in them.

A log is one stream of lines at one path. Rotation spreads it over files beside that path:
`app.log` is the newest, `app.log.1` or `app.log-20220101` older, `app.log.2.gz` older still. One
after the other, oldest first, they are the log, and an offset counts from the first byte of the
first of them.
"""

import errno
import glob
import gzip
import os
import re
import stat
import sys
import zlib
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Protocol, TypeVar

from processor.errors import LogError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STDIN: Final = Path("/dev/stdin")
"""A log of which each run gives the next file."""

_DECOMPRESS: Final[dict[str, Callable[[IO[bytes]], Any]]] = {".gz": gzip.open, ".zst": zstd.open}
_ROTATED: Final = re.compile(r"([.-])(\d[\d._T:-]*?)(\.gz|\.zst)?", re.ASCII)
_MOST_INDEX_DIGITS: Final = 4
_LEAST_DATE_DIGITS: Final = 6
_TRIES: Final = 100
_DEAD_LINKS: Final = (errno.EACCES, errno.ELOOP, errno.ENOTDIR)

T = TypeVar("T")
_Age = tuple[int, int, str]


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


class FileMovedError(Exception):
    """A file is no longer where it was found: look again."""


class NotNowError(LogError):
    """A file cannot be opened, but maybe later: its rights may not be set yet."""


class TooManyFilesError(NotNowError):
    """No more files can be opened just now."""


class DamagedError(LogError):
    """A compressed file cannot be decompressed."""


class ReadableFile(Protocol):
    """An open file of a log, plain or compressed."""

    found: FoundFile
    """Where it was found last."""
    id: tuple[int, int]
    is_compressed: bool

    def read_at(self, offset: int, most: int) -> bytes:
        """Return the bytes from `offset` on, fewer than `most` only at the end of the file."""

    def close(self) -> None:
        """Let go of the file."""


class PlainFile:
    """A file that is read as it is."""

    is_compressed = False

    def __init__(self, found: FoundFile) -> None:
        self.found = found
        self.id = found.id
        self._fd = _open(found)

    def read_at(self, offset: int, most: int) -> bytes:
        """Return the bytes from `offset` on, fewer than `most` only at the end of the file."""
        data = b""
        try:
            while more := os.pread(self._fd, most - len(data), offset + len(data)):
                data += more  # a read may be shorter than asked for
        except OSError as error:
            raise _unreadable(self.found.path, error) from error
        return data

    def size_bytes(self) -> int:
        """Return how long the file is now."""
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)


class CompressedFile:
    """A file that is decompressed while it is read; what was read last is kept, to go back to."""

    is_compressed = True

    def __init__(self, found: FoundFile) -> None:
        self.found = found
        self.id = found.id
        self._packed = os.fdopen(_open(found), "rb")
        self._file = _DECOMPRESS[found.path.suffix](self._packed)
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
        except (EOFError, gzip.BadGzipFile, zlib.error, zstd.ZstdError) as error:
            raise DamagedError(
                f"{self.found.path}: cannot be decompressed ({error}); it is damaged, or not yet "
                "complete. Put it right, or take it out of the folder"
            ) from error
        except OSError as error:
            raise _unreadable(self.found.path, error) from error
        return self._data[offset - self._start :][:most]

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
        self._packed.close()


def is_compressed(found: FoundFile) -> bool:
    """Whether a file is to be decompressed, as its name tells."""
    return found.path.suffix in _DECOMPRESS


def open_file(found: FoundFile) -> PlainFile | CompressedFile:
    """Open a file that was found.

    Raises:
        FileMovedError: another one, or none, is at its path by now.
        LogError: it cannot be read.

    """
    return (CompressedFile if is_compressed(found) else PlainFile)(found)


def logs_of(named: Iterable[Path], known: Collection[Path] = ()) -> list[Path]:
    """Return the logs that are named, by a path or by a pattern as shells have them, each once.

    A file of one of them or of a `known` one, as `app.log.1` is of `app.log`, is no log itself.
    What is the name of a known one is no pattern.
    """
    matching = ([name] if name in known else _matching(name) for name in named)
    paths = dict.fromkeys(chain.from_iterable(matching))
    logs = {*paths, *known}
    return [path for path in paths if not _is_part_of_one(path, logs)]


def is_pattern(name: Path) -> bool:
    """Whether a name stands for any number of logs."""
    return glob.has_magic(str(name)) and not name.exists()


def files_of(path: Path) -> list[FoundFile]:
    """Return the files of the log at `path` that are there, oldest first.

    Raises:
        FileMovedError: they are being renamed: some may be missing, look again.
        LogError: what is at `path` is no file, or out of reach.

    """
    files = _listed(path)
    again = _listed(path)
    if [file[:3] for file in again] != [file[:3] for file in files]:
        raise FileMovedError
    return again


def check_unmoved(path: Path, found: list[FoundFile]) -> None:
    """Look again where a file was missed: it may have been copied after the files were listed.

    Raises:
        FileMovedError: that may be so.
        LogError: as for `files_of`.

    """
    if [file[:3] for file in files_of(path)] != [file[:3] for file in found]:
        raise FileMovedError


def with_files(path: Path, act: Callable[[list[FoundFile]], T]) -> T:
    """Act on the files of a log, and again when one is renamed meanwhile.

    Raises:
        LogError: that is so each time; or whatever `files_of` and `act` raise.

    """
    for _ in range(_TRIES):
        with suppress(FileMovedError):
            return act(files_of(path))
    raise LogError(f"{path}: its files are renamed faster than they can be opened. Rotate less")


def size_of(path: Path) -> int | None:
    """Return how many bytes the files of a log have on the disk, None while there is none.

    Raises:
        LogError: what is at `path` is no file, or out of reach.

    """
    files = with_files(path, list)
    return sum(file.size_bytes for file in files) if files else None


def find(path: Path, *, is_log: bool = True) -> FoundFile | None:
    """Return the file at a path, None while there is none.

    Raises:
        LogError: it is the log itself, and no plain file or out of reach.

    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        if is_log or error.errno not in _DEAD_LINKS:
            raise _unreadable(path, error) from error
        return None
    if not stat.S_ISREG(status.st_mode):
        if is_log:
            raise LogError(f"{path}: is not a plain file. Name the log itself")
        return None
    return FoundFile(path, status.st_dev, status.st_ino, status.st_size)


def _matching(name: Path) -> list[Path]:
    if not is_pattern(name):
        return [name]
    found = sorted(map(Path, glob.glob(str(name), recursive=True)))  # noqa: PTH207 - it may be absolute
    return [path.resolve() for path in found if path.is_file()]


def _is_part_of_one(path: Path, logs: Collection[Path]) -> bool:
    stems = (path.name[: match.start()] for match in re.finditer(r"[.-](?=\d)", path.name))
    return any(
        path.with_name(stem) in logs and _age(stem, path.name) is not None for stem in stems if stem
    )


def _listed(path: Path) -> list[FoundFile]:
    names: dict[str, _Age] = {path.name: (2, 0, "")}
    try:
        beside = [file.name for file in path.parent.iterdir()]
    except (FileNotFoundError, PermissionError):
        beside = []  # it need not be allowed to list the folder of a log
    except OSError as error:
        raise _unreadable(path.parent, error) from error
    names |= {name: age for name in beside if (age := _age(path.name, name))}
    files: dict[tuple[int, int], FoundFile] = {}
    for name in sorted(names, key=lambda name: (names[name], name)):
        stem, dot, suffix = name.rpartition(".")
        if dot + suffix in _DECOMPRESS and stem in names:
            continue  # it is being compressed
        if file := find(path.with_name(name), is_log=name == path.name):
            files.pop(file.id, None)  # of two links to one file, the newer name
            files[file.id] = file
    return list(files.values())


def _age(name: str, other: str) -> _Age | None:
    """Return where a file comes among those of a log, None if it is none of them."""
    match = _ROTATED.fullmatch(other.removeprefix(name)) if other.startswith(name) else None
    if match is None:
        return None
    if match[1] == "." and match[2].isdecimal() and len(match[2]) <= _MOST_INDEX_DIGITS:
        return 0, -int(match[2]), ""
    digits = "".join(re.findall(r"\d", match[2]))
    return (1, 0, digits) if len(digits) >= _LEAST_DATE_DIGITS else None


def _open(found: FoundFile) -> int:
    try:
        fd = os.open(found.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise FileMovedError from error
    except OSError as error:
        raise _unreadable(found.path, error) from error
    status = os.fstat(fd)
    if (status.st_dev, status.st_ino) != found.id:
        os.close(fd)
        raise FileMovedError
    return fd


def _unreadable(path: Path, error: OSError) -> LogError:
    """Return that a file cannot be read, in words."""
    kinds = {errno.EMFILE: TooManyFilesError, errno.ENFILE: TooManyFilesError}
    kind = {**kinds, errno.EACCES: NotNowError}.get(error.errno or 0, LogError)
    return kind(f"{path}: cannot be read: {error.strerror}. Check the path and its rights")
