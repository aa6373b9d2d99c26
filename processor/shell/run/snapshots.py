"""When a snapshot of the working state is written, and whether the one that is there may be used.

One rule for both: a snapshot is worth what a restart would otherwise fold again. It is written
once that is `WORTH_BYTES` of log, when a run ends and every `EVERY_SECONDS` while it goes on; it
is used when it leaves less to fold than the checkpoints do.

The working state is a function of the logs up to their offsets and of the rules. So a snapshot
belongs to a report when both agree, and no log of it is further in the snapshot than in the
database. What does not belong, or cannot be read, is not used; what cannot be written is tried
again later. Neither stops a run.
"""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from processor.core.contract import CONTRACT_VERSION
from processor.core.fold import BEFORE_ALL, Fold
from processor.core.model import LogImage, Rules
from processor.edges.snapshot import Head, LogTrace, SnapshotError, read, write
from processor.edges.store import StoredLog
from processor.shell.run.open_log import OpenLog

WORTH_BYTES: Final = 64 << 20
"""About half a second of folding, and more than it takes to load what such a log leaves open."""
FEW_VISITS: Final = 100_000
"""So many are written in a fifth of a second, so that when a run ends they always are: the files
that they came from may be gone when the next one begins."""
EVERY_SECONDS: Final = 300.0

StoredLogs = Mapping[Path, StoredLog]
OpenLogs = Mapping[Path, OpenLog]

_log = logging.getLogger(__name__)


