"""Looks at generations side by side: what there is of them, and how their reports differ.

All in one state of the database, whatever is committed meanwhile. Writes nothing that stays.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final, LiteralString, NamedTuple

import psycopg

from processor.core.model import Checkpoint, Increment, Rules
from processor.edges.store import StoredLog, add_counts, read_logs, timestamp_of

_ALL: Final = """
SELECT g.generation, state, contract_version, commits, first_hour, end_hour,
    copied_from, accepts_loss, made_by, counts_from, begun_at, live_from, live_until,
    attribution_window_us, allowed_lateness_us, timezone, max_line_bytes, coalesce(sum(lines), 0),
    max(committed_at),
    coalesce(array_agg(path) FILTER (WHERE path IS NOT NULL), '{}')
FROM generations g LEFT JOIN checkpoints USING (generation)
GROUP BY generation ORDER BY generation"""

OF_HOURS: Final = """
    (%(first)s::timestamptz IS NULL OR hour >= %(first)s)
    AND (%(end)s::timestamptz IS NULL OR hour < %(end)s)"""

_SEEK: Final = """
SELECT DISTINCT ON (path) path, h.byte_offset,
    (extract(epoch FROM h.watermark) * 1000000)::bigint, h.ahead_offsets
FROM hour_offsets h JOIN checkpoints USING (log_id)
WHERE generation = %s AND h.watermark < %s
ORDER BY path, h.watermark DESC, h.byte_offset DESC"""

_READABLE: Final = """
SELECT (extract(epoch FROM min(h.watermark)) * 1000000)::bigint
FROM hour_offsets h JOIN checkpoints USING (log_id)
WHERE generation = %(generation)s AND path = %(path)s AND h.byte_offset >= %(offset)s
    AND NOT EXISTS (SELECT FROM unnest(h.ahead_offsets) ahead WHERE ahead < %(offset)s)"""

_RECOUNTED: Final = """
CREATE TEMPORARY TABLE recounted (LIKE hourly_counts INCLUDING ALL) ON COMMIT DROP"""


def _sides(table: LiteralString) -> LiteralString:
    """Return what the two sides of a comparison are: hourly counts, and those in a table."""
    hours = f"hour >= coalesce(%(counts_from)s::timestamptz, '-infinity') AND {OF_HOURS}"
    return f"""
WITH before AS (SELECT * FROM hourly_counts WHERE generation = %(old)s AND {hours}),
after AS (SELECT * FROM {table} WHERE generation = %(new)s AND {hours}),
changed AS (
    SELECT customer_id, hour, b.page_loads, b.clicks, b.unique_user_clicks, b.related_clicks,
        b.clicked_page_loads, a.page_loads, a.clicks, a.unique_user_clicks, a.related_clicks,
        a.clicked_page_loads
    FROM before b FULL JOIN after a USING (customer_id, hour)
    WHERE (b.page_loads, b.clicks, b.unique_user_clicks, b.related_clicks, b.clicked_page_loads)
        IS DISTINCT FROM
        (a.page_loads, a.clicks, a.unique_user_clicks, a.related_clicks, a.clicked_page_loads)
)"""


_CHANGED: Final = """
SELECT * FROM changed ORDER BY hour, customer_id"""

_TOTALS: Final = """
SELECT (SELECT count(*) FROM changed), b.*, a.* FROM
    (SELECT count(*), sum(page_loads), sum(clicks), sum(unique_user_clicks), sum(related_clicks),
        sum(clicked_page_loads) FROM before) b,
    (SELECT count(*), sum(page_loads), sum(clicks), sum(unique_user_clicks), sum(related_clicks),
        sum(clicked_page_loads) FROM after) a"""


class Hours(NamedTuple):
    """The hours from `first` to before `end`; None is no bound."""

    first: datetime | None = None
    end: datetime | None = None


ALL_HOURS: Final = Hours()


class Generation(NamedTuple):
    """A generation, and what is told of it. `paths` are those of its logs."""

    generation: int
    state: str
    contract_version: int
    commits: int
    hours: Hours
    copied_from: int | None
    accepts_loss: bool
    made_by: str | None
    counts_from: datetime | None
    begun_at: datetime
    live_from: datetime | None
    live_until: datetime | None
    rules: Rules
    lines: int
    committed_at: datetime | None
    paths: list[str]

    def is_older(self, before: datetime) -> bool:
        """Whether it was replaced, or a replay left it, before a moment."""
        if self.state == "kept":
            return self.live_until is not None and self.live_until < before
        return self.state == "replay" and (self.committed_at or self.begun_at) < before


class Counts(NamedTuple):
    """What a row of the report counts, or all rows together."""

    page_loads: int
    clicks: int
    unique_user_clicks: int
    related_clicks: int
    clicked_page_loads: int


class ChangedRow(NamedTuple):
    """A customer's hour that two sides count differently; None where a side has no such row."""

    customer_id: int
    hour: datetime
    before: Counts | None
    after: Counts | None


