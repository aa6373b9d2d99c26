"""What a line is: every way to be outside the contract, and the dates that are hard to read."""

import json
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from core_helpers import CLICK, PAGE_LOAD, chunk_of, judged, us_of

from processor.core import contract
from processor.core.contract import Event, Ignored, Refused, judge, parse_fired_at
from processor.core.decode import Decoder

GOOD = {
    "event_id": "visit",
    "customer_id": 7,
    "fired_at": "01/31/2022, 23:59:59",
    "user_id": 1,
    "event_type": PAGE_LOAD,
}
FIRED_AT = us_of(datetime(2022, 1, 31, 23, 59, 59, tzinfo=UTC))
EVENT = (False, "visit", 7, 1, FIRED_AT)
MOST, LEAST = (1 << 63) - 1, -(1 << 63)

NOT_AN_INTEGER = "input should be a valid integer"
EMPTY = "string should have at least 1 character"
TOO_LARGE = "input should be less than or equal to 9223372036854775807"
NO_FORMAT = "fired_at: should be MM/DD/YYYY, HH:MM:SS or an ISO 8601 date-time"
NO_DATE = "fired_at: should be a date and time that exist, in the years 1 to 9999 UTC"
NO_TYPE = Refused("event_type", "event_type: missing, null, empty or EMPTY_VALUE")


def line(**changes):
    return json.dumps(GOOD | changes).encode()


def without(field):
    return json.dumps({key: value for key, value in GOOD.items() if key != field}).encode()


def raw(field, text):
    """Return a good line, save that the JSON of a field is `text`."""
    return line(**{field: "@"}).replace(b'"@"', text)


def invalid(detail):
    return Refused("invalid", detail)


