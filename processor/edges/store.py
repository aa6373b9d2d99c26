"""Writes commits to Postgres, each in one transaction, each exactly once.

The first statement of a commit is the comparison: every checkpoint that the batch started from
must still be where it was, or nothing is written. So a commit can be sent twice, by two processors
or by one that does not know whether it succeeded, and still counts once. `rules.commits` is
compared too, since logs share visits: one processor reads all logs of a report. After a lost
connection `reconcile` reads the checkpoints under `FOR UPDATE`, which waits for a commit that may
still be under way, and tells which of the two it was.

Session state is not relied on, so a pooler in transaction mode may sit in between.
"""

import os
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, LiteralString, NamedTuple

import psycopg

from processor.core.contract import CONTRACT_VERSION
from processor.core.model import HOUR_US, Checkpoint, Commit, LogCommit, Rules
from processor.edges.identity import KnownFile, ReadFiles
from processor.edges.migrations import Migration, migrate
from processor.errors import CheckpointMovedError, SettingsError, StoreError

Connect = Callable[[], psycopg.Connection]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_MOVE_CHECKPOINT: Final = """
UPDATE checkpoints
SET byte_offset = %(byte_offset)s, lines = lines + %(lines)s, watermark = %(watermark)s,
    rebuild_from = %(rebuild_from)s, rebuild_watermark = %(rebuild_watermark)s,
    ahead_offsets = %(ahead_offsets)s, committed_at = now(), committed_by = %(committed_by)s
WHERE log_id = %(log_id)s AND byte_offset = %(from_offset)s"""

_ADD_COUNTS: Final = """
INSERT INTO hourly_counts AS t
    (customer_id, hour, page_loads, clicks, unique_user_clicks, related_clicks, clicked_page_loads)
SELECT * FROM unnest(
    %s::bigint[], %s::timestamptz[],
    %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
ON CONFLICT (customer_id, hour) DO UPDATE SET
    page_loads = t.page_loads + excluded.page_loads,
    clicks = t.clicks + excluded.clicks,
    unique_user_clicks = t.unique_user_clicks + excluded.unique_user_clicks,
    related_clicks = t.related_clicks + excluded.related_clicks,
    clicked_page_loads = t.clicked_page_loads + excluded.clicked_page_loads"""

_ADD_TO_LEDGER: Final = """
INSERT INTO ledger AS t (log_id, outcome, name, lines)
SELECT * FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::bigint[])
ON CONFLICT (log_id, outcome, name) DO UPDATE SET lines = t.lines + excluded.lines"""

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

READ_FILES: Final = """
SELECT log_id, start_offset, device::text, inode::text, name, read_bytes, head, tail, tail_bytes
FROM log_files ORDER BY log_id, start_offset"""

_COUNT_COMMIT: Final = "UPDATE rules SET commits = commits + 1 WHERE commits = %s"

_OPEN_LOG: Final = """
INSERT INTO checkpoints (path, committed_by) VALUES (%s, %s) ON CONFLICT (path) DO NOTHING"""

_READ_LOGS: Final = """
SELECT path, log_id, byte_offset, (extract(epoch FROM watermark) * 1000000)::bigint, rebuild_from,
    (extract(epoch FROM rebuild_watermark) * 1000000)::bigint, ahead_offsets,
    ARRAY(SELECT name FROM ledger l WHERE l.log_id = c.log_id AND outcome = 'ignored')
FROM checkpoints c ORDER BY path"""

_LOCK_CHECKPOINTS: Final = """
SELECT log_id, path, byte_offset, committed_by, to_char(committed_at, 'YYYY-MM-DD HH24:MI:SS TZ')
FROM checkpoints WHERE log_id = ANY(%s) ORDER BY log_id FOR UPDATE"""

_LAST_OF_OTHERS: Final = """
SELECT committed_by FROM checkpoints WHERE committed_by <> %s ORDER BY committed_at DESC LIMIT 1"""

_RULE_NAMES: Final = (
    "contract_version",
    "attribution_window_us",
    "allowed_lateness_us",
    "timezone",
    "max_line_bytes",
)
_READ_RULES: Final = """
SELECT
    contract_version, attribution_window_us, allowed_lateness_us, timezone, max_line_bytes, commits
FROM rules"""
_ADOPT_RULES: Final[LiteralString] = """
INSERT INTO rules
    (contract_version, attribution_window_us, allowed_lateness_us, timezone, max_line_bytes)
VALUES (%s, %s, %s, %s, %s) ON CONFLICT (only_row)"""
_REPLACE_RULES: Final[LiteralString] = (
    _ADOPT_RULES
    + """ DO UPDATE SET
    contract_version = excluded.contract_version, timezone = excluded.timezone,
    attribution_window_us = excluded.attribution_window_us,
    allowed_lateness_us = excluded.allowed_lateness_us,
    max_line_bytes = excluded.max_line_bytes, commits = rules.commits + 1"""
)


LogFiles = Mapping[int, ReadFiles]
"""What became known of the files of logs, by the id of the log."""


