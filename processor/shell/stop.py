"""What asks a loop to end."""

import time
from typing import Final

POLL_SECONDS: Final = 0.1


class Stop:
    """Asked for by a signal handler, looked at by the loop."""

    def __init__(self) -> None:
        self.requested = False

    def wait(self, seconds: float) -> bool:
        """Sleep, or less when a stop is asked for; return whether it is."""
        until = time.monotonic() + seconds
        while not self.requested and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, POLL_SECONDS))
        return self.requested
