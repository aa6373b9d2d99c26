"""Makes the report anew beside the live one, and puts it in its place.

A replay folds the logs into a generation of its own, from offset zero up to where the live one has
come, in the files and at the offsets that the live one knows. Once it is nearly there, the live one
is held for a moment: what is left is folded, and the new one becomes live. Who goes on, a daemon or
the next run, does so from the new one's checkpoints.
"""

import logging
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from processor.core.contract import CONTRACT_VERSION
from processor.edges.generations import Generations
from processor.edges.session import ConnectionLostError, DiskFullError
from processor.edges.snapshot import SnapshotFiles
from processor.edges.store import Store
from processor.edges.view import ALL_HOURS, Changes, Generation, Hours
from processor.errors import CheckpointMovedError, StoreError
from processor.shell.replay.recount import Logs, named_logs, pinned, recounted, starts_of
from processor.shell.retry import when_connected
from processor.shell.run.batches import Batches
from processor.shell.run.committer import Committer
from processor.shell.run.daemon import LOOK_SECONDS, Progress, collect_seldom
from processor.shell.run.folding import Folding
from processor.shell.run.snapshots import Snapshots
from processor.shell.settings import RunSettings
from processor.shell.stop import Stop

IS_RUNNING_SECONDS: Final = 3.0
"""So long it is looked whether a replay on another machine, or in another container, commits."""
_LONGEST_PAUSE_SECONDS: Final = 60.0
_SMALL_GAP_BYTES: Final = 4 << 20
"""So much is folded and committed in a few tenths of a second, while the live one is held."""

_log = logging.getLogger(__name__)


@contextmanager
def replayed(
    store: Store,
    generations: Generations,
    settings: RunSettings,
    hours: Hours,
    stop: Stop,
    progress: Progress,
    snapshots: SnapshotFiles,
    *,
    only_these: bool = False,
) -> Iterator[Changes | None]:
    """Make the report anew, or some hours of it; yield what changed, once that is live.

    Nothing, if a stop came first. With `only_these`, other logs than those of the settings are
    forgotten.

    Raises:
        ProcessorError: it cannot be made; what is live is as it was.

    """
    collect_seldom()
    try:
        generation = begin(
            store, generations, settings, hours, stop, progress, only_these=only_these
        )
    except DiskFullError as error:
        raise StoreError(f"{error}; what is live is as it was. Make room, and try again") from error
    if generation is None:
        yield None
        return
    store.bind(generation, settings.rules)
    replay = Replay(
        store,
        generations,
        settings,
        stop,
        progress,
        snapshots,
        only_these=only_these,
        only_known=hours != ALL_HOURS,
    )
    with replay.run() as changes:
        yield changes


def begin(
    store: Store,
    generations: Generations,
    settings: RunSettings,
    hours: Hours,
    stop: Stop,
    progress: Progress,
    *,
    only_these: bool,
) -> int | None:
    """Return the generation that a replay goes on with, or a new one; None if a stop came first.

    With `hours`, it is a copy of the live one in which these are made anew.

    Raises:
        ProcessorError: there cannot be one.

    """
    generations.must_be_allowed()
    left_over = unfinished(generations, stop)
    accept_loss = settings.accept_loss
    with generations.view() as view:
        live = view.live
        stored = view.logs(live.generation) if live else {}
        named = named_logs(settings.logs, stored, only_these=only_these)
        if left_over and _is_same(left_over, settings, hours, named, live):
            _log.info("going on with generation %d, which was begun before", left_over.generation)
            generations.claim(left_over.generation, store.identity)
            return left_over.generation
        starts = {}
        if live and hours == ALL_HOURS:
            starts = starts_of(view, live, settings.rules, named, hours, accept_loss=accept_loss)
    if hours == ALL_HOURS:
        forget(generations, left_over)
        begun = {path: start for path, start in starts.items() if start.byte_offset}
        return generations.begin(settings.rules, begun, store.identity, accepts_loss=accept_loss)
    with recounted(generations, settings, hours, stop, progress, settings.rules) as counted:
        if counted is None:
            return None
        forget(generations, left_over)
        return generations.begin_copy(counted, hours, store.identity, accepts_loss=accept_loss)


def forget(generations: Generations, left_over: Generation | None) -> None:
    """Drop what a replay with other settings left behind."""
    if left_over:
        number = left_over.generation
        _log.info("generation %d is of a replay with other settings; begins anew", number)
        generations.drop(number, missing_ok=True)


def unfinished(generations: Generations, stop: Stop) -> Generation | None:
    """Return the generation of a replay that was ended before it was done.

    Raises:
        CheckpointMovedError: the replay is still under way.

    """
    with generations.view() as view:
        found = view.replay
    if found is None:
        return None
    host, pid, _ = (found.made_by or "::").split(":")
    # In containers, one after the other may have the same name and process id.
    is_here = host == socket.gethostname() and pid != str(os.getpid())
    if not is_here:
        stop.wait(IS_RUNNING_SECONDS)
    with generations.view() as view:
        now = view.replay
    has_moved = now and (now.generation, now.commits) != (found.generation, found.commits)
    if has_moved or (is_here and _is_running(pid)):
        raise CheckpointMovedError(
            f"another replay, {host}:{pid}, is under way; what is live is as it was. Wait, or stop "
            "it"
        )
    return now


def _is_running(pid: str) -> bool:
    """Whether a process of this machine is a replay."""
    try:
        return b"replay" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _is_same(
    found: Generation,
    settings: RunSettings,
    hours: Hours,
    named: list[Path],
    live: Generation | None,
) -> bool:
    """Whether a generation is what a replay by these settings would make."""
    return (
        (found.contract_version, found.rules, found.hours)
        == (CONTRACT_VERSION, settings.rules, hours)
        and set(map(Path, found.paths)) <= set(named)
        and found.copied_from in (None, live and live.generation)
        and found.accepts_loss == settings.accept_loss
    )


