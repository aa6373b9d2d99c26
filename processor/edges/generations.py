"""Generations beside the live one: begun, filled, compared, put in its place, dropped.

Whoever folds into a generation writes to it by a `Store`; here is what concerns two of them. The
live one keeps being written and read meanwhile: nothing locks it but `held`, which the server ends
within a second.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, LiteralString, NamedTuple

import psycopg

from processor.core.model import Checkpoint, Rules
from processor.edges.session import Connect, ConnectionLostError, Session
from processor.edges.store import (
    COUNTS,
    EPOCH,
    NEW_GENERATION,
    StoredLog,
    rules_row,
    timestamp_of,
)
from processor.edges.view import OF_HOURS, Generation, Hours, View, logs_of
from processor.errors import CheckpointMovedError, SettingsError, StoreError

HELD_MILLISECONDS: Final = 900
"""So long the live generation is held at most."""

_COPY_GENERATION: Final = """
INSERT INTO generations (
    state, contract_version, attribution_window_us, allowed_lateness_us, timezone, max_line_bytes,
    counts_from, first_hour, end_hour, copied_from, accepts_loss, made_by)
SELECT 'replay', contract_version, attribution_window_us, allowed_lateness_us, timezone,
    max_line_bytes, counts_from, %(first)s, %(end)s, generation,
    %(accepts_loss)s, %(by)s
FROM generations WHERE generation = %(old)s
ON CONFLICT (state) WHERE state <> 'kept' DO NOTHING RETURNING generation"""

_COPY_COUNTS: Final[LiteralString] = f"""
INSERT INTO hourly_counts (generation, customer_id, hour, {COUNTS})
SELECT %(new)s, customer_id, hour, {COUNTS}
FROM hourly_counts WHERE generation = %(old)s AND NOT ({OF_HOURS})"""

_COPY_RECOUNTED: Final[LiteralString] = f"""
INSERT INTO hourly_counts (generation, customer_id, hour, {COUNTS})
SELECT %(new)s, customer_id, hour, {COUNTS} FROM recounted"""

_COPY_CHECKPOINTS: Final = """
INSERT INTO checkpoints (generation, path, byte_offset, lines, watermark, rebuild_from,
    rebuild_watermark, ahead_offsets, committed_at, committed_by)
SELECT %(new)s, path, byte_offset, lines, watermark, rebuild_from,
    rebuild_watermark, ahead_offsets, committed_at, committed_by
FROM checkpoints WHERE generation = %(old)s"""

_SAME_LOGS: Final = """
(SELECT o.log_id, n.log_id AS new_id FROM checkpoints o JOIN checkpoints n USING (path)
WHERE o.generation = %(old)s AND n.generation = %(new)s
    AND o.byte_offset = n.byte_offset) AS same_logs"""

_COPIES: Final[tuple[LiteralString, ...]] = (
    _COPY_COUNTS,
    _COPY_RECOUNTED,
    _COPY_CHECKPOINTS,
    f"""INSERT INTO ledger (log_id, outcome, name, lines)
SELECT new_id, outcome, name, lines FROM ledger JOIN {_SAME_LOGS} USING (log_id)""",
    f"""INSERT INTO dead_letters (log_id, byte_offset, byte_length, reason, detail)
SELECT new_id, byte_offset, byte_length, reason, detail
FROM dead_letters JOIN {_SAME_LOGS} USING (log_id)""",
    f"""INSERT INTO hour_offsets (log_id, hour, byte_offset, watermark, ahead_offsets)
SELECT new_id, hour, byte_offset, watermark, ahead_offsets
FROM hour_offsets JOIN {_SAME_LOGS} USING (log_id)""",
)

_DROP_FILES: Final = f"""
DELETE FROM log_files WHERE log_id IN (SELECT new_id FROM {_SAME_LOGS})"""
_COPY_FILES: Final[LiteralString] = f"""
INSERT INTO log_files
    (log_id, start_offset, device, inode, name, read_bytes, head, tail, tail_bytes)
