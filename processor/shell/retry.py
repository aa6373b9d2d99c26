"""Tries again what the database cannot do for the time being."""

import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from typing import Final

from processor.edges.session import ConnectionLostError, DiskFullError
from processor.shell.stop import Stop

PATIENCE_SECONDS: Final = 30.0
"""So long who has an end, and somebody who waits for it, tries again."""
_FIRST_RETRY_SECONDS: Final = 0.1
_LAST_RETRY_SECONDS: Final = 30.0

_log = logging.getLogger(__name__)


def when_connected(act: Callable[[], object], stop: Stop, *, is_patient: bool) -> bool:
    """Act, again and again while the database is away; False when a stop ended that.

    Who `is_patient` does so for ever, and waits for room on a full disk too.

    Raises:
        ConnectionLostError: the database was away for `PATIENCE_SECONDS`.
        DiskFullError: there was no room.

    """
    gives_up_at = math.inf
    for wait_seconds in _back_off():
        try:
            act()
        except (ConnectionLostError, DiskFullError) as error:
            if not is_patient:
                gives_up_at = min(gives_up_at, time.monotonic() + PATIENCE_SECONDS)
                if isinstance(error, DiskFullError) or time.monotonic() >= gives_up_at:
                    raise
            _log.warning("%s; trying again", error)
            if stop.wait(wait_seconds):
                break
        else:
            return True
    return False


def _back_off() -> Iterator[float]:
    """Yield seconds to wait: doubling up to a bound, with jitter so that many do not meet."""
    seconds = _FIRST_RETRY_SECONDS
    while True:
        yield seconds * random.uniform(0.5, 1)  # noqa: S311 - jitter is no secret
        seconds = min(2 * seconds, _LAST_RETRY_SECONDS)