class Replay:
    """Folds on in a generation until it has all that the live one has, and makes it live.

    With `only_these`, other logs than those of the settings are forgotten; with `only_known`, those
    that the live one does not have are left to others.
    """

    def __init__(
        self,
        store: Store,
        generations: Generations,
        settings: RunSettings,
        stop: Stop,
        progress: Progress,
        snapshots: SnapshotFiles,
        *,
        only_these: bool = False,
        only_known: bool = False,
    ) -> None:
        self._store = store
        self._generations = generations
        self._settings = settings
        self._stop = stop
        self._progress = progress
        self._only_these = only_these
        self._only_known = only_known
        self._named: list[Path] = []
        self._look_at = 0.0
        self._changes: Changes | None = None
        self._view = ExitStack()
        self._is_live = False
        saved = Snapshots(snapshots.of(store.generation), store.rules)
        self._committer = Committer(store, stop, is_patient=False)
        self._folding = Folding(settings, store.rules, stop, saved)
        self._batches = Batches(self._folding, self._committer, saved, settings)

    @contextmanager
    def run(self) -> Iterator[Changes | None]:
        """Yield what changed, once it is live; None if a stop came first.

        Raises:
            ProcessorError: that cannot be; what is live is as it was.

        """
        with self._view:
            try:
                changes = self._run()
            except DiskFullError as error:
                raise StoreError(
                    f"{error}; what is live is as it was. Make room, and start this again to go on;"
                    f" `processor generations drop {self._store.generation}` frees what it took"
                ) from error
            finally:
                self._committer.close()
                self._folding.close()
            yield changes

    def _run(self) -> Changes | None:
        is_saved, failed = False, 0
        when_connected(self._move_on, self._stop, is_patient=False)
        while not self._stop.requested:
            if self._fold_on():
                continue
            self._batches.commit()
            if not self._committer.finish():
                break
            if not is_saved:  # who takes over need not fold all of it again
                self._batches.save_snapshot(at_end=True)
                is_saved = True
            try:
                if self._is_switched():
                    return self._changes
            except ConnectionLostError as error:
                _log.warning("%s; trying again", error)
                failed += 1  # who commits has waited for it: let them be for a while
                self._stop.wait(min(2**failed, _LONGEST_PAUSE_SECONDS))
                if not when_connected(self._look_whether_live, self._stop, is_patient=True):
                    raise StoreError(
                        "stopped before it was known whether the new report is live; see "
                        "`processor generations`"
                    ) from error
                if self._is_live:
                    return self._changes
            when_connected(self._move_on, self._stop, is_patient=False)
        return None

    def _fold_on(self) -> bool:
        """Fold the next lines; False when there are no more by now."""
        found = self._batches.fold_next()
        self._progress(self._folding.bytes_folded, self._folding.bytes_in_all)
        if found and time.monotonic() < self._look_at:
            return True
        self._look_at = time.monotonic() + LOOK_SECONDS
        self._folding.close_silent()
        return self._folding.look() or found

    def _move_on(self) -> None:
        """Read on up to where the live generation has come by now, in all logs that it has."""
        with self._generations.view() as view:
            live = view.logs(view.live.generation) if view.live else {}
            new = view.logs(self._store.generation)
        self._named = named_logs(self._settings.logs, live, only_these=self._only_these)
        if self._only_known:
            self._named = [path for path in self._named if path in live]
        self._read_up_to(live)
        if not self._folding.logs and _has_all(new, live, self._named):
            return  # so nothing need be there of what it was read from
        if not (there := self._folding.newly_there(self._named)):
            return
        self._batches.commit()
        if not self._committer.finish():
            return
        opened = self._store.open_logs(map(str, there))
        stored = {Path(path): log for path, log in opened.items()}
        stored |= {
            path: log._replace(files=pinned(path, live[path]).files)
            for path, log in stored.items()
            if path in live
        }
        self._folding.open(there, stored)

    def _read_up_to(self, live: Logs) -> None:
        self._folding.ends = {path: log.checkpoint.byte_offset for path, log in live.items()}
        self._folding.read_on({path: pinned(path, log) for path, log in live.items()})

    def _is_switched(self) -> bool:
        """Fold what is left and make it live, if that is little; return whether it is live."""
        self._view.close()  # of a try before this one
        look = self._view.enter_context(self._generations.look_later())
        with self._generations.held() as held:
            live, new = held.logs(), self._store.generation
            if not self._is_near(live):
                return False
            self._read_up_to(live)
            while self._batches.fold_next():
                pass
            self._batches.commit()
            paths = self._named if self._only_these else live
            if not self._committer.finish() or held.is_behind(new, paths):
                return False
            self._changes = look().changes_to(new)
            held.replace(new)
        return True

    def _is_near(self, live: Logs) -> bool:
        """Whether little is left to fold in the logs that are open."""
        gaps = (
            live[path].checkpoint.byte_offset - log.state.offset
            for path, log in self._folding.logs.items()
            if path in live
        )
        return sum(gap for gap in gaps if gap > 0) <= _SMALL_GAP_BYTES

    def _look_whether_live(self) -> None:
        """See whether the switch took place whose answer was lost."""
        with self._generations.view() as view:
            self._is_live = view.live is not None and view.live.generation == self._store.generation


def _has_all(new: Logs, live: Logs, paths: Iterable[Path]) -> bool:
    """Whether a generation has read logs as far as the live one, which has them all."""
    return all(
        path in new
        and path in live
        and new[path].checkpoint.byte_offset >= live[path].checkpoint.byte_offset
        for path in paths
    )
