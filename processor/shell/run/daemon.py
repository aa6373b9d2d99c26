"""The loop of a run: read, fold, commit, and again; it waits where there is nothing to read."""

import gc
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from processor.edges.files import NotNowError, is_pattern, logs_of
from processor.edges.history import known_by_its_end
from processor.edges.snapshot import SnapshotFiles
from processor.edges.source import DRAIN_SECONDS, readable_from
from processor.edges.store import Store, StoredLog
from processor.edges.watch import Watch
from processor.errors import GoneError, LogError, ReplacedError, RewoundError, StoreError
from processor.shell.operate.metrics import Metrics
from processor.shell.retry import when_connected
from processor.shell.run.batches import Batches
from processor.shell.run.committer import Committer
from processor.shell.run.folding import Folding
from processor.shell.run.snapshots import Snapshots
from processor.shell.settings import Beginning, RunSettings
from processor.shell.stop import Stop

LOOK_SECONDS: Final = 1.0
CHECK_SECONDS: Final = 60.0
"""So often it is looked whether the database still has what was committed, while nothing comes."""
_COLLECT_AFTER_OBJECTS: Final = 200_000
"""A batch makes many short-lived tuples and no cycles: looking for some every 700 objects, as
Python does, costs a tenth of the fold."""

Progress = Callable[[int, int], None]
"""Is told how many bytes are accounted for, and how many there are."""

_log = logging.getLogger(__name__)


def run(
    store: Store,
    settings: RunSettings,
    stop: Stop,
    progress: Progress = lambda _done, _all: None,
    snapshots: SnapshotFiles | None = None,
    metrics: Metrics | None = None,
) -> None:
    """Fold logs into the live report, until they are at their end (`once`) or a stop is asked for.

    When a replay puts another generation in the place of the live one, or the database went back,
    the batch in hand is dropped, and it goes on with what is there: from its checkpoints, by its
    rules.

    Raises:
        ProcessorError: what cannot be mended by waiting.

    """
    collect_seldom()
    metrics = metrics or Metrics()

    def begin() -> None:
        store.migrate()
        store.adopt(settings.rules)

    is_begun = when_connected(begin, stop, is_patient=not settings.once)
    has_run = False
    while is_begun and not stop.requested:
        _remove_dropped(snapshots, store)
        metrics.adopted(store.generation, store.rules)
        daemon = Daemon(store, settings, stop, progress, snapshots, metrics)
        try:
            daemon.run()
            break
        except ReplacedError as error:
            _log.info("%s; going on with it", error)
        except RewoundError as error:
            _log.warning("%s: done", error)
        except NotNowError as error:
            if not has_run:
                raise
            _log.warning("%s; trying again", error)
            stop.wait(LOOK_SECONDS)
        has_run = True
        settings = daemon.settings
        go_on = partial(_take_over, store, daemon.reaches_back, settings)
        when_connected(go_on, stop, is_patient=not settings.once)
    _remove_dropped(snapshots, store)  # what an idle one wrote of a generation that was dropped


def _take_over(store: Store, reaches_back: Mapping[Path, int], settings: RunSettings) -> None:
    """Go on with what is live by now, if what it has not counted is still there to be read.

    Raises:
        GoneError: the database went back to before what is left of a log.

    """
    store.take_over()
    logs = store.open_logs(()) if reaches_back else {}
    for path, there_from in reaches_back.items():
        at = logs[str(path)].checkpoint.byte_offset if str(path) in logs else 0
        if at < there_from:
            lost = f"{path}: bytes {at} to {there_from} are in no file any more"
            if not settings.accept_loss:
                raise GoneError(
                    f"{lost}, and the database does not have what they counted. Put the files "
                    "back, or go on without what they counted with --accept-loss"
                )
            _log.warning("%s; going on without what they counted", lost)


def _remove_dropped(snapshots: SnapshotFiles | None, store: Store) -> None:
    """Remove snapshots that are of no use any more; if that cannot be, the next run will."""
    if snapshots:
        with suppress(StoreError, OSError):
            snapshots.keep_only(store.generations())


def collect_seldom() -> None:
    """Have Python look for cycles of objects less often."""
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER_OBJECTS)