class Snapshots:
    """The snapshot of one report, at `path`; None is no place, and no snapshots."""

    def __init__(self, path: Path | None, rules: Rules) -> None:
        self._path = path
        self._rules = rules
        self._saved: dict[int, int] = {}  # the offsets in the newest snapshot, by log
        self._let_go: dict[str, tuple[int, int]] | None = None
        self._due_at = time.monotonic() + EVERY_SECONDS
        self._is_failing = False

    def load(self, read_on: StoredLogs, others: StoredLogs) -> Fold | None:
        """Return the working state as the snapshot has it, to fold on from; None if none fits.

        What the database holds of the `others`, which are not read on, it must hold entirely.
        """
        self._let_go = None
        if self._path is None or not any(log.checkpoint.byte_offset for log in read_on.values()):
            return None
        why = "it is not what this version writes"
        try:
            return self._load(self._path, read_on, others)
        except FileNotFoundError:
            return None
        except OSError as error:
            why = f"it cannot be read: {error.strerror}"
        except SnapshotError as error:
            why = str(error)
        except (ValueError, LookupError, TypeError):
            pass  # a cache never keeps a run from starting
        _log.warning("%s: is not used: %s", self._path, why)
        return None

    def _load(self, path: Path, read_on: StoredLogs, others: StoredLogs) -> Fold | None:
        started = time.monotonic()
        head, pieces = read(path)
        if why_not := self._why_not(head, read_on, others):
            _log.info("%s: is not used: %s", path, why_not)
            return None
        names = {log.log_id: log.names for log in (*read_on.values(), *others.values())}
        logs = [(trace.image, names[trace.image.log_id]) for trace in head.logs]
        fold = Fold.restored(self._rules, head.open_from, logs, pieces)
        for trace in head.logs:
            if Path(trace.path) in others:
                fold.release(fold.log(trace.image.log_id))
        self._saved = {trace.image.log_id: trace.image.offset for trace in head.logs}
        seconds = time.monotonic() - started
        _log.info("took %d open visits from a snapshot, in %.1f s", fold.open_visits, seconds)
        return fold

    def starts_from(self, let_go: StoredLogs, *, anew: bool) -> None:
        """Take note that the working state is whole, and of the logs in it that are not read on.

        It came from the snapshot, or was folded `anew`. Until then, nothing is saved.
        """
        self._let_go = {
            str(path): (log.log_id, log.checkpoint.byte_offset) for path, log in let_go.items()
        }
        if anew:
            self._saved = {}

    def let_go(self, path: Path, log_id: int, offset: int) -> None:
        """Take note of a log that is not read on from now."""
        if self._let_go is not None:
            self._let_go[str(path)] = (log_id, offset)

    def is_due(self, fold: Fold, logs: OpenLogs, *, at_end: bool) -> bool:
        """Whether it is time for a snapshot, and worth it."""
        if self._path is None or self._let_go is None:
            return False
        if at_end and fold.open_visits <= FEW_VISITS:
            return self._saves(logs) > 0
        return (at_end or time.monotonic() >= self._due_at) and self._saves(logs) >= WORTH_BYTES

    def save(self, fold: Fold, logs: OpenLogs) -> None:
        """Write a snapshot. To be called when all that was folded is committed, and only then."""
        if self._path is None or self._let_go is None:
            return
        started = time.monotonic()
        try:
            traces = tuple(LogTrace(str(path), log.state.image()) for path, log in logs.items())
            head = Head(CONTRACT_VERSION, self._rules, fold.open_from, traces, self._let_go)
            size_bytes = write(self._path, head, fold.pieces())
        except OSError as error:
            if not self._is_failing:
                _log.warning(
                    "%s: cannot be written: %s; going on without, and trying again later",
                    self._path,
                    error.strerror,
                )
            self._is_failing = True
            return
        finally:
            self._due_at = time.monotonic() + EVERY_SECONDS
        self._is_failing = False
        self._saved = {trace.image.log_id: trace.image.offset for trace in traces}
        _log.info(
            "wrote a snapshot of %d open visits, %.1f MB, in %.1f s",
            fold.open_visits,
            size_bytes / 1e6,
            time.monotonic() - started,
        )

    def _saves(self, logs: OpenLogs) -> int:
        """Return the bytes of log that a restart would fold less with a snapshot of now."""
        states = [log.state for log in logs.values()]
        anew = sum(state.offset - state.rebuild_from for state in states)
        if not self._saved:
            return anew
        return min(anew, sum(state.offset - self._saved.get(state.log_id, 0) for state in states))

    def _reaches_back(self, open_from: int, log: LogImage) -> bool:
        """Whether the lines that come next in a log are not before what is remembered."""
        times = [time for time in (log.watermark, log.starts_at) if time is not None]
        return bool(times) and max(times) - self._rules.allowed_lateness_us >= open_from

    def _why_not(self, head: Head, read_on: StoredLogs, others: StoredLogs) -> str | None:
        """Return why a snapshot does not fit, None if it does.

        Raises:
            SnapshotError: it should fit, and something is wrong.

        """
        if (head.contract_version, head.rules) != (CONTRACT_VERSION, self._rules):
            return "it was made by other rules"
        there = {Path(trace.path): (trace.image.log_id, trace.image.offset) for trace in head.logs}
        held = there | {Path(path): at for path, at in head.let_go.items()}
        known = {
            path: (log.log_id, log.checkpoint.byte_offset)
            for path, log in {**read_on, **others}.items()
        }
        if {(path, log_id) for path, (log_id, _) in held.items()} != {
            (path, log_id) for path, (log_id, _) in known.items()
        } or not read_on.keys() <= there.keys():
            return "it is of other logs"
        if any(offset > known[path][1] for path, (_, offset) in held.items()):
            raise SnapshotError("it is newer than the database")
        if head.open_from > BEFORE_ALL and not all(
            self._reaches_back(head.open_from, trace.image)
            for trace in head.logs
            if Path(trace.path) in read_on
        ):
            return "it has forgotten what the next lines of a log may need"
        if any(held[path] != known[path] for path in known.keys() - read_on.keys()):
            return "it is older than what was folded of a log that is not read on"
        left = sum(known[path][1] - held[path][1] for path in read_on)
        if left >= sum(
            known[path][1] - log.checkpoint.rebuild_from for path, log in read_on.items()
        ):
            return "it leaves more to fold again than there is without"
        return None
