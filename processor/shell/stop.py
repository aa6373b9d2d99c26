"""What asks a loop to end, and how long a loop waits that tries something again."""

import random
import time
from collections.abc import Iterator
from typing import Final

POLL_SECONDS: Final = 0.1
_FIRST_RETRY_SECONDS: Final = 0.1
_LAST_RETRY_SECONDS: Final = 30.0


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


def back_off() -> Iterator[float]:
    """Yield seconds to wait: doubling up to a bound, with jitter so that many do not meet."""
    seconds = _FIRST_RETRY_SECONDS
    while True:
        yield seconds * random.uniform(0.5, 1)  # noqa: S311 - jitter is no secret
        seconds = min(2 * seconds, _LAST_RETRY_SECONDS)
