"""The hours of the report on the clock of a reader, and the days that they make up.

The report counts by hours of UTC. Another zone can show them where its offset is whole hours, which
may depend on the time of the year; where it is not, no hour of the report is an hour there.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import ROUND_HALF_UP, Decimal
from itertools import groupby
from typing import Final, NamedTuple

from processor.core.model import HOUR_US
from processor.edges.reader import ReportRow
from processor.edges.store import EPOCH
from processor.errors import SettingsError
from processor.shell.settings import known_zone, zone_of

_HOUR: Final = timedelta(hours=1)
_ALMOST: Final = _HOUR - timedelta(microseconds=1)
_MILLIONTH: Final = Decimal("0.000001")

MAX_HOURS: Final = 7 * 24
MAX_DAYS: Final = 400
MAX_MONTHS: Final = 400


class DayRow(NamedTuple):
    """One customer's day. Users of its hours may be the same, so nobody knows how many they are."""

    customer_id: int
    day: str
    page_loads: int
    clicks: int
    unique_user_clicks: None
    related_clicks: int
    clicked_page_loads: int
    click_through_rate: Decimal | None


class Zone:
    """A zone whose clock shows hours of the report; `option` is what named it.

    Raises:
        SettingsError: there is no such zone, or it cannot show an hour that it is asked for.

    """

    def __init__(self, name: str, option: str = "--timezone") -> None:
        self._option = option
        try:
            self.name = known_zone(name)
        except ValueError as error:
            raise SettingsError(f"{option}: {error}") from None
        self.tz: tzinfo = zone_of(name)

    def begin_of(self, hour: datetime) -> datetime:
        """Return when an hour begins, on the clock of the zone."""
        try:
            begin, end = hour.astimezone(self.tz), (hour + _ALMOST).astimezone(self.tz)
        except OverflowError:
            raise SettingsError(
                f"{self._option}: {self.name} cannot show {hour:%Y-%m-%d %H:%M} UTC: it is before "
                "the year 1 there, or after 9999; choose other hours"
            ) from None
        if begin.minute or begin.second or begin.utcoffset() != end.utcoffset():
            raise SettingsError(
                f"{self._option}: {self.name} is {_offset(begin)} from UTC at "
                f"{hour:%Y-%m-%d %H:%M} UTC. The report counts by hours of UTC, so it takes a zone "
                "that is whole hours from it; choose one, or other hours"
            )
        return begin

    def text(self, hour: datetime) -> str:
        """Return an hour as ISO 8601, with the offset of the zone."""
        text = self.begin_of(hour).isoformat()
        return text.removesuffix("+00:00") + "Z" if self.tz is UTC else text

    def _first_hour_of(self, day: date) -> int:
        begin = datetime(day.year, day.month, day.day, tzinfo=self.tz)
        return (begin - EPOCH) // _HOUR

    def periods(self, first: int, last: int) -> list[int]:
        """Return at which hours the periods begin that hold two hours and all between; and the end.

        Each is an hour; of many hours a day, of many days a month, and of many months the last.
        """
        unit = unit_of(first, last)
        if unit == "hour":
            return list(range(first, last + 2))
        begin, end = (self.begin_of(instant(hour)).date() for hour in (first, last))
        if unit == "day":
            days = [begin + timedelta(days=n) for n in range((end - begin).days + 1)]
        else:
            months = range(begin.year * 12 + begin.month - 1, end.year * 12 + end.month)
            days = [date(n // 12, n % 12 + 1, 1) for n in months[-MAX_MONTHS:]]
        return [*map(self._first_hour_of, days), last + 1]


def unit_of(first: int, last: int) -> str:
    """Return what the hours from the first to the last are divided into: hour, day or month."""
    hours = last - first + 1
    if hours <= MAX_HOURS:
        return "hour"
    return "day" if hours <= MAX_DAYS * 24 else "month"


def instant(hour: int) -> datetime:
    """Return when an hour begins that is counted from 1970 on."""
    return EPOCH + timedelta(microseconds=hour * HOUR_US)


def in_zone(rows: Iterable[ReportRow], zone: Zone) -> Iterable[ReportRow]:
    """Return rows with their hours as the zone shows them."""
    if zone.tz is UTC:
        return rows
    return (row._replace(hour=zone.text(datetime.fromisoformat(row.hour))) for row in rows)


def by_day(rows: Iterable[ReportRow], zone: Zone) -> Iterator[DayRow]:
    """Yield the days of customers that rows in the order of their hours make up.

    In memory that grows with the customers of one day, not with the rows.
    """
    for day, hours in groupby(
        rows, lambda row: zone.begin_of(datetime.fromisoformat(row.hour)).date()
    ):
        sums: dict[int, list[int]] = {}
        for row in hours:
            counts = (row.page_loads, row.clicks, row.related_clicks, row.clicked_page_loads)
            before = sums.get(row.customer_id, (0, 0, 0, 0))
            sums[row.customer_id] = [a + b for a, b in zip(before, counts, strict=True)]
        for customer, (page_loads, clicks, related, clicked) in sorted(sums.items()):
            rate = rate_of(clicked, page_loads)
            yield DayRow(
                customer, day.isoformat(), page_loads, clicks, None, related, clicked, rate
            )


def rate_of(clicked: int, page_loads: int) -> Decimal | None:
    """Return a click-through rate as Postgres rounds it; None without page loads."""
    if not page_loads:
        return None
    return (Decimal(clicked) / page_loads).quantize(_MILLIONTH, ROUND_HALF_UP)


def _offset(moment: datetime) -> str:
    seconds = round((moment.utcoffset() or timedelta()).total_seconds())
    sign = "-" if seconds < 0 else "+"
    return f"{sign}{timedelta(seconds=abs(seconds))}"
