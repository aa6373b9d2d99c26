"""What is counted, as relational expressions over the set of all events, for batches and streams.

Each expression yields a row for each thing that counts, at the moment at which it begins to: in a
stream (append mode) with the micro-batch that brought it. No row is ever taken back, so that the
sum over all rows is the report, however they are grouped.

In a stream, an event is `at` a timestamp with a watermark, and bounds on these tell Spark what it
may forget.
"""

from functools import reduce
from typing import TYPE_CHECKING, Final

from pyspark.sql import functions as sql

from processor.core.model import HOUR_US, Increment, Rules

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

COUNTS: Final = Increment._fields[2:]

_EVENT: Final = ["visit", "is_click", "fired_at"]
"""What an event is known by: customer and user are in its visit."""


def counted(events: "DataFrame", rules: Rules) -> "DataFrame":
    """Return a row for each thing that counts: `log`, `customer`, `hour`, and the five counts.

    `log` is that of the line which an event was taken from, for page loads and clicks alone.
    """
    at = ["at"] if events.isStreaming else []
    hour = sql.expr(f"(fired_at - pmod(fired_at, {HOUR_US}L)) div {HOUR_US}L")
    events = events.select(
        "log", "visit", "customer", "user", "is_click", "fired_at", hour.alias("hour"), *at
    )
    is_click = sql.col("is_click")
    parts = (
        _rows(_distinct(events), sql.col("log"), page_loads=~is_click, clicks=is_click),
        _rows(_clicking_users(events), unique_user_clicks=sql.lit(True)),
        _rows(_related(events, rules), related_clicks=is_click, clicked_page_loads=~is_click),
    )
    return reduce(lambda some, more: some.unionAll(more), parts)


def summed(rows: "DataFrame", *keys: str) -> "DataFrame":
    """Return rows of `counted` grouped by keys, their counts added up."""
    return rows.groupBy(*keys).agg(*(sql.sum(count).alias(count) for count in COUNTS))


def _distinct(events: "DataFrame") -> "DataFrame":
    """Return each event once, however often it was delivered."""
    if events.isStreaming:
        return events.dropDuplicatesWithinWatermark(_EVENT)
    return events.dropDuplicates(_EVENT)


def _clicking_users(events: "DataFrame") -> "DataFrame":
    """Return each user who clicked for a customer in an hour, once."""
    keys = ["customer", "hour", "user"]
    if not events.isStreaming:
        return events.where("is_click").dropDuplicates(keys)
    # A filter that does not look at the time would be moved ahead of the watermark, and hide from
    # it how time goes on.
    clicks = _distinct(events.where(sql.when(sql.col("at").isNotNull(), sql.col("is_click"))))
    return clicks.select(*keys, sql.window("at", "1 hour").alias("open")).dropDuplicates()


def _related(events: "DataFrame", rules: Rules) -> "DataFrame":
    """Return each click that fired within the window after a load of its visit, and such loads."""
    window = rules.attribution_window_us
    since_load = "if(one.is_click, one.fired_at - other.fired_at, other.fired_at - one.fired_at)"
    is_near = (
        "one.visit = other.visit AND one.is_click <> other.is_click "
        f"AND {since_load} BETWEEN 0 AND {window}L"
    )
    at = ["at"] if events.isStreaming else []
    if at:
        reach = f"INTERVAL {window} MICROSECONDS"
        is_near += f" AND one.at >= other.at - {reach} AND one.at <= other.at + {reach}"
    ones = events.select(*_EVENT, "customer", "hour", *at).alias("one")
    others = events.select(*_EVENT, *at).alias("other")
    related = ones.join(others, sql.expr(is_near), "left_semi")
    return _distinct(related)


def _rows(things: "DataFrame", log: "Column | None" = None, **counts: "Column") -> "DataFrame":
    log = sql.lit(None).cast("string") if log is None else log
    columns = (counts.get(name, sql.lit(0)).cast("int").cast("long").alias(name) for name in COUNTS)
    return things.select(log.alias("log"), "customer", "hour", *columns)
