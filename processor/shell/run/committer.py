"""Commits batches by a thread of its own, while the next one is folded."""

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from processor.core.model import Commit
from processor.edges.store import LogFiles, Store
from processor.errors import ProcessorError
from processor.shell.operate.metrics import Metrics
from processor.shell.retry import when_connected
from processor.shell.stop import Stop

SUMMARY_SECONDS: Final = 30.0

_log = logging.getLogger(__name__)


class Committer:
    """Sends batches to the store, one at a time, however often the connection breaks.

    While one is under way no other begins, so that a database that is away holds up the fold.
    """

    def __init__(
        self,
        store: Store,
        stop: Stop,
        metrics: Metrics | None = None,
        *,
        is_patient: bool,
    ) -> None:
        self._store = store
        self._stop = Stop(stop)
        self._metrics = metrics or Metrics()
        self._is_patient = is_patient
        self._summary = _Summary()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commit")
        self._under_way: Future[bool] | None = None

    def begin(self, commit: Commit, files: LogFiles) -> None:
        """Begin to commit a batch; to be called when the one before it is committed."""
        self._under_way = self._thread.submit(self._send, commit, files)

    def finish(self) -> bool:
        """Wait for the commit under way; False when a stop made it drop its batch.

        Raises:
            ReplacedError: another generation is live by now.
            RewoundError: the database went back.
            ProcessorError: it cannot be committed.

        """
        return self._under_way is None or self._under_way.result()

    def close(self) -> None:
        """End the thread, and say what was committed."""
        if self._under_way and not self._under_way.done():
            self._stop.requested = True  # nothing is tried again for who has ended
        self._thread.shutdown()
        self._summary.tell()

    def _send(self, commit: Commit, files: LogFiles) -> bool:
        """Commit a batch, having seen after a failure whether it is there; drop it on a stop."""
        sent = False
        started = time.monotonic()

        def send() -> None:
            nonlocal sent
            try:
                if not (sent and self._store.reconcile(commit)):
                    sent = True
                    self._store.commit(commit, files)
            except ProcessorError:
                self._metrics.failed()
                raise

        if not when_connected(send, self._stop, is_patient=self._is_patient):
            return False
        self._metrics.committed(commit, time.monotonic() - started)
        self._summary.add(commit)
        return True


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
            "committed %d lines, %d of them dead letters, in %d %s",
            self._lines,
            self._dead_letters,
            self._batches,
            "batch" if self._batches == 1 else "batches",
            extra={
                "lines": self._lines,
                "dead_letters": self._dead_letters,
                "batches": self._batches,
            },
        )
