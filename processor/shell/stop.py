"""What asks a loop to end."""

import time
from collections.abc import Callable
from typing import Final, Self

POLL_SECONDS: Final = 0.1
LOOK_SECONDS: Final = 10.0


class Stop:
    """Asked for by a signal handler, looked at by each loop, which is told to `on_look`.

    Who is part of a `whole` ends with it. A loop that waits looks every `look_seconds` at least.
    """

    def __init__(
        self,
        whole: Self | None = None,
        on_look: Callable[[], None] = lambda: None,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._whole = whole
        self._on_look = on_look
        self.look_seconds = look_seconds
        self._requested = False

    @property
    def requested(self) -> bool:
        """Whether a stop is asked for."""
        self._on_look()
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
