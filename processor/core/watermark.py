"""How far event time has come in a log, decided by its lines alone.

The watermark is the latest instant that the log has vouched for:

- A line up to `allowed_lateness` ahead of it moves it. So one line, however wrong its clock, can
  never make a line late that is in order.
- A line further ahead is taken in but moves nothing: its clock may have gone wild. When
  `RUN_LINES` lines in a row are that far ahead, it is the log that has moved on (it was silent
  for a while), and the watermark moves to the earliest of them: what is in the run has a good
  clock or a fast one. A line near the watermark in between starts the run anew; a late one says
  nothing about the present, and does not.
- A log starts without a watermark, so that its first line may be a wild one. Until a first run
  is complete, nothing is late. It may hold fast clocks and slow ones, so its median counts.

Neither batches nor the wall clock are known here, so a replay decides as the daemon did.
"""

from statistics import median_low
from typing import Final, NamedTuple

RUN_LINES: Final = 32
"""How many lines in a row must be far ahead to be believed. More would make a sparse log's
watermark lag, fewer would believe a burst of lines from one bad clock among several."""


class Watermark(NamedTuple):
    """The watermark `at`, and the instants of the run of lines that are far ahead of it."""

    at: int | None = None
    run: tuple[int, ...] = ()


def is_late(mark: Watermark, fired_at: int, allowed_lateness: int) -> bool:
    """Whether a line is more than `allowed_lateness` behind the watermark."""
    return mark.at is not None and fired_at < mark.at - allowed_lateness


def advance(mark: Watermark, fired_at: int, allowed_lateness: int) -> Watermark:
    """Return the watermark after a line that is not late."""
    if mark.at is not None and fired_at <= mark.at + allowed_lateness:
        return Watermark(max(mark.at, fired_at))
    run = (*mark.run, fired_at)
    if len(run) < RUN_LINES:
        return Watermark(mark.at, run)
    return Watermark(median_low(run) if mark.at is None else min(run))


def advance_all(mark: Watermark, first: int, last: int, allowed_lateness: int) -> Watermark | None:
    """Return the watermark after lines that fired between `first` and `last`, in whatever order.

    None when the order matters, because one of them may be late or far ahead.
    """
    if mark.at is None or mark.run or last > mark.at + allowed_lateness:
        return None
    at = max(mark.at, last)
    return Watermark(at) if first >= at - allowed_lateness else None
