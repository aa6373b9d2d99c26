"""Reads the report, the ledger and the dead letters back from Postgres. Never writes.

Each call reads one consistent state, whatever is committed meanwhile.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, LiteralString, NamedTuple

import psycopg
from psycopg.rows import namedtuple_row

from processor.edges.identity import KnownFile
from processor.edges.session import Connect
from processor.edges.store import READ_FILES, files_by_log
from processor.errors import StoreError

NO_REPORT: Final = (
    "there is no report in this database yet, or none that this user may see; make one with "
    "`processor run LOG...`"
)

_TIMEOUT: Final = "SELECT set_config('statement_timeout', %s, true)"

_REPORT: Final = """
SELECT customer_id, to_char(hour AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
    page_loads, clicks, unique_user_clicks, related_clicks, clicked_page_loads, click_through_rate
FROM hourly_report
WHERE (%(customers)s::bigint[] IS NULL OR customer_id = ANY(%(customers)s))
    AND (%(start)s::timestamptz IS NULL OR hour >= %(start)s)
    AND (%(end)s::timestamptz IS NULL OR hour < %(end)s)
ORDER BY hour, customer_id"""

_LOGS: Final = """
SELECT path, byte_offset, lines, log_id,
    to_char(watermark AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS watermark,
    ARRAY(SELECT (outcome, name, lines) FROM ledger l WHERE l.log_id = c.log_id) AS outcomes
FROM checkpoints c WHERE generation = (SELECT generation FROM generations WHERE state = 'live')
ORDER BY path"""

_DEAD_LETTER_GROUPS: Final = """
SELECT path, reason, count(*), mode() WITHIN GROUP (ORDER BY detail) AS detail,
    min(d.byte_offset), max(d.byte_offset)
FROM checkpoints JOIN dead_letters d USING (log_id)
WHERE generation = (SELECT generation FROM generations WHERE state = 'live')
GROUP BY path, reason ORDER BY path, count(*) DESC, reason"""

_DEAD_LETTERS: Final = """
SELECT path, d.byte_offset, byte_length, reason, detail
FROM checkpoints JOIN dead_letters d USING (log_id)
WHERE generation = (SELECT generation FROM generations WHERE state = 'live')
ORDER BY path, d.byte_offset"""


class ReportRow(NamedTuple):
    """One customer's hour. `hour` is ISO 8601 in UTC, the rate has six decimals."""

    customer_id: int
    hour: str
    page_loads: int
    clicks: int
    unique_user_clicks: int
    related_clicks: int
    clicked_page_loads: int
    click_through_rate: Decimal | None


class LogStatus(NamedTuple):
    """A checkpoint and its ledger; `outcomes` counts lines by (outcome, name)."""

    path: str
    byte_offset: int
    lines: int
    watermark: str | None
    outcomes: dict[tuple[str, str], int]
    files: list[KnownFile]


class DeadLetterRow(NamedTuple):
    """A pointer to a line that does not count."""

    path: str
    byte_offset: int
    byte_length: int
    reason: str
    detail: str


class DeadLetterGroup(NamedTuple):
    """The lines of a log that do not count for one reason; `detail` is what most of them share."""

    path: str
    reason: str
    lines: int
    detail: str
    first_offset: int
    last_offset: int


class Reader:
    """The reading side of the database.

    A statement may take `statement_seconds`, or as long as the server says.
    """

    def __init__(self, connect: Connect, statement_seconds: int | None = None) -> None:
        self._connect = connect
        self._statement_seconds = statement_seconds

    def ping(self) -> None:
        """Have the database answer.

        Raises:
            StoreError: it does not.

        """
        with _in_words(), self._connect() as connection:
            connection.execute("SELECT 1")

    def report(
        self,
        customers: Sequence[int] = (),
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> Generator[ReportRow, None, None]:
        """Yield the rows of the hours from `start` to before `end`, by hour and customer.

        Who stops half-way closes it, so that the connection is let go.
        """
        chosen = {"customers": list(customers) or None, "start": start, "end": end}
        for row in self._stream(_REPORT, chosen):
            yield ReportRow(*row)

    def status(self) -> list[LogStatus]:
        """Return the checkpoint and the ledger of each log, by path."""
        rows = list(self._stream(_LOGS, {}))
        files = files_by_log(self._stream(READ_FILES, [[row.log_id for row in rows]]))
        return [
            LogStatus(
                row.path,
                row.byte_offset,
                row.lines,
                row.watermark,
                {(outcome, name): int(lines) for outcome, name, lines in row.outcomes},
                files.get(row.log_id, []),
            )
            for row in rows
        ]

    def dead_letter_groups(self) -> Iterator[DeadLetterGroup]:
        """Yield how many lines of each log do not count, by reason."""
        for row in self._stream(_DEAD_LETTER_GROUPS, {}):
            yield DeadLetterGroup(*row)

    def dead_letters(self) -> Iterator[DeadLetterRow]:
        """Yield all dead letters, by log and offset."""
        for row in self._stream(_DEAD_LETTERS, {}):
            yield DeadLetterRow(*row)

    def _stream(
        self, query: LiteralString, values: Mapping[str, object] | Sequence[object]
    ) -> Iterator[Any]:
        """Yield rows as they arrive, in memory that does not grow with their number."""
        with (
            _in_words(),
            self._connect() as connection,
            connection.transaction(),
            connection.cursor("rows", row_factory=namedtuple_row) as cursor,
        ):
            if self._statement_seconds is not None:
                connection.execute(_TIMEOUT, (f"{self._statement_seconds}s",))
            cursor.execute(query, values)
            yield from cursor


@contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except psycopg.errors.UndefinedTable as error:
        raise StoreError(NO_REPORT) from error
    except psycopg.Error as error:
        message = str(error).partition("\n")[0]
        raise StoreError(f"the database cannot be read: {message}") from error