class Totals(NamedTuple):
    """How many rows differ, how many each side has, and what they count together."""

    changed_rows: int
    rows_before: int
    before: Counts
    rows_after: int
    after: Counts


class Changes:
    """How one side of a comparison differs from the other."""

    def __init__(
        self, connection: psycopg.Connection, sides: LiteralString, values: Mapping[str, object]
    ) -> None:
        self._connection = connection
        self._sides = sides
        self._values = values

    @cached_property
    def totals(self) -> Totals:
        """How much differs."""
        row = self._connection.execute(self._sides + _TOTALS, self._values).fetchone() or ()
        changed, before, *sums = (int(number or 0) for number in row)
        return Totals(changed, before, Counts(*sums[:5]), sums[5], Counts(*sums[6:]))

    def __iter__(self) -> Iterator[ChangedRow]:
        """Yield what differs, by hour and customer, in memory that does not grow with it."""
        with self._connection.cursor("changes") as cursor:
            cursor.execute(self._sides + _CHANGED, self._values)
            for customer, hour, *counts in cursor:
                before, after = counts[:5], counts[5:]
                yield ChangedRow(
                    customer,
                    hour.astimezone(UTC),
                    None if before[0] is None else Counts(*before),
                    None if after[0] is None else Counts(*after),
                )


class View:
    """One state of the database, whatever is committed meanwhile."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection
        self._is_recounting = False
        self.generations = [_generation(row) for row in connection.execute(_ALL)]

    @property
    def live(self) -> Generation | None:
        """The generation that is live."""
        return next((g for g in self.generations if g.state == "live"), None)

    @property
    def replay(self) -> Generation | None:
        """The generation that a replay makes, or made when it was ended."""
        return next((g for g in self.generations if g.state == "replay"), None)

    def logs(self, generation: int) -> dict[Path, StoredLog]:
        """Return the logs of a generation, by path."""
        return logs_of(self.connection, generation)

    def seek(self, generation: int, instant: int) -> dict[Path, Checkpoint]:
        """Return from where on each log holds all that fired at an instant or later.

        Only what is ahead of that place fired before it. A log that is not told of: its beginning.
        """
        return {
            Path(path): Checkpoint(offset, mark, offset, mark, tuple(ahead))
            for path, offset, mark, ahead in self.connection.execute(
                _SEEK, (generation, timestamp_of(instant))
            )
        }

    def readable_after(self, generation: int, path: Path, offset: int) -> int | None:
        """Return the instant after which all can be read again that a log has from an offset on."""
        values = {"generation": generation, "path": str(path), "offset": offset}
        row = self.connection.execute(_READABLE, values).fetchone()
        return row[0] if row else None

    def recount(self, generation: int, increments: Sequence[Increment]) -> None:
        """Add increments to what a generation is held against, in this view alone."""
        if not self._is_recounting:
            self.connection.execute(_RECOUNTED)
            self._is_recounting = True
        add_counts(self.connection, "recounted", generation, increments)

    def changes_to(self, new: int) -> Changes:
        """Compare the live generation, or none, with another one."""
        return self._changes("hourly_counts", new, ALL_HOURS)

    def changes_to_recounted(self, hours: Hours) -> Changes:
        """Compare some hours of the live generation with what was recounted."""
        self.recount(self._live_number, ())
        return self._changes("recounted", self._live_number, hours)

    @property
    def _live_number(self) -> int:
        return self.live.generation if self.live else 0

    def _changes(self, table: LiteralString, new: int, hours: Hours) -> Changes:
        values = {
            "old": self._live_number,
            "new": new,
            "counts_from": self.live.counts_from if self.live else None,
            **hours._asdict(),
        }
        return Changes(self.connection, _sides(table), values)


def logs_of(connection: psycopg.Connection, generation: int) -> dict[Path, StoredLog]:
    """Return the logs of a generation, by path."""
    return {Path(path): log for path, log in read_logs(connection, generation).items()}


def _generation(row: Sequence[Any]) -> Generation:
    number, state, version, commits, first, end, *more = row
    copied_from, accepts_loss, made_by, counts_from, begun_at, *more = more
    live_from, live_until, *rules, lines, committed_at, paths = more
    return Generation(
        number,
        state,
        version,
        commits,
        Hours(first, end),
        copied_from,
        accepts_loss,
        made_by,
        counts_from,
        begun_at,
        live_from,
        live_until,
        Rules(*rules),
        int(lines),
        committed_at,
        sorted(paths),
    )