class StoredLog(NamedTuple):
    """A log as the database knows it; `names` are the event types it has ignored so far."""

    log_id: int
    checkpoint: Checkpoint
    names: list[str]
    files: list[KnownFile]


class ConnectionLostError(StoreError):
    """The connection broke, or the server gave up on the transaction: reconcile, then go on."""


class Store:
    """The writing side of the database. `connect` makes connections; one is held at a time."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._connection: psycopg.Connection | None = None
        self._commits = 0
        self.identity = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"

    def close(self) -> None:
        """Let go of the connection; the next call makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def migrate(self) -> list[Migration]:
        """Bring the schema up to date, and return what was applied."""
        with self._session() as connection:
            return migrate(connection)

    def adopt(self, rules: Rules) -> None:
        """Make `rules` those of the report, if it has none yet.

        Raises:
            SettingsError: the report was made by other rules.

        """
        wanted = _rules_row(rules)
        with self._session() as connection, connection.transaction():
            connection.execute(_ADOPT_RULES + " DO NOTHING", wanted)
            # The lock waits for a commit that a killed processor may have left under way.
            ((*kept, self._commits),) = connection.execute(_READ_RULES + " FOR SHARE")
        differences = ", ".join(
            f"{name.removesuffix('_us')} was {_in_words(name, old)}, is {_in_words(name, new)}"
            for name, old, new in zip(_RULE_NAMES, kept, wanted, strict=True)
            if old != new
        )
        if differences:
            raise SettingsError(
                f"the report was made by other rules ({differences}); run with the old settings, "
                "or make it anew with `processor replay`"
            )

    def open_logs(self, paths: Iterable[str]) -> dict[str, StoredLog]:
        """Return all logs of the report by path; those at `paths` are made if they are new.

        Raises:
            CheckpointMovedError: somebody else has written to the report since `adopt`.

        """
        with self._session() as connection, connection.transaction():
            # Checkpoints before rules, as in a commit, so that the two cannot deadlock.
            for path in paths:
                connection.execute(_OPEN_LOG, (path, self.identity))
            ((*_, commits),) = connection.execute(_READ_RULES + " FOR SHARE")
            if commits != self._commits:
                raise CheckpointMovedError(self._who_else(connection))
            rows = connection.execute(_READ_LOGS).fetchall()
            files = files_by_log(connection.execute(READ_FILES))
        return {
            path: StoredLog(
                log_id,
                Checkpoint(offset, mark, start, start_mark, tuple(ahead)),
                names,
                files.get(log_id, []),
            )
            for path, log_id, offset, mark, start, start_mark, ahead, names in rows
        }

    def known_paths(self) -> list[str]:
        """Return the paths of the logs that the report is made from."""
        with self._session() as connection:
            rows = connection.execute("SELECT path FROM checkpoints ORDER BY path").fetchall()
        return [path for (path,) in rows]

    def begin_at(self, log_id: int, file: KnownFile) -> list[KnownFile]:
        """Have a log begin in the middle of a file, unless it has begun; return its files."""
        with self._session() as connection, connection.transaction():
            connection.execute(_LOCK_CHECKPOINTS, ([log_id],))
            files = files_by_log(connection.execute(READ_FILES)).get(log_id)
            if files is None:
                files = [file]
                connection.execute(_KEEP_FILE, (log_id, *file))
        return files

    def empty(self, rules: Rules) -> None:
        """Forget the report, all checkpoints and dead letters, and adopt `rules`, in one step.

        Log ids are never used again, so a processor that still runs finds its checkpoint gone.
        """
        with self._session() as connection, connection.transaction():
            connection.execute(
                "TRUNCATE checkpoints, hourly_counts, dead_letters, ledger, log_files"
            )
            connection.execute(_REPLACE_RULES, _rules_row(rules))

    def commit(self, commit: Commit, files: LogFiles) -> None:
        """Write one batch in one transaction, and what the files of its logs are known by.

        Raises:
            CheckpointMovedError: a checkpoint was not where the batch started from.
            ConnectionLostError: it is not known whether the batch was written.

        """
        with self._session() as connection, connection.transaction():
            cursor = connection.cursor()
            cursor.executemany(_MOVE_CHECKPOINT, [self._move(log) for log in commit.logs])
            if cursor.rowcount != len(commit.logs):
                raise CheckpointMovedError(self._who_moved(connection, commit))
            if cursor.execute(_COUNT_COMMIT, (self._commits,)).rowcount != 1:
                raise CheckpointMovedError(self._who_else(connection))
            if commit.increments:
                customers, hours, *counts = zip(*commit.increments, strict=True)
                cursor.execute(_ADD_COUNTS, [list(customers), _hours(hours), *map(list, counts)])
            if any(log.dead_letters for log in commit.logs):
                with cursor.copy(_ADD_DEAD_LETTERS) as copy:
                    for log in commit.logs:
                        for dead_letter in log.dead_letters:
                            copy.write_row((log.log_id, *dead_letter))
            cursor.execute(_ADD_TO_LEDGER, _ledger_columns(commit.logs))
            if rows := [(log_id, *file) for log_id in files for file in files[log_id].changed]:
                cursor.executemany(_KEEP_FILE, rows)
            for log in commit.logs:
                if log.log_id in files and files[log.log_id].oldest:
                    needed = (log.checkpoint.rebuild_from, *log.checkpoint.ahead_offsets)
                    oldest = min(files[log.log_id].oldest, *needed)
                    cursor.execute(_FORGET_FILES, (log.log_id, oldest))
        self._commits += 1

    def reconcile(self, commit: Commit) -> bool:
        """Tell whether `commit`, sent before the connection was lost, was written.

        Raises:
            CheckpointMovedError: neither it nor the state before it is there.
            ConnectionLostError: as for `commit`.

        """
        with self._session() as connection, connection.transaction():
            ids = [log.log_id for log in commit.logs]
            rows = connection.execute(_LOCK_CHECKPOINTS, (ids,)).fetchall()
            found = {log_id: (offset, by) for log_id, _, offset, by, _ in rows}
            after = {log.log_id: (log.checkpoint.byte_offset, self.identity) for log in commit.logs}
            before = {log.log_id: log.from_offset for log in commit.logs}
            written = found == after
            if not written and {log_id: at for log_id, (at, _) in found.items()} != before:
                raise CheckpointMovedError(self._who_moved(connection, commit))
        self._commits += written
        return written

    @contextmanager
    def _session(self) -> Iterator[psycopg.Connection]:
        """Hand out the connection. What may pass by itself becomes `ConnectionLostError`."""
        try:
            if self._connection is None:
                self._connection = self._connect()
            yield self._connection
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            self.close()
            raise ConnectionLostError(f"the database is away: {_first_line(error)}") from error
        except psycopg.Error as error:
            self.close()
            raise StoreError(
                f"Postgres refused a statement ({error.sqlstate}): {_first_line(error)}; nothing "
                "of it was written. Check the rights and the schema of the database"
            ) from error

    def _move(self, log: LogCommit) -> dict[str, object]:
        checkpoint = log.checkpoint
        return {
            "log_id": log.log_id,
            "from_offset": log.from_offset,
            "byte_offset": checkpoint.byte_offset,
            "lines": log.lines,
            "watermark": _timestamp(checkpoint.watermark),
            "rebuild_from": checkpoint.rebuild_from,
            "rebuild_watermark": _timestamp(checkpoint.rebuild_watermark),
            "ahead_offsets": list(checkpoint.ahead_offsets),
            "committed_by": self.identity,
        }

    def _who_moved(self, connection: psycopg.Connection, commit: Commit) -> str:
        started_from = {log.log_id: log.from_offset for log in commit.logs}
        rows = connection.execute(_LOCK_CHECKPOINTS, (list(started_from),)).fetchall()
        for log_id, path, offset, by, at in rows:
            if by != self.identity:
                return (
                    f"{path}: another processor, {by.rpartition(':')[0]}, owns this log: it moved "
                    f"the checkpoint from byte {started_from[log_id]} to {offset} at {at}. "
                    "Stop one of the two"
                )
        return self._who_else(connection)

    def _who_else(self, connection: psycopg.Connection) -> str:
        if row := connection.execute(_LAST_OF_OTHERS, (self.identity,)).fetchone():
            return (
                f"another processor, {row[0].rpartition(':')[0]}, works on this report, and has "
                "committed to it meanwhile. Stop one of the two, and let the other read all logs"
            )
        return (
            "the checkpoint of a log that this processor reads is gone: the report is being made "
            "anew, or the database was put back to an earlier state. Start again to go on from it"
        )