class Daemon:
    """Folds logs into one generation while it is live."""

    def __init__(
        self,
        store: Store,
        settings: RunSettings,
        stop: Stop,
        progress: Progress,
        snapshots: SnapshotFiles | None,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self.settings = settings
        self._stop = stop
        self._is_patient = not settings.once
        self._progress = progress
        self._metrics = metrics
        self.reaches_back: dict[Path, int] = {}  # from where on logs are there, if it is asked
        self._known: set[Path] = set()
        self._look_at = 0.0
        self._check_at = time.monotonic() + CHECK_SECONDS
        self._committer = Committer(store, stop, metrics, is_patient=self._is_patient)
        saved = Snapshots(snapshots and snapshots.of(store.generation), store.rules)
        drain_seconds = 0 if settings.once else DRAIN_SECONDS
        self._folding = Folding(settings, store.rules, stop, saved, drain_seconds)
        self._batches = Batches(self._folding, self._committer, saved, settings)

    def run(self) -> None:
        """Run until done.

        Raises:
            ReplacedError: another generation is live.
            RewoundError: the database went back.
            ProcessorError: what the loop cannot mend by waiting.

        """
        watch = Watch(() if self.settings.once else self._named())
        try:
            self._ask(self._begin)
            self._metrics.turned(self._folding, is_idle=False)
            while not self._stop.requested:
                found = self._batches.fold_next()
                self._metrics.turned(self._folding, is_idle=not found)
                self._progress(self._folding.bytes_folded, self._folding.bytes_in_all)
                if self._look_is_due(found) and self._look():
                    continue
                if not found:
                    if self.settings.once:
                        break
                    self._folding.rest()
                    self._committer.finish()  # if it fails, no change of a log would tell
                    watch.wait(self._seconds_until_due())
                    if self._committer.finish():
                        self._ask(self._look_around)
                        watch.follow(self._named())
            self._batches.commit()
            self._committer.finish()
            self._batches.save_snapshot(at_end=True)
        except RewoundError:
            self.reaches_back = {
                path: readable_from(path, log.reader.history().known, log.state.offset)
                for path, log in self._folding.logs.items()
            }
            raise
        finally:
            self._committer.close()
            self._folding.close()
            watch.close()

    def _ask(self, act: Callable[[], object]) -> None:
        """Do what asks the database, once it is there."""
        when_connected(act, self._stop, is_patient=self._is_patient)

    def _begin(self) -> None:
        self._known = set(map(Path, self._store.known_paths()))
        self._open_logs()

    def _look_around(self) -> None:
        """Open the logs that came meanwhile, and see whether the database is as it was left."""
        self._open_more_logs()
        if time.monotonic() >= self._check_at:
            self._store.check()
            self._check_at = time.monotonic() + CHECK_SECONDS

    def _look_is_due(self, found: bool) -> bool:
        """Whether to look for rotated files: when there is nothing to read, and now and then."""
        return not found or time.monotonic() >= self._look_at

    def _look(self) -> bool:
        """Look whether logs were rotated; return whether there is more to read of one."""
        self._look_at = time.monotonic() + LOOK_SECONDS
        if not self.settings.once:
            self._folding.close_silent()
        return self._folding.look()

    def _open_more_logs(self) -> None:
        """Open the logs that came meanwhile; if that is not possible just now, all again later."""
        try:
            self._open_logs()
        except NotNowError as error:
            _log.warning("%s; trying again", error)
            self._folding.close()

    def _open_logs(self) -> None:
        """Open the logs that are there by now, and fold the working state of all of them again."""
        named = self._named()
        if self.settings.once and not named:
            raise LogError(f"{self.settings.logs[0]}: there is no such file. Check the pattern")
        there = self._folding.newly_there(named)
        if not there:
            return
        self._batches.commit()  # what is opened drops the batch in hand
        if not self._committer.finish():
            return
        stored = {Path(path): log for path, log in self._store.open_logs(map(str, there)).items()}
        if self.settings.from_ == Beginning.END:
            stored |= {path: self._at_end(path, stored[path]) for path in there}
        self._folding.open(there, stored)
        # What comes later is read from its beginning, also by who goes on from here.
        self.settings = self.settings.model_copy(update={"from_": Beginning.BEGINNING})

    def _at_end(self, path: Path, log: StoredLog) -> StoredLog:
        """Have a log begin at its end if it is seen for the first time."""
        if log.checkpoint.byte_offset or log.files or (file := known_by_its_end(path)) is None:
            return log
        return log._replace(files=self._store.begin_at(log.log_id, file))

    def _named(self) -> list[Path]:
        """Return the logs to be read: those that are, and what the settings name by now."""
        opened = self._folding.logs
        named = logs_of(self.settings.logs, {*self._known, *opened})
        return list(dict.fromkeys([*opened, *named]))

    def _seconds_until_due(self) -> float:
        """Return in how many seconds to commit a batch, leave a file, or ask the database."""
        due_in = [max(self._check_at - time.monotonic(), 0), self._stop.look_seconds]
        due_in += self._folding.wakes_in()
        if not self._folding.logs or any(map(is_pattern, self.settings.logs)):
            due_in.append(LOOK_SECONDS)
        if (left := self._batches.due_in()) is not None:
            due_in.append(max(left, 0))
        return min(due_in)
