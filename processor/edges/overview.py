"""Reads what the page of the report shows: sums, and the latest rows. Never writes.

All of it is one state of the database, whatever is committed meanwhile. Postgres adds up, so what
comes back is small, however long the report is. Hours are whole hours since 1970-01-01T00:00:00Z.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, NamedTuple

import psycopg

from processor.core.model import HOUR_US, Rules
from processor.core.rates import CustomerRate
from processor.edges.reader import NO_REPORT
from processor.edges.session import Connect, Session
from processor.edges.view import Counts
from processor.errors import StoreError

STATEMENT_SECONDS: Final = 10
MOST_CUSTOMERS: Final = 10_000
AHEAD_HOURS: Final = 24
"""A log of few lines is so far ahead of its watermark that what follows is not yet believed."""

_BEGIN: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_TIMEOUT: Final = f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'"

_LIVE: Final = """
SELECT concat_ws('-', generation, commits, commit_id, extract(epoch FROM counts_from)::bigint),
    generation,
    attribution_window_us, allowed_lateness_us, timezone, max_line_bytes
FROM generations WHERE state = 'live'"""

_LOGS: Final = """
SELECT path, (extract(epoch FROM watermark) * 1000000)::bigint
FROM checkpoints WHERE generation = %(generation)s ORDER BY watermark NULLS FIRST, path"""

_CHOSEN: Final = """
WITH chosen AS (
    SELECT *, (extract(epoch FROM hour) / 3600)::bigint AS number FROM hourly_counts
    WHERE generation = %(generation)s
        AND (%(customers)s::bigint[] IS NULL OR customer_id = ANY(%(customers)s))
        AND (%(start)s::timestamptz IS NULL OR hour >= %(start)s)
        AND (%(end)s::timestamptz IS NULL OR hour < %(end)s)
)"""

_SUMS: Final = """
    coalesce(sum(page_loads), 0)::bigint, coalesce(sum(clicks), 0)::bigint,
    coalesce(sum(unique_user_clicks), 0)::bigint, coalesce(sum(related_clicks), 0)::bigint,
    coalesce(sum(clicked_page_loads), 0)::bigint"""

_IS_AHEAD: Final = "coalesce(number > %(drawn_to)s::bigint, false)"

_EXTENT: Final = f"""{_CHOSEN}
SELECT count(*), count(DISTINCT customer_id), min(number),
    max(number) FILTER (WHERE NOT {_IS_AHEAD}), count(*) FILTER (WHERE {_IS_AHEAD}), {_SUMS}
FROM chosen"""

_CUSTOMERS: Final = f"""{_CHOSEN}
SELECT customer_id, sum(page_loads)::bigint, sum(clicked_page_loads)::bigint FROM chosen
GROUP BY customer_id ORDER BY 2 DESC, 1 LIMIT {MOST_CUSTOMERS}"""

_PERIODS: Final = f"""{_CHOSEN}
SELECT width_bucket(number, %(periods)s::bigint[]), {_SUMS} FROM chosen
WHERE number >= %(first)s AND number < %(last)s
    AND (%(customer)s::bigint IS NULL OR customer_id = %(customer)s)
GROUP BY 1 ORDER BY 1"""

_LATEST: Final = f"""{_CHOSEN}
SELECT customer_id, number, page_loads, clicks, unique_user_clicks, related_clicks,
    clicked_page_loads
FROM chosen ORDER BY hour DESC, customer_id LIMIT %(rows)s"""


class Choice(NamedTuple):
    """Which rows of the report: of some customers or all, from one time to before another."""

    customers: tuple[int, ...] = ()
    start: datetime | None = None
    end: datetime | None = None


class Extent(NamedTuple):
    """How many rows and customers there are, and the `first` and `last` hour.

    But `ahead` rows are of later hours, more than `AHEAD_HOURS` after all watermarks: their clocks
    went wild, and no chart should have to reach them.
    """

    rows: int
    customers: int
    first: int | None
    last: int | None
    ahead: int


NOTHING: Final = Counts(0, 0, 0, 0, 0)


class Row(NamedTuple):
    """One customer's hour."""

    customer_id: int
    hour: int
    counts: Counts


