"""Writes commits to one generation, each in one transaction, each exactly once.

The first statement of a commit is the comparison: every checkpoint that the batch started from
must still be where it was, or nothing is written. So a commit can be sent twice, by two processors
or by one that does not know whether it succeeded, and still counts once. The generation must still
be in the state it was in, live or not, and the last commit on it the one that is gone on from: logs
share visits, so one processor reads all logs of a generation, and a database may go back. After a
lost connection `reconcile` reads the checkpoints under `FOR UPDATE`, which waits for a commit that
may still be under way, and tells which it was.
"""

import os
import secrets
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any, Final, LiteralString, NamedTuple
from uuid import UUID, uuid4

import psycopg

from processor.core.contract import CONTRACT_VERSION
from processor.core.model import HOUR_US, Checkpoint, Commit, Increment, LogCommit, Rules
from processor.edges.identity import KnownFile, ReadFiles
from processor.edges.migrations import Migration, migrate, must_be_usable
from processor.edges.session import Connect, Connection, Session
from processor.errors import (
    CheckpointMovedError,
    ProcessorError,
    ReplacedError,
    RewoundError,
    SettingsError,
    StoreError,
)

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_MOVE_CHECKPOINT: Final = """
UPDATE checkpoints
SET byte_offset = %(byte_offset)s, lines = lines + %(lines)s, watermark = %(watermark)s,
    rebuild_from = %(rebuild_from)s, rebuild_watermark = %(rebuild_watermark)s,
    ahead_offsets = %(ahead_offsets)s, committed_at = now(), committed_by = %(committed_by)s
WHERE log_id = %(log_id)s AND byte_offset = %(from_offset)s"""

COUNTS: Final[LiteralString] = (
    "page_loads, clicks, unique_user_clicks, related_clicks, clicked_page_loads"
)

_ADD_TO_LEDGER: Final = """
INSERT INTO ledger AS t (log_id, outcome, name, lines)
SELECT * FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::bigint[])
ON CONFLICT (log_id, outcome, name) DO UPDATE SET lines = t.lines + excluded.lines"""

# There may be as many as lines: by an INSERT they take twice as long or more.
_ADD_DEAD_LETTERS: Final = (
    "COPY dead_letters (log_id, byte_offset, byte_length, reason, detail) FROM STDIN"
)

_KEEP_FILE: Final = """
INSERT INTO log_files
    (log_id, start_offset, device, inode, name, read_bytes, head, tail, tail_bytes)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (log_id, start_offset) DO UPDATE SET
    device = excluded.device, inode = excluded.inode, name = excluded.name,
    read_bytes = excluded.read_bytes, head = excluded.head, tail = excluded.tail,
    tail_bytes = excluded.tail_bytes"""

_FORGET_FILES: Final = "DELETE FROM log_files WHERE log_id = %s AND start_offset + read_bytes < %s"

_KEEP_HOUR: Final = """
INSERT INTO hour_offsets (log_id, hour, byte_offset, watermark, ahead_offsets)
VALUES (%s, date_trunc('hour', %s::timestamptz, 'UTC'), %s, %s, %s) ON CONFLICT DO NOTHING"""

READ_FILES: Final = """
SELECT log_id, start_offset, device::text, inode::text, name, read_bytes, head, tail, tail_bytes
FROM log_files WHERE log_id = ANY(%s) ORDER BY log_id, start_offset"""

_COUNT_COMMIT: Final = """
UPDATE generations SET commits = commits + 1, commit_id = %s
WHERE generation = %s AND state = %s AND commit_id = %s"""

_MOVE_STREAM: Final = """
UPDATE streams SET batch = %(batch)s, event_time = %(event_time)s,
    event_time_before = %(event_time_before)s
WHERE generation = %(generation)s AND checkpoint = %(checkpoint)s AND batch = %(batch)s - 1"""
_OPEN_STREAM: Final = """
INSERT INTO streams (generation, checkpoint, batch) VALUES (%s, %s, -1) ON CONFLICT DO NOTHING"""
_READ_STREAM: Final = """
SELECT checkpoint, batch, (extract(epoch FROM event_time) * 1000000)::bigint,
    (extract(epoch FROM event_time_before) * 1000000)::bigint
FROM streams WHERE generation = %s AND checkpoint = %s FOR UPDATE"""

_OPEN_LOG: Final = """
INSERT INTO checkpoints (generation, path, committed_by)
SELECT generation, %s, %s FROM generations WHERE generation = %s FOR KEY SHARE
ON CONFLICT (generation, path) DO NOTHING"""

