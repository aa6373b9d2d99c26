"""polars: the whole report in one lazy query over the whole log, on all cores.

Leaves out: going on where it stopped, lateness, dead letters with a reason (a line that is not JSON
fails the run), the ledger, Postgres.
"""

import sys

import polars as pl
from common import CLICK, COLUMNS, FIRED_AT, LOAD, WINDOW_SECONDS

FIELDS = {
    "event_id": pl.String, "event_type": pl.String, "customer_id": pl.Int64, "user_id": pl.Int64,
    "fired_at": pl.String,
}  # fmt: skip
VISIT = ["event_id", "customer_id", "user_id"]


def per_hour(events: pl.LazyFrame, at: str, **counts: pl.Expr) -> pl.LazyFrame:
    """Count events by customer and hour."""
    return events.group_by("customer_id", pl.col(at).dt.truncate("1h").alias("hour")).agg(**counts)


def main(log: str, out: str) -> None:
    """Make the report of a log."""
    events = (
        pl.scan_ndjson(log, schema=FIELDS)
        .filter(pl.col("event_type").is_in([LOAD, CLICK]) & (pl.col("event_id") != ""))
        .drop_nulls()
        .unique()
        .with_columns(at=pl.col("fired_at").str.to_datetime(FIRED_AT, time_unit="us"))
        .collect(engine="streaming")
        .lazy()
    )
    loads = events.filter(pl.col("event_type") == LOAD).select(*VISIT, loaded="at")
    clicks = events.filter(pl.col("event_type") == CLICK).select(*VISIT, clicked="at")
    after = pl.col("clicked") - pl.col("loaded")
    pairs = loads.join(clicks, on=VISIT).filter(
        after.is_between(pl.duration(), pl.duration(seconds=WINDOW_SECONDS))
    )
    users = pl.col("user_id").n_unique()
    parts = (
        per_hour(loads, "loaded", page_loads=pl.len()),
        per_hour(clicks, "clicked", clicks=pl.len(), unique_user_clicks=users),
        per_hour(pairs.unique([*VISIT, "clicked"]), "clicked", related_clicks=pl.len()),
        per_hour(pairs.unique([*VISIT, "loaded"]), "loaded", clicked_page_loads=pl.len()),
    )
    report = (
        pl.concat(pl.collect_all(parts), how="diagonal")
        .group_by("customer_id", "hour")
        .agg(pl.col(COLUMNS[2:]).sum())
        .sort("hour", "customer_id")
        .select(COLUMNS)
    )
    report.write_csv(out, datetime_format="%Y-%m-%dT%H:%M:%SZ")


if __name__ == "__main__":
    main(*sys.argv[1:])
