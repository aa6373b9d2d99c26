"""Hot path and model agree on every line, and neither tells what it read."""

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from core_helpers import CLICK, PAGE_LOAD, chunk_of, judged, us_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from processor.core.contract import Refused, judge, parse_fired_at
from processor.core.decode import Decoder

ZONES = ["UTC", "Asia/Kolkata", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe"]
BOM = b"\xef\xbb\xbf"
FIELDS = ["event_id", "customer_id", "fired_at", "user_id", "event_type"]
BORDERS = [0, (1 << 63) - 1, 1 << 63, (1 << 63) + 1, (1 << 64) - 1, 1 << 64, 10**400]

numbers = st.one_of(
    st.integers(-(1 << 70), 1 << 70),
    st.sampled_from(
        [sign * border + step for border in BORDERS for sign in (-1, 1) for step in (0, 1)]
    ),
    st.floats(allow_nan=True),
    st.booleans(),
)
texts = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["", "EMPTY_VALUE", "FaqClick", "7", "\ud800", "a\0", "\u202e", "\ufeff"]),
    st.sampled_from(["v", "\U0001f600"]).flatmap(
        lambda c: st.sampled_from([255, 256, 257, 10_240]).map(lambda n: c * n)
    ),
)
near_dates = st.builds(
    "{:02}/{:02}/{:04}, {:02}:{:02}:{:02}".format,
    st.integers(0, 13),
    st.sampled_from([0, 1, 2, 3, 27, 28, 29, 30, 31, 32]),
    st.sampled_from([0, 1, 1900, 2000, 2022, 2024, 9999]),
    st.sampled_from([0, 1, 2, 23, 24]),
    st.sampled_from([0, 15, 30, 59, 60]),
    st.sampled_from([0, 59, 60]),
)
offsets = st.sampled_from(["", "Z", "+00:00", "+05:30", "-0330", "+14:00", "-23:59", "+24:00", "z"])
iso_dates = near_dates.flatmap(
    lambda text: st.builds(
        lambda t, fraction, offset: (
            f"{text[6:10]}-{text[:2]}-{text[3:5]}{t}{text[12:]}{fraction}{offset}"
        ),
        st.sampled_from("T t"),
        st.sampled_from(["", ".5", ",123456789", ".", ".1234567890"]),
        offsets,
    )
)
dates = st.one_of(near_dates, iso_dates)
nested = st.recursive(
    st.none() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)
good_fields = st.fixed_dictionaries(
    {
        "event_id": st.text(min_size=1, max_size=4),
        "customer_id": st.integers(-(1 << 63), (1 << 63) - 1),
        "fired_at": dates,
        "user_id": st.integers(-(1 << 63), (1 << 63) - 1),
        "event_type": st.sampled_from([PAGE_LOAD, CLICK]),
    }
)


wrong_fields = st.lists(st.tuples(st.sampled_from([*FIELDS, "email"]), nested | dates), max_size=2)


@st.composite
def lines(draw):
    """A good line, and then perhaps wrong in some fields, with twin keys, or torn in its bytes."""
    fields = list(draw(good_fields).items())
    fields += draw(
        st.lists(st.tuples(st.sampled_from([*FIELDS, "email"]), nested | dates), max_size=2)
    )
    missing = draw(st.sampled_from([None, None, None, *FIELDS]))
    pairs = (f"{json.dumps(k)}:{json.dumps(v)}" for k, v in fields if k != missing)
    line = ("{" + ",".join(pairs) + "}").encode()
    if draw(st.booleans()):
        return line
    at, length = draw(st.integers(0, len(line))), draw(st.sampled_from([0, 0, 1, 5]))
    patch = draw(
        st.binary(max_size=3)
        | st.sampled_from([b"\0", b"\xff", b"\xed\xa0\x80", BOM, b"[" * 2_000, b"\r"])
    )
    return line[:at] + patch + line[at + length :]


@settings(max_examples=600, deadline=None)
@given(lines=st.lists(lines(), min_size=1, max_size=3), zone=st.sampled_from(ZONES))
def test_hot_path_and_model_agree_on_every_line(lines, zone):
    """Whatever the bytes, both give the same answer, and none raises."""
    chunk, zone = chunk_of([line.replace(b"\n", b"") for line in lines]), ZoneInfo(zone)
    assert Decoder(zone).decode(chunk) == judged(chunk, zone)


