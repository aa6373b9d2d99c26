"""What asks a loop to end."""

import time
from collections.abc import Callable
from typing import Final

POLL_SECONDS: Final = 0.1


class Stop:
    """Asked for by a signal handler, looked at by each loop, which is told to `on_look`."""

    def __init__(self, on_look: Callable[[], None] = lambda: None) -> None:
        self._on_look = on_look
        self._requested = False

    @property
    def requested(self) -> bool:
        """Whether to end."""
        self._on_look()
        return self._requested

    @requested.setter
    def requested(self, requested: bool) -> None:
        self._requested = requested

    def wait(self, seconds: float) -> bool:
        """Sleep, or less when a stop is asked for; return whether it is."""
        until = time.monotonic() + seconds
        while not self.requested and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, POLL_SECONDS))
        return self.requested
