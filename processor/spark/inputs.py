"""What is to be read in a batch, and where in its log each part of it lies.

A log is what it is for the rest of the package: the files that rotation left of it, one after the
other. Where Spark cuts files into splits, nobody knows on which byte the first line of a split
begins, until all lines before it were measured. That is done first, without decoding any.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from pyspark.sql import functions as sql

from processor.edges.files import FoundFile, is_compressed, open_file, with_files
from processor.edges.history import gone
from processor.edges.identity import KnownFile, ends_of, identify, know
from processor.edges.store import StoredLog
from processor.errors import LogError, SettingsError
from processor.shell.replay.recount import pinned
from processor.spark.lines import Place
from processor.spark.urls import name_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_BOM: Final = b"\xef\xbb\xbf"
_UNREADABLE: Final = {".zst"}
"""Spark reads these with a native library only, which it does not bring along."""


class LogFile(NamedTuple):
    """A file of a log that is to be read. `start` is where it begins in the log, if that is known.

    `most` is how many of its bytes are to be read, None for all of them, with a last line that has
    no newline. `found` is None for a file that is not on this machine.
    """

    log: str
    url: str
    start: int | None = None
    most: int | None = None
    found: FoundFile | None = None


class Extent(NamedTuple):
    """A file as Spark reads it: its splits, by where they start, with the bytes of their lines."""

    splits: Mapping[int, int]
    size_bytes: int


class PlacedFile(NamedTuple):
    """A file with its place in the log: from `start` up to before `end`.

    It begins with `mark_bytes` that are no line. With `is_cut`, it has more than is to be read.
    """

    file: LogFile
    start: int
    end: int
    mark_bytes: int
    is_cut: bool
    places: Mapping[tuple[str, int], Place]


def local_files(path: Path, stored: StoredLog | None) -> list[LogFile]:
    """Return the files of a log on this machine, up to where the live report has read it.

    Raises:
        LogError: one is gone, or Spark cannot read it.

    """
    known = pinned(path, stored).files if stored else []
    end = stored.checkpoint.byte_offset if stored else 0
    files = with_files(path, lambda found: _files(path, found, known, end))
    for file in files:
        if Path(file.url).suffix in _UNREADABLE:
            raise LogError(
                f"{file.url}: Spark cannot read this compression; decompress it, or make the "
                "report anew with `processor replay`"
            )
    return files


def _files(
    path: Path, found: list[FoundFile], known: Sequence[KnownFile], end: int
) -> list[LogFile]:
    if not end:
        *left, newest = found
        files = [LogFile(str(path), str(file.path), found=file) for file in left]
        most = None if is_compressed(newest) else newest.size_bytes
        return [*files, LogFile(str(path), str(newest.path), most=most, found=newest)]
    there = {known.start_offset: file for file, known in identify(found, known).items()}
    files = []
    for one in known:
        if one.start_offset >= end:
            continue
        if one.start_offset < 0:
            raise SettingsError(
                f"{path}: was not read from the beginning of its first file; make the report anew "
                "with `processor replay`"
            )
        if one.start_offset not in there:
            raise gone(path, one.start_offset)
        file = there[one.start_offset]
        is_last = one.end_offset >= end
        most = end - one.start_offset if is_last else None
        files.append(LogFile(str(path), str(file.path), one.start_offset, most, file))
    return files


def measured(text: "DataFrame") -> dict[str, Extent]:
    """Return the extents of files, by what Spark calls them."""
    rows = text.groupBy("file", "size", "start").agg(sql.sum(sql.col("length") + 1).alias("bytes"))
    extents: dict[str, Extent] = {}
    splits: dict[str, dict[int, int]] = {}
    for file, size_bytes, start, length in rows.collect():
        extents[file] = Extent(splits.setdefault(file, {}), size_bytes)
        splits[file][start] = length
    return extents


def placed(files: Iterable[LogFile], extents: Mapping[str, Extent]) -> list[PlacedFile]:
    """Return where in its log each file lies; files of a log by age, oldest first.

    Raises:
        LogError: a file is not what it was when the live report read it.

    """
    names = {name_of(url): url for url in extents}
    ends: dict[str, int] = {}
    result = []
    for file in files:
        start = ends.get(file.log, 0)
        if file.start not in (None, start):
            raise LogError(
                f"{file.url}: begins at byte {start} of the log, and began at {file.start} when "
                "the report read it; a file before it was changed. Put it back, or make the report "
                "anew with `processor replay`"
            )
        url = names.get(file.url, file.url)
        one = _placed(file, url, start, extents.get(url, Extent({}, 0)))
        ends[file.log] = one.end
        result.append(one)
    return result


def _placed(file: LogFile, url: str, start: int, extent: Extent) -> PlacedFile:
    if not extent.splits and file.found is not None and file.found.size_bytes:
        raise LogError(f"{file.url}: Spark does not read it, maybe because of its name; rename it")
    mark_bytes = _mark_bytes(file, extent)
    at = start + mark_bytes
    places = {}
    end = None if file.most is None else start + file.most
    for split, length in sorted(extent.splits.items()):
        places[url, split] = Place(file.log, at, end)
        at += length
    is_cut = end is not None and at > end
    return PlacedFile(
        file, start, end if end is not None and is_cut else at, mark_bytes, is_cut, places
    )


def _mark_bytes(file: LogFile, extent: Extent) -> int:
    """Return how long the byte order mark is that Spark does not show."""
    if not extent.splits:
        return 0
    if file.found is not None:
        with closing(open_file(file.found)) as opened:
            return len(_BOM) if opened.read_at(0, len(_BOM)) == _BOM else 0
    hidden = extent.size_bytes - sum(extent.splits.values())
    return len(_BOM) if hidden in (len(_BOM), len(_BOM) - 1) else 0


def known_files(files: Iterable[PlacedFile], end: int) -> list[KnownFile]:
    """Return how the files of a log on this machine are known again, that was read up to `end`."""
    return [
        _known(file.file.found, file.start, min(file.end, end))
        for file in files
        if file.file.found is not None
    ]


def _known(found: FoundFile, start: int, end: int) -> KnownFile:
    with closing(open_file(found)) as file:
        read_bytes = end - start
        if read_bytes and not file.read_at(read_bytes - 1, 1):
            read_bytes -= 1  # its last line has no newline
        return know(found, start, read_bytes, *ends_of(file, read_bytes))