class Series(NamedTuple):
    """The counts of periods that follow each other, of one customer, or of all that are chosen."""

    customer_id: int | None
    counts: list[Counts]


class Overview(NamedTuple):
    """What the page shows.

    The `version` is another after each commit, replay or pruning. `logs` are paths and watermarks,
    the one furthest behind first. `periods` are the hours at which the periods of the series begin,
    and at last that at which they end. Of `customers`, those with the most page loads come first.
    Unique users of the `totals` are no users of anything: they are not shown.
    """

    version: str
    rules: Rules
    logs: list[tuple[str, int | None]]
    extent: Extent
    totals: Counts
    customers: list[CustomerRate]
    periods: list[int]
    series: list[Series]
    latest: list[Row]


Periods = Callable[[int, int], list[int]]
"""Cuts the hours from the first to the last into periods; see `Overview`."""


class Overviews:
    """Reads overviews over one connection, one at a time. May be used by several threads."""

    def __init__(self, connect: Connect) -> None:
        self._session = Session(connect, brief=True)
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of the connection; the next call makes a new one."""
        with self._lock:
            self._session.close()

    def version(self) -> str:
        """Return what `Overview.version` would be.

        Raises:
            StoreError: there is no report, or it cannot be read.

        """
        with self._transaction() as connection:
            return str(_only(connection.execute(_LIVE))[0])

    def read(self, choice: Choice, periods: Periods, customers: int, rows: int) -> Overview:
        """Return an overview, with series of those `customers` that have the most page loads.

        And with so many `rows`, the latest ones.

        Raises:
            StoreError: there is no report, or it cannot be read.

        """
        with self._transaction() as connection:
            return _read(connection, choice, periods, customers, rows)

    @contextmanager
    def _transaction(self) -> Iterator[psycopg.Connection]:
        with self._lock, self._session.connection() as connection:
            try:
                connection.execute(_BEGIN)
                connection.execute(_TIMEOUT)
                yield connection
                connection.commit()
            except psycopg.errors.UndefinedTable as error:
                raise StoreError(NO_REPORT) from error


def _read(
    connection: psycopg.Connection, choice: Choice, periods: Periods, customers: int, rows: int
) -> Overview:
    version, generation, *rules = _only(connection.execute(_LIVE))
    values = {
        "generation": generation,
        "customers": list(choice.customers) or None,
        "start": choice.start,
        "end": choice.end,
    }
    logs = connection.execute(_LOGS, values).fetchall()
    marks = [mark for _, mark in logs if mark is not None]
    drawn_to = max(marks) // HOUR_US + AHEAD_HOURS if marks else None
    row = _only(connection.execute(_EXTENT, values | {"drawn_to": drawn_to}))
    extent, totals = Extent(*row[:5]), Counts(*row[5:])
    loads = connection.execute(_CUSTOMERS, values).fetchall()
    cut = [] if extent.first is None or extent.last is None else periods(extent.first, extent.last)
    drawn = [None, *(customer for customer, *_ in loads[:customers])] if cut else []
    return Overview(
        version,
        Rules(*rules),
        logs,
        extent,
        totals,
        [CustomerRate(*row) for row in loads],
        cut,
        [_series(connection, values, cut, customer) for customer in drawn],
        [
            Row(customer, hour, Counts(*counts))
            for customer, hour, *counts in connection.execute(_LATEST, {**values, "rows": rows})
        ],
    )


def _series(
    connection: psycopg.Connection,
    values: Mapping[str, object],
    periods: list[int],
    customer: int | None,
) -> Series:
    cut = {"periods": periods, "customer": customer, "first": periods[0], "last": periods[-1]}
    found = {
        number: Counts(*counts)
        for number, *counts in connection.execute(_PERIODS, {**values, **cut})
    }
    return Series(customer, [found.get(at, NOTHING) for at in range(1, len(periods))])


def _only(cursor: psycopg.Cursor) -> tuple[Any, ...]:
    if (row := cursor.fetchone()) is None:
        raise StoreError(NO_REPORT)
    return row
