"""What asks a loop to end."""

import time
from typing import Final, Self

POLL_SECONDS: Final = 0.1


class Stop:
    """Asked for by a signal handler, looked at by the loop; who is part of a whole ends with it."""

    def __init__(self, whole: Self | None = None) -> None:
        self._whole = whole
        self._requested = False

    @property
    def requested(self) -> bool:
        """Whether a stop is asked for."""
        return self._requested or (self._whole is not None and self._whole.requested)

    @requested.setter
    def requested(self, requested: bool) -> None:
        self._requested = requested

    def wait(self, seconds: float) -> bool:
        """Sleep, or less when a stop is asked for; return whether it is."""
        until = time.monotonic() + seconds
        while not self.requested and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, POLL_SECONDS))
        return self.requested
