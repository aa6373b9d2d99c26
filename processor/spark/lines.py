"""Lines to events, in the executors, by the contract of the package.

Spark's text source cuts files into lines at LF, as the package does, and hands over their bytes as
they are. The JVM puts the LF back behind each, so that in the Arrow buffer the lines of a batch lie
behind each other as in the log: a chunk, which the decoder takes in one piece.

- A line as long as `max_line_bytes`, or longer, never leaves the JVM.
- The source skips a byte order mark at the start of a file, as the contract does; a `Place` knows
  of it.
- A split has its lines from the first that begins in it; where that is, its `Place` tells.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
from pyspark.sql import functions as sql

from processor.core.decode import Decoder
from processor.core.model import Chunk, Rules
from processor.shell.settings import zone_of
from processor.spark.lateness import Lateness

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

DECODED: Final = (
    "log string, offset long, visit string, customer long, user long, is_click boolean, "
    "fired_at long, end long, note binary, clock timestamp, places binary"
)
"""A row for each event, and for each chunk one with a `note`, which has all else that is to be
known of its lines up to `end`.

An event has the `offset` and the `end` of its line. `places` of a chunk are three rows of 64-bit
integers: the offsets, lengths and instants of its events. Its `clock` is how far event time has
come with it, if lateness is judged here."""

_NAMES: Final = [column.split()[0] for column in DECODED.split(", ")]
_TYPES: Final = {
    "log": pa.string(),
    "offset": pa.int64(),
    "visit": pa.string(),
    "customer": pa.int64(),
    "user": pa.int64(),
    "is_click": pa.bool_(),
    "fired_at": pa.int64(),
    "clock": pa.timestamp("us", "UTC"),
    "end": pa.int64(),
    "note": pa.binary(),
    "places": pa.binary(),
}

TOO_LONG_DETAIL: Final = "as long as the unit of reading, or longer"


class Note(NamedTuple):
    """What became of the lines of a chunk that are no events, and how many are.

    `refused` are dead letters: (offset, length, reason, detail). `event_time` is how far event time
    has come with them, if lateness is judged; `size_bytes` is the size of the file.
    """

    lines: int
    events: int
    ignored: dict[str, int]
    refused: list[tuple[int, int, str, str]]
    event_time: int | None
    size_bytes: int

    def moved(self, by: int) -> "Note":
        """Return the same of lines that lie further back by so many bytes."""
        return self._replace(
            refused=[(at + by, size, why, more) for at, size, why, more in self.refused]
        )


class Place(NamedTuple):
    """Where in which log the first line of a split lies.

    `end` is where reading that log ends, if it is not at the end of the split.
    """

    log: str
    offset: int
    end: int | None = None


PlaceOf = Callable[[str, int], Place]
"""Returns the place of a split, by its file and where in it the split starts."""


def note_of(data: bytes) -> Note:
    """Return a note as it was before it crossed from an executor."""
    return Note(*orjson.loads(data))


def text_of(reader: Any, path: str | list[str]) -> "DataFrame":
    """Return the lines of files: each with its LF, its length, its file and its split.

    A reader for batches or for a stream will do.
    """
    metadata = "_metadata"
    return (
        reader.format("text")
        .option("lineSep", "\n")
        .load(path)
        .select(
            sql.col("value").cast("binary").alias("line"),
            sql.octet_length("value").cast("long").alias("length"),
            sql.col(f"{metadata}.file_path").alias("file"),
            sql.col(f"{metadata}.file_block_start").alias("start"),
            sql.col(f"{metadata}.file_size").alias("size"),
        )
    )


def decoded(text: "DataFrame", rules: Rules, place_of: PlaceOf, *, is_judged: bool) -> "DataFrame":
    """Return what lines are, as `DECODED`; with `is_judged`, by the watermark of each split too."""
    line = sql.when(
        sql.col("length") < rules.max_line_bytes, sql.concat(sql.col("line"), sql.lit(b"\n"))
    ).alias("line")
    decode = _Decoding(rules, place_of, is_judged=is_judged)
    return text.select(line, "length", "file", "start", "size").mapInArrow(decode, DECODED)


class _Decoding:
    """Decodes the lines of a partition; crosses to the executors with what it needs to know."""

    def __init__(self, rules: Rules, place_of: PlaceOf, *, is_judged: bool) -> None:
        self._rules = rules
        self._place_of = place_of
        self._is_judged = is_judged

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        decoder = Decoder(zone_of(self._rules.timezone))
        split, read = None, None
        for batch in batches:
            for rows in _runs(batch):
                found = rows.column("file")[0].as_py(), rows.column("start")[0].as_py()
                if found != split or read is None:
                    split = found
                    size_bytes = rows.column("size")[0].as_py()
                    read = _Split(self._place_of(*found), size_bytes, self._rules, decoder)
                yield from read.decode(rows, is_judged=self._is_judged)


def _runs(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield the rows of each split, and each line that is too long by itself."""
    if batch.num_rows == 0:
        return
    files, starts, lines = (batch.column(name) for name in ("file", "start", "line"))
    if lines.null_count == 0 and files[0] == files[-1] and starts[0] == starts[-1]:
        yield batch  # a partition has the lines of a split behind each other
        return
    is_long = lines.is_null().to_numpy(zero_copy_only=False)
    file, start = files.to_numpy(zero_copy_only=False), starts.to_numpy()
    begins = (
        (file[1:] != file[:-1]) | (start[1:] != start[:-1]) | is_long[1:] | is_long[:-1]
    ).nonzero()[0] + 1
    edges = [0, *begins.tolist(), batch.num_rows]
    for first, end in itertools.pairwise(edges):
        yield batch.slice(first, end - first)


