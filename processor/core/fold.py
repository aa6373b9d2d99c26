"""The fold: lines in, one commit value a batch out, over the working state.

The working state is what a line that is not late may still need: the visits within
`allowed_lateness + attribution_window` of the watermark, and the users who clicked in hours that
are still open. `cut` evicts the rest. What it holds is a function of the lines alone, so it can
always be folded again: `open` a log at its checkpoint's `rebuild_from`, fold up to its offset, and
drop what `cut` returns.

Knows no files, no SQL, no clock.
"""

from bisect import insort
from collections import defaultdict
from collections.abc import Iterable
from datetime import tzinfo
from itertools import islice
from typing import Final

from processor.core import machine
from processor.core.contract import Decoder, Event, Ignored, Refused
from processor.core.framing import Offsets
from processor.core.log import APPLIED, DUPLICATE, LogState
from processor.core.model import (
    HOUR_US,
    MINUTE_US,
    Checkpoint,
    Commit,
    DeadLetter,
    Increment,
    Lines,
    Rules,
)
from processor.core.watermark import RUN_LINES, Watermark, advance, is_late

_LATE: Final = Refused("late", "fired_at: further behind the watermark than allowed")
_FORGOTTEN: Final = Refused("late", "fired_at: before what is still known of the other logs")
_AHEAD: Final = Refused("ahead", "fired_at: ahead of the watermark, as too many others are")

MAX_AHEAD_LINES: Final = 10_000
"""How many lines may be ahead of a log's watermark at once. Each is held until event time has come
to it, maybe for years: beyond so many, a line is a dead letter, reason `ahead`."""

_BEFORE_ALL: Final = -(1 << 63)

_COLUMNS: Final = len(Increment._fields) - 2
_PAGE_LOADS, _CLICKS, _UNIQUE_USER_CLICKS, _RELATED_CLICKS, _CLICKED_PAGE_LOADS = range(_COLUMNS)


