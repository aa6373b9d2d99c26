"""The fold: decoded lines in, one commit value a batch out, over the working state.

Decides by the watermark of its log whether an event is counted, and by the watermarks of all logs
what may be forgotten: the working state is what a line that is not late may still need. What it
holds is a function of the lines alone, so it can always be folded again: `open` a log at its
checkpoint's `rebuild_from`, fold up to its offset, and drop what `cut` returns.

Knows no files, no SQL, no clock.
"""

from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress
from typing import Final

from processor.core.contract import Refused
from processor.core.decode import Decoded
from processor.core.framing import starts_of
from processor.core.log import LogState
from processor.core.model import (
    MINUTE_US,
    Checkpoint,
    Chunk,
    Commit,
    DeadLetter,
    LogImage,
    Piece,
    Rules,
)
from processor.core.visits import Visits
from processor.core.watermark import RUN_LINES, Watermark, advance, advance_all, is_late

LATE: Final = Refused("late", "fired_at: further behind the watermark than allowed")
_FORGOTTEN: Final = Refused("late", "fired_at: before what is still known of the other logs")
AHEAD: Final = Refused("ahead", "fired_at: ahead of the watermark, as too many others are")

MAX_AHEAD_LINES: Final = 10_000
"""How many lines may be ahead of a log's watermark at once. Each is held until event time has come
to it, maybe for years: beyond so many, a line is a dead letter, reason `ahead`."""

BEFORE_ALL: Final = -(1 << 63)