SELECT new_id, start_offset, device, inode, name, read_bytes, head, tail, tail_bytes
FROM log_files JOIN {_SAME_LOGS} USING (log_id)"""

_LOOKS: Final = 3
_HOLD: Final = """
SELECT generation FROM generations WHERE state = 'live' FOR NO KEY UPDATE"""
_KEEP_LIVE: Final = """
UPDATE generations SET state = 'kept', live_until = now()
WHERE generation = %(old)s AND state = 'live'"""
_MAKE_LIVE: Final = """
UPDATE generations SET state = 'live', live_from = now(), live_until = NULL, copied_from = NULL,
    counts_from = greatest(counts_from,
        (SELECT counts_from FROM generations WHERE generation = %(old)s))
WHERE generation = %(new)s AND state <> 'live'
    AND (copied_from IS NULL OR copied_from = %(old)s)"""
_PRUNE_AGAIN: Final = """
DELETE FROM hourly_counts WHERE generation = %(new)s
    AND hour < (SELECT counts_from FROM generations WHERE generation = %(new)s)"""
"""What was pruned while the new generation was begun is still in it."""
_INHERIT: Final = """
UPDATE generations SET accepts_loss = %s, made_by = %s,
    counts_from = (SELECT counts_from FROM generations WHERE state = 'live')
WHERE generation = %s"""
_CLAIM: Final = "UPDATE generations SET made_by = %s WHERE generation = %s"
_BEGIN_LOG: Final = """
INSERT INTO checkpoints
    (generation, path, byte_offset, watermark, rebuild_from, rebuild_watermark, committed_by)
VALUES (%s, %s, %s, %s, %s, %s, %s)"""
_PRUNE_DEAD_LETTERS: Final = """
DELETE FROM dead_letters d USING (
    SELECT DISTINCT ON (log_id) log_id, byte_offset FROM hour_offsets
    WHERE watermark < %s ORDER BY log_id, watermark DESC) h
WHERE d.log_id = h.log_id AND d.byte_offset < h.byte_offset"""
_PRUNE_FROM: Final = """
UPDATE generations SET counts_from = greatest(counts_from, %s)"""
_PRUNE_COUNTS: Final = "DELETE FROM hourly_counts WHERE hour < %s"
_LOCK_GENERATION: Final = """
SELECT FROM checkpoints WHERE generation = %s ORDER BY log_id FOR UPDATE"""
_DROP: Final = (
    """DELETE FROM dead_letters
