"""The working state and what a batch adds to the report: all visits that may still change.

A visit is held until `evict` is told that no line that comes can need it; so are the users who
clicked in an hour. What is held is a function of the events alone, and so are the increments.
Knows neither logs nor watermarks.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, groupby, islice, repeat
from typing import Final

from processor.core import machine
from processor.core.model import HOUR_US, MINUTE_US, Increment, Piece

_COLUMNS: Final = len(Increment._fields) - 2
_PAGE_LOADS, _CLICKS, _UNIQUE_USER_CLICKS, _RELATED_CLICKS, _CLICKED_PAGE_LOADS = range(_COLUMNS)

PIECE_ITEMS: Final = 20_000
"""Some megabytes: enough to lose no time between pieces, little beside what is held."""
_PIECE_OF_USERS: Final = 3


class Visits:
    """Counts events, each once. A visit is named by a string, its customer's id comes beside it."""

    def __init__(self, attribution_window_us: int) -> None:
        self._window = attribution_window_us
        # A visit that was loaded once and never clicked, as most are, is held as that instant.
        self._visits: dict[str, machine.Visit | int] = {}
        self._visits_by_minute: defaultdict[int, list[str]] = defaultdict(list)
        self._users_by_hour: defaultdict[int, set[tuple[int, int]]] = defaultdict(set)
        self._counts: defaultdict[int, defaultdict[int, list[int]]] = defaultdict(_no_rows)

    def __len__(self) -> int:
        return len(self._visits)

    def load_pages(self, page_loads: Iterable[tuple[str, int, int]], latest: int) -> int:
        """Count page loads (visit, customer, instant) that fired by `latest`; return how many.

        A visit's first page load is by far the most common event, and its transition is known.
        """
        visits, fresh, again = self._visits, list[str](), list[tuple[str, int, int]]()
        hour, next_hour, rows = 0, HOUR_US, self._counts[0]
        for visit, customer, fired_at in page_loads:
            if visit in visits:
                again.append((visit, customer, fired_at))
                continue
            visits[visit] = fired_at
            fresh.append(visit)
            if not hour <= fired_at < next_hour:
                hour = fired_at - fired_at % HOUR_US
                next_hour, rows = hour + HOUR_US, self._counts[hour // HOUR_US]
            rows[customer][_PAGE_LOADS] += 1
        self._visits_by_minute[latest // MINUTE_US].extend(fresh)
        return len(fresh) + sum([self.load_page(*event) for event in again])

    def load_page(self, visit: str, customer: int, fired_at: int) -> bool:
        """Count one page load; False when it is a duplicate."""
        transition = machine.load_page(self._state_of(visit, fired_at), fired_at, self._window)
        if transition is None:
            return False
        self._counts[fired_at // HOUR_US][customer][_PAGE_LOADS] += 1
        self._move(visit, customer, transition)
        return True

    def click(self, clicks: Iterable[tuple[str, int, int, int]]) -> int:
        """Count clicks (visit, customer, user, instant); return how many are no duplicates.

        Most are the first on a visit's only page load: again, that transition is known.
        """
        visits, window, applied = self._visits, self._window, 0
        for visit, customer, user, fired_at in clicks:
            state = visits.get(visit)
            if type(state) is int and 0 <= fired_at - state <= window:
                transition: machine.Transition | None
                transition = ((state,), (fired_at,)), (fired_at,), (state,)
            else:
                transition = machine.click(self._state_of(visit, fired_at), fired_at, window)
            if transition is None:
                continue
            applied += 1
            self._move(visit, customer, transition)
            hour = fired_at // HOUR_US
            self._counts[hour][customer][_CLICKS] += 1
            users = self._users_by_hour[hour]
            if (customer, user) not in users:
                users.add((customer, user))
                self._counts[hour][customer][_UNIQUE_USER_CLICKS] += 1
        return applied

    def increments(self) -> tuple[Increment, ...]:
        """Return what was counted since the last call, in ascending order."""
        increments = sorted(
            Increment(customer, hour, *counts)
            for hour, rows in self._counts.items()
            for customer, counts in rows.items()
        )
        self._counts.clear()
        return tuple(increments)

    def evict(self, open_from: int) -> None:
        """Forget what only events that fired before `open_from` could need."""
        self._evict_visits(open_from - self._window)
        for hour in [h for h in self._users_by_hour if h < open_from // HOUR_US]:
            del self._users_by_hour[hour]

    def pieces(self) -> Iterator[Piece]:
        """Yield all that is held, in pieces of at most `PIECE_ITEMS` visits or users.

        A piece of visits is [visits, instants, repeats, clicked visits, their states]. Its `visits`
        were loaded once and never clicked: the first at `instants[0]`, and so were the others of
        the first `repeats[0]`. A piece of users is [hour, customers, users].
        """
        held = iter(self._visits.items())
        while some := list(islice(held, PIECE_ITEMS)):
            yield _piece_of(some)
        for hour, pairs in self._users_by_hour.items():
            users = iter(sorted(pairs))
            while batch := list(islice(users, PIECE_ITEMS)):
                yield [hour, *map(list, zip(*batch, strict=True))]

    def restore(self, pieces: Iterable[Piece]) -> None:
        """Take up all that was held, from the `pieces` that were yielded then."""
        for piece in pieces:
            if len(piece) == _PIECE_OF_USERS:
                hour, customers, users = piece
                self._users_by_hour[hour].update(zip(customers, users, strict=True))
            else:
                self._restore_visits(*piece)

    def _restore_visits(
        self,
        visits: list[str],
        instants: list[int],
        repeats: list[int],
        clicked: list[str],
        states: list[machine.Visit],
    ) -> None:
        # Visits of one instant share its number again, as when they were folded.
        each = chain.from_iterable(map(repeat, instants, repeats))
        self._visits.update(zip(visits, each, strict=True))
        start = 0
        for fired_at, end in zip(instants, accumulate(repeats), strict=True):
            self._visits_by_minute[fired_at // MINUTE_US] += visits[start:end]
            start = end
        for visit, (page_loads, clicks) in zip(clicked, states, strict=True):
            self._visits[visit] = tuple(page_loads), tuple(clicks)
            self._visits_by_minute[min(page_loads + clicks) // MINUTE_US].append(visit)

    def _state_of(self, visit: str, fired_at: int) -> machine.Visit:
        state = self._visits.get(visit)
        if state is None:
            self._visits_by_minute[fired_at // MINUTE_US].append(visit)
            return machine.NEW_VISIT
        return ((state,), ()) if isinstance(state, int) else state

    def _move(self, visit: str, customer: int, transition: machine.Transition) -> None:
        self._visits[visit], newly_related, newly_clicked = transition
        for related in newly_related:
            self._counts[related // HOUR_US][customer][_RELATED_CLICKS] += 1
        for clicked in newly_clicked:
            self._counts[clicked // HOUR_US][customer][_CLICKED_PAGE_LOADS] += 1

    def _evict_visits(self, before: int) -> None:
        """Forget the instants of visits that lie `before`, and the visits that have no other."""
        for minute in [m for m in self._visits_by_minute if (m + 1) * MINUTE_US <= before]:
            for visit in self._visits_by_minute.pop(minute):
                state = self._visits.pop(visit)
                if isinstance(state, int) or max(state[0] + state[1]) < before:
                    continue
                kept = self._visits[visit] = machine.forget(state, before)
                oldest = min(kept[0] + kept[1])
                self._visits_by_minute[oldest // MINUTE_US].append(visit)


def _piece_of(held: Sequence[tuple[str, machine.Visit | int]]) -> Piece:
    instants, repeats = list[object](), list[int]()
    for state, same in groupby(state for _, state in held if type(state) is int):
        instants.append(state)
        repeats.append(len(list(same)))
    clicked = [(visit, state) for visit, state in held if type(state) is not int]
    return [
        [visit for visit, state in held if type(state) is int],
        instants,
        repeats,
        [visit for visit, _ in clicked],
        [state for _, state in clicked],
    ]


def _no_counts() -> list[int]:
    return [0] * _COLUMNS


def _no_rows() -> defaultdict[int, list[int]]:
    return defaultdict(_no_counts)