def files_by_log(rows: Iterable[tuple[Any, ...]]) -> dict[int, list[KnownFile]]:
    """Return the files of each log, from the rows of `READ_FILES`."""
    files: dict[int, list[KnownFile]] = {}
    for log_id, start, device, inode, *more in rows:
        files.setdefault(log_id, []).append(KnownFile(start, int(device), int(inode), *more))
    return files


def _rules_row(rules: Rules) -> tuple[int, int, int, str, int]:
    return (
        CONTRACT_VERSION,
        rules.attribution_window_us,
        rules.allowed_lateness_us,
        rules.timezone,
        rules.max_line_bytes,
    )


def _in_words(name: str, rule: Any) -> str:
    return str(timedelta(microseconds=rule) if name.endswith("_us") else rule)


def _ledger_columns(logs: Sequence[LogCommit]) -> list[list[object]]:
    rows = sorted(
        (log.log_id, outcome, name, lines)
        for log in logs
        for (outcome, name), lines in log.outcomes.items()
    )
    return [list(column) for column in zip(*rows, strict=True)]


def _hours(hours: Iterable[int]) -> list[datetime]:
    return [_EPOCH + timedelta(microseconds=hour * HOUR_US) for hour in hours]


def _timestamp(instant: int | None) -> datetime | None:
    return None if instant is None else _EPOCH + timedelta(microseconds=instant)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
