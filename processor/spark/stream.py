"""Counts files into the live report as they appear, in micro-batches of Structured Streaming.

Spark keeps its own place: which files it has read, and the state of its operators, in a checkpoint.
The report keeps which micro-batch it has, and moves that in the transaction which adds what the
batch counts. Spark hands a batch over again whose end it does not know of, and only the last one:
that is counted once.

Each file is a log of its own, which was read to its end. Its lines are shown to its own watermark,
and to that of Spark, which all files share and which moves from batch to batch alone.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import attrgetter, itemgetter
from pathlib import PurePath
from typing import TYPE_CHECKING, Final, NamedTuple

from pyspark.sql import functions as sql

from processor.core.fold import LATE
from processor.core.model import Checkpoint, Commit, DeadLetter, Increment, LogCommit, Rules
from processor.edges.store import Store, StoredLog, Stream
from processor.errors import CheckpointMovedError, LogError
from processor.spark.accounts import log_commit
from processor.spark.definitions import COUNTS, counted, summed
from processor.spark.lines import Note, Place, decoded, note_of, text_of
from processor.spark.urls import name_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming import StreamingQuery

_MILLISECOND_US: Final = 1_000
_BOM_BYTES: Final = 3
_COMPRESSED: Final = {".gz", ".bz2", ".deflate", ".lz4", ".snappy", ".zst"}

_ONE_FILE_A_TASK: Final = (
    "spark.sql.files.maxPartitionBytes",
    "spark.sql.files.openCostInBytes",
)
"""Both beyond any file: so none is split, and none shares a task. The lines of a file are shown to
its watermark in their order."""
_NO_FILE_BYTES: Final = 1 << 40

_OPTIMIZER: Final = "org.apache.spark.sql.catalyst.optimizer"
_LEFT_OUT: Final = ("ColumnPruning", "PushDownPredicates", "PushDownLeftSemiAntiJoin")
"""Rules by which each use of the decoded lines would ask for what it needs of them alone: no two
would ask for the same, and each line would be decoded five times. `_told` selects by itself."""

_log_id = attrgetter("log_id")

_log = logging.getLogger(__name__)


class _Seen(NamedTuple):
    """What a micro-batch holds.

    `notes` of each file by offset, the events that Spark took for `late`, what is to be added to
    the report, and how many lines of each file are no duplicates.
    """

    notes: dict[str, list[tuple[int, int, Note]]]
    late: dict[str, list[DeadLetter]]
    increments: list[Increment]
    applied: dict[str, int]

    def event_time(self) -> int | None:
        """Return how far event time has come with it."""
        notes = (note for chunks in self.notes.values() for *_, note in chunks)
        return max((n.event_time for n in notes if n.event_time is not None), default=None)


class Counting:
    """Commits the micro-batches of one query; what went wrong is kept, for Spark hides it."""

    def __init__(self, store: Store, rules: Rules, checkpoint: str) -> None:
        self._store = store
        self._rules = rules
        self._checkpoint = checkpoint
        self.error: Exception | None = None

    def start(
        self,
        spark: "SparkSession",
        urls: Sequence[str],
        files_per_trigger: int | None,
        *,
        once: bool,
    ) -> "StreamingQuery":
        """Start the query; with `once` it ends when it has counted the files that are there."""
        for limit in _ONE_FILE_A_TASK:
            spark.conf.set(limit, _NO_FILE_BYTES)
        left_out = ",".join(f"{_OPTIMIZER}.{rule}" for rule in _LEFT_OUT)
        spark.conf.set("spark.sql.optimizer.excludedRules", left_out)
        reader = spark.readStream
        if files_per_trigger:
            reader = reader.option("maxFilesPerTrigger", files_per_trigger)
        text = reduce(lambda some, more: some.unionAll(more), (text_of(reader, u) for u in urls))
        lines = decoded(text, self._rules, _whole_file, is_judged=True)
        lines = lines.drop("places").repartition("visit")
        writer = (
            _told(lines, self._rules)
            .writeStream.outputMode("append")
            .foreachBatch(self._commit)
            .option("checkpointLocation", self._checkpoint)
        )
        return (writer.trigger(availableNow=True) if once else writer).start()

    def _commit(self, batch: "DataFrame", number: int) -> None:
        try:
            self._count(batch, number)
        except Exception as error:
            self.error = error
            raise

    def _count(self, batch: "DataFrame", number: int) -> None:
        stream = self._store.stream(self._checkpoint)
        seen = _seen(batch, self._late_until(stream))
        stored = self._store.open_logs(seen.notes)
        if number <= stream.batch:
            self._see_that_it_is_counted(number, stream, seen, stored)
            return
        if counted_before := [p for p in seen.notes if stored[p].checkpoint.byte_offset]:
            raise CheckpointMovedError(
                f"{counted_before[0]}: the report has counted it already, by a replay or another "
                "stream; nothing of this micro-batch is committed. Name other files, or make the "
                "report anew with `processor spark replay`"
            )
        logs = [self._log(stored[path].log_id, path, seen) for path in seen.notes]
        commit = Commit(tuple(seen.increments), tuple(sorted(logs, key=_log_id)))
        times = [time for time in (stream.event_time, seen.event_time()) if time is not None]
        moved = Stream(self._checkpoint, number, max(times, default=None), stream.event_time)
        self._store.commit(commit, {}, moved)
        _log.info("committed micro-batch %d: %d lines of %d files", number, commit.lines, len(logs))

    def _log(self, log_id: int, path: str, seen: _Seen) -> LogCommit:
        """Return what became of the lines of a file."""
        chunks = seen.notes[path]
        hidden = _hidden_bytes(path, chunks)
        end = chunks[-1][1] + hidden
        if PurePath(path).suffix not in _COMPRESSED:
            end = chunks[0][2].size_bytes
        letters = [
            letter._replace(byte_offset=letter.byte_offset + hidden)
            for letter in seen.late.get(path, ())
        ]
        notes = [note.moved(hidden) for *_, note in chunks]
        checkpoint = Checkpoint(byte_offset=end)
        return log_commit(log_id, path, notes, letters, seen.applied[path], checkpoint)

    def _late_until(self, stream: Stream) -> int:
        """Return the instant up to which Spark drops events of the next micro-batch.

        Its watermark begins with the epoch, and what it drops it decides by the watermark that the
        last micro-batch began with.
        """
        if stream.event_time_before is None:
            return 0
        mark = stream.event_time_before - self._rules.allowed_lateness_us
        return max(mark // _MILLISECOND_US * _MILLISECOND_US, 0)

    def _see_that_it_is_counted(
        self, number: int, stream: Stream, seen: _Seen, stored: Mapping[str, StoredLog]
    ) -> None:
        """Look whether a micro-batch that Spark hands over again is the one that was committed.

        Raises:
            CheckpointMovedError: it is not.

        """
        is_same = number == stream.batch and all(
            stored[path].checkpoint.byte_offset > 0 for path in seen.notes
        )
        if not is_same:
            raise CheckpointMovedError(
                f"{self._checkpoint}: micro-batch {number} is handed over, and the report has "
                f"{stream.batch} of this stream: its state and the database do not belong "
                "together. Make the report anew with `processor spark replay`"
            )
        _log.info("micro-batch %d is committed already", number)


def _told(lines: "DataFrame", rules: Rules) -> "DataFrame":
    """Return what is to be told of a micro-batch: what counts, and beside it all that was read."""
    delay = f"{rules.allowed_lateness_us // _MILLISECOND_US} milliseconds"
    # Before the epoch, where the watermark of Spark begins, all would be late.
    at = sql.timestamp_micros(sql.greatest("fired_at", sql.lit(1)))
    at = sql.when(sql.col("note").isNull(), at)  # a filter by the note would not be left up here
    events = lines.withColumn("at", at).withWatermark("at", delay).where("at IS NOT NULL")
    # Of several watermarks the one furthest behind counts. That of the clocks lets no event whose
    # clock went wild move event time.
    read = lines.withWatermark("clock", delay)
    counts = counted(events, rules)
    read = read.select("log", "offset", "end", "fired_at", "note")
    return counts.unionByName(read, allowMissingColumns=True)


def _seen(batch: "DataFrame", late_until: int) -> _Seen:
    """Return what a micro-batch holds, asked for at once: the state of the stream moves by that."""
    is_told = sql.col("customer").isNotNull() | sql.col("note").isNotNull()
    is_late = sql.greatest("fired_at", sql.lit(1)) <= late_until
    keys = ("log", "customer", "hour", "offset", "end", "note")
    table: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0] * len(COUNTS))
    seen = _Seen(defaultdict(list), defaultdict(list), [], defaultdict(int))
    for log, customer, hour, offset, end, note, *counts in summed(
        batch.where(is_told | is_late), *keys
    ).collect():
        if note is not None:
            seen.notes[log].append((offset, end, note_of(note)))
        elif customer is None:
            seen.late[log].append(DeadLetter(offset, end - offset, LATE.reason, LATE.detail))
        else:
            row = table[customer, hour]
            row[:] = map(sum, zip(row, counts, strict=True))
            if log is not None:
                seen.applied[log] += sum(counts)
    for chunks in seen.notes.values():
        chunks.sort(key=itemgetter(0))
    seen.increments.extend(sorted(Increment(*key, *counts) for key, counts in table.items()))
    return seen


def _whole_file(file: str, _start: int) -> Place:
    return Place(name_of(file), 0)


def _hidden_bytes(path: str, chunks: Sequence[tuple[int, int, Note]]) -> int:
    """Return how long the byte order mark is that Spark does not show.

    Raises:
        LogError: the file was written to while it was read.

    """
    size_bytes = chunks[0][2].size_bytes
    if PurePath(path).suffix in _COMPRESSED:
        return 0
    hidden = size_bytes - chunks[-1][1]
    if hidden in (0, -1):  # the last line of a file may have no newline
        return 0
    if hidden in (_BOM_BYTES, _BOM_BYTES - 1):
        return _BOM_BYTES
    raise LogError(
        f"{path}: was written to while it was read. Have files appear when they are complete, by a "
        "new name say, and start this again: it is read anew"
    )
