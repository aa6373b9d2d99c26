"""Whether the loops of this process still turn.

A loop that can last looks at its `Stop`, however little else it does. So a process in which nobody
looked at it for long would not stop either: it is stuck.
"""

import time
from typing import Final

from processor.edges.notify import notify, watchdog_seconds

BEAT_SECONDS: Final = 10.0
"""A loop that waits wakes up as often as this."""
STUCK_SECONDS: Final = 120.0
"""More than anything takes that a loop does between two looks: reading a large snapshot, say."""


class Pulse:
    """Beats when a loop turns, and tells the watchdog of systemd, if there is one."""

    def __init__(self) -> None:
        self._beat_at = time.monotonic()
        every = watchdog_seconds()
        self._tell_every = None if every is None else every / 3
        self._told_at = 0.0

    def beat(self) -> None:
        """Take note that a loop turns."""
        self._beat_at = now = time.monotonic()
        if self._tell_every is not None and now - self._told_at >= self._tell_every:
            self._told_at = now
            notify("WATCHDOG=1")

    @property
    def silent_seconds(self) -> float:
        """For how long no loop has turned."""
        return time.monotonic() - self._beat_at

    @property
    def is_alive(self) -> bool:
        """Whether a loop turned lately."""
        return self.silent_seconds < STUCK_SECONDS
