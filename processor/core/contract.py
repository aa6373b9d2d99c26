"""The event contract: a line to an event, or to the reason why it does not count.

The model below is the contract, and `judge` applies it to a line. The hot path (`decode`) checks
the same with plain type tests; both agree on every line (property-tested). `ip`, `email` and all
other fields are never looked at, and no reason or detail repeats a value that was read.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, NamedTuple

import orjson
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)

CONTRACT_VERSION: Final = 1

PAGE_LOAD: Final = "ReferralPageLoad"
CLICK: Final = "ReferralRecommendClick"
EMPTY_VALUE: Final = "EMPTY_VALUE"

OTHER_NAMES: Final = "(other)"

MAX_EVENT_ID_CHARS: Final = 256
MAX_NAME_CHARS: Final = 64
INT64_MIN: Final = -(1 << 63)
INT64_MAX: Final = (1 << 63) - 1

_BOM: Final = b"\xef\xbb\xbf"
_NAME: Final = re.compile(rf"[A-Za-z][A-Za-z0-9_]{{0,{MAX_NAME_CHARS - 1}}}", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_FIRST_INSTANT: Final = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_LAST_INSTANT: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_AMERICAN: Final = re.compile(r"(\d\d)/(\d\d)/(\d{4}), (\d\d):(\d\d):(\d\d)", re.ASCII)
_ISO_8601: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)"
    r"(?:[.,](\d{1,9}))?(Z|[+-]\d\d:?\d\d)?",
    re.ASCII,
)


def parse_fired_at(text: object, zone: tzinfo) -> int:
    """Return the instant that `text` names, in microseconds since the epoch.

    Takes `MM/DD/YYYY, HH:MM:SS` and ISO 8601 date-times, read in `zone` where they carry no
    offset. Digits beyond the microsecond are cut off. Of an hour that a zone passes twice, the
    first is meant; an hour that it skips is read with the offset before the gap (PEP 495).

    Raises:
        ValueError: `text` is no such string, or names no date of the years 1 to 9999.

    """
    if not isinstance(text, str):
        raise ValueError("should be a string")  # noqa: TRY004 - pydantic takes no TypeError
    if match := _AMERICAN.fullmatch(text):
        month, day, year, hour, minute, second = map(int, match.groups())
        micro, offset = 0, None
    elif match := _ISO_8601.fullmatch(text):
        *parts, fraction, offset = match.groups()
        year, month, day, hour, minute, second = map(int, parts)
        micro = int((fraction or "0").ljust(6, "0")[:6])
    else:
        raise ValueError("should be MM/DD/YYYY, HH:MM:SS or an ISO 8601 date-time")
    try:
        moment = datetime(year, month, day, hour, minute, second, micro, _offset(offset) or zone)
        fired_at = (moment - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError):
        fired_at = _FIRST_INSTANT - 1
    if not _FIRST_INSTANT <= fired_at <= _LAST_INSTANT:
        raise ValueError("should be a date and time that exist, in the years 1 to 9999 UTC")
    return fired_at


def _offset(text: str | None) -> tzinfo | None:
    if text is None:
        return None
    if text == "Z":
        return UTC
    sign = -1 if text[0] == "-" else 1
    return timezone(sign * timedelta(hours=int(text[1:3]), minutes=int(text[-2:])))


def _in_settings_zone(value: object, info: ValidationInfo) -> int:
    return parse_fired_at(value, (info.context or {}).get("zone", UTC))


class EventModel(BaseModel):
    """One line of a referral log that counts: a page load, or a press of "Recommend"."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, title="Referral event")

    event_id: Annotated[
        str,
        Field(
            min_length=1,
            max_length=MAX_EVENT_ID_CHARS,
            description="Names the visit: a page load and its clicks share it. Not unique.",
        ),
    ]
    customer_id: Annotated[int, Field(ge=INT64_MIN, le=INT64_MAX)]
    user_id: Annotated[int, Field(ge=INT64_MIN, le=INT64_MAX)]
    fired_at: Annotated[
        int,
        BeforeValidator(_in_settings_zone),
        WithJsonSchema(
            {
                "type": "string",
                "description": "MM/DD/YYYY, HH:MM:SS, or ISO 8601 with or without an offset.",
                "examples": ["01/31/2022, 23:59:59", "2022-01-31T23:59:59.5+01:00"],
                "anyOf": [
                    {"pattern": f"^{_AMERICAN.pattern}$"},
                    {"pattern": f"^{_ISO_8601.pattern}$"},
                ],
            }
        ),
    ]
    event_type: Literal["ReferralPageLoad", "ReferralRecommendClick"]


class Event(NamedTuple):
    """A line that counts. `fired_at` is in microseconds since the epoch."""

    is_click: bool
    event_id: str
    customer_id: int
    user_id: int
    fired_at: int


@dataclass(frozen=True, slots=True)
class Ignored:
    """A line of an event type that does not count.

    Names come from the log, so what has not the shape of a name is `OTHER_NAMES`.
    """

    event_type: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A line outside the contract: to become a dead letter."""

    reason: str
    detail: str


_NO_EVENT_TYPE: Final = Refused("event_type", "event_type: missing, null, empty or EMPTY_VALUE")


@lru_cache(maxsize=256)
def _ignored(event_type: str) -> Ignored:
    return Ignored(event_type if _NAME.fullmatch(event_type) else OTHER_NAMES)


def judge(line: bytes, zone: tzinfo = UTC) -> Event | Ignored | Refused:
    """Return what `line` is by the model, with a detail that names the field. Never raises.

    A byte order mark before the line is skipped.
    """
    try:
        fields = orjson.loads(line.removeprefix(_BOM))
    except orjson.JSONDecodeError as error:
        return Refused("malformed", f"not JSON: {error}")
    if not isinstance(fields, dict):
        return Refused("malformed", "not a JSON object")
    if fields.get("event_type") not in (PAGE_LOAD, CLICK):
        return uncounted(fields.get("event_type"))
    try:
        event = EventModel.model_validate(fields, context={"zone": zone})
    except ValidationError as error:
        return Refused("invalid", "; ".join(map(_explain, error.errors(include_input=False))))
    is_click = event.event_type == CLICK
    return Event(is_click, event.event_id, event.customer_id, event.user_id, event.fired_at)


def uncounted(event_type: object) -> Ignored | Refused:
    """Return what a line is by an event type that does not count."""
    if event_type is None or event_type in ("", EMPTY_VALUE):
        return _NO_EVENT_TYPE
    if not isinstance(event_type, str):
        return Refused("event_type", "event_type: should be a string")
    return _ignored(event_type[: MAX_NAME_CHARS + 1])


def _explain(error: Mapping[str, Any]) -> str:
    message = error["msg"].removeprefix("Value error, ")
    return f"{error['loc'][0]}: {message[0].lower()}{message[1:]}"


def json_schema() -> bytes:
    """Return the contract as JSON Schema, as it stands in `schema/event.schema.json`."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "version": CONTRACT_VERSION,
        **EventModel.model_json_schema(),
    }
    return orjson.dumps(schema, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