class _Split:
    """A part of a file, read from its first line on."""

    def __init__(self, place: Place, size_bytes: int, rules: Rules, decoder: Decoder) -> None:
        self._place = place
        self._size_bytes = size_bytes
        self._decoder = decoder
        self._offset = place.offset
        self._lateness = Lateness(rules)

    def decode(self, rows: pa.RecordBatch, *, is_judged: bool) -> Iterator[pa.RecordBatch]:
        """Decode lines that follow the last ones, as far as they are to be read."""
        lines = rows.column("line")
        if lines.null_count:
            yield from self._pass_by(rows.column("length")[0].as_py())
            return
        bounds = np.frombuffer(lines.buffers()[1], np.int32)[lines.offset :][: len(lines) + 1]
        ends = bounds.astype(np.int64)[1:] - bounds[0] + self._offset
        count = len(ends)
        if self._place.end is not None:
            count = int(np.searchsorted(ends, self._place.end, side="right"))
        if count == 0:
            return
        data = lines.buffers()[2][int(bounds[0]) : int(bounds[count])].to_pybytes()
        chunk = Chunk(self._offset, data, count, self._offset + len(data))
        self._offset = chunk.end
        yield from self._rows(chunk, ends[:count], is_judged=is_judged)

    def _pass_by(self, length: int) -> Iterator[pa.RecordBatch]:
        """Account for a line that is too long."""
        start, end = self._offset, self._offset + length + 1
        if self._place.end is None or end <= self._place.end:
            self._offset = end
            nothing: NDArray[np.int64] = np.empty((3, 0), np.int64)
            refused = (start, length, "too_long", TOO_LONG_DETAIL)
            note = Note(1, 0, {}, [refused], None, self._size_bytes)
            yield self._noted(start, end, note, nothing)

    def _rows(
        self, chunk: Chunk, ends: "NDArray[np.int64]", *, is_judged: bool
    ) -> Iterator[pa.RecordBatch]:
        found = self._decoder.decode(chunk)
        starts = np.concatenate(([chunk.offset], ends[:-1]))
        places = np.stack((starts, ends - starts - 1))
        if found.no_events:
            places = np.delete(places, found.no_events, axis=1)
        instants = np.array(found.instants, np.int64)
        users: NDArray[np.int64] = np.zeros(len(instants), np.int64)
        users[found.clicks] = found.users
        is_click: NDArray[np.bool_] = np.zeros(len(instants), np.bool_)
        is_click[found.clicks] = True
        columns: dict[str, Any] = {
            "offset": places[0],
            "end": places[0] + places[1],
            "visit": found.visits,
            "customer": found.customers,
            "user": users,
            "is_click": is_click,
            "fired_at": instants,
        }
        ignored, refused = found.ignored, found.refused
        note = Note(chunk.lines, len(instants), ignored, refused, None, self._size_bytes)
        if is_judged:
            note = self._judge(chunk, note, places, columns)
        if columns["visit"]:
            yield self._batch(len(columns["visit"]), columns)
        yield self._noted(chunk.offset, chunk.end, note, np.vstack((places, instants)))

    def _judge(
        self, chunk: Chunk, note: Note, places: "NDArray[np.int64]", columns: dict[str, Any]
    ) -> Note:
        """Take out the events that the watermark refuses."""
        instants = columns["fired_at"]
        far_off = self._lateness.refused(chunk.offset, chunk.end, instants, places[0])
        if far_off:
            dropped = [at for at, _ in far_off]
            kept: NDArray[np.int64] = np.delete(np.arange(len(instants)), dropped)
            for name, column in columns.items():
                columns[name] = (
                    [column[at] for at in kept] if isinstance(column, list) else column[kept]
                )
            note.refused.extend(
                (*places[:, at].tolist(), why.reason, why.detail) for at, why in far_off
            )
        events = len(columns["fired_at"])
        return note._replace(events=events, event_time=self._lateness.event_time())

    def _noted(
        self, start: int, end: int, note: Note, places: "NDArray[np.int64]"
    ) -> pa.RecordBatch:
        columns = {
            "offset": [start],
            "end": [end],
            "note": [orjson.dumps(tuple(note))],
            "clock": [note.event_time],
            "places": [places.tobytes()],
        }
        return self._batch(1, columns)

    def _batch(self, rows: int, columns: dict[str, Any]) -> pa.RecordBatch:
        """Return columns as rows of `DECODED`."""
        arrays = {name: pa.array(column, _TYPES[name]) for name, column in columns.items()}
        arrays["log"] = pa.repeat(pa.scalar(self._place.log, pa.string()), rows)
        return pa.RecordBatch.from_arrays(
            [arrays.get(name, pa.nulls(rows, _TYPES[name])) for name in _NAMES], names=_NAMES
        )
