"""The hot path: a chunk of lines to columns of events, by the contract.

Runs for each line there is, so it is one loop without calls or objects that survive. It accepts
what `contract` accepts; whatever it stumbles over, `contract.judge` decides on and explains.
"""

from collections.abc import Iterable
from datetime import UTC, tzinfo
from io import BytesIO
from operator import itemgetter
from typing import Final, NamedTuple

import orjson

from processor.core.contract import (
    CLICK,
    INT64_MAX,
    MAX_EVENT_ID_CHARS,
    PAGE_LOAD,
    Event,
    Ignored,
    Refused,
    judge,
    parse_fired_at,
    uncounted,
)
from processor.core.framing import starts_of
from processor.core.model import SECOND_US, Chunk

_FIELDS: Final = itemgetter("event_type", "event_id", "customer_id", "user_id", "fired_at")

_AMERICAN_CHARS: Final = len("MM/DD/YYYY, HH:MM:SS")

Refusal = tuple[int, int, str, str]
"""(offset, length in bytes, reason, detail) of a line that becomes a dead letter."""


class Decoded(NamedTuple):
    """What the lines of a chunk are: the events as columns, in the order of their lines.

    Of plain lists, numbers and strings, so that it crosses to another process at little cost.
    """

    visits: list[str]
    """The visit of each event: customer, user and event id in one."""
    customers: list[int]
    instants: list[int]
    """When each event fired, in microseconds since the epoch."""
    clicks: list[int]
    """Which of the events are clicks, as positions in the columns."""
    users: list[int]
    """The user of each click."""
    no_events: list[int]
    """The numbers of the lines that are no events, ascending, from 0."""
    ignored: dict[str, int]
    """Lines whose event type does not count, by its name."""
    refused: list[Refusal]

    def line_numbers(self) -> list[int]:
        """Return which line each event is."""
        no_events = set(self.no_events)
        lines = range(len(self.visits) + len(no_events))
        return [number for number in lines if number not in no_events]


class _Clock(dict[str, int]):
    """`parse_fired_at`, which sees each distinct text only once: a log repeats its seconds.

    In UTC it sees one text a minute; of `MM/DD/YYYY, HH:MM:SS`, the seconds are added to it.
    """

    _MOST: Final = 100_000
    _SECONDS: Final = {f"{second:02}": second * SECOND_US for second in range(60)}

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone
        self._minute = ""
        self._minute_at = 0

    def __missing__(self, text: str) -> int:
        if len(self) >= self._MOST:
            self.clear()
        minute, second = text[:-2], self._SECONDS.get(text[-2:])
        if second is None or len(text) != _AMERICAN_CHARS or self._zone is not UTC:
            fired_at = parse_fired_at(text, self._zone)
        else:
            if minute != self._minute:
                self._minute_at = parse_fired_at(f"{minute}00", self._zone)
                self._minute = minute
            fired_at = self._minute_at + second
        self[text] = fired_at
        return fired_at


class Decoder:
    """Decodes lines by the contract, reading times without an offset in `zone`."""

    def __init__(self, zone: tzinfo = UTC) -> None:
        self._zone = zone
        self._clock = _Clock(zone)

    def decode(self, chunk: Chunk) -> Decoded:
        """Return what the lines of a chunk are. Never raises, whatever the bytes.

        Each line becomes an event or one of the others, so their sum is the number of the next one.
        orjson returns no integer below 64 bits, so only their upper bound is checked.
        """
        decoded = Decoded([], [], [], [], [], [], {}, [])
        visits, customers, instants, clicks, users, *_ = decoded
        others, lines = list[tuple[int, Ignored | Refused]](), list[bytes]()
        clock, page_load, click = self._clock, PAGE_LOAD, CLICK
        most, most_chars = INT64_MAX, MAX_EVENT_ID_CHARS
        rows = map(_FIELDS, map(orjson.loads, BytesIO(chunk.data)))
        while True:
            try:
                for event_type, event_id, customer_id, user_id, text in rows:
                    is_click = event_type == click
                    if not is_click and event_type != page_load:
                        others.append((len(visits) + len(others), uncounted(event_type)))
                        continue
                    fired_at = clock[text]
                    if not (
                        type(event_id) is str
                        and 0 < len(event_id) <= most_chars
                        and type(customer_id) is int
                        and customer_id <= most
                        and type(user_id) is int
                        and user_id <= most
                    ):
                        raise ValueError  # noqa: TRY301 - to where all such lines go
                    if is_click:
                        clicks.append(len(visits))
                        users.append(user_id)
                    visits.append(f"{customer_id} {user_id} {event_id}")
                    customers.append(customer_id)
                    instants.append(fired_at)
            except (ValueError, LookupError, TypeError):
                # The iterators have gone past this line, and go on with the next.
                number = len(visits) + len(others)
                lines = lines or chunk.data.split(b"\n")
                verdict = judge(lines[number], self._zone)
                if isinstance(verdict, Event):
                    _add(decoded, verdict)
                else:
                    others.append((number, verdict))
            else:
                break
        _set_aside(decoded, chunk, others)
        return decoded


def _add(decoded: Decoded, event: Event) -> None:
    """Add an event whose line the hot path stumbled over."""
    if event.is_click:
        decoded.clicks.append(len(decoded.visits))
        decoded.users.append(event.user_id)
    decoded.visits.append(f"{event.customer_id} {event.user_id} {event.event_id}")
    decoded.customers.append(event.customer_id)
    decoded.instants.append(event.fired_at)


def _set_aside(
    decoded: Decoded, chunk: Chunk, others: Iterable[tuple[int, Ignored | Refused]]
) -> None:
    """Take down the lines that are no events."""
    starts: list[int] = []
    for number, verdict in others:
        decoded.no_events.append(number)
        if isinstance(verdict, Ignored):
            decoded.ignored[verdict.event_type] = decoded.ignored.get(verdict.event_type, 0) + 1
            continue
        starts = starts or starts_of(chunk.data)
        start, end = starts[number : number + 2]
        decoded.refused.append(
            (chunk.offset + start, end - start - 1, verdict.reason, verdict.detail)
        )
