"""Tries again what the database cannot do for the time being."""

import logging
import random
from collections.abc import Callable, Iterator
from typing import Final

from processor.edges.session import ConnectionLostError, DiskFullError
from processor.shell.stop import Stop

_FIRST_RETRY_SECONDS: Final = 0.1
_LAST_RETRY_SECONDS: Final = 30.0

_log = logging.getLogger(__name__)


def when_connected(act: Callable[[], object], stop: Stop, *, is_patient: bool = True) -> bool:
    """Act, again and again while the connection breaks; False when a stop ended that."""
    passes = (ConnectionLostError, DiskFullError) if is_patient else ConnectionLostError
    for wait_seconds in _back_off():
        try:
            act()
        except passes as error:
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