def decoded(line, zone=UTC):
    """Return what a line is, having seen that hot path and model agree."""
    chunk = chunk_of([line])
    assert Decoder(zone).decode(chunk) == judged(chunk, zone)
    return judge(line, zone)


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (line(), EVENT),
        (line(event_type=CLICK), (True, *EVENT[1:])),
        (line().replace(b"/", rb"\/"), EVENT),
        (line() + b"\r", EVENT),
        (b"\xef\xbb\xbf" + line(), EVENT),
        (b" \t" + line(), EVENT),
        (line(email="nobody", ip=[{"a": None}]), EVENT),
        (line(customer_id=MOST, user_id=LEAST), (False, "visit", MOST, LEAST, FIRED_AT)),
        (line(customer_id=LEAST, user_id=MOST), (False, "visit", LEAST, MOST, FIRED_AT)),
        (line(event_id="v" * 256), (False, "v" * 256, 7, 1, FIRED_AT)),
        (line(event_id="\U0001f600" * 256), (False, "\U0001f600" * 256, 7, 1, FIRED_AT)),
        (line(event_id="a\0\u202e; DROP TABLE"), (False, "a\0\u202e; DROP TABLE", 7, 1, FIRED_AT)),
        (raw("user_id", b'5, "user_id": 1'), EVENT),
        (raw("customer_id", b"-0"), (False, "visit", 0, 1, FIRED_AT)),
    ],
)
def test_a_line_within_the_contract_is_an_event(line, event):
    """Other fields are not looked at, and of a key that comes twice the last one counts."""
    assert decoded(line) == event


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (raw("event_id", b"null"), "event_id: input should be a valid string"),
        (raw("event_id", b"5"), "event_id: input should be a valid string"),
        (raw("event_id", b"[]"), "event_id: input should be a valid string"),
        (line(event_id=""), f"event_id: {EMPTY}"),
        (line(event_id="v" * 257), "event_id: string should have at most 256 characters"),
        (line(event_id="v" * 10_240), "event_id: string should have at most 256 characters"),
        (line(customer_id=MOST + 1), f"customer_id: {TOO_LARGE}"),
        (line(user_id=MOST + 1), f"user_id: {TOO_LARGE}"),
        (line(user_id=(1 << 64) - 1), f"user_id: {TOO_LARGE}"),
        (line(user_id=1 << 64), f"user_id: {NOT_AN_INTEGER}"),
        (line(user_id=LEAST - 1), f"user_id: {NOT_AN_INTEGER}"),
        (line(customer_id="7"), f"customer_id: {NOT_AN_INTEGER}"),
        (line(customer_id=7.0), f"customer_id: {NOT_AN_INTEGER}"),
        (line(customer_id=True), f"customer_id: {NOT_AN_INTEGER}"),
        (line(user_id=False), f"user_id: {NOT_AN_INTEGER}"),
        (line(user_id=None), f"user_id: {NOT_AN_INTEGER}"),
        (line(user_id={"a": [1]}), f"user_id: {NOT_AN_INTEGER}"),
        (without("event_id"), "event_id: field required"),
        (without("customer_id"), "customer_id: field required"),
        (without("user_id"), "user_id: field required"),
        (without("fired_at"), "fired_at: field required"),
        (line(fired_at=None), "fired_at: should be a string"),
        (line(fired_at=1_643_673_599), "fired_at: should be a string"),
        (line(fired_at=True), "fired_at: should be a string"),
        (line(fired_at=["01/31/2022, 23:59:59"]), "fired_at: should be a string"),
        (line(fired_at={}), "fired_at: should be a string"),
        (line(fired_at=""), NO_FORMAT),
        (line(fired_at="02/30/2022, 00:00:00"), NO_DATE),
        (
            line(event_id="", user_id=None, fired_at="soon"),
            f"event_id: {EMPTY}; user_id: {NOT_AN_INTEGER}; {NO_FORMAT}",
        ),
    ],
)
def test_a_line_outside_the_contract_is_refused_with_its_fields_named(line, detail):
    """The detail says what each field should be, and not what it was."""
    assert decoded(line) == invalid(detail)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b"\0" * 64,
        b"{",
        line()[:-1],
        line() + b"}",
        line() + line(),
        b"\xef\xbb\xbf",
        b"\xef\xbb\xbf" * 2 + line(),
        line().decode().encode("utf-16"),
        raw("user_id", b"NaN"),
        raw("user_id", b"Infinity"),
        raw("user_id", b"1e999"),
        raw("user_id", b"9" * 5_000),
        raw("user_id", b"01"),
        raw("event_id", b'"\xff"'),
        raw("event_id", b'"\xed\xa0\x80"'),
        raw("event_id", rb'"\ud800"'),
        raw("event_id", b'"\0"'),
        raw("ip", b"[" * 100_000),
        raw("ip", b"[" * 5_000 + b"]" * 5_000),
        line().replace(b'"', b"'"),
    ],
)
def test_bytes_that_are_not_json_are_malformed(line):
    """Nothing raises, however deep, long or broken the bytes are; the place is told."""
    refused = decoded(line)
    assert refused.reason == "malformed"
    assert refused.detail.startswith("not JSON: ")
    assert "(char " in refused.detail


@pytest.mark.parametrize("line", [b"[]", b"[1]", b"5", b'"event_type"', b"null", b"true", b"1.5"])
def test_json_that_is_no_object_is_malformed(line):
    """Only an object can be an event."""
    assert decoded(line) == Refused("malformed", "not a JSON object")


@pytest.mark.parametrize(
    "line",
    [
        without("event_type"),
        b"{}",
        line(event_type=None),
        line(event_type=""),
        line(event_type="EMPTY_VALUE"),
    ],
)
def test_a_line_without_an_event_type_is_refused(line):
    """Missing, null, empty and EMPTY_VALUE are one and the same."""
    assert decoded(line) == NO_TYPE


@pytest.mark.parametrize("event_type", [5, 0, True, False, 1.5, [PAGE_LOAD], {PAGE_LOAD: 1}, []])
def test_an_event_type_that_is_no_string_is_refused(event_type):
    """It cannot be ignored by name, since it has none."""
    refused = Refused("event_type", "event_type: should be a string")
    assert decoded(line(event_type=event_type)) == refused


@pytest.mark.parametrize(
    ("event_type", "name"),
    [
        ("FaqClick", "FaqClick"),
        ("referralpageload", "referralpageload"),
        ("a" * 64, "a" * 64),
        ("a" * 65, "(other)"),
        ("a" * 1_000_000, "(other)"),
        *[
            (odd, "(other)")
            for odd in (" ", "<script>", "\u202e", "1st", "FaqClick\n", "a@example.org")
        ],
    ],
)
def test_another_event_type_is_ignored_whatever_else_the_line_holds(event_type, name):
    """It is told by its name if it is one, and no other field is judged."""
    assert decoded(line(event_type=event_type, user_id=None)) == Ignored(name)


