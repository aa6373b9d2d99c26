"""The loop: read, fold, commit, and again. The only place that waits and retries.

Reads the log that is furthest behind in event time first, so that the working state of all stays
small. A batch ends at `batch_lines` or `batch_seconds`, whichever comes first, and is committed by
a thread of its own while the next one is folded: at most one commit is under way.
"""

import gc
import logging
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from processor.core.fold import Fold
from processor.core.log import LogState
from processor.core.model import Checkpoint, Commit
from processor.edges.source import LogReader
from processor.edges.store import ConnectionLostError, Store, StoredLog
from processor.errors import LogError
from processor.shell.settings import RunSettings

POLL_SECONDS: Final = 0.1
SUMMARY_SECONDS: Final = 30.0
_COLLECT_AFTER_OBJECTS: Final = 200_000
"""A batch makes many short-lived tuples and no cycles: looking for some every 700 objects, as
Python does, costs a tenth of the fold."""
_FIRST_RETRY_SECONDS: Final = 0.1
_LAST_RETRY_SECONDS: Final = 30.0

_log = logging.getLogger(__name__)


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


class OpenLog(NamedTuple):
    """A log that is read: its file, and what the fold knows of it."""

    reader: LogReader
    state: LogState


class Daemon:
    """Folds logs into the store, until they are at their end (`once`) or a stop is asked for.

    `progress` is told the bytes accounted for, and how many there are, after each read.
    """

    def __init__(
        self,
        store: Store,
        settings: RunSettings,
        stop: Stop,
        progress: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._stop = stop
        self._progress = progress
        self._fold = Fold(settings.rules, settings.zone)
        self._logs: dict[Path, OpenLog] = {}
        self._waiting_for: set[Path] = set()
        self._batch_started = 0.0
        self._summary = _Summary()
        self._committer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commit")
        self._committing: Future[bool] | None = None

    @property
    def open_visits(self) -> int:
        """How many visits the working state holds."""
        return self._fold.open_visits

    def run(self) -> None:
        """Run until done.

        Raises:
            ProcessorError: what the loop cannot mend by waiting.

        """
        gc.freeze()
        gc.set_threshold(_COLLECT_AFTER_OBJECTS)
        try:
            self._store.adopt(self._settings.rules)
            self._open_logs()
            while not self._stop.requested:
                found = self._fold_next_lines()
                if self._batch_is_due():
                    self._commit()
                if not found:
                    if self._settings.once:
                        break
                    self._stop.wait(POLL_SECONDS)
                    if self._finish_commit():
                        self._when_connected(self._open_logs)
            self._commit()
            self._finish_commit()
        finally:
            self._committer.shutdown()
            for log in self._logs.values():
                log.reader.close()
        self._summary.tell()

    def _open_logs(self) -> None:
        """Open the logs that are there by now, and fold their working state again."""
        there = [p for p in self._settings.logs if p not in self._logs and self._is_there(p)]
        if not there:
            return
        self._commit()  # a rebuild drops the batch in hand
        if not self._finish_commit():
            return
        stored = {path: self._store.open_log(str(path)) for path in there}
        opened = [path for path in stored if self._open(path, stored[path])]
        for path in opened:
            self._rebuild(self._logs[path], stored[path].checkpoint)

    def _is_there(self, path: Path) -> bool:
        """Whether a log can be opened; a file that was empty when last seen must have grown."""
        if path.exists():
            return path not in self._waiting_for or path.stat().st_size > 0
        if self._settings.once:
            raise LogError(f"{path}: there is no such file. Check the path")
        if path not in self._waiting_for:
            self._waiting_for.add(path)
            _log.info("%s: not there yet; waiting for it", path)
        return False

    def _open(self, path: Path, stored: StoredLog) -> bool:
        """Open a log, unless it is empty: until its first line it holds no other log back."""
        reader = LogReader(path, stored.checkpoint.rebuild_from)
        if reader.size_bytes() == stored.checkpoint.byte_offset == 0:
            reader.close()
            self._waiting_for.add(path)
            return False
        state = self._fold.open(stored.log_id, stored.checkpoint, stored.names)
        self._logs[path] = OpenLog(reader, state)
        return True

    def _rebuild(self, log: OpenLog, checkpoint: Checkpoint) -> None:
        """Fold the working state of a log again, committing nothing of it."""
        for offset in checkpoint.ahead_offsets:
            self._fold.recall(log.state, offset, log.reader.line_at(offset))
        while log.state.offset < checkpoint.byte_offset:
            if self._stop.requested:
                return
            lines = log.reader.read(end=checkpoint.byte_offset)
            if lines is None:
                break
            self._fold.fold(log.state, lines)
            self._fold.cut()
        if (log.state.offset, log.state.mark.at) != (checkpoint.byte_offset, checkpoint.watermark):
            raise LogError(
                f"{log.reader.path}: is not the log that its checkpoint at byte "
                f"{checkpoint.byte_offset} was made from; it was changed or replaced. Put it back, "
                "or make the report anew with `processor replay`"
            )

    def _fold_next_lines(self) -> bool:
        """Fold the next lines of the log that is furthest behind; False when none has any."""
        most = self._settings.batch_lines - self._fold.batch_lines
        for log in sorted(self._logs.values(), key=_event_time):
            if lines := log.reader.read(most):
                if self._fold.batch_lines == 0:
                    self._batch_started = time.monotonic()
                self._fold.fold(log.state, lines)
                self._tell_progress()
                return True
        return False

    def _batch_is_due(self) -> bool:
        lines = self._fold.batch_lines
        age = time.monotonic() - self._batch_started
        return lines >= self._settings.batch_lines or (
            lines > 0 and age >= self._settings.batch_seconds
        )

    def _commit(self) -> None:
        """Begin to commit the batch in hand, once the one before it is committed."""
        commit = self._fold.cut()
        if commit is not None and self._finish_commit():
            self._committing = self._committer.submit(self._send, commit)

    def _finish_commit(self) -> bool:
        """Wait for the commit under way; False when a stop made it drop its batch."""
        return self._committing is None or self._committing.result()

    def _send(self, commit: Commit) -> bool:
        """Commit a batch, however often the connection breaks; drop it on a stop."""
        sent = False

        def send() -> None:
            nonlocal sent
            if not (sent and self._store.reconcile(commit)):
                sent = True
                self._store.commit(commit)

        if not self._when_connected(send):
            return False
        self._summary.add(commit)
        return True

    def _when_connected(self, act: Callable[[], None]) -> bool:
        """Act, again and again while the connection breaks; False when a stop ended that."""
        for wait_seconds in _back_off():
            try:
                act()
            except ConnectionLostError as error:
                _log.warning("%s; trying again", error)
                if self._stop.wait(wait_seconds):
                    break
            else:
                return True
        return False

    def _tell_progress(self) -> None:
        logs = self._logs.values()
        self._progress(
            sum(log.state.offset for log in logs), sum(log.reader.size_bytes() for log in logs)
        )


def _event_time(log: OpenLog) -> tuple[bool, int]:
    at = log.state.mark.at
    return (at is not None, at or 0)


def _back_off() -> Iterator[float]:
    """Yield seconds to wait: doubling up to a bound, with jitter so that many do not meet."""
    seconds = _FIRST_RETRY_SECONDS
    while True:
        yield seconds * random.uniform(0.5, 1)  # noqa: S311 - jitter is no secret
        seconds = min(2 * seconds, _LAST_RETRY_SECONDS)


class _Summary:
    """Says what was committed, at most every `SUMMARY_SECONDS`."""

    def __init__(self) -> None:
        self._told = time.monotonic()
        self._lines = self._dead_letters = self._batches = 0

    def add(self, commit: Commit) -> None:
        """Take up a commit."""
        self._lines += commit.lines
        self._dead_letters += sum(len(log.dead_letters) for log in commit.logs)
        self._batches += 1
        if time.monotonic() - self._told >= SUMMARY_SECONDS:
            self.tell()

    def tell(self) -> None:
        """Say what was committed since this process started."""
        self._told = time.monotonic()
        _log.info(
            "committed %d lines, %d of them dead letters, in %d batches",
            self._lines,
            self._dead_letters,
            self._batches,
        )