_READ_LOGS: Final = """
SELECT path, log_id, byte_offset, (extract(epoch FROM watermark) * 1000000)::bigint, rebuild_from,
    (extract(epoch FROM rebuild_watermark) * 1000000)::bigint, ahead_offsets,
    ARRAY(SELECT name FROM ledger l WHERE l.log_id = c.log_id AND outcome = 'ignored')
FROM checkpoints c WHERE generation = %s ORDER BY path"""

_LOCK_CHECKPOINTS: Final = """
SELECT log_id, byte_offset, committed_by
FROM checkpoints WHERE log_id = ANY(%s) ORDER BY log_id FOR UPDATE"""

_LAST_MOVED: Final = """
SELECT path, byte_offset, committed_by, to_char(committed_at, 'YYYY-MM-DD HH24:MI:SS TZ')
FROM checkpoints WHERE generation = %s ORDER BY committed_at DESC LIMIT 1"""

_RULE_NAMES: Final = (
    "contract_version",
    "attribution_window_us",
    "allowed_lateness_us",
    "timezone",
    "max_line_bytes",
)
_READ_RULES: Final = """
SELECT
    generation, state, commits, commit_id, live_from,
    contract_version, attribution_window_us, allowed_lateness_us, timezone, max_line_bytes
FROM generations WHERE state = 'live' FOR SHARE"""
_READ_COMMITS: Final = """
SELECT state, commits, commit_id, live_from FROM generations WHERE generation = %s"""
_LOCK_COMMITS: Final[LiteralString] = f"{_READ_COMMITS} FOR SHARE"
NEW_GENERATION: Final = """
INSERT INTO generations (
    state, contract_version, attribution_window_us, allowed_lateness_us, timezone, max_line_bytes,
    live_from)
VALUES (%s, %s, %s, %s, %s, %s, CASE %s WHEN 'live' THEN now() END)
ON CONFLICT (state) WHERE state <> 'kept' DO NOTHING RETURNING generation"""


_LOOKS: Final = 10

LogFiles = Mapping[int, ReadFiles]
"""What became known of the files of logs, by the id of the log."""


class StoredLog(NamedTuple):
    """A log as the database knows it; `names` are the event types it has ignored so far."""

    log_id: int
    checkpoint: Checkpoint
    names: list[str]
    files: list[KnownFile]


class Stream(NamedTuple):
    """A stream that keeps its own place, in `checkpoint`, and its last micro-batch, -1 for none.

    How far event time had come with it, and with the one before.
    """

    checkpoint: str
    batch: int
    event_time: int | None = None
    event_time_before: int | None = None


class _Last(NamedTuple):
    """What was committed last on a generation: its state, how many commits, and the id of that.

    And since when it was live: it may be replaced, and be live again.
    """

    state: str
    commits: int
    commit_id: UUID
    live_from: datetime | None = None


