"""How far event time has come: tables of instants, in seconds."""

import pytest
from core_helpers import DAY, MINUTE, YEAR

from processor.core.watermark import RUN_LINES, Watermark, advance, is_late

LATENESS = 10 * MINUTE


def watermark_after(instants, mark=Watermark()):  # noqa: B008 - a value, never changed
    for fired_at in instants:
        if not is_late(mark, fired_at, LATENESS):
            mark = advance(mark, fired_at, LATENESS)
    return mark


@pytest.mark.parametrize(
    ("fired_at", "late"),
    [(0, False), (-LATENESS, False), (-LATENESS - 1, True), (YEAR, False), (-YEAR, True)],
)
def test_a_line_is_late_when_it_is_further_behind_than_allowed(fired_at, late):
    """The allowed lateness itself is still allowed."""
    assert is_late(Watermark(0), fired_at, LATENESS) is late


@pytest.mark.parametrize("fired_at", [-YEAR, 0, YEAR])
@pytest.mark.parametrize("run_lines", [0, 1, RUN_LINES - 1])
def test_nothing_is_late_before_the_first_run_is_complete(fired_at, run_lines):
    """A log without a watermark refuses no instant."""
    assert not is_late(Watermark(None, (0,) * run_lines), fired_at, LATENESS)


@pytest.mark.parametrize(
    ("instants", "watermark"),
    [
        ([], None),
        ([0] * (RUN_LINES - 1), None),
        ([0] * RUN_LINES, 0),
        (range(RUN_LINES), RUN_LINES // 2 - 1),
        (range(RUN_LINES, 0, -1), RUN_LINES // 2),
        ([YEAR, *range(RUN_LINES - 1)], RUN_LINES // 2 - 1),
        ([-YEAR, *range(RUN_LINES - 1)], RUN_LINES // 2 - 2),
        ([*[-YEAR] * 15, *[5] * 17], 5),
        ([*[YEAR] * 15, *[5] * 17], 5),
        ([YEAR, *range(RUN_LINES)], RUN_LINES - 1),
    ],
)
def test_a_log_starts_at_the_median_of_its_first_run(instants, watermark):
    """Wild clocks in the very first lines, fast or slow, do not move the watermark away."""
    assert watermark_after(instants).at == watermark


@pytest.mark.parametrize(
    ("instants", "watermark"),
    [
        ([0], 0),
        ([-LATENESS], 0),
        ([1], 1),
        ([5, 3], 5),
        ([LATENESS], LATENESS),
        ([LATENESS + 1], 0),
        ([LATENESS, 2 * LATENESS], 2 * LATENESS),
        ([YEAR] * (RUN_LINES - 1), 0),
        ([YEAR] * RUN_LINES, YEAR),
        ([*range(DAY + RUN_LINES, DAY, -1)], DAY + 1),
        ([*[YEAR] * (RUN_LINES - 1), 0, *[YEAR] * (RUN_LINES - 1)], 0),
        ([*[YEAR] * (RUN_LINES - 1), -DAY, YEAR], YEAR),
        ([*[YEAR] * RUN_LINES, 0], YEAR),
        ([YEAR, *range(DAY, DAY + RUN_LINES - 1)], DAY),
    ],
)
def test_the_watermark_follows_what_the_log_vouches_for(instants, watermark):
    """Lines within the lateness move it; others only when a run of them in a row agrees."""
    assert watermark_after(instants, Watermark(0)).at == watermark


def test_a_slow_clock_in_every_20th_line_makes_only_its_own_lines_late():
    """From the first line on, as a server that lost its battery writes them."""
    slow = -20 * YEAR
    instants = [slow if second % 20 == 0 else second for second in range(2_000)]
    assert watermark_after(instants).at == 1_999


def test_a_line_near_the_watermark_starts_the_run_anew():
    """What was far ahead before it leaves no trace."""
    mark = watermark_after([YEAR] * 5, Watermark(0))
    assert mark == Watermark(0, (YEAR,) * 5)
    assert watermark_after([1], mark) == Watermark(1)