class Fold:
    """Folds the lines of any number of logs over one working state."""

    def __init__(self, rules: Rules, zone: tzinfo) -> None:
        self._rules = rules
        self._lateness = rules.allowed_lateness_us
        self._window = rules.attribution_window_us
        self._decode = Decoder(zone).decode
        self._logs: dict[int, LogState] = {}
        self._open_from = _BEFORE_ALL  # for lines before it, too much is forgotten
        # The key is the visit. A visit that was loaded once and never clicked, as most are, is
        # held as that instant alone.
        self._visits: dict[str, machine.Visit | int] = {}
        self._visits_by_minute: defaultdict[int, list[str]] = defaultdict(list)
        self._users_by_hour: defaultdict[int, set[tuple[int, int]]] = defaultdict(set)
        self._counts: defaultdict[int, defaultdict[int, list[int]]] = defaultdict(_no_rows)

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
        it, if that is None.
        """
        log = self._logs[log_id] = LogState(log_id, checkpoint, names, starts_at)
        return log

    def release(self, log: LogState) -> None:
        """Let go of a log that is not read on; its visits stay."""
        del self._logs[log.log_id]

    def first_instant(self, chunk: Lines) -> int | None:
        """Return the earliest instant of a log's first run; None while the run is not complete.

        Before that, the next line may be earlier still.
        """
        events = (event for event in self._decode(chunk.lines) if isinstance(event, tuple))
        run = [event[-1] for event in islice(events, RUN_LINES)]
        return min(run) if len(run) == RUN_LINES else None

    def recall(self, log: LogState, offset: int, line: bytes) -> None:
        """Fold in again a line that starts at one of the `ahead_offsets` of the checkpoint."""
        for event in self._decode([line]):
            if isinstance(event, tuple):
                _, event_id, customer_id, user_id, _ = event
                self._apply(event, f"{customer_id} {user_id} {event_id}")
                insort(log.ahead, (event[-1], offset))

    def fold(self, log: LogState, chunk: Lines) -> None:  # noqa: C901 - runs for each line
        """Fold the next lines of a log into the working state and the batch in hand."""
        log.place_marker()
        if not chunk.lines:
            self._skip_overlong(log, chunk)
            return
        offsets = Offsets(chunk)
        visits, fresh = self._visits, list[str]()
        ignored, refused = list[str](), list[tuple[int, Refused]]()
        applied = duplicates = 0
        hour, rows = 0, self._counts[0]
        low, high = self._unremarkable(log.mark)
        for index, event in enumerate(self._decode(chunk.lines)):
            if not isinstance(event, tuple):
                if isinstance(event, Ignored):
                    ignored.append(event.event_type)
                else:
                    refused.append((index, event))
                continue
            is_click, event_id, customer_id, user_id, fired_at = event
            if not low <= fired_at <= high:
                far_off = self._move_watermark(log, fired_at, offsets, index)
                low, high = self._unremarkable(log.mark)
                if far_off:
                    refused.append((index, far_off))
                    continue
            key = f"{customer_id} {user_id} {event_id}"
            if is_click or key in visits or fired_at > high:
                if self._apply(event, key):
                    applied += 1
                else:
                    duplicates += 1
                continue
            # A visit's first page load, by far the most common event: its transition is known.
            visits[key] = fired_at
            fresh.append(key)
            if fired_at // HOUR_US != hour:
                hour = fired_at // HOUR_US
                rows = self._counts[hour]
            rows[customer_id][_PAGE_LOADS] += 1
        if log.mark.at is not None:  # else no line was unremarkable, and so no visit is fresh
            self._visits_by_minute[log.mark.at // MINUTE_US].extend(fresh)
        log.outcomes[APPLIED] += applied + len(fresh)
        log.outcomes[DUPLICATE] += duplicates
        log.set_aside(chunk, offsets, ignored, refused)
        log.lines += len(chunk.lines)
        log.offset = chunk.end

    def cut(self) -> Commit | None:
        """End the batch in hand, and return what it commits: None when it read nothing."""
        self._evict()
        logs = [log for _, log in sorted(self._logs.items()) if log.offset != log.from_offset]
        increments = sorted(
            Increment(customer_id, hour, *counts)
            for hour, rows in self._counts.items()
            for customer_id, counts in rows.items()
        )
        commit = Commit(tuple(increments), tuple(log.commit() for log in logs))
        self._counts.clear()
        for log in logs:
            log.start_batch()
        return commit if logs else None

    def _unremarkable(self, mark: Watermark) -> tuple[int, int]:
        """Return the first and last instant that need not be shown to the watermark."""
        if mark.at is None or mark.run:
            return 0, _BEFORE_ALL
        return max(mark.at - self._lateness, self._open_from), mark.at

    def _move_watermark(
        self, log: LogState, fired_at: int, offsets: Offsets, index: int
    ) -> Refused | None:
        """Show an event to the watermark; return why it is refused, if it is."""
        if is_late(log.mark, fired_at, self._lateness):
            return _LATE
        log.mark = advance(log.mark, fired_at, self._lateness)
        if fired_at < self._open_from:
            return _FORGOTTEN
        if log.mark.at is None or fired_at > log.mark.at:
            if log.ahead_lines >= MAX_AHEAD_LINES:
                return _AHEAD
            insort(log.ahead, (fired_at, offsets.of(index)))
        return None

    def _apply(self, event: Event, key: str) -> bool:
        """Count an event, and remember it. False when it is a duplicate."""
        is_click, _, customer_id, user_id, fired_at = event
        visit = self._visits.get(key)
        if visit is None:
            self._visits_by_minute[fired_at // MINUTE_US].append(key)
            visit = machine.NEW_VISIT
        elif isinstance(visit, int):
            visit = ((visit,), ())
        step = machine.click if is_click else machine.load_page
        transition = step(visit, fired_at, self._window)
        if transition is None:
            return False
        self._visits[key], newly_related, newly_clicked = transition
        hour = fired_at // HOUR_US
        if is_click:
            self._counts[hour][customer_id][_CLICKS] += 1
            self._count_user(customer_id, user_id, hour)
        else:
            self._counts[hour][customer_id][_PAGE_LOADS] += 1
        for related in newly_related:
            self._counts[related // HOUR_US][customer_id][_RELATED_CLICKS] += 1
        for clicked in newly_clicked:
            self._counts[clicked // HOUR_US][customer_id][_CLICKED_PAGE_LOADS] += 1
        return True

    def _count_user(self, customer_id: int, user_id: int, hour: int) -> None:
        users = self._users_by_hour[hour]
        if (customer_id, user_id) not in users:
            users.add((customer_id, user_id))
            self._counts[hour][customer_id][_UNIQUE_USER_CLICKS] += 1

    def _skip_overlong(self, log: LogState, chunk: Lines) -> None:
        length = chunk.end - chunk.offset - 1
        log.bury(
            DeadLetter(
                chunk.offset, length, "too_long", "as long as the unit of reading, or longer"
            )
        )
        log.lines += 1
        log.offset = chunk.end

    def _evict(self) -> None:
        """Forget what only late lines could need, once a minute of event time."""
        times = [log.event_time for log in self._logs.values()]
        known = [time for time in times if time is not None]
        if not known or len(known) < len(times):  # a log that may start anywhere
            return
        open_from = min(known) - self._lateness
        if open_from < self._open_from + MINUTE_US:
            return
        self._open_from = open_from
        self._evict_visits(open_from - self._window)
        for hour in [h for h in self._users_by_hour if h < open_from // HOUR_US]:
            del self._users_by_hour[hour]
        for log in self._logs.values():
            log.drop_before(self._rules.oldest_needed(min(known)))

    def _evict_visits(self, before: int) -> None:
        """Forget the instants of visits that lie `before`, and the visits that have no other."""
        for minute in [m for m in self._visits_by_minute if (m + 1) * MINUTE_US <= before]:
            for key in self._visits_by_minute.pop(minute):
                visit = self._visits.pop(key)
                if isinstance(visit, int):
                    continue
                kept = machine.forget(visit, before)
                if kept != machine.NEW_VISIT:
                    self._visits[key] = kept
                    oldest = min(kept[0] + kept[1])
                    self._visits_by_minute[oldest // MINUTE_US].append(key)


def _no_counts() -> list[int]:
    return [0] * _COLUMNS


def _no_rows() -> defaultdict[int, list[int]]:
    return defaultdict(_no_counts)
