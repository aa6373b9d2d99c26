"""Waits until a log may have changed, a signal came, or time is up, and sleeps meanwhile.

inotify tells of what this machine writes. It does not where others write, as on a network file
system, nor where no watch is to be had; there the files are looked at every `POLL_SECONDS`, and all
of them every `CHECK_SECONDS`, in case that a folder on the way to one was exchanged.

Waking up promises nothing. What it does promise: whatever happens after `wait` has returned, and
before it is called again, ends the next one. So who reads after it misses nothing.
"""

import math
import os
import re
import select
import signal
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from inotify_simple import INotify, flags

PACE_SECONDS: Final = 0.1
"""At least so long from one change that is told to the next, so that a log that is written to all
the time is not read line by line."""
POLL_SECONDS: Final = 0.5
CHECK_SECONDS: Final = 60.0

_FILE: Final = flags.MODIFY | flags.MOVE_SELF | flags.DELETE_SELF
_FOLDER: Final = (
    flags.CREATE | flags.MOVED_TO | flags.MOVED_FROM | flags.DELETE
    | flags.MOVE_SELF | flags.DELETE_SELF | flags.ONLYDIR
)  # fmt: skip
_LOCAL: Final = frozenset(
    ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs")
)
"""File systems that only this machine writes to. Any other may be written to from elsewhere."""


class Watch:
    """Watches files, there or not yet. Signals end a wait if it was made by the main thread."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._names: set[str] = set()
        self._watched: set[int] = set()
        self._told_of_all = False
        self._not_before = 0.0
        # Python writes to it when a signal comes. A handler alone would not end a wait: of a signal
        # that comes just before, it runs just after.
        self._signals, self._on_signal = os.pipe()
        os.set_blocking(self._signals, False)
        os.set_blocking(self._on_signal, False)
        self._in_main = threading.current_thread() is threading.main_thread()
        if self._in_main:
            self._former = signal.set_wakeup_fd(self._on_signal, warn_on_full_buffer=False)
        self._resting, self._waiting = select.poll(), select.poll()
        self._resting.register(self._signals, select.POLLIN)
        self._waiting.register(self._signals, select.POLLIN)
        self._inotify = _inotify() if self._paths else None
        if self._inotify is not None:
            self._waiting.register(self._inotify, select.POLLIN)
        self._watch()
        self._seen = self._look()

    def close(self) -> None:
        """Let go of everything."""
        if self._in_main:
            signal.set_wakeup_fd(self._former)
        os.close(self._signals)
        os.close(self._on_signal)
        if self._inotify is not None:
            self._inotify.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def follow(self, paths: Iterable[Path]) -> None:
        """Watch these files from now on; if they are others than before, the next wait is short."""
        paths = tuple(paths)
        if paths != self._paths:
            self._paths = paths
            self._watch()
            self._seen = []

    def wait(self, seconds: float | None = None) -> None:
        """Wait until a file may have changed or a signal came, but no longer than `seconds`."""
        until = math.inf if seconds is None else time.monotonic() + seconds
        while not self._wakes_up(until):
            pass

    def _wakes_up(self, until: float) -> bool:
        """Sleep, and return whether there is a reason to go on."""
        _sleep(self._resting, min(self._not_before, until))
        signalled = self._signalled()
        if not signalled:
            every_seconds = CHECK_SECONDS if self._told_of_all else POLL_SECONDS
            _sleep(self._waiting, min(time.monotonic() + every_seconds, until))
            signalled = self._signalled()
        now = time.monotonic()
        self._not_before = now + PACE_SECONDS
        # Both are asked, so that neither keeps for the next wait what this one tells.
        told, changed = self._told(), self._seems_changed()
        return signalled or told or changed or now >= until

    def _signalled(self) -> bool:
        try:
            return bool(os.read(self._signals, 4096))
        except BlockingIOError:
            return False

    def _told(self) -> bool:
        """Whether inotify has told of one of the files; if one came or went, watch it anew."""
        if self._inotify is None:
            return False
        events = [
            event
            for event in self._inotify.read(timeout=0)
            if event.mask & flags.Q_OVERFLOW
            or (event.wd in self._watched and (not event.name or event.name in self._names))
        ]
        if any(event.mask != flags.MODIFY for event in events):
            self._watch()
        return bool(events)

    def _seems_changed(self) -> bool:
        """Whether the files are others, or of another length, than when last looked at."""
        seen, self._seen = self._seen, self._look()
        if [file[:2] for file in seen] != [file[:2] for file in self._seen]:
            self._watch()
        return seen != self._seen

    def _look(self) -> list[tuple[int, ...]]:
        return [_identity_and_size(path) for path in self._paths]

    def _watch(self) -> None:
        """Watch each file and its folder, and if it is a link, those that it leads to."""
        if self._inotify is None:
            return
        before, self._watched = self._watched, set()
        places = {place for path in self._paths for place in (path.absolute(), _real(path))}
        self._names = {place.name for place in places}
        told_of = [self._watch_one(self._inotify, place) for place in places]
        self._told_of_all = all(told_of)
        for watch in before - self._watched:
            with suppress(OSError):  # it ended with what it watched
                self._inotify.rm_watch(watch)

    def _watch_one(self, inotify: INotify, place: Path) -> bool:
        """Watch a file and its folder, and return whether that tells of all that happens to it."""
        there = []
        # The folder first, so that a file that comes between the two is told of.
        for path, events in ((place.parent, _FOLDER), (place, _FILE)):
            try:
                self._watched.add(inotify.add_watch(path, events))
            except FileNotFoundError:
                continue
            except OSError:
                return False  # no watch is left, or it must not be read
            there.append(path)
        return place.parent in there and _is_local(there[-1])


def _inotify() -> INotify | None:
    try:
        return INotify()
    except (OSError, AttributeError):  # too many of this user, or a system that has none
        return None


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises when links go round in circles


def _sleep(until_ready: select.poll, until: float) -> None:
    left = until - time.monotonic()
    until_ready.poll(None if left == math.inf else max(left, 0) * 1000)


def _identity_and_size(path: Path) -> tuple[int, ...]:
    """Return what tells a file from another, and its size; or why it cannot be had."""
    try:
        # Opened, since a network file system asks for the size anew when a file is opened.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return (-1, error.errno or 0, 0)
    try:
        status = os.fstat(file)
    finally:
        os.close(file)
    return (status.st_dev, status.st_ino, status.st_size)


def _is_local(path: Path) -> bool:
    """Whether a file or folder is on a file system that only this machine is known to write to."""
    try:
        place = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            info = Path(f"/proc/self/fdinfo/{place}").read_text(encoding="ascii")
        finally:
            os.close(place)
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    mount = re.search(r"^mnt_id:\s*(\d+)", info, re.MULTILINE)
    kind = re.search(rf"^{mount[1]} .* - (\S+)", mounts, re.MULTILINE) if mount else None
    return kind is not None and kind[1] in _LOCAL
