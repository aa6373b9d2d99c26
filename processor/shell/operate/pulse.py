"""Whether the loops of this process still turn.

A loop that can last looks at its `Stop`, however little else it does. So a process in which nobody
looked at it for long would not stop either: it is stuck.
"""

import time
from collections.abc import Callable
from typing import Final

from processor.edges.notify import notify, watchdog_seconds
from processor.shell.stop import LOOK_SECONDS

STUCK_SECONDS: Final = 120.0
"""More than anything takes that a loop does between two looks: reading a large snapshot, say."""


class Pulse:
    """Beats when a loop turns, and tells systemd of it, if that has started the process."""

    def __init__(self, has_begun: Callable[[], bool]) -> None:
        self._has_begun = has_begun
        self._is_ready = False
        self._beat_at = time.monotonic()
        self._told_at = 0.0
        watchdog = watchdog_seconds()
        self.beat_seconds = LOOK_SECONDS if watchdog is None else min(watchdog / 3, LOOK_SECONDS)
        """How often a loop is to turn at least."""

    def beat(self) -> None:
        """Take note that a loop turns."""
        self._beat_at = now = time.monotonic()
        if not self._is_ready and self._has_begun():
            self._is_ready = True
            notify("READY=1")
        if now - self._told_at >= self.beat_seconds / 2:
            self._told_at = now
            notify("WATCHDOG=1")

    @property
    def is_alive(self) -> bool:
        """Whether a loop turned lately."""
        return time.monotonic() - self._beat_at < STUCK_SECONDS
