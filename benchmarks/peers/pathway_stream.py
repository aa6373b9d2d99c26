"""Pathway: the same job as incremental tables, on PATHWAY_THREADS (1) threads.

All of the report is kept incrementally: de-duplication, the join, distinct users, sums. The log is
read in mode `static`, since a `streaming` run never ends; the engine is the same. Leaves out:
forgetting (memory grows with the log), lateness, dead letters (a broken line ends the run), the
ledger, persistence (off), and a durable store: rows are kept in memory and written at the end.
"""

import sys
from typing import Any

import pathway as pw
from common import CLICK, COLUMNS, FIRED_AT, LOAD, WINDOW_SECONDS, write_report

COUNTS = COLUMNS[2:]
HOUR = pw.Duration(hours=1)


class Line(pw.Schema):
    """The fields of a line that count."""

    event_id: str
    event_type: str
    customer_id: int
    user_id: int
    fired_at: str


def increments(events: pw.Table, at: pw.ColumnReference, *columns: str) -> pw.Table:
    """Return what each event adds to its row."""
    ones = {name: int(name in columns) for name in COUNTS}
    return events.select(pw.this.customer_id, hour=at.dt.floor(HOUR), **ones)


def report_of(lines: pw.Table) -> pw.Table:
    """Return the report, kept up to date with the lines."""
    this = pw.this
    lines = lines.filter((this.event_type == LOAD) | (this.event_type == CLICK))
    fields = this.event_id, this.event_type, this.customer_id, this.user_id, this.fired_at
    events = lines.groupby(*fields).reduce(*fields)
    events = events.with_columns(at=this.fired_at.dt.strptime(FIRED_AT))
    loads = events.filter(this.event_type == LOAD)
    clicks = events.filter(this.event_type == CLICK)
    left, right = pw.left, pw.right
    pairs = loads.join(
        clicks,
        left.event_id == right.event_id,
        left.customer_id == right.customer_id,
        left.user_id == right.user_id,
    ).select(
        left.customer_id, loaded=left.at, clicked=right.at, load=left.id, click=right.id,
        after=right.at - left.at,
    )  # fmt: skip
    zero, window = pw.Duration(0), pw.Duration(seconds=WINDOW_SECONDS)
    pairs = pairs.filter((this.after >= zero) & (this.after <= window))
    related = pairs.groupby(this.click, this.customer_id, this.clicked).reduce(
        this.customer_id, this.clicked
    )
    clicked = pairs.groupby(this.load, this.customer_id, this.loaded).reduce(
        this.customer_id, this.loaded
    )
    hours = clicks.select(this.customer_id, this.user_id, hour=this.at.dt.floor(HOUR))
    who = this.customer_id, this.hour, this.user_id
    users = hours.groupby(*who).reduce(*who)
    parts = pw.Table.concat_reindex(
        increments(loads, loads.at, "page_loads"),
        increments(clicks, clicks.at, "clicks"),
        increments(users, users.hour, "unique_user_clicks"),
        increments(related, related.clicked, "related_clicks"),
        increments(clicked, clicked.loaded, "clicked_page_loads"),
    )
    sums = {name: pw.reducers.sum(this[name]) for name in COUNTS}
    return parts.groupby(this.customer_id, this.hour).reduce(this.customer_id, this.hour, **sums)


def main(log: str, out: str) -> None:
    """Run to the end of the log, then write the report."""
    rows: dict[Any, tuple[int, ...]] = {}

    def take(key: Any, row: dict[str, Any], time: int, is_addition: bool) -> None:  # noqa: ARG001
        if is_addition:
            second = int(row["hour"].timestamp())
            rows[key] = (row["customer_id"], second, *(row[name] for name in COUNTS))
        else:
            rows.pop(key, None)

    table = report_of(pw.io.jsonlines.read(log, schema=Line, mode="static"))
    pw.io.subscribe(table, on_change=take)
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)
    write_report(out, rows.values())


if __name__ == "__main__":
    main(*sys.argv[1:])
