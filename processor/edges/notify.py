"""Tells systemd how it goes with its service, if that is who started this process.

The protocol is one datagram a message; see sd_notify(3). What cannot be sent is let go: the service
manager acts on what it does not hear.
"""

import os
import socket
from contextlib import suppress


def notify(state: str) -> None:
    """Send a state, as `READY=1`, to the service manager; do nothing without one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto(state.encode(), address.replace("@", "\0", 1))


def watchdog_seconds() -> float | None:
    """Return how often the service manager wants to hear `WATCHDOG=1` at least, None if never."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        return int(os.environ["WATCHDOG_USEC"]) / 1e6 or None
    except (KeyError, ValueError):
        return None
