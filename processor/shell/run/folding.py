"""Opens logs over one working state, and folds them: what a run, a replay and a recount share.

The log that is furthest behind in event time comes first, so that the working state of all stays
small. Commits nothing: who folds decides what becomes of a batch.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from processor.core.decode import Decoder
from processor.core.fold import Fold, first_instant, next_instant
from processor.core.model import HOUR_US, Checkpoint, Commit, Rules
from processor.edges.files import size_of
from processor.edges.history import gone, known_by
from processor.edges.source import ALL_LINES, LogReader
from processor.edges.store import LogFiles, StoredLog
from processor.errors import GoneError, LogError
from processor.shell.run.open_log import OpenLog, read_ahead
from processor.shell.run.snapshots import Snapshots
from processor.shell.run.workers import Workers
from processor.shell.settings import RunSettings, zone_of
from processor.shell.stop import Stop

_FIRST_LINES: Final = 1_000
"""Among so many is the first run of a log, but for odd ones, which cost memory only."""

_log = logging.getLogger(__name__)


class Folding:
    """Folds the lines of logs by `rules`. With `once`, a log ends where it has no more lines.

    `ends` says how far a log is read, where that is not its end. A log whose last file may be
    rotated away is watched for `drain_seconds` before it is read on in the next one.
    """

    def __init__(
        self,
        settings: RunSettings,
        rules: Rules,
        stop: Stop,
        snapshots: Snapshots,
        drain_seconds: float = 0.0,
    ) -> None:
        self._settings = settings
        self._rules = rules
        self._stop = stop
        self._snapshots = snapshots
        self._drain_seconds = drain_seconds
        self._decoder = Decoder(zone_of(rules.timezone))
        self._workers = Workers(settings.workers, rules.timezone)
        self._waiting_for: set[Path] = set()
        self._silent: dict[Path, int | None] = {}
        self.fold = Fold(rules)
        self.fold_seconds = 0.0
        """How long folding took, in all, what is decoded here included."""
        self.logs: dict[Path, OpenLog] = {}
        self.ends: Mapping[Path, int] = {}

    @property
    def bytes_folded(self) -> int:
        """How many bytes of the logs are folded."""
        return sum(log.state.offset for log in self.logs.values())

    @property
    def bytes_in_all(self) -> int:
        """How many bytes there are to fold by now, folded ones included."""
        return sum(log.size_bytes() for log in self.logs.values())

    def close(self) -> None:
        """Let go of all logs and workers."""
        self._workers.rest()
        for log in self.logs.values():
            log.reader.close()
        self.logs = {}

    def look(self) -> bool:
        """Look whether logs were rotated; return whether there is more to read of one."""
        found = [log.reader.look() for log in self.logs.values() if log.end is None]
        for log in self.logs.values():
            log.tell()
        return any(found)

    def wakes_in(self) -> list[float]:
        """Return in how many seconds to read or to look again, though no file was changed."""
        wakes_in = (log.reader.wakes_in() for log in self.logs.values())
        return [seconds for seconds in wakes_in if seconds is not None]

    def files_of(self, commit: Commit) -> LogFiles:
        """Return what a batch made known of the files of its logs, but for those with an end."""
        logs = {log.state.log_id: log for log in self.logs.values()}
        return {
            log.log_id: logs[log.log_id].reader.files_up_to(log.checkpoint.byte_offset)
            for log in commit.logs
            if logs[log.log_id].end is None
        }

    def rest(self) -> None:
        """End the workers until there is much to read again."""
        self._workers.rest()

    def newly_there(self, named: Iterable[Path]) -> list[Path]:
        """Return the named logs that can be opened, none if these are open already.

        Raises:
            LogError: a log is missing that must be there.

        """
        there = [path for path in named if path in self.logs or self._is_there(path)]
        return there if len(there) > len(self.logs) else []

    def open(self, there: Iterable[Path], stored: Mapping[Path, StoredLog]) -> None:
        """Open the logs that are there, and fold the working state of all of them again.

        The batch in hand is dropped; `stored` are all logs of the report.
        """
        self.close()
        self.fold = Fold(self._rules)
        read_on = {
            path: stored[path]
            for path in there
            if not self._is_empty(path, stored[path].checkpoint)
        }
        others = {
            path: log
            for path, log in stored.items()
            if path not in there and log.checkpoint.byte_offset > 0
        }
        if self._settings.once:
            left = {path: log for path, log in read_on.items() if self._is_read(path, log)}
        else:
            left = self._set_aside(read_on)
        others |= left
        read_on = {path: log for path, log in read_on.items() if path not in left}
        if read_on and not self._restore(read_on, others):
            self._rebuild(read_on, others)

    def open_anew(self, logs: Mapping[Path, StoredLog]) -> None:
        """Open logs each at its checkpoint, without the working state of what comes before it."""
        for path, log in logs.items():
            offset = log.checkpoint.byte_offset
            state = self.fold.open(
                log.log_id,
                log.checkpoint,
                log.names,
                self._event_time(path, log, 0),
            )
            reader = self._reader(path, offset, log)
            self.logs[path] = OpenLog(reader, state, deque(), self.ends.get(path))
            self._recall(self.logs[path], log.checkpoint)

    def read_on(self, stored: Mapping[Path, StoredLog]) -> None:
        """Read the open logs up to where their `ends` are by now, in the files that are stored."""
        for path, log in self.logs.items():
            if path in self.ends and self.ends[path] != log.end:
                log.reader.close()
                reader = self._reader(path, log.state.offset, stored[path])
                self.logs[path] = log._replace(reader=reader, end=self.ends[path])

    def is_past(self, instant: int) -> bool:
        """Whether no line that is still to come can have fired before an instant, unless late."""
        times = [log.state.event_time for log in self.logs.values() if not log.state.is_finished]
        known = [time for time in times if time is not None]
        lateness = self._rules.allowed_lateness_us
        return len(known) == len(times) and all(time - lateness >= instant for time in known)

    def next(self, before: Callable[[int], None]) -> bool:
        """Fold the next lines of the log that is furthest behind; False when none has any.

        What is to be done `before` so many lines are folded is done then.

        Raises:
            GoneError: a log ends before the end that it is to be read to.

        """
        # Of one that has come to its end, state may be forgotten that lines written since need.
        logs = [log for log in self.logs.values() if not log.state.is_finished]
        logs.sort(key=_furthest_behind)
        read_ahead(logs, self._workers, self._settings.batch_lines)
        for log in logs:
            task = log.next(self._settings.batch_lines)
            if task is None and log.end is not None and log.state.offset < log.end:
                raise gone(log.reader.path, log.state.offset)
            if task is None and self._settings.once:
                self.fold.finish(log.state)
            if task:
                before(task.chunk.lines)
                started = time.perf_counter()
                self.fold.fold(log.state, task.chunk, task.result(self._decoder))
                self.fold_seconds += time.perf_counter() - started
                return True
        return False

    def _set_aside(self, logs: dict[Path, StoredLog]) -> dict[Path, StoredLog]:
        """Return the logs that are at their end and far behind: they wait until they grow."""
        newest = _newest(log.checkpoint.watermark for log in logs.values())
        silent = {
            path: log
            for path, log in logs.items()
            if self._is_far_behind(log.checkpoint.watermark, newest) and self._is_read(path, log)
        }
        self._silent = {path: self._size_bytes(path) for path in silent}
        return silent

    def _is_far_behind(self, event_time: int | None, newest: int) -> bool:
        needed = self._rules.oldest_needed(newest)
        return event_time is not None and event_time < needed - HOUR_US

    def close_silent(self) -> None:
        """Close logs that are at their end and far behind, so that they hold no state back."""
        times = {path: log.state.event_time for path, log in self.logs.items()}
        newest = _newest(times.values())
        for path, log in list(self.logs.items()):
            state = log.state
            is_committed = state.lines == 0 and not log.ahead
            if (
                is_committed
                and self._is_far_behind(times[path], newest)
                and log.size_bytes() <= state.offset
            ):
                self._snapshots.let_go(path, state.log_id, state.offset)
                self.fold.release(state)
                self.logs.pop(path).reader.close()
                self._silent[path] = self._size_bytes(path)

    def _is_there(self, path: Path) -> bool:
        """Whether a log can be opened; a file that was empty when last seen must have grown."""
        size_bytes = self._size_bytes(path)
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
        if self._size_bytes(path) or checkpoint.byte_offset > 0:
            return False
        self._waiting_for.add(path)
        return True

    def _size_bytes(self, path: Path) -> int | None:
        """Return the size of the newest file, or how far it is read; None if it is not there."""
        return self.ends[path] if path in self.ends else size_of(path)

    def _is_read(self, path: Path, log: StoredLog) -> bool:
        """Whether a log has no more lines than were read before."""
        reader = self._reader(path, log.checkpoint.byte_offset, log)
        try:
            return reader.read(1, self.ends.get(path)) is None
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
        needed = self._rules.oldest_needed(min(times)) if all_known else None
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
            try:
                reader = self._reader(path, start.rebuild_from, log)
            except GoneError as error:
                if not self._settings.accept_loss:
                    raise
                _log.warning("%s; going on without", error)
                checkpoints[path] = start = _without_state(log.checkpoint)
                reader = self._reader(path, start.rebuild_from, log)
            state = self.fold.open(log.log_id, start, log.names)
            self.logs[path] = OpenLog(reader, state, deque(), self.ends.get(path))
        for path, checkpoint in checkpoints.items():
            self._recall(self.logs[path], checkpoint)
            self.fold.cut()
            self._fold_silently(self.logs[path], checkpoint)
        for path in others:
            self.fold.release(self.logs[path].state)
            self.logs.pop(path).reader.close()
        for path, log in read_on.items():
            # Not before: what was folded again may lie before the lines that come next.
            if event_times[path] != log.checkpoint.watermark:
                self.logs[path].state.starts_at = event_times[path]
        if not self._stop.requested:
            self._snapshots.starts_from(let_go, anew=True)

    def _restore(self, read_on: dict[Path, StoredLog], others: dict[Path, StoredLog]) -> bool:
        """Take up the working state from a snapshot, and fold on; False if none leads there."""
        fold = self._snapshots.load(read_on, others)
        if fold is None:
            return False
        self.fold = fold
        try:
            for path, log in read_on.items():
                state = fold.log(log.log_id)
                reader = self._reader(path, state.offset, log)
                self.logs[path] = OpenLog(reader, state, deque(), self.ends.get(path))
                self._fold_silently(self.logs[path], log.checkpoint)
        except LogError as error:
            _log.warning("%s; folding again without the snapshot", error)
            self.close()
            self.fold = Fold(self._rules)
            return False
        if not self._stop.requested:
            self._snapshots.starts_from(others, anew=False)
        return True

    def _event_time(self, path: Path, log: StoredLog, newest: int) -> int | None:
        """Return how far a log has come, or where it starts or goes on after a long silence."""
        checkpoint, at = log.checkpoint, log.checkpoint.watermark
        if at is None:
            try:  # the lines that are folded in belong to its first run
                return first_instant(self._first_lines(path, checkpoint.rebuild_from, log))
            except GoneError:
                if not self._settings.accept_loss:
                    raise
            return first_instant(self._first_lines(path, checkpoint.byte_offset, log))
        if not self._is_far_behind(at, newest):
            return at
        lateness = self._rules.allowed_lateness_us
        return next_instant(self._first_lines(path, checkpoint.byte_offset, log), at, lateness)

    def _first_lines(self, path: Path, offset: int, log: StoredLog) -> Sequence[int]:
        """Return the instants of the first lines from an offset on."""
        reader = self._reader(path, offset, log)
        try:
            chunk = reader.read(_FIRST_LINES, self.ends.get(path))
        finally:
            reader.close()
        return self._decoder.decode(chunk).instants if chunk else ()

    def _reader(self, path: Path, offset: int, log: StoredLog) -> LogReader:
        files = known_by(path, log.files, log.checkpoint.byte_offset)
        return LogReader(path, offset, files, self._drain_seconds, self._rules.max_line_bytes)

    def _recall(self, log: OpenLog, checkpoint: Checkpoint) -> None:
        """Fold in again the lines that are ahead of where a log is folded from."""
        history = log.reader.history()
        for offset in checkpoint.ahead_offsets:
            if offset < log.state.offset and not self._stop.requested:
                try:
                    line = history.line_at(offset)
                except GoneError as error:
                    if not self._settings.accept_loss:
                        raise
                    _log.warning("%s; going on without", error)
                else:
                    self.fold.recall(log.state, offset, self._decoder.decode(line))
        history.close()

    def _fold_silently(self, log: OpenLog, checkpoint: Checkpoint) -> None:
        """Fold a log up to its checkpoint, committing nothing of it."""
        log = log._replace(end=checkpoint.byte_offset)
        while log.state.offset < checkpoint.byte_offset:
            if self._stop.requested:
                return
            read_ahead([log], self._workers, ALL_LINES)
            task = log.next(ALL_LINES)
            if task is None:
                break
            self.fold.fold(log.state, task.chunk, task.result(self._decoder))
            self.fold.cut()
        if (log.state.offset, log.state.mark.at) != (checkpoint.byte_offset, checkpoint.watermark):
            raise LogError(
                f"{log.reader.path}: is not the log that its checkpoint at byte "
                f"{checkpoint.byte_offset} was made from; it was changed or replaced. Put it back, "
                "or make the report anew with `processor replay`"
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