class Store:
    """The writing side of one generation: the live one, or the one that it is bound to."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._session = Session(connect, brief=True)
        self._sent = uuid4()  # the id of the last commit that was tried
        self._last = _Last("live", 0, self._sent)
        self._hours: dict[int, int | None] = {}
        self.generation = 0
        self.rules = Rules()
        self.identity = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"

    def close(self) -> None:
        """Let go of the connection; the next call makes a new one."""
        self._session.close()

    def migrate(self) -> list[Migration]:
        """Bring the schema up to date, however long that takes, and return what was applied."""
        with closing(Session(self._connect)) as session, session.connection() as connection:
            return migrate(connection)

    def adopt(self, rules: Rules) -> Rules:
        """Write to the live generation, which is made by `rules` if there is none yet.

        Raises:
            SettingsError: it was made by other rules.
            StoreError: the database cannot be written to as it is.

        """
        with self._session.transaction() as connection:
            must_be_usable(connection)
            if connection.execute(_READ_RULES).fetchone() is None:
                connection.execute(NEW_GENERATION, ("live", *rules_row(rules), "live"))
        kept = self.take_over()
        if differences := differing_rules(kept, rules):
            raise SettingsError(
                f"the report was made by other rules ({differences}); run with the old settings, "
                "or make it anew with `processor replay`"
            )
        return rules

    def take_over(self) -> Rules:
        """Write to the generation that is live by now, and return by which rules it is made.

        Raises:
            SettingsError: they are those of another version of this processor.

        """
        row = None
        for _ in range(_LOOKS):
            # The lock waits for a commit that a killed processor may have left under way, or for
            # another generation to become live: then there is no row to be seen this time.
            with self._session.transaction() as connection:
                if row := connection.execute(_READ_RULES).fetchone():
                    break
        if row is None:
            raise StoreError("no report is live in this database; see `processor generations`")
        self.generation, state, commits, commit_id, live_from, version, *rules = row
        self._last, self._hours = _Last(state, commits, commit_id, live_from), {}
        if version != CONTRACT_VERSION:
            raise SettingsError(
                f"the report was made by contract version {version}, this processor has "
                f"{CONTRACT_VERSION}; make it anew with `processor replay`"
            )
        self.rules = Rules(*rules)
        return self.rules

    def bind(self, generation: int, rules: Rules) -> None:
        """Write to a generation that is not live."""
        with self._session.transaction() as connection:
            must_be_usable(connection)
            row = connection.execute(_LOCK_COMMITS, (generation,)).fetchone()
        if row is None:
            raise CheckpointMovedError(f"generation {generation} was dropped by somebody else")
        self.generation, self.rules, self._hours = generation, rules, {}
        self._last = _Last(*row)

    def open_logs(self, paths: Iterable[str]) -> dict[str, StoredLog]:
        """Return all logs of the generation by path; those at `paths` are made if they are new.

        Raises:
            ReplacedError: another generation is live by now.
            RewoundError: the database went back.
            CheckpointMovedError: somebody else has written to it.

        """
        with self._session.transaction() as connection:
            # Checkpoints before generations, as in a commit, so that the two cannot deadlock.
            for path in paths:
                connection.execute(_OPEN_LOG, (path, self.identity, self.generation))
            if connection.execute(_LOCK_COMMITS, (self.generation,)).fetchone() != self._last:
                raise self._why_not(connection)
            return read_logs(connection, self.generation)

    def check(self) -> None:
        """See whether the generation still is as this processor left it.

        Raises:
            ProcessorError: as for `open_logs`.

        """
        with self._session.connection() as connection:
            if connection.execute(_READ_COMMITS, (self.generation,)).fetchone() != self._last:
                raise self._why_not(connection)

    def generations(self) -> list[int]:
        """Return the numbers of all generations."""
        with self._session.connection() as connection:
            rows = connection.execute("SELECT generation FROM generations").fetchall()
        return [generation for (generation,) in rows]

    def known_paths(self) -> list[str]:
        """Return the paths of the logs that the generation is made from."""
        with self._session.connection() as connection:
            rows = connection.execute(
                "SELECT path FROM checkpoints WHERE generation = %s ORDER BY path",
                (self.generation,),
            ).fetchall()
        return [path for (path,) in rows]

    def begin_at(self, log_id: int, file: KnownFile) -> list[KnownFile]:
        """Have a log begin in the middle of a file, unless it has begun; return its files."""
        with self._session.transaction() as connection:
            connection.execute(_LOCK_CHECKPOINTS, ([log_id],))
            files = files_by_log(connection.execute(READ_FILES, ([log_id],))).get(log_id)
            if files is None:
                files = [file]
                connection.execute(_KEEP_FILE, (log_id, *file))
        return files

    def stream(self, checkpoint: str) -> Stream:
        """Return a stream as it was committed last, once no commit of it is under way."""
        with self._session.transaction() as connection:
            connection.execute(_OPEN_STREAM, (self.generation, checkpoint))
            row = connection.execute(_READ_STREAM, (self.generation, checkpoint)).fetchone()
        return Stream(*row) if row else Stream(checkpoint, -1)

    def commit(self, commit: Commit, files: LogFiles, stream: Stream | None = None) -> None:
        """Write one batch in one transaction, and what the files of its logs are known by.

        A `stream` must be at the batch before this one.

        Raises:
            ReplacedError: another generation is live by now.
            RewoundError: the database went back, to before what the batch started from.
            CheckpointMovedError: somebody else moved a checkpoint that the batch started from.
            ConnectionLostError: it is not known whether the batch was written.

        """
        with self._session.transaction() as connection:
            cursor = connection.cursor()
            cursor.executemany(_MOVE_CHECKPOINT, [self._move(log) for log in commit.logs])
            if cursor.rowcount != len(commit.logs):
                raise self._why_not(connection)
            if stream and cursor.execute(_MOVE_STREAM, self._moved(stream)).rowcount != 1:
                raise CheckpointMovedError(
                    f"{stream.checkpoint}: batch {stream.batch} is not the next one of this "
                    "stream: another processor has committed to it. Stop one of the two"
                )
            self._sent = uuid4()
            from_last = (self._sent, self.generation, self._last.state, self._last.commit_id)
            if cursor.execute(_COUNT_COMMIT, from_last).rowcount != 1:
                raise self._why_not(connection)
            add_counts(connection, "hourly_counts", self.generation, commit.increments)
            _add_dead_letters(cursor, commit.logs)
            cursor.execute(_ADD_TO_LEDGER, _ledger_columns(commit.logs))
            self._keep_files(cursor, commit, files)
            begun = [log for log in commit.logs if self._hours.get(log.log_id) != _hour_of(log)]
            if begun:
                cursor.executemany(_KEEP_HOUR, map(_hour_row, begun))
        self._go_on_from_sent()
        self._hours |= {log.log_id: _hour_of(log) for log in begun}

    def reconcile(self, commit: Commit) -> bool:
        """Tell whether `commit`, sent before the connection was lost, was written.

        Raises:
            ReplacedError, RewoundError, CheckpointMovedError: neither it nor what was committed
                before it is there.
            ConnectionLostError: as for `commit`.

        """
        with self._session.transaction() as connection:
            ids = [log.log_id for log in commit.logs]
            found = connection.execute(_LOCK_CHECKPOINTS, (ids,)).fetchall()
            written = set(found) == {
                (log.log_id, log.checkpoint.byte_offset, self.identity) for log in commit.logs
            }
            last = connection.execute(_READ_COMMITS, (self.generation,)).fetchone()
            if not written and last != self._last:
                raise self._why_not(connection)
        if written:
            self._go_on_from_sent()
        return written

    def _go_on_from_sent(self) -> None:
        self._last = self._last._replace(commits=self._last.commits + 1, commit_id=self._sent)

    def _keep_files(self, cursor: psycopg.Cursor, commit: Commit, files: LogFiles) -> None:
        if rows := [(log_id, *file) for log_id in files for file in files[log_id].changed]:
            cursor.executemany(_KEEP_FILE, rows)
        for log in commit.logs:
            if log.log_id in files and files[log.log_id].oldest:
                needed = (log.checkpoint.rebuild_from, *log.checkpoint.ahead_offsets)
                oldest = min(files[log.log_id].oldest, *needed)
                cursor.execute(_FORGET_FILES, (log.log_id, oldest))

    def _move(self, log: LogCommit) -> dict[str, object]:
        checkpoint = log.checkpoint
        return {
            "log_id": log.log_id,
            "from_offset": log.from_offset,
            "byte_offset": checkpoint.byte_offset,
            "lines": log.lines,
            "watermark": timestamp_of(checkpoint.watermark),
            "rebuild_from": checkpoint.rebuild_from,
            "rebuild_watermark": timestamp_of(checkpoint.rebuild_watermark),
            "ahead_offsets": list(checkpoint.ahead_offsets),
            "committed_by": self.identity,
        }

    def _moved(self, stream: Stream) -> dict[str, object]:
        return {
            **stream._asdict(),
            "generation": self.generation,
            "event_time": timestamp_of(stream.event_time),
            "event_time_before": timestamp_of(stream.event_time_before),
        }

    def _why_not(self, connection: Connection) -> ProcessorError:
        """Return why nothing can be written, having undone what was."""
        connection.rollback()
        row = connection.execute(_READ_COMMITS, (self.generation,)).fetchone()
        is_again = row and row[0] == "live" == self._last.state and row[3] > self._last.live_from
        if row is None or row[0] != self._last.state or is_again:
            if self._last.state == "live":
                return ReplacedError("another generation of the report is live")
            return CheckpointMovedError(
                "the generation that this replay makes was dropped, or became live, by the doing "
                "of another processor, or the database was put back. Stop one of the two"
            )
        moved = connection.execute(_LAST_MOVED, (self.generation,)).fetchone()
        # Nothing was committed since, and yet a checkpoint is not there: it was not yet, back then.
        is_back = row[1] < self._last.commits or row == self._last
        if is_back or moved is None or moved[2] == self.identity:
            return RewoundError(
                f"the database went back to an earlier state, from {self._last.commits} commits to "
                f"{row[1]}. Start again, to go on from there"
            )
        path, offset, by, at = moved
        return CheckpointMovedError(
            f"{path}: another processor, {by.rpartition(':')[0]}, works on this report: it moved "
            f"this checkpoint to byte {offset} at {at}. Stop one of the two, and let the other "
            "read all logs; if there is but one, a later copy of the database was put back: start "
            "again, to go on from there"
        )


def read_logs(connection: psycopg.Connection, generation: int) -> dict[str, StoredLog]:
    """Return the logs of a generation, by path."""
    rows = connection.execute(_READ_LOGS, (generation,)).fetchall()
    files = files_by_log(connection.execute(READ_FILES, ([row[1] for row in rows],)))
    return {
        path: StoredLog(
            log_id,
            Checkpoint(offset, mark, start, start_mark, tuple(ahead)),
            names,
            files.get(log_id, []),
        )
        for path, log_id, offset, mark, start, start_mark, ahead, names in rows
    }


def add_counts(
    connection: psycopg.Connection,
    table: LiteralString,
    generation: int,
    increments: Sequence[Increment],
) -> None:
    """Add increments to the rows of a generation, but for hours that were pruned."""
    if increments:
        customers, hours, *counts = zip(*increments, strict=True)
        columns = list(customers), _hours(hours), *map(list, counts)
        connection.execute(_add_to(table), (*columns, generation))


def _add_to(table: LiteralString) -> LiteralString:
    return f"""