def test_a_bad_line_does_not_disturb_its_neighbours():
    """Each line has its own answer, in the order of the lines."""
    lines = [line(), b"", line(user_id="1"), line(event_type="FaqClick"), line()]
    chunk = chunk_of(lines, offset=100)
    decoded = Decoder().decode(chunk)
    assert decoded == judged(chunk)
    assert decoded.line_numbers() == [0, 4]
    assert decoded.refused[0][:2] == (100 + len(lines[0]) + 1, 0)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("01/01/1970, 00:00:00", "1970-01-01T00:00:00+00:00"),
        ("02/29/2024, 12:00:00", "2024-02-29T12:00:00+00:00"),
        ("02/29/2000, 12:00:00", "2000-02-29T12:00:00+00:00"),
        ("12/31/1969, 23:59:59", "1969-12-31T23:59:59+00:00"),
        ("01/01/0001, 00:00:00", "0001-01-01T00:00:00+00:00"),
        ("12/31/9999, 23:59:59", "9999-12-31T23:59:59+00:00"),
        ("2022-01-31T23:59:59", "2022-01-31T23:59:59+00:00"),
        ("2022-01-31 23:59:59", "2022-01-31T23:59:59+00:00"),
        ("2022-01-31T23:59:59Z", "2022-01-31T23:59:59+00:00"),
        ("2022-01-31T23:59:59-00:00", "2022-01-31T23:59:59+00:00"),
        ("2022-01-31T23:59:59.5", "2022-01-31T23:59:59.500000+00:00"),
        ("2022-01-31T23:59:59,000001Z", "2022-01-31T23:59:59.000001+00:00"),
        ("2022-01-31T23:59:59.123456789", "2022-01-31T23:59:59.123456+00:00"),
        ("2022-01-31T23:59:59+05:30", "2022-01-31T18:29:59+00:00"),
        ("2022-01-31T23:59:59-0330", "2022-02-01T03:29:59+00:00"),
        ("2022-01-31T23:59:59+23:59", "2022-01-31T00:00:59+00:00"),
        ("0001-01-01T05:30:00+05:30", "0001-01-01T00:00:00+00:00"),
        ("9999-12-31T18:29:59.999999-05:30", "9999-12-31T23:59:59.999999+00:00"),
    ],
)
def test_a_time_is_read_as_the_instant_that_it_names(text, instant):
    """Both formats, any offset, to the microsecond, over all years that there are."""
    assert parse_fired_at(text, UTC) == us_of(datetime.fromisoformat(instant))
    assert decoded(line(fired_at=text))[-1] == parse_fired_at(text, UTC)


@pytest.mark.parametrize(
    "text",
    [
        "02/29/2022, 00:00:00",
        "02/29/1900, 00:00:00",
        "04/31/2022, 00:00:00",
        "00/01/2022, 00:00:00",
        "13/01/2022, 00:00:00",
        "31/01/2022, 00:00:00",
        "01/00/2022, 00:00:00",
        "01/01/0000, 00:00:00",
        "01/01/2022, 24:00:00",
        "01/01/2022, 23:60:00",
        "01/01/2022, 23:59:60",
        "2022-01-01T24:00:00Z",
        "2022-01-01T00:00:00+24:00",
        "2022-01-01T00:00:00-99:99",
        "0001-01-01T00:00:00+00:01",
        "0001-01-01T05:29:59+05:30",
        "9999-12-31T23:59:59-00:01",
        "9999-12-31T18:30:00-05:30",
    ],
)
def test_a_date_or_time_that_does_not_exist_is_refused(text):
    """So is one that its offset moves out of the years 1 to 9999."""
    assert decoded(line(fired_at=text)) == invalid(NO_DATE)