@settings(max_examples=200, deadline=None)
@given(line=st.binary(max_size=40))
def test_hot_path_and_model_agree_on_any_bytes(line):
    """Bytes at random raise nothing, and are no event."""
    chunk = chunk_of([line.replace(b"\n", b"")])
    decoded = Decoder().decode(chunk)
    assert decoded == judged(chunk)
    assert not decoded.visits


@settings(max_examples=300, deadline=None)
@given(line=lines())
def test_a_byte_order_mark_changes_nothing(line):
    """A line behind a byte order mark is what it is without."""
    assume(not line.startswith(BOM))
    line = line.replace(b"\n", b"")
    *what, refused = Decoder().decode(chunk_of([line]))
    *what_behind, refused_behind = Decoder().decode(chunk_of([BOM + line]))
    assert what_behind == what
    assert [why[2:] for why in refused_behind] == [why[2:] for why in refused]


@settings(max_examples=500, deadline=None)
@given(fields=good_fields, zone=st.sampled_from(ZONES))
def test_an_event_says_what_its_line_says(fields, zone):
    """Each part of an event is the field of that name."""
    value = judge(json.dumps(fields).encode(), ZoneInfo(zone))
    if isinstance(value, Refused):
        assert value.detail.startswith("fired_at: ")
        return
    ids = fields["event_id"], fields["customer_id"], fields["user_id"]
    fired_at = parse_fired_at(fields["fired_at"], ZoneInfo(zone))
    assert value == (fields["event_type"] == CLICK, *ids, fired_at)


TOKEN, OTHER_TOKEN = "Qx7316", "Zj9482"
values = st.sampled_from(
    [
        f'"{TOKEN}"',
        f'["{TOKEN}"]',
        f'{{"{TOKEN}": "{TOKEN}"}}',
        f'"{TOKEN * 50}"',
        f'"{TOKEN}\\ud800"',
        f'"{TOKEN}\x01"',
        f'"01/{TOKEN}/2022, 00:00:00"',
        f'"{TOKEN}',
        f"{TOKEN}",
        "73169482735",
        "73169482735e999",
        "73169482735.5",
        "-73169482735731694827357316948273573169482735",
        "18273169482735731694",
        "true",
        "null",
    ]
)


@settings(max_examples=500, deadline=None)
@given(
    fields=st.fixed_dictionaries(dict.fromkeys(FIELDS, values)),
    kept=st.sets(st.sampled_from(FIELDS)),
)
def test_no_reason_or_detail_tells_what_was_read(fields, kept):
    """Another value in the same place gives the same words, and none of them is the value."""
    good = {"event_id": '"v"', "customer_id": "7", "user_id": "1"}
    good |= {"fired_at": '"01/01/2022, 00:00:00"', "event_type": f'"{PAGE_LOAD}"'}
    fields |= {field: good[field] for field in kept if field in good}
    line = "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"
    value = judge(line.encode())
    assume(isinstance(value, Refused))
    assert not re.search("Qx|7316|9482|2735", f"{value.reason} {value.detail}")
    assert judge(line.replace(TOKEN, OTHER_TOKEN).encode()) == value


moments = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29))  # noqa: DTZ001 - zones follow


@settings(max_examples=300, deadline=None)
@given(moment=moments, minutes=st.integers(-1439, 1439), separator=st.sampled_from("T "))
def test_any_instant_with_an_offset_is_read_as_itself(moment, minutes, separator):
    """ISO 8601 as Python writes it, in whatever offset, names the instant that was written."""
    moment = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    assert parse_fired_at(moment.isoformat(separator), ZoneInfo("Asia/Tokyo")) == us_of(moment)


@settings(max_examples=300, deadline=None)
@given(moment=moments, zone=st.sampled_from(ZONES))
def test_both_ways_to_write_a_local_time_name_the_same_instant(moment, zone):
    """Gaps and overlaps of the zone included, it is the first instant with that local time."""
    moment = moment.replace(microsecond=0)
    american = f"{moment:%m/%d}/{moment.year:04}, {moment:%H:%M:%S}"
    expected = us_of(moment.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC))
    assert parse_fired_at(american, ZoneInfo(zone)) == expected
    assert parse_fired_at(moment.isoformat(), ZoneInfo(zone)) == expected
