"""Hours and days on the clock of a reader."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.edges.reader import ReportRow
from processor.errors import SettingsError
from processor.shell.report.hours import (
    MAX_MONTHS,
    Zone,
    by_day,
    in_zone,
    instant,
    rate_of,
    unit_of,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def row(hour, customer=1, page_loads=3, clicked=1):
    return ReportRow(
        customer, f"{hour}:00:00Z", page_loads, 2, 1, 1, clicked, rate_of(clicked, page_loads)
    )


def number(text):
    return int(datetime.fromisoformat(f"{text}:00Z").timestamp() // 3600)


@pytest.mark.parametrize(
    ("zone", "hour", "shown"),
    [
        ("UTC", "2022-01-01T00", "2022-01-01T00:00:00Z"),
        ("Europe/Berlin", "2022-01-01T00", "2022-01-01T01:00:00+01:00"),
        ("Europe/Berlin", "2022-07-01T00", "2022-07-01T02:00:00+02:00"),
        # the hour that Berlin passes twice
        ("Europe/Berlin", "2022-10-30T00", "2022-10-30T02:00:00+02:00"),
        ("Europe/Berlin", "2022-10-30T01", "2022-10-30T02:00:00+01:00"),
        ("America/New_York", "2022-01-01T00", "2021-12-31T19:00:00-05:00"),
        ("Pacific/Kiritimati", "2022-01-01T00", "2022-01-01T14:00:00+14:00"),
        # half an hour in winter, whole hours in summer
        ("Australia/Lord_Howe", "2022-01-01T00", "2022-01-01T11:00:00+11:00"),
    ],
)
def test_an_hour_is_shown_with_the_offset_that_it_has_there(zone, hour, shown):
    """So that the two hours of a night in autumn are told apart."""
    (found,) = in_zone([row(hour)], Zone(zone))
    assert found.hour == shown
    assert found[2:] == row(hour)[2:]


@pytest.mark.parametrize(
    ("zone", "hour", "words"),
    [
        ("Asia/Kolkata", "2022-01-01T00", "+5:30:00 from UTC"),
        ("America/St_Johns", "2022-01-01T00", "-3:30:00 from UTC"),
        ("Asia/Kathmandu", "2022-01-01T00", "+5:45:00 from UTC"),
        ("Australia/Lord_Howe", "2022-07-01T00", "+10:30:00 from UTC"),
        # it puts its clocks forward by half an hour in the middle of this one
        ("Australia/Lord_Howe", "2022-10-01T15", "from UTC at 2022-10-01 15:00"),
        ("Africa/Monrovia", "1960-01-01T00", "-0:44:30 from UTC"),
        ("America/New_York", "0001-01-01T00", "before the year 1"),
        ("Asia/Tokyo", "9999-12-31T23", "after 9999"),
    ],
)
def test_an_hour_that_is_none_there_is_refused_in_words(zone, hour, words):
    """The zone is right and cannot help; the message says which hour, and what to do."""
    with pytest.raises(SettingsError, match="--timezone") as error:
        list(in_zone([row(hour)], Zone(zone)))
    assert words in str(error.value)
    assert "other hours" in str(error.value)


@pytest.mark.parametrize("name", ["Mars/Base", "", "../etc/passwd", "<script>", "Europe/Berlin\0"])
def test_a_zone_that_there_is_not_is_refused(name):
    """Whatever the name may be."""
    with pytest.raises(SettingsError, match="--timezone: no such time zone"):
        Zone(name)


def test_days_add_up_what_can_be_added_up():
    """Page loads and clicks, and the rate anew; users are left out, since they may be the same."""
    rows = [
        row("2022-01-01T22", customer=1, page_loads=3, clicked=1),
        row("2022-01-01T22", customer=2, page_loads=0, clicked=0),
        row("2022-01-01T23", customer=1, page_loads=4, clicked=2),
    ]
    assert list(by_day(rows, Zone("UTC"))) == [
        (1, "2022-01-01", 7, 4, None, 2, 3, Decimal("0.428571")),
        (2, "2022-01-01", 0, 2, None, 1, 0, None),
    ]
    in_berlin = list(by_day(rows, Zone("Europe/Berlin")))
    assert [(day.customer_id, day.day, day.page_loads) for day in in_berlin] == [
        (1, "2022-01-01", 3),
        (2, "2022-01-01", 0),
        (1, "2022-01-02", 4),
    ]


@pytest.mark.parametrize(
    ("day", "hours"), [("2022-03-27", 23), ("2022-10-30", 25), ("2022-06-01", 24)]
)
def test_a_day_has_the_hours_that_the_zone_gives_it(day, hours):
    """23 and 25 when the clocks change."""
    first = datetime.fromisoformat(day).replace(tzinfo=UTC) - timedelta(hours=12)
    rows = [row(f"{first + timedelta(hours=n):%Y-%m-%dT%H}", page_loads=1) for n in range(60)]
    found = {at.day: at.page_loads for at in by_day(rows, Zone("Europe/Berlin"))}
    assert found[day] == hours


@pytest.mark.parametrize(
    ("first", "last", "unit", "periods"),
    [
        ("2022-01-01T00", "2022-01-01T00", "hour", 1),
        ("2022-01-01T00", "2022-01-07T23", "hour", 168),
        ("2022-01-01T00", "2022-01-08T00", "day", 8),
        ("2021-12-31T23", "2022-12-31T00", "day", 366),
        ("2022-01-01T00", "2024-01-01T00", "month", 25),
        ("1950-01-01T00", "9999-12-30T00", "month", MAX_MONTHS),
    ],
)
@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "America/Havana", "America/Sao_Paulo"])
def test_many_hours_are_drawn_by_day_and_month(name, first, last, unit, periods):
    """However many there are, the periods follow each other, hold the last hour, and are few."""
    first, last = number(first), number(last)
    assert unit_of(first, last) == unit
    cut = Zone(name).periods(first, last)
    assert abs(len(cut) - 1 - periods) <= (name != "UTC")
    assert cut == sorted(set(cut))
    assert cut[0] <= last < cut[-1]
    assert cut[0] <= first or len(cut) == MAX_MONTHS + 1


@settings(deadline=None)
@given(
    st.sampled_from(["UTC", "Europe/Berlin", "America/Havana", "Pacific/Apia", "Africa/Cairo"]),
    st.integers(number("1975-01-01T00"), number("2035-01-01T00")),
    st.integers(169, 9_000),
)
def test_days_begin_at_midnight_or_where_there_is_none_right_after(name, first, length):
    """Held against the days that the hours themselves have in the zone."""
    zone = ZoneInfo(name)
    cut = Zone(name).periods(first, first + length)

    def day(hour):
        return instant(hour).astimezone(zone).date()

    for begin in cut[1:-1]:
        assert day(begin - 1) < day(begin)
    days = {day(hour) for hour in range(first, first + length + 1)}
    assert len(cut) - 1 == len(days)
    assert instant(5) == EPOCH + timedelta(hours=5)