@pytest.mark.parametrize(
    "text",
    [
        "01/01/2022 00:00:00",
        "1/1/2022, 00:00:00",
        "01/01/22, 00:00:00",
        "01/01/2022, 00:00",
        "01/01/2022, 00:00:00 ",
        "01/01/2022, 00:00:00\n",
        " 01/01/2022, 00:00:00",
        "01/01/2022, 00:00:00Z",
        "01/01/2022, 00:00:00 PM",
        "01/01/12022, 00:00:00",
        "\u0660\u0661/01/2022, 00:00:00",
        "2022-01-01",
        "2022-01-01t00:00:00",
        "2022-01-01T00:00",
        "2022-01-01T00:00:00.",
        "2022-01-01T00:00:00.1234567890",
        "2022-01-01T00:00:00z",
        "2022-01-01T00:00:00+01",
        "2022-01-01T00:00:00 +01:00",
        "-2022-01-01T00:00:00",
        "2022-W01-1T00:00:00",
        "20220101T000000",
        "1640995200",
    ],
)
def test_any_other_way_to_write_a_time_is_refused(text):
    """Nothing is guessed."""
    assert decoded(line(fired_at=text)) == invalid(NO_FORMAT)


@pytest.mark.parametrize(
    ("text", "zone", "instant"),
    [
        ("01/01/2022, 00:00:00", "Asia/Kolkata", "2021-12-31T18:30:00"),
        ("2022-01-01T00:00:00", "Asia/Kolkata", "2021-12-31T18:30:00"),
        ("2022-01-01T00:00:00Z", "Asia/Kolkata", "2022-01-01T00:00:00"),
        ("2022-01-01T00:00:00+01:00", "Asia/Kolkata", "2021-12-31T23:00:00"),
        ("07/01/2022, 12:00:00", "America/New_York", "2022-07-01T16:00:00"),
        ("03/27/2022, 01:59:59", "Europe/Berlin", "2022-03-27T00:59:59"),
        ("03/27/2022, 02:30:00", "Europe/Berlin", "2022-03-27T01:30:00"),
        ("03/27/2022, 03:00:00", "Europe/Berlin", "2022-03-27T01:00:00"),
        ("10/30/2022, 02:30:00", "Europe/Berlin", "2022-10-30T00:30:00"),
        ("10/30/2022, 03:00:00", "Europe/Berlin", "2022-10-30T02:00:00"),
        ("10/02/2022, 02:15:00", "Australia/Lord_Howe", "2022-10-01T15:45:00"),
        ("04/03/2022, 01:45:00", "Australia/Lord_Howe", "2022-04-02T14:45:00"),
    ],
)
def test_a_time_without_an_offset_is_read_in_the_zone_of_the_settings(text, zone, instant):
    """Of an hour passed twice the first is meant; a skipped one has the offset before the gap."""
    expected = us_of(datetime.fromisoformat(instant).replace(tzinfo=UTC))
    assert decoded(line(fired_at=text), ZoneInfo(zone))[-1] == expected


@pytest.mark.parametrize(
    ("text", "zone"),
    [("01/01/0001, 00:00:00", "Asia/Tokyo"), ("12/31/9999, 23:59:59", "America/New_York")],
)
def test_a_zone_that_moves_a_time_out_of_all_years_makes_it_no_date(text, zone):
    """The first and the last hours of the calendar are no exception, and raise none."""
    assert decoded(line(fired_at=text), ZoneInfo(zone)) == invalid(NO_DATE)


def test_more_distinct_times_than_are_remembered_are_all_read_right():
    """What is remembered of times is thrown away when it is too much, and nothing else is."""
    decoder, last = Decoder(), 100_001
    template = line(fired_at="@")
    texts = (f"2022-01-01T00:00:{n // 10_000:02}.{n % 10_000:04}" for n in range(last + 1))
    decoder.decode(chunk_of([template.replace(b"@", text.encode()) for text in texts]))
    start = us_of(datetime(2022, 1, 1, tzinfo=UTC))
    for n in (0, last):
        text = f"2022-01-01T00:00:{n // 10_000:02}.{n % 10_000:04}"
        assert decoder.decode(chunk_of([line(fired_at=text)])).instants == [start + n * 100]


def test_the_json_schema_in_the_repository_is_that_of_the_contract():
    """Whoever reads the schema reads the contract."""
    path = Path(__file__).parents[2] / "schema" / "event.schema.json"
    assert path.read_bytes() == contract.json_schema(), "out of date: run `make schema`"


def test_the_json_schema_shows_times_that_are_read():
    """Each example of the schema is within the contract."""
    examples = json.loads(contract.json_schema())["properties"]["fired_at"]["examples"]
    assert len(examples) == 2
    assert all(isinstance(decoded(line(fired_at=text)), Event) for text in examples)
