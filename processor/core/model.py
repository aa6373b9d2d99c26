"""The values that cross from one part to another. No behaviour beyond what each can say of itself.

Instants are whole microseconds since 1970-01-01T00:00:00Z, hours whole hours since then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

SECOND_US: Final = 1_000_000
MINUTE_US: Final = 60 * SECOND_US
HOUR_US: Final = 60 * MINUTE_US


@dataclass(frozen=True, slots=True)
class Rules:
    """What shapes the numbers. A table made by one set of rules is not continued by another."""

    attribution_window_us: int = 30 * MINUTE_US
    allowed_lateness_us: int = 10 * MINUTE_US
    timezone: str = "UTC"
    max_line_bytes: int = 1 << 20

    def oldest_needed(self, event_time: int) -> int:
        """Return the oldest instant that matters to lines which are not late at `event_time`."""
        open_from = event_time - self.allowed_lateness_us
        return min(open_from - self.attribution_window_us, open_from // HOUR_US * HOUR_US)

    def settled_before(self, event_time: int) -> int:
        """Return up to which instant no line that is not late at `event_time` changes a count.

        It may bring a click, and that the attribution window later than the page load it clicks.
        """
        return event_time - self.allowed_lateness_us - self.attribution_window_us


class Chunk(NamedTuple):
    """Complete lines that follow each other in a log, as bytes, each with its newline.

    They start at `offset` and end before `end`. A line that is too long to be decoded is a chunk
    of its own, without `data`.
    """

    offset: int
    data: bytes
    lines: int
    end: int


class Checkpoint(NamedTuple):
    """How much of a log is folded in, and from where its working state can be folded again.

    No line before `rebuild_from` contributes to live state, save those that start at
    `ahead_offsets`; all lines that are ahead of the watermark are among these. `rebuild_watermark`
    is the watermark at `rebuild_from`.
    """

    byte_offset: int = 0
    watermark: int | None = None
    rebuild_from: int = 0
    rebuild_watermark: int | None = None
    ahead_offsets: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LogImage:
    """What the working state knows of one log, at an offset; see `core.log` for its parts."""

    log_id: int
    offset: int
    watermark: int | None
    run: Sequence[int]
    markers: Sequence[tuple[int, int | None]]
    ahead: Sequence[tuple[int, int]]
    starts_at: int | None


Piece = Sequence[Any]
"""A part of the open visits, of plain lists, numbers and strings; see `core.visits`."""


class Increment(NamedTuple):
    """What a batch adds to one row of the report."""

    customer_id: int
    hour: int
    page_loads: int
    clicks: int
    unique_user_clicks: int
    related_clicks: int
    clicked_page_loads: int


class DeadLetter(NamedTuple):
    """A line that does not count, as a pointer: lines hold personal data, so none is copied."""

    byte_offset: int
    byte_length: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class LogCommit:
    """What a batch did to one log. `outcomes` counts its lines by (outcome, name)."""

    log_id: int
    from_offset: int
    checkpoint: Checkpoint
    lines: int
    outcomes: Mapping[tuple[str, str], int]
    dead_letters: tuple[DeadLetter, ...]


@dataclass(frozen=True, slots=True)
class Commit:
    """One batch as one value: all that one transaction writes, keys in ascending order."""

    increments: tuple[Increment, ...]
    logs: tuple[LogCommit, ...]

    @property
    def lines(self) -> int:
        """How many lines the batch holds."""
        return sum(log.lines for log in self.logs)