WHERE log_id IN (SELECT log_id FROM checkpoints WHERE generation = %s)""",
    "DELETE FROM hourly_counts WHERE generation = %s",
    "DELETE FROM generations WHERE generation = %s",
)

_BEHIND: Final = """
SELECT count(*) FROM checkpoints l
LEFT JOIN checkpoints n ON n.generation = %(new)s AND n.path = l.path
WHERE l.generation = %(old)s AND l.path = ANY(%(paths)s)
    AND coalesce(n.byte_offset, 0) < l.byte_offset"""

_MAY_DELETE: Final = """
SELECT bool_and(has_table_privilege(name, 'DELETE'))
FROM unnest(ARRAY['dead_letters', 'generations', 'hourly_counts']) AS name"""
_BEGIN_VIEW: Final = """
BEGIN ISOLATION LEVEL REPEATABLE READ; SET LOCAL idle_in_transaction_session_timeout = 0"""
_FOR_SHORT: Final[LiteralString] = f"""
SELECT set_config(name, '{HELD_MILLISECONDS}', true) FROM pg_settings WHERE name IN (
    'lock_timeout', 'statement_timeout', 'idle_in_transaction_session_timeout',
    'transaction_timeout')"""
"""The last one is known to PostgreSQL 17 and later; the others are for a statement or a pause."""


class Pruned(NamedTuple):
    """How much was pruned; `rows` are those of the report."""

    dead_letters: int
    generations: int
    rows: int


class Held(NamedTuple):
    """The generation that is live, while nobody commits to it."""

    connection: psycopg.Connection
    live: int | None
    until: float

    def logs(self) -> dict[Path, StoredLog]:
        """Return its logs, by path."""
        return {} if self.live is None else logs_of(self.connection, self.live)

    def is_behind(self, generation: int, paths: Collection[Path]) -> bool:
        """Whether a generation has not yet all that the live one has of the logs at `paths`."""
        values = {"new": generation, "old": self.live, "paths": list(map(str, paths))}
        return self.connection.execute(_BEHIND, values).fetchone() != (0,)

    def replace(self, new: int) -> None:
        """Put a generation in the place of the one that is live.

        Raises:
            ConnectionLostError: it took too long: who commits has waited long enough.
            CheckpointMovedError: that is not live any more, or the new one was dropped.

        """
        if time.monotonic() > self.until:
            raise ConnectionLostError("the switch took too long, so the live report was let go")
        both = {"old": self.live, "new": new}
        for condition, statement in (
            (self.live is not None, _KEEP_LIVE),
            (True, _MAKE_LIVE),
        ):
            if condition and self.connection.execute(statement, both).rowcount != 1:
                raise CheckpointMovedError(
                    "the live generation was replaced, or the one of this replay dropped, by the "
                    "doing of another processor; nothing was switched"
                )
        for statement in (_PRUNE_AGAIN, _DROP_FILES, _COPY_FILES):
            self.connection.execute(statement, both)


class Generations:
    """All generations of a report."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._session = Session(connect)

    def close(self) -> None:
        """Let go of the connection; the next call makes a new one."""
        self._session.close()

    @contextmanager
    def view(self) -> Iterator[View]:
        """Look at one state, for as long as it takes; there is nothing to commit in the end."""
        with self.look_later() as look:
            yield look()

    @contextmanager
    def look_later(self) -> Iterator[Callable[[], View]]:
        """Connect, and hand out what begins to look."""
        with closing(Session(self._connect)) as session, session.connection() as connection:

            def look() -> View:
                connection.execute(_BEGIN_VIEW)
                return View(connection)

            yield look

    @contextmanager
    def held(self) -> Iterator[Held]:
        """Keep the live generation as it is for a moment: who commits to it waits.

        Not longer than `HELD_MILLISECONDS`: then it is over, and nothing was replaced.
        """
        with self._session.transaction() as connection:
            connection.execute(_FOR_SHORT)
            for _ in range(_LOOKS):  # none is seen if another one became live while this waited
                if row := connection.execute(_HOLD).fetchone():
                    break
            until = time.monotonic() + HELD_MILLISECONDS / 1000
            yield Held(connection, row[0] if row else None, until)

    def must_be_allowed(self) -> None:
        """See that this user may end a replay, which deletes what it replaces.

        Raises:
            StoreError: that is not so.

        """
        with self._session.connection() as connection:
            if connection.execute(_MAY_DELETE).fetchone() != (True,):
                raise StoreError(
                    "this user may not delete what was counted, as a replay does with what it "
                    "replaces. Make it as the owner of the tables"
                )

    def begin(
        self,
        rules: Rules,
        starts: Mapping[Path, Checkpoint],
        by: str,
        *,
        accepts_loss: bool = False,
    ) -> int:
        """Make a generation for a replay; its logs begin at offset zero, or where `starts` says.

        Raises:
            CheckpointMovedError: there is one already.

        """
        with self._session.transaction() as connection:
            row = connection.execute(
                NEW_GENERATION, ("replay", *rules_row(rules), "replay")
            ).fetchone()
            generation = _begun(row)
            connection.execute(_INHERIT, (accepts_loss, by, generation))
            for path, start in starts.items():
                at = start.byte_offset, timestamp_of(start.watermark)
                connection.execute(_BEGIN_LOG, (generation, str(path), *at, *at, by))
        return generation

    def begin_copy(self, view: View, hours: Hours, by: str, *, accepts_loss: bool = False) -> int:
        """Make a generation for a replay: a copy of what a view sees live, but for recounted hours.

        Raises:
            CheckpointMovedError: there is one already.

        """
        values: dict[str, object] = {"by": by, "accepts_loss": accepts_loss, **hours._asdict()}
        values["old"] = view.live and view.live.generation
        try:
            row = view.connection.execute(_COPY_GENERATION, values).fetchone()
        except psycopg.errors.SerializationFailure:  # it came after what the view sees
            row = None
        values["new"] = generation = _begun(row)
        for statement in (*_COPIES, _COPY_FILES):
            view.connection.execute(statement, values)
        view.connection.execute("COMMIT")
        return generation

    def claim(self, generation: int, by: str) -> None:
        """Note who goes on with a generation."""
        with self._session.transaction() as connection:
            connection.execute(_CLAIM, (by, generation))

    def drop(self, generation: int, *, missing_ok: bool = False) -> None:
        """Drop a generation that is not live, and all that belongs to it.

        Raises:
            SettingsError: there is none, or it is live.

        """
        with self._session.transaction() as connection:
            # Checkpoints first, as in a commit, so that the two cannot deadlock.
            connection.execute(_LOCK_GENERATION, (generation,))
            row = connection.execute(
                "SELECT state FROM generations WHERE generation = %s FOR UPDATE", (generation,)
            ).fetchone()
            if row is None:
                if missing_ok:
                    return
                raise SettingsError(f"there is no generation {generation}")
            if row == ("live",):
                raise SettingsError(
                    f"generation {generation} is live; switch to another one before it is dropped"
                )
            for statement in _DROP:
                connection.execute(statement, (generation,))

    def keep(self, most: int) -> list[int]:
        """Drop the oldest of those that were replaced, so that no more than `most` are kept."""
        with self.view() as view:
            kept = [g for g in view.generations if g.state == "kept"]
        kept.sort(key=lambda g: (g.live_until is not None, g.live_until), reverse=True)
        dropped = [generation.generation for generation in kept[most:]]
        for generation in dropped:
            self.drop(generation, missing_ok=True)
        return dropped

    def prune(self, before: datetime, *, hours: bool) -> Pruned:
        """Forget dead letters of lines that fired `before`, and generations replaced before it.

        And the `hours` of the report before it, but for those that lines to come may change.
        """
        with self.view() as view:
            live, old = view.live, [g.generation for g in view.generations if g.is_older(before)]
            limit = _prunable(live, view.logs(live.generation), before) if live and hours else None
        for generation in old:
            self.drop(generation, missing_ok=True)
        with self._session.connection() as connection:
            letters = connection.execute(_PRUNE_DEAD_LETTERS, (before,)).rowcount
            rows = 0
            if limit is not None:
                # In steps, so that no commit waits for the second one.
                connection.execute(_PRUNE_FROM, (limit,))
                rows = connection.execute(_PRUNE_COUNTS, (limit,)).rowcount
        return Pruned(letters, len(old), rows)


def _prunable(
    live: Generation, logs: Mapping[Path, StoredLog], before: datetime
) -> datetime | None:
    """Return up to which hour no line to come can change the report, at most `before`."""
    marks = [log.checkpoint.watermark for log in logs.values()]
    if not marks or None in marks:
        return None
    needed = live.rules.oldest_needed(min(mark for mark in marks if mark is not None))
    try:
        limit = min(before, EPOCH + timedelta(microseconds=needed))
    except OverflowError:  # it lies before the year 1
        return None
    return limit.replace(minute=0, second=0, microsecond=0)


def _begun(row: tuple[int] | None) -> int:
    if row is None:
        raise CheckpointMovedError("another replay has just begun. Wait for it, or stop it")
    return row[0]
