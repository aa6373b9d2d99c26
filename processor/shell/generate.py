"""Makes logs in the shape of real ones: for trying the processor out, for tests and benchmarks.

Shares of event types follow a real sample: a tenth of the visits log `EMPTY_VALUE`; of the page
loads, an eighth is followed by a click and a tenth by an `FaqClick`, 6 to 600 seconds later and
under the same `event_id`; a few clicks have no page load. Lines are ordered by time. All values are
made up, and the same settings make the same log.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from typing import Final

from processor.core.contract import CLICK, EMPTY_VALUE, PAGE_LOAD

START: Final = datetime(2022, 1, 1, tzinfo=UTC)

_EMPTY_SHARE: Final = 0.10
_CLICK_SHARE: Final = 0.125
_FAQ_SHARE: Final = 0.10
_ORPHAN_SHARE: Final = 0.002
_SECOND_CLICK_SHARE: Final = 0.01
_FOLLOWS_SECONDS: Final = (6, 600)
_LATE_SECONDS: Final = (11 * 60, 3 * 3600)
_RECENT_SECONDS: Final = 300
_RECENT_LINES: Final = 5_000

_MALFORMED: Final[tuple[Callable[[str], str], ...]] = (
    lambda line: line[: len(line) // 2],
    lambda line: line.replace('"customer_id":', '"customer_id":"', 1),
    lambda line: line.replace('"user_id":', '"user":', 1),
    lambda line: line.replace("\\/20", "\\/00", 1).replace("01\\/", "13\\/", 1),
    lambda _line: "null",
    lambda _line: "[1, 2, 3]",
    lambda _line: "",
)


@dataclass(frozen=True, slots=True)
class LogShape:
    """What a generated log looks like; the shares are of all lines."""

    events: int
    hours: float = 24.0
    customers: int = 8
    users: int = 100
    seed: int = 0
    duplicates: float = 0.0
    malformed: float = 0.0
    late: float = 0.0
    start: datetime = START


def generate(shape: LogShape) -> Iterator[str]:
    """Yield `shape.events` lines, without their newlines."""
    choose = random.Random(shape.seed)
    chance = choose.random
    make = _LineMaker(shape, choose)
    visits = _Visits(make, chance)
    recent: deque[tuple[int, str]] = deque(maxlen=_RECENT_LINES)
    spacing = shape.hours * 3600 / max(shape.events, 1)
    malformed = shape.duplicates + shape.malformed
    late = malformed + shape.late
    for number in range(shape.events):
        second = int(number * spacing)
        while recent and recent[0][0] < second - _RECENT_SECONDS:
            recent.popleft()
        dice = chance()
        if dice < shape.duplicates and recent:
            yield recent[int(chance() * len(recent))][1]
        elif shape.duplicates <= dice < malformed:
            line = make.line(second, PAGE_LOAD, make.visitor(), make.event_id())
            yield _MALFORMED[number % len(_MALFORMED)](line)
        elif malformed <= dice < late:
            earlier = second - choose.randint(*_LATE_SECONDS)
            yield make.line(earlier, PAGE_LOAD, make.visitor(), make.event_id())
        else:
            line = visits.next_line(second)
            recent.append((second, line))
            yield line


class _Visits:
    """Visits that begin, and what follows them."""

    def __init__(self, make: "_LineMaker", chance: Callable[[], float]) -> None:
        self._make = make
        self._chance = chance
        self._number = 0
        # (second, number of the visit, event type, visitor, event id)
        self._follow_ups: list[tuple[int, int, str, int, str]] = []

    def next_line(self, second: int) -> str:
        """Return the line that is due: what follows an earlier visit, or a new one."""
        if self._follow_ups and self._follow_ups[0][0] <= second:
            fired, _, event_type, visitor, event_id = heappop(self._follow_ups)
            return self._make.line(fired, event_type, visitor, event_id)
        visitor, event_id = self._make.visitor(), self._make.event_id()
        event_type = self._make.first_event_type()
        if event_type == PAGE_LOAD:
            self._number += 1
            first, last = _FOLLOWS_SECONDS
            for follow_up in self._make.follow_ups():
                due = second + first + int(self._chance() * (last - first + 1))
                heappush(self._follow_ups, (due, self._number, follow_up, visitor, event_id))
        return self._make.line(second, event_type, visitor, event_id)


class _LineMaker:
    """Makes the parts of lines, each visitor's and each second's only once."""

    def __init__(self, shape: LogShape, choose: random.Random) -> None:
        self._choose = choose
        self._chance = choose.random
        self._start = shape.start
        self._second = -1
        self._fired_at = ""
        customers = choose.sample(range(10, 10 + 50 * shape.customers), shape.customers)
        users = choose.sample(range(100, 100 + 100 * shape.users), shape.users)
        self._customers = [str(customer) for customer in customers]
        self._users = [
            (
                str(user),
                (
                    f'"ip":"10.{user >> 16 & 255}.{user >> 8 & 255}.{user & 255}",'
                    f'"email":"visitor{user}@example.org"}}'
                ),
            )
            for user in users
        ]

    def visitor(self) -> int:
        """Return a user at a customer's page."""
        return int(self._chance() * len(self._users) * len(self._customers))

    def event_id(self) -> str:
        """Return a name for a visit."""
        digits = f"{self._choose.getrandbits(128):032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    def first_event_type(self) -> str:
        """Return what a visit begins with."""
        dice = self._chance()
        if dice < _EMPTY_SHARE:
            return EMPTY_VALUE
        return CLICK if dice < _EMPTY_SHARE + _ORPHAN_SHARE else PAGE_LOAD

    def follow_ups(self) -> Iterator[str]:
        """Yield what a page load is followed by."""
        dice = self._chance()
        if dice < _CLICK_SHARE:
            yield CLICK
            if dice < _CLICK_SHARE * _SECOND_CLICK_SHARE:
                yield CLICK
        elif dice < _CLICK_SHARE + _FAQ_SHARE:
            yield "FaqClick"

    def line(self, second: int, event_type: str, visitor: int, event_id: str) -> str:
        """Return a line, with its fields in the order of real logs and its slashes escaped."""
        if second != self._second:
            self._second = second
            fired_at = self._start + timedelta(seconds=second)
            self._fired_at = fired_at.strftime(r"%m\/%d\/%Y, %H:%M:%S")
        at, who = visitor % len(self._customers), visitor // len(self._customers)
        user, address = self._users[who]
        return (
            f'{{"event_id":"{event_id}","customer_id":{self._customers[at]},'
            f'"fired_at":"{self._fired_at}","user_id":{user},"event_type":"{event_type}",{address}'
        )
