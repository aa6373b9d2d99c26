"""What the page says of an overview, in numbers and in times of its reader's zone."""

from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import PurePath
from typing import Final, NamedTuple

from processor.core.model import HOUR_US, SECOND_US
from processor.core.rates import CustomerRate, Interval
from processor.edges.overview import Overview, Row, Series
from processor.edges.reader import ReportRow
from processor.edges.view import Counts
from processor.shell.report.charts import Period
from processor.shell.report.hours import Zone, instant, rate_of, unit_of

_TICKS: Final = 8
_TICK_HOURS: Final = (1, 2, 3, 6, 12, 24)
_LENGTHS: Final = {
    "month": len("2022-01"),
    "day": len("2022-01-01"),
    "hour": len("2022-01-01 00:00"),
    "second": len("2022-01-01 00:00:00"),
}


class Figure(NamedTuple):
    """A period in numbers. `users` of periods longer than an hour are not known."""

    period: Period
    counts: Counts
    users: int | None
    rate: float | None
    interval: Interval | None


class TableRow(NamedTuple):
    """A row of the report as the table shows it."""

    row: Row
    at: str
    is_open: bool
    rate: float | None


class Figures:
    """An overview on the clock of a zone.

    An hour, or what ends with one, is *open* while a line still to come may change it: until the
    log that is furthest behind has come far enough beyond it. A log of too few lines may bring
    anything.
    """

    def __init__(self, overview: Overview, zone: Zone) -> None:
        self._overview = overview
        self._zone = zone
        first, last = overview.extent.first, overview.extent.last
        self.unit = "hour" if first is None or last is None else unit_of(first, last)
        mark = overview.logs[0][1] if overview.logs else None
        self._settled_us = None if mark is None else overview.rules.settled_before(mark)

    @property
    def total(self) -> CustomerRate | None:
        """All page loads, if there are any."""
        counts = self._overview.totals
        return CustomerRate(0, counts.page_loads, counts.clicked_page_loads) if counts[0] else None

    @property
    def span(self) -> tuple[str, str] | None:
        """The first minute of what is drawn, and the last one."""
        first, last = self._overview.extent.first, self._overview.extent.last
        if first is None or last is None:
            return None
        end = self._begin_of(last).replace(minute=59)
        return self._name(self._begin_of(first), "hour"), self._name(end, "hour")

    @property
    def settled(self) -> str | None:
        """The hour after whose begin all that ends is open; None if everything is."""
        if self._settled_us is None:
            return None
        return self._name(self._begin_of(self._settled_us // HOUR_US), "hour")

    @property
    def logs(self) -> list[tuple[str, str | None]]:
        """The name of each log, and how far it has come, if that is known."""
        return [(PurePath(path).name, self._moment(mark)) for path, mark in self._overview.logs]

    def of(self, series: Series) -> Iterator[Figure]:
        """Yield the periods of a series."""
        periods = list(pairwise(self._overview.periods))
        for number, ((begin, end), counts) in enumerate(zip(periods, series.counts, strict=True)):
            at = self._begin_of(begin)
            tick = _tick(at, self.unit, number, len(periods))
            rated = CustomerRate(0, counts.page_loads, counts.clicked_page_loads)
            yield Figure(
                Period(tick, self._name(at, self.unit), self._is_open(end)),
                counts,
                counts.unique_user_clicks if self.unit == "hour" else None,
                rated.rate if counts.page_loads else None,
                rated.interval if counts.page_loads else None,
            )

    def table(self, rows: int) -> list[TableRow]:
        """Return the latest rows."""
        return [
            TableRow(
                row,
                self._name(self._begin_of(row.hour), "hour"),
                self._is_open(row.hour + 1),
                row.counts.clicked_page_loads / row.counts.page_loads
                if row.counts.page_loads
                else None,
            )
            for row in self._overview.latest[:rows]
        ]

    def report(self) -> Iterator[ReportRow]:
        """Yield the latest rows as those of the report, in its order."""
        for row in sorted(self._overview.latest, key=lambda row: (row.hour, row.customer_id)):
            rate = rate_of(row.counts.clicked_page_loads, row.counts.page_loads)
            hour = self._zone.text(instant(row.hour))
            yield ReportRow(row.customer_id, hour, *row.counts, rate)

    def _is_open(self, end: int) -> bool:
        return self._settled_us is None or end * HOUR_US > self._settled_us

    def _begin_of(self, hour: int) -> datetime:
        return self._zone.begin_of(instant(hour))

    def _name(self, at: datetime, unit: str) -> str:
        return at.isoformat(" ")[: _LENGTHS[unit]]

    def _moment(self, microseconds: int | None) -> str | None:
        if microseconds is None:
            return None
        hour, rest = divmod(microseconds, HOUR_US)
        minute, second = divmod(rest // SECOND_US, 60)
        return self._name(self._begin_of(hour).replace(minute=minute, second=second), "second")


def _tick(at: datetime, unit: str, number: int, periods: int) -> str:
    """Return what stands below a period in a chart of so many: for a few of them, something."""
    if unit == "hour":
        every = next(hours for hours in _TICK_HOURS if periods <= hours * _TICKS)
        if at.hour % every:
            return ""
        return f"{at:%H:%M}" if at.hour else f"{at.day} {at:%b}"
    if number % -(-periods // _TICKS):
        return ""
    return f"{at.day} {at:%b}" if unit == "day" else f"{at:%b} {at.year}"
