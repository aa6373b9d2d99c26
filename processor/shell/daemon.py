"""The loop: read, fold, commit, and again. The only place that waits and retries.

Reads the log that is furthest behind in event time first, so that the working state of all stays
small. A batch ends at `batch_lines` or `batch_seconds`, whichever comes first, and is committed by
a thread of its own while the next one is folded: at most one commit is under way.
"""

import gc
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from processor.core.decode import Decoder
from processor.core.fold import Fold, first_instant
from processor.core.model import HOUR_US, Checkpoint, Commit
from processor.edges.files import NotNowError, is_pattern, logs_of, size_of
from processor.edges.history import known_by, known_by_its_end
from processor.edges.source import ALL_LINES, DRAIN_SECONDS, LogReader
from processor.edges.store import ConnectionLostError, LogFiles, Store, StoredLog
from processor.edges.watch import Watch
from processor.errors import GoneError, LogError
from processor.shell.open_log import OpenLog, read_ahead
from processor.shell.settings import Beginning, RunSettings
from processor.shell.snapshots import Snapshots
from processor.shell.workers import Workers

POLL_SECONDS: Final = 0.1
SUMMARY_SECONDS: Final = 30.0
LOOK_SECONDS: Final = 1.0
_FIRST_LINES: Final = 1_000
"""Among so many is the first run of a log, but for odd ones, which cost memory only."""
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
        snapshots: Snapshots | None = None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._stop = stop
        self._progress = progress
        self._fold = Fold(settings.rules)
        self._snapshots = snapshots or Snapshots(None, settings.rules)
        self._decoder = Decoder(settings.zone)
        self._workers = Workers(settings.workers, settings.timezone)
        self._logs: dict[Path, OpenLog] = {}
        self._known: set[Path] = set()
        self._begins_at_end = settings.from_ == Beginning.END
        self._waiting_for: set[Path] = set()
        self._silent: dict[Path, int | None] = {}
        self._batch_started = 0.0
        self._look_at = 0.0
        self._summary = _Summary()
        self._committer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commit")
        self._committing: Future[bool] | None = None

    def run(self) -> None:
        """Run until done.

        Raises:
            ProcessorError: what the loop cannot mend by waiting.

        """
        gc.freeze()
        gc.set_threshold(_COLLECT_AFTER_OBJECTS)
        watch = Watch(() if self._settings.once else self._named())
        try:
            self._store.adopt(self._settings.rules)
            self._known = set(map(Path, self._store.known_paths()))
            self._open_logs()
            while not self._stop.requested:
                found = self._fold_next_chunk()
                if self._batch_is_due():
                    self._end_batch()
                if self._look_is_due(found) and self._look():
                    continue
                if not found:
                    if self._settings.once:
                        break
                    self._workers.rest()
                    self._finish_commit()  # if it fails, no change of a log would tell
                    watch.wait(self._seconds_until_due())
                    if self._finish_commit():
                        self._when_connected(self._open_more_logs)
                        watch.follow(self._named())
            self._commit()
            self._finish_commit()
            self._save_snapshot_if_due(at_end=True)
        finally:
            self._stop.requested = True  # nothing is tried again for a run that ends
            self._committer.shutdown()
            self._close_logs()
            watch.close()
        self._summary.tell()

    def _look_is_due(self, found: bool) -> bool:
        """Whether to look for rotated files: when there is nothing to read, and now and then."""
        return not found or time.monotonic() >= self._look_at

    def _look(self) -> bool:
        """Look whether logs were rotated; return whether there is more to read of one."""
        self._look_at = time.monotonic() + LOOK_SECONDS
        if not self._settings.once:
            self._close_silent()
        found = [log.reader.look() for log in self._logs.values()]
        for log in self._logs.values():
            log.tell()
        return any(found)

    def _open_more_logs(self) -> None:
        """Open the logs that came meanwhile; if that is not possible just now, all again later."""
        try:
            self._open_logs()
        except NotNowError as error:
            _log.warning("%s; trying again", error)
            self._close_logs()

    def _open_logs(self) -> None:
        """Open the logs that are there by now, and fold the working state of all of them again."""
        named = self._named()
        if self._settings.once and not named:
            raise LogError(f"{self._settings.logs[0]}: there is no such file. Check the pattern")
        there = [path for path in named if path in self._logs or self._is_there(path)]
        if len(there) == len(self._logs):
            return
        self._commit()  # a rebuild drops the batch in hand
        if not self._finish_commit():
            return
        stored = self._store.open_logs(map(str, there))
        if self._begins_at_end:
            stored |= {str(path): self._at_end(path, stored[str(path)]) for path in there}
        self._close_logs()
        self._fold = Fold(self._settings.rules)
        read_on = {
            path: stored.pop(str(path))
            for path in there
            if not self._is_empty(path, stored[str(path)].checkpoint)
        }
        others = {
            Path(path): log
            for path, log in stored.items()
            if Path(path) not in there and log.checkpoint.byte_offset > 0
        }
        if self._settings.once:
            others |= {path: log for path, log in read_on.items() if self._is_read(path, log)}
            read_on = {path: log for path, log in read_on.items() if path not in others}
            if not read_on:
                return
        else:
            others |= self._set_aside(read_on)
            read_on = {path: log for path, log in read_on.items() if path not in others}
        if not self._restore(read_on, others):
            self._rebuild(read_on, others)
        self._begins_at_end = False

    def _set_aside(self, logs: dict[Path, StoredLog]) -> dict[Path, StoredLog]:
        """Return the logs that are at their end and far behind: they wait until they grow."""
        newest = _newest(log.checkpoint.watermark for log in logs.values())
        silent = {
            path: log
            for path, log in logs.items()
            if self._is_far_behind(log.checkpoint.watermark, newest) and self._is_read(path, log)
        }
        self._silent = {path: size_of(path) for path in silent}
        return silent

    def _is_far_behind(self, event_time: int | None, newest: int) -> bool:
        needed = self._settings.rules.oldest_needed(newest)
        return event_time is not None and event_time < needed - HOUR_US

    def _close_silent(self) -> None:
        """Close logs that are at their end and far behind, so that they hold no state back."""
        times = {path: log.state.event_time for path, log in self._logs.items()}
        newest = _newest(times.values())
        for path, log in list(self._logs.items()):
            state = log.state
            is_committed = state.lines == 0 and not log.ahead
            if (
                is_committed
                and self._is_far_behind(times[path], newest)
                and log.reader.size_bytes() <= state.offset
            ):
                self._snapshots.let_go(path, state.log_id, state.offset)
                self._fold.release(state)
                self._logs.pop(path).reader.close()
                self._silent[path] = size_of(path)

    def _at_end(self, path: Path, log: StoredLog) -> StoredLog:
        """Have a log begin at its end if it is seen for the first time."""
        if log.checkpoint.byte_offset or log.files or (file := known_by_its_end(path)) is None:
            return log
        return log._replace(files=self._store.begin_at(log.log_id, file))

    def _named(self) -> list[Path]:
        """Return the logs to be read: those that are, and what the settings name by now."""
        named = logs_of(self._settings.logs, {*self._known, *self._logs})
        return list(dict.fromkeys([*self._logs, *named]))

    def _close_logs(self) -> None:
        self._workers.rest()
        for log in self._logs.values():
            log.reader.close()
        self._logs = {}

    def _is_there(self, path: Path) -> bool:
        """Whether a log can be opened; a file that was empty when last seen must have grown."""
        size_bytes = size_of(path)
        if path in self._silent:
            return size_bytes != self._silent[path]
        if size_bytes is not None:
            return size_bytes > 0 or path not in self._waiting_for
        if self._settings.once:
            raise LogError(f"{path}: there is no such file. Check the path")
        if path not in self._waiting_for:
            self._waiting_for.add(path)
            _log.info("%s: not there yet; waiting for it", path)
        return False

    def _is_empty(self, path: Path, checkpoint: Checkpoint) -> bool:
        """Whether a log has nothing yet; until its first line it holds no other log back."""
        if size_of(path) or checkpoint.byte_offset > 0:
            return False
        self._waiting_for.add(path)
        return True

    def _is_read(self, path: Path, log: StoredLog) -> bool:
        """Whether a log has no more lines than were read before."""
        reader = self._reader(path, log.checkpoint.byte_offset, log)
        try:
            return reader.read(1) is None
        finally:
            reader.close()

    def _rebuild(self, read_on: dict[Path, StoredLog], others: dict[Path, StoredLog]) -> None:
        """Fold the working state again, committing nothing of it.

        It must reach back as far as a line may that comes next in any log that is read on, and to
        the beginning if that is not known. A log that does not reach back so far from its
        `rebuild_from` is folded from its beginning, and `others`, which the report counts but this
        run does not read, are folded up to their checkpoint and let go.
        """
        newest = _newest(log.checkpoint.watermark for log in read_on.values())
        event_times = {path: self._event_time(path, log, newest) for path, log in read_on.items()}
        times = [time for time in event_times.values() if time is not None]
        all_known = times and len(times) == len(event_times)
        needed = self._settings.rules.oldest_needed(min(times)) if all_known else None
        let_go = others
        others = {path: log for path, log in others.items() if _matters(log, needed)}
        for path in [path for path in others if size_of(path) is None]:
            _log.warning("%s: is gone; what it shares with later lines is no longer known", path)
            let_go = {other: log for other, log in let_go.items() if other != path}
            del others[path]
        checkpoints: dict[Path, Checkpoint] = {}
        for path, log in (read_on | others).items():
            checkpoints[path] = log.checkpoint
            start = _reaching_back(log.checkpoint, needed)
            starts_at = event_times.get(path)
            starts_at = None if starts_at == log.checkpoint.watermark else starts_at
            try:
                reader = self._reader(path, start.rebuild_from, log)
            except GoneError as error:
                if not self._settings.accept_loss:
                    raise
                _log.warning("%s; going on without", error)
                checkpoints[path] = start = _without_state(log.checkpoint)
                reader = self._reader(path, start.rebuild_from, log)
            state = self._fold.open(log.log_id, start, log.names, starts_at)
            self._logs[path] = OpenLog(reader, state, deque())
        for path, checkpoint in checkpoints.items():
            self._recall(self._logs[path], checkpoint)
            self._fold_silently(self._logs[path], checkpoint)
        for path in others:
            self._fold.release(self._logs[path].state)
            self._logs.pop(path).reader.close()
        if not self._stop.requested:
            self._snapshots.starts_from(let_go, anew=True)

    def _restore(self, read_on: dict[Path, StoredLog], others: dict[Path, StoredLog]) -> bool:
        """Take up the working state from a snapshot, and fold on; False if none leads there."""
        fold = self._snapshots.load(read_on, others)
        if fold is None:
            return False
        self._fold = fold
        try:
            for path, log in read_on.items():
                state = fold.log(log.log_id)
                self._logs[path] = OpenLog(self._reader(path, state.offset, log), state, deque())
                self._fold_silently(self._logs[path], log.checkpoint)
        except LogError as error:
            _log.warning("%s; folding again without the snapshot", error)
            self._close_logs()
            self._fold = Fold(self._settings.rules)
            return False
        if not self._stop.requested:
            self._snapshots.starts_from(others, anew=False)
        return True

    def _event_time(self, path: Path, log: StoredLog, newest: int) -> int | None:
        """Return how far a log has come, or where it starts or goes on after a long silence."""
        at = log.checkpoint.watermark
        if at is not None and not self._is_far_behind(at, newest):
            return at
        reader = self._reader(path, log.checkpoint.byte_offset, log)
        try:
            chunk = reader.read(_FIRST_LINES)
        finally:
            reader.close()
        decoded = self._decoder.decode(chunk) if chunk else None
        if at is None:
            return first_instant(decoded) if decoded else None
        return max(at, min(decoded.instants, default=at)) if decoded else at

    def _reader(self, path: Path, offset: int, log: StoredLog) -> LogReader:
        drain_seconds = 0 if self._settings.once else DRAIN_SECONDS
        files = known_by(path, log.files, log.checkpoint.byte_offset)
        return LogReader(path, offset, files, drain_seconds, self._settings.max_line_bytes)

    def _recall(self, log: OpenLog, checkpoint: Checkpoint) -> None:
        """Fold in again the lines that are ahead of where a log is folded from."""
        history = log.reader.history()
        for offset in checkpoint.ahead_offsets:
            if offset < log.state.offset and not self._stop.requested:
                line = self._decoder.decode(history.line_at(offset))
                self._fold.recall(log.state, offset, line)
        history.close()
        self._fold.cut()

    def _fold_silently(self, log: OpenLog, checkpoint: Checkpoint) -> None:
        """Fold a log up to its checkpoint, committing nothing of it."""
        while log.state.offset < checkpoint.byte_offset:
            if self._stop.requested:
                return
            read_ahead([log], self._workers, ALL_LINES, checkpoint.byte_offset)
            task = log.next(ALL_LINES, checkpoint.byte_offset)
            if task is None:
                break
            self._fold.fold(log.state, task.chunk, task.result(self._decoder))
            self._fold.cut()
        if (log.state.offset, log.state.mark.at) != (checkpoint.byte_offset, checkpoint.watermark):
            raise LogError(
                f"{log.reader.path}: is not the log that its checkpoint at byte "
                f"{checkpoint.byte_offset} was made from; it was changed or replaced. Put it back, "
                "or make the report anew with `processor replay`"
            )

    def _fold_next_chunk(self) -> bool:
        """Fold the next lines of the log that is furthest behind; False when none has any."""
        logs = sorted(self._logs.values(), key=_furthest_behind)
        read_ahead(logs, self._workers, self._settings.batch_lines)
        for log in logs:
            task = log.next(self._settings.batch_lines)
            if task is None and self._settings.once:
                self._fold.finish(log.state)
            if task:
                if self._fold.batch_lines + task.chunk.lines > self._settings.batch_lines:
                    self._end_batch()
                if self._fold.batch_lines == 0:
                    self._batch_started = time.monotonic()
                self._fold.fold(log.state, task.chunk, task.result(self._decoder))
                self._tell_progress()
                return True
        return False

    def _batch_is_due(self) -> bool:
        lines = self._fold.batch_lines
        age = time.monotonic() - self._batch_started
        return lines >= self._settings.batch_lines or (
            lines > 0 and age >= self._settings.batch_seconds
        )

    def _seconds_until_due(self) -> float | None:
        """Return in how many seconds a batch is to be committed or a file to be left, if any is."""
        due_in = [
            seconds for log in self._logs.values() if (seconds := log.reader.wakes_in()) is not None
        ]
        if not self._logs or any(map(is_pattern, self._settings.logs)):
            due_in.append(LOOK_SECONDS)
        if self._fold.batch_lines > 0:
            age = time.monotonic() - self._batch_started
            due_in.append(max(self._settings.batch_seconds - age, 0))
        return min(due_in, default=None)

    def _end_batch(self) -> None:
        self._commit()
        self._save_snapshot_if_due()

    def _commit(self) -> None:
        """Begin to commit the batch in hand, once the one before it is committed."""
        commit = self._fold.cut()
        if commit is not None and self._finish_commit():
            readers = {log.state.log_id: log.reader for log in self._logs.values()}
            files = {
                log.log_id: readers[log.log_id].files_up_to(log.checkpoint.byte_offset)
                for log in commit.logs
            }
            self._committing = self._committer.submit(self._send, commit, files)

    def _finish_commit(self) -> bool:
        """Wait for the commit under way; False when a stop made it drop its batch."""
        return self._committing is None or self._committing.result()

    def _save_snapshot_if_due(self, *, at_end: bool = False) -> None:
        """Save the working state right after a batch, once that is known to be committed."""
        if self._snapshots.is_due(self._fold, self._logs, at_end=at_end) and self._finish_commit():
            self._snapshots.save(self._fold, self._logs)

    def _send(self, commit: Commit, files: LogFiles) -> bool:
        """Commit a batch, however often the connection breaks; drop it on a stop."""
        sent = False

        def send() -> None:
            nonlocal sent
            if not (sent and self._store.reconcile(commit)):
                sent = True
                self._store.commit(commit, files)

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


def _reaching_back(checkpoint: Checkpoint, needed: int | None) -> Checkpoint:
    """Return where to fold a log from, so that its state is whole from the instant `needed` on."""
    reached = checkpoint.rebuild_watermark
    if reached is None or (needed is not None and reached < needed):
        return checkpoint
    return Checkpoint()


def _without_state(checkpoint: Checkpoint) -> Checkpoint:
    """Return where to go on without what came before."""
    at, offset = checkpoint.watermark, checkpoint.byte_offset
    return Checkpoint(offset, at, offset, at)


def _matters(log: StoredLog, needed: int | None) -> bool:
    """Whether a log that is not read on may share visits with what is."""
    at = log.checkpoint.watermark
    return at is None or needed is None or at >= needed or bool(log.checkpoint.ahead_offsets)


def _newest(event_times: Iterable[int | None]) -> int:
    return max((time for time in event_times if time is not None), default=0)


def _furthest_behind(log: OpenLog) -> tuple[bool, int]:
    at = log.state.event_time
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
