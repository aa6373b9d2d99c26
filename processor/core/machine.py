"""The state machine of one visit: which clicks relate to which page loads.

A visit is (`customer_id`, `user_id`, `event_id`). Its state is the set of instants at which it was
loaded and clicked. A click is *related* when a page load of the visit fired 0 to `window` before
it; that page load is then *clicked*. Each event is counted as related or clicked once, at the
transition at which it becomes so, whichever of the two events arrives first: any order of the
same events gives the same sum of increments.

Pure: state and event in, state and increments out.
"""

from collections.abc import Sequence
from typing import Final

Visit = tuple[tuple[int, ...], tuple[int, ...]]
"""The distinct instants at which a visit was loaded, and those at which it was clicked."""

Transition = tuple[Visit, Sequence[int], Sequence[int]]
"""What an event did: the new state, the clicks that became related by it, and the page loads that
became clicked by it."""

NEW_VISIT: Final[Visit] = ((), ())


def load_page(visit: Visit, fired_at: int, window: int) -> Transition | None:
    """Apply a page load. None when the visit already holds it: a duplicate."""
    page_loads, clicks = visit
    if fired_at in page_loads:
        return None
    after = _within(clicks, fired_at, fired_at + window)
    newly_related = [
        click for click in after if not (page_loads and _within(page_loads, click - window, click))
    ]
    newly_clicked = [fired_at] if after else []
    return ((*page_loads, fired_at), clicks), newly_related, newly_clicked


def click(visit: Visit, fired_at: int, window: int) -> Transition | None:
    """Apply a click. None when the visit already holds it: a duplicate."""
    page_loads, clicks = visit
    if fired_at in clicks:
        return None
    before = _within(page_loads, fired_at - window, fired_at)
    newly_related = [fired_at] if before else []
    newly_clicked = [
        load for load in before if not (clicks and _within(clicks, load, load + window))
    ]
    return (page_loads, (*clicks, fired_at)), newly_related, newly_clicked


def forget(visit: Visit, before: int) -> Visit:
    """Return the visit without the instants that lie `before`."""
    page_loads, clicks = visit
    return (
        tuple([load for load in page_loads if load >= before]),
        tuple([click for click in clicks if click >= before]),
    )


def _within(instants: tuple[int, ...], first: int, last: int) -> list[int]:
    return [instant for instant in instants if first <= instant <= last]
