"""Makes a generation of the report by Spark, from the beginning of logs, in one commit.

The logs are read twice: to measure where lines lie, and to decode them. What they are is kept on
the disks of the executors; from it come the ledger, what the watermark of each log refuses, and the
report. The table is the one that the fold makes, late lines and wild clocks included.

The rows of the report, and all dead letters, must find room in the driver.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import orjson
from pyspark import StorageLevel
from pyspark.sql import functions as sql

from processor.core.model import Checkpoint, Commit, DeadLetter, Increment, Rules
from processor.edges.identity import ReadFiles
from processor.edges.store import Store
from processor.errors import LedgerError
from processor.spark.accounts import log_commit
from processor.spark.definitions import COUNTS, counted, summed
from processor.spark.inputs import LogFile, PlacedFile, known_files, measured, placed
from processor.spark.lateness import JUDGED, judge_logs
from processor.spark.lines import Note, Place, decoded, note_of, text_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_log = logging.getLogger(__name__)

Table = dict[tuple[int, int], list[int]]
"""The five counts, by customer and hour."""


class _Judged(NamedTuple):
    """What the watermark made of logs: which events it refused, and how each log stands."""

    refused: dict[str, list[DeadLetter]]
    checkpoints: dict[str, Checkpoint]


def fill(
    spark: "SparkSession",
    store: Store,
    rules: Rules,
    urls: Sequence[str],
    files_of: Callable[[Iterable[str]], list[LogFile]],
) -> None:
    """Commit what logs hold to the generation that the store is bound to, which has nothing yet.

    `urls` are what Spark is to read; `files_of` returns the files of logs among those that it finds
    there, each log's by age.

    Raises:
        ProcessorError: that cannot be; nothing is committed.

    """
    text = text_of(spark.read, list(urls))
    extents = measured(text)
    files = placed(files_of(extents), extents)
    places = {split: place for file in files for split, place in file.places.items()}
    known = spark.sparkContext.broadcast(places)
    lines = decoded(text, rules, _Lookup(known), is_judged=False)
    lines = lines.persist(StorageLevel.DISK_ONLY)
    try:
        commit, logs = _counted(spark, lines, files, rules, store)
    finally:
        lines.unpersist()
    store.commit(commit, logs)


class _Lookup:
    """Looks the place of a split up in what every executor knows."""

    def __init__(self, places: "object") -> None:
        self._places = places

    def __call__(self, file: str, start: int) -> Place:
        return self._places.value[file, start]  # type: ignore[attr-defined, no-any-return]


def _counted(
    spark: "SparkSession",
    lines: "DataFrame",
    files: Sequence[PlacedFile],
    rules: Rules,
    store: Store,
) -> tuple[Commit, dict[int, ReadFiles]]:
    """Return what is to be committed, and how the files of its logs are known."""
    notes = _notes(lines)
    judged = _judge(lines, rules)
    events = _let_pass(spark, lines.where("note IS NULL"), judged.refused)
    table, applied = _report(events, rules)
    of_log = defaultdict(list)
    for file in files:
        of_log[file.file.log].append(file)
    stored = store.open_logs(of_log)
    logs, known = [], {}
    for path, parts in of_log.items():
        chunks = sorted(notes[path], key=itemgetter(0))
        end = chunks[-1][1] if chunks else 0
        _check(parts, chunks, end)
        if not end:
            continue
        log_id = stored[path].log_id
        checkpoint = judged.checkpoints[path]._replace(byte_offset=end)
        ordered = [note for *_, note in chunks]
        logs.append(
            log_commit(
                log_id, path, ordered, judged.refused.get(path, ()), applied[path], checkpoint
            )
        )
        known[log_id] = ReadFiles(known_files(parts, end))
    increments = sorted(Increment(*key, *counts) for key, counts in table.items())
    return Commit(tuple(increments), tuple(sorted(logs, key=lambda log: log.log_id))), known


def _notes(lines: "DataFrame") -> dict[str, list[tuple[int, int, Note]]]:
    """Return the notes of each log, with where their chunks start and end."""
    notes = defaultdict(list)
    rows = lines.where("note IS NOT NULL").select("log", "offset", "end", "note")
    for log, offset, end, note in rows.collect():
        notes[log].append((offset, end, note_of(note)))
    return notes


def _judge(lines: "DataFrame", rules: Rules) -> _Judged:
    """Show the events of each log to its watermark, in their order."""
    chunks = lines.where("note IS NOT NULL").select("log", "offset", "end", "places")
    in_order = chunks.repartition("log").sortWithinPartitions("log", "offset")
    refused, checkpoints = defaultdict(list), {}
    rows = in_order.mapInArrow(judge_logs(rules), JUDGED)
    for log, offset, length, reason, detail, checkpoint in rows.collect():
        if checkpoint is None:
            refused[log].append(DeadLetter(offset, length, reason, detail))
        else:
            end, mark, start, start_mark, ahead = orjson.loads(checkpoint)
            checkpoints[log] = Checkpoint(end, mark, start, start_mark, tuple(ahead))
    return _Judged(refused, checkpoints)


def _let_pass(
    spark: "SparkSession", events: "DataFrame", refused: Mapping[str, Sequence[DeadLetter]]
) -> "DataFrame":
    """Return the events that were not refused."""
    rows = [(log, letter.byte_offset) for log, letters in refused.items() for letter in letters]
    if not rows:
        return events
    out = spark.createDataFrame(rows, "log string, offset long")
    return events.join(sql.broadcast(out), ["log", "offset"], "left_anti")


def _report(events: "DataFrame", rules: Rules) -> tuple[Table, dict[str, int]]:
    """Return the report, and how many lines of each log are no duplicates."""
    table: Table = defaultdict(lambda: [0] * len(COUNTS))
    applied: dict[str, int] = defaultdict(int)
    things = counted(events.repartition("visit"), rules)
    for log, customer, hour, *counts in summed(things, "log", "customer", "hour").collect():
        row = table[customer, hour]
        row[:] = map(sum, zip(row, counts, strict=True))
        if log is not None:
            applied[log] += sum(counts)
    return table, applied


def _check(parts: Sequence[PlacedFile], chunks: Sequence[tuple[int, int, Note]], end: int) -> None:
    """See that the second reading has each byte of a log that the first one has.

    Raises:
        LedgerError: it has not.

    """
    read = sum(until - start for start, until, _ in chunks) + sum(p.mark_bytes for p in parts)
    last = parts[-1]
    has_half_line = last.is_cut and last.file.start is None and end >= last.start
    if (chunks and read != end) or not (end == last.end or has_half_line):
        raise LedgerError(
            f"{last.file.log}: {last.end} bytes of lines were measured, {read} were read, up to "
            f"byte {end}; nothing of it was committed. Was it changed meanwhile?"
        )