INSERT INTO {table} AS t (generation, customer_id, hour, {COUNTS})
SELECT generation, i.*
FROM generations, unnest(
    %s::bigint[], %s::timestamptz[],
    %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[]) AS i (customer_id, hour)
WHERE generation = %s AND hour >= coalesce(counts_from, '-infinity')
ON CONFLICT (generation, customer_id, hour) DO UPDATE SET
    page_loads = t.page_loads + excluded.page_loads,
    clicks = t.clicks + excluded.clicks,
    unique_user_clicks = t.unique_user_clicks + excluded.unique_user_clicks,
    related_clicks = t.related_clicks + excluded.related_clicks,
    clicked_page_loads = t.clicked_page_loads + excluded.clicked_page_loads"""


def files_by_log(rows: Iterable[tuple[Any, ...]]) -> dict[int, list[KnownFile]]:
    """Return the files of each log, from the rows of `READ_FILES`."""
    files: dict[int, list[KnownFile]] = {}
    for log_id, start, device, inode, *more in rows:
        files.setdefault(log_id, []).append(KnownFile(start, int(device), int(inode), *more))
    return files


def rules_row(rules: Rules) -> tuple[int, int, int, str, int]:
    """Return what shapes the numbers, as it is stored with a generation."""
    return (
        CONTRACT_VERSION,
        rules.attribution_window_us,
        rules.allowed_lateness_us,
        rules.timezone,
        rules.max_line_bytes,
    )


def differing_rules(old: Rules, new: Rules) -> str:
    """Return in words by what two sets of rules differ; nothing if they do not."""
    rows = zip(_RULE_NAMES, rules_row(old), rules_row(new), strict=True)
    return ", ".join(
        f"{name.removesuffix('_us')} was {_in_words(name, before)}, is {_in_words(name, after)}"
        for name, before, after in rows
        if before != after
    )


def rules_in_words(rules: Rules) -> str:
    """Say by which rules a report is made."""
    named = zip(_RULE_NAMES[1:], rules_row(rules)[1:], strict=True)
    return ", ".join(f"{name.removesuffix('_us')} {_in_words(name, rule)}" for name, rule in named)


def _in_words(name: str, rule: Any) -> str:
    return str(timedelta(microseconds=rule) if name.endswith("_us") else rule)


def _add_dead_letters(cursor: psycopg.Cursor, logs: Sequence[LogCommit]) -> None:
    if not any(log.dead_letters for log in logs):
        return
    try:
        with cursor.copy(_ADD_DEAD_LETTERS) as copy:
            for log in logs:
                for dead_letter in log.dead_letters:
                    copy.write_row((log.log_id, *dead_letter))
    except ValueError as error:
        # What psycopg makes of two answers to its end: "done", and that a pooler lost the server.
        raise psycopg.OperationalError("the connection broke at the end of a COPY") from error


def _ledger_columns(logs: Sequence[LogCommit]) -> list[list[object]]:
    rows = sorted(
        (log.log_id, outcome, name, lines)
        for log in logs
        for (outcome, name), lines in log.outcomes.items()
    )
    return [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]


def _hours(hours: Iterable[int]) -> list[datetime]:
    return [EPOCH + timedelta(microseconds=hour * HOUR_US) for hour in hours]


def _hour_of(log: LogCommit) -> int | None:
    """Return the hour that the state of a log goes back to, None for its beginning."""
    mark = log.checkpoint.rebuild_watermark
    return None if mark is None else mark // HOUR_US


def _hour_row(log: LogCommit) -> tuple[object, ...]:
    """Return from where to read again what fired in that hour, or later."""
    start, mark = log.checkpoint.rebuild_from, timestamp_of(log.checkpoint.rebuild_watermark)
    ahead = [offset for offset in log.checkpoint.ahead_offsets if offset < start]
    return log.log_id, mark, start, mark, ahead


def timestamp_of(instant: int | None) -> datetime | None:
    """Return an instant as Postgres knows it."""
    return None if instant is None else EPOCH + timedelta(microseconds=instant)
