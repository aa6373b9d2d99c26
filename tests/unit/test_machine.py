"""One visit: every transition that there is, instants in minutes, a window of 30."""

import itertools

import pytest

from processor.core.machine import NEW_VISIT, click, forget, load_page

WINDOW = 30
EVENTS = [(load_page, 0), (load_page, 20), (click, 30), (click, 45)]


def visit(loads=(), clicks=()):
    return tuple(loads), tuple(clicks)


def after_one(step, before, fired_at):
    """Return the state, and what became related and clicked; None of a duplicate."""
    transition = step(before, fired_at, WINDOW)
    return transition and (transition[0], *map(tuple, transition[1:]))


@pytest.mark.parametrize(
    ("before", "fired_at", "after", "related", "clicked"),
    [
        (NEW_VISIT, 0, visit([0]), (), ()),
        (visit([0]), 5, visit([0, 5]), (), ()),
        (visit([5]), 0, visit([5, 0]), (), ()),
        (visit([], [0]), 0, visit([0], [0]), (0,), (0,)),
        (visit([], [30]), 0, visit([0], [30]), (30,), (0,)),
        (visit([], [31]), 0, visit([0], [31]), (), ()),
        (visit([], [0]), 1, visit([1], [0]), (), ()),
        (visit([], [3, 1, 2, 40]), 0, visit([0], [3, 1, 2, 40]), (3, 1, 2), (0,)),
        (visit([1], [2]), 0, visit([1, 0], [2]), (), (0,)),
        (visit([0], [2, 31]), 1, visit([0, 1], [2, 31]), (31,), (1,)),
        (visit([0], [0]), 0, None, None, None),
    ],
)
def test_a_page_load_relates_the_clicks_that_it_explains_first(
    before, fired_at, after, related, clicked
):
    """Only clicks that no other page load of the visit explained become related."""
    expected = after and (after, related, clicked)
    assert after_one(load_page, before, fired_at) == expected


@pytest.mark.parametrize(
    ("before", "fired_at", "after", "related", "clicked"),
    [
        (NEW_VISIT, 0, visit([], [0]), (), ()),
        (visit([0]), 0, visit([0], [0]), (0,), (0,)),
        (visit([0]), 30, visit([0], [30]), (30,), (0,)),
        (visit([0]), 31, visit([0], [31]), (), ()),
        (visit([1]), 0, visit([1], [0]), (), ()),
        (visit([0], [1]), 2, visit([0], [1, 2]), (2,), ()),
        (visit([0], [31]), 30, visit([0], [31, 30]), (30,), (0,)),
        (visit([0, 9], [5]), 10, visit([0, 9], [5, 10]), (10,), (9,)),
        (visit([9, 0, 4]), 10, visit([9, 0, 4], [10]), (10,), (9, 0, 4)),
        (visit([0], [1]), 1, None, None, None),
    ],
)
def test_a_click_marks_the_page_loads_that_it_is_the_first_to_answer(
    before, fired_at, after, related, clicked
):
    """A page load becomes clicked once, however many clicks follow it."""
    expected = after and (after, related, clicked)
    assert after_one(click, before, fired_at) == expected


@pytest.mark.parametrize(
    "order",
    list(itertools.permutations([(load_page, 0), (load_page, 20), (click, 30), (click, 45)])),
)
def test_any_order_of_the_same_events_gives_the_same_increments(order):
    """Both clicks are related and both page loads clicked, each exactly once."""
    state, related, clicked = NEW_VISIT, [], []
    for step, fired_at in order:
        state, newly_related, newly_clicked = step(state, fired_at, WINDOW)
        related += newly_related
        clicked += newly_clicked
    assert (sorted(related), sorted(clicked)) == ([30, 45], [0, 20])


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        (0, visit([0, 20], [30, 45])),
        (1, visit([20], [30, 45])),
        (20, visit([20], [30, 45])),
        (31, visit([], [45])),
        (46, NEW_VISIT),
    ],
)
def test_a_visit_forgets_what_lies_before_the_horizon_alone(before, kept):
    """An instant on the horizon is kept; a visit without instants is a new one."""
    assert forget(visit([0, 20], [30, 45]), before) == kept