class Fold:
    """Folds the lines of any number of logs over one working state."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._lateness = rules.allowed_lateness_us
        self._logs: dict[int, LogState] = {}
        self._open_from = BEFORE_ALL
        self._visits = Visits(rules.attribution_window_us)

    @property
    def open_visits(self) -> int:
        """How many visits the working state holds."""
        return len(self._visits)

    @property
    def batch_lines(self) -> int:
        """How many lines the batch in hand holds."""
        return sum(log.lines for log in self._logs.values())

    def open(
        self,
        log_id: int,
        checkpoint: Checkpoint,
        names: Iterable[str] = (),
        starts_at: int | None = None,
    ) -> LogState:
        """Take up a log at its `rebuild_from`; `names` are the event types it has ignored.

        Until the log has a watermark, the state of all logs is kept from `starts_at` on: all of
        it, if that is None. Of a log that was silent for long, that is where it goes on.
        """
        log = self._logs[log_id] = LogState(log_id, checkpoint, names, starts_at)
        return log

    @classmethod
    def restored(
        cls,
        rules: Rules,
        open_from: int,
        logs: Iterable[tuple[LogImage, Iterable[str]]],
        pieces: Iterable[Piece],
    ) -> "Fold":
        """Return the fold that was described by `open_from`, `logs` and `pieces`.

        Beside each log stand the names of event types that it has ignored by now.
        """
        fold = cls(rules)
        fold._open_from = open_from
        fold._logs = {image.log_id: LogState.restored(image, names) for image, names in logs}
        fold._visits.restore(pieces)
        return fold

    @property
    def open_from(self) -> int:
        """The instant before which too much is forgotten to count a line."""
        return self._open_from

    def pieces(self) -> Iterator[Piece]:
        """Yield the open visits, in pieces; to be asked for between two batches."""
        return self._visits.pieces()

    def log(self, log_id: int) -> LogState:
        """Return the state of a log."""
        return self._logs[log_id]

    def finish(self, log: LogState) -> None:
        """Take note that a log has come to its end: no state is kept for lines still to come."""
        log.is_finished = True

    def release(self, log: LogState) -> None:
        """Let go of a log that is not read on; its visits stay."""
        del self._logs[log.log_id]

    def recall(self, log: LogState, offset: int, decoded: Decoded) -> None:
        """Fold in again a line that starts at one of the `ahead_offsets` of the checkpoint."""
        for fired_at in decoded.instants:
            insort(log.ahead, (fired_at, offset))
        self._count(decoded, [], range(len(decoded.visits)), 0)

    def fold(self, log: LogState, chunk: Chunk, decoded: Decoded) -> None:
        """Fold the next lines of a log into the working state and the batch in hand."""
        log.place_marker()
        if chunk.data:
            self._fold_events(log, chunk, decoded)
        else:
            length = chunk.end - chunk.offset - 1
            detail = "as long as the unit of reading, or longer"
            log.bury(DeadLetter(chunk.offset, length, "too_long", detail))
        log.lines += chunk.lines
        log.offset = chunk.end

    def cut(self) -> Commit | None:
        """End the batch in hand, and return what it commits: None when it read nothing."""
        self._evict()
        logs = [log for _, log in sorted(self._logs.items()) if log.offset != log.from_offset]
        commit = Commit(self._visits.increments(), tuple(log.commit() for log in logs))
        for log in logs:
            log.start_batch()
        return commit if logs else None

    def _fold_events(self, log: LogState, chunk: Chunk, decoded: Decoded) -> None:
        refused, ahead = self._advance(log, chunk, decoded)
        # Nothing that is in order fired after the watermark.
        applied = self._count(decoded, refused, ahead, log.mark.at or 0)
        log.account(decoded, applied, len(decoded.instants) - len(refused) - applied)

    def _count(
        self, decoded: Decoded, refused: Sequence[int], ahead: Sequence[int], latest: int
    ) -> int:
        """Count all events but the refused ones; return how many are no duplicates.

        Of the page loads, those that are not `ahead` fired by `latest`.
        """
        visits, customers, instants, clicks, users, *_ = decoded
        in_order = bytearray(b"\1") * len(visits)
        for at in (*clicks, *ahead, *refused):
            in_order[at] = 0
        columns = (compress(column, in_order) for column in (visits, customers, instants))
        applied = self._visits.load_pages(zip(*columns, strict=True), latest)
        for at in set(ahead).difference(clicks):
            applied += self._visits.load_page(visits[at], customers[at], instants[at])
        dropped = set(refused)
        return applied + self._visits.click(
            (visits[at], customers[at], user, instants[at])
            for at, user in zip(clicks, users, strict=True)
            if at not in dropped
        )

    def _advance(
        self, log: LogState, chunk: Chunk, decoded: Decoded
    ) -> tuple[list[int], list[int]]:
        """Show the events to the watermark; return which it refused, and which are ahead of it."""
        instants = decoded.instants
        if not instants:
            return [], []
        first, last = min(instants), max(instants)
        mark = advance_all(log.mark, first, last, self._lateness)
        if mark is not None and first >= self._open_from:
            log.mark = mark
            return [], []
        refused, ahead = list[int](), list[int]()
        places = _Places(chunk, decoded)
        low, high = self._unremarkable(log.mark)
        for position, fired_at in enumerate(instants):
            if low <= fired_at <= high:
                continue
            far_off = self._move_watermark(log, fired_at, places, position)
            low, high = self._unremarkable(log.mark)
            if far_off:
                refused.append(position)
                log.bury(DeadLetter(*places.of(position), far_off.reason, far_off.detail))
            elif fired_at > high:
                ahead.append(position)
        return refused, ahead

    def _unremarkable(self, mark: Watermark) -> tuple[int, int]:
        """Return the first and last instant that need not be shown to the watermark."""
        if mark.at is None or mark.run:
            return 0, BEFORE_ALL
        return max(mark.at - self._lateness, self._open_from), mark.at

    def _move_watermark(
        self, log: LogState, fired_at: int, places: "_Places", position: int
    ) -> Refused | None:
        """Show an event to the watermark; return why it is refused, if it is."""
        if is_late(log.mark, fired_at, self._lateness):
            return LATE
        log.mark = advance(log.mark, fired_at, self._lateness)
        if fired_at < self._open_from:
            return _FORGOTTEN
        if log.mark.at is None or fired_at > log.mark.at:
            if log.ahead_lines >= MAX_AHEAD_LINES:
                return AHEAD
            offset, _ = places.of(position)
            insort(log.ahead, (fired_at, offset))
        return None

    def _evict(self) -> None:
        """Forget what only late lines could need, once a minute of event time."""
        times = [log.event_time for log in self._logs.values() if not log.is_finished]
        known = [time for time in times if time is not None]
        if not known or len(known) < len(times):  # a log that may start anywhere
            return
        open_from = min(known) - self._lateness
        if open_from < self._open_from + MINUTE_US:
            return
        self._open_from = open_from
        self._visits.evict(open_from)
        for log in self._logs.values():
            log.drop_before(self._rules.oldest_needed(min(known)))


def first_instant(instants: Sequence[int]) -> int | None:
    """Return the earliest instant of a log's first run; None while the run is not complete.

    Before that, the next line may be earlier still.
    """
    return min(instants[:RUN_LINES]) if len(instants) >= RUN_LINES else None


def next_instant(instants: Sequence[int], at: int, allowed_lateness: int) -> int:
    """Return where a log whose watermark is `at` goes on, given the lines that come next.

    So few lines that are far ahead may all be wild: then it is where it was.
    """
    first = min(instants, default=at)
    may_be_wild = first > at + allowed_lateness and len(instants) < RUN_LINES
    return at if may_be_wild else max(at, first)


class _Places:
    """Where the events of a chunk lie in the log. Few are asked for, so none is counted before."""

    def __init__(self, chunk: Chunk, decoded: Decoded) -> None:
        self._chunk = chunk
        self._decoded = decoded
        self._line_numbers: list[int] = []
        self._starts: list[int] = []

    def of(self, position: int) -> tuple[int, int]:
        """Return the offset of an event's line, and its length in bytes."""
        if not self._starts:
            self._line_numbers = self._decoded.line_numbers()
            self._starts = starts_of(self._chunk.data)
        start, end = self._starts[(line := self._line_numbers[position]) : line + 2]
        return self._chunk.offset + start, end - start - 1
