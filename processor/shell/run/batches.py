"""Cuts what is folded into batches, and has each committed while the next one is folded."""

import time

from processor.shell.run.committer import Committer
from processor.shell.run.folding import Folding
from processor.shell.run.snapshots import Snapshots
from processor.shell.settings import RunSettings


class Batches:
    """The batches of one folding. One ends at `batch_lines` or at `batch_seconds`."""

    def __init__(
        self, folding: Folding, committer: Committer, snapshots: Snapshots, settings: RunSettings
    ) -> None:
        self._folding = folding
        self._committer = committer
        self._snapshots = snapshots
        self._lines = settings.batch_lines
        self._seconds = settings.batch_seconds
        self._started = 0.0

    def fold_next(self) -> bool:
        """Fold the next lines, and end the batch if it is due; False when there are no more."""
        found = self._folding.next(self._make_room)
        left = self.due_in()
        if self._folding.fold.batch_lines >= self._lines or (left is not None and left <= 0):
            self.end()
        return found

    def due_in(self) -> float | None:
        """Return in how many seconds the batch in hand ends, if there is one."""
        if self._folding.fold.batch_lines == 0:
            return None
        return self._seconds - (time.monotonic() - self._started)

    def end(self) -> None:
        """Begin to commit the batch in hand, once the one before it is committed."""
        self.commit()
        self.save_snapshot()

    def commit(self) -> None:
        """Begin to commit the batch in hand, and let the snapshot wait."""
        commit = self._folding.fold.cut()
        if commit is not None and self._committer.finish():
            self._committer.begin(commit, self._folding.files_of(commit))

    def save_snapshot(self, *, at_end: bool = False) -> None:
        """Save the working state if it is time, right after a batch that is known to be there."""
        fold, logs = self._folding.fold, self._folding.logs
        if self._snapshots.is_due(fold, logs, at_end=at_end) and self._committer.finish():
            self._snapshots.save(fold, logs)

    def _make_room(self, lines: int) -> None:
        """End the batch in hand if it has no room for so many lines; note when one begins."""
        if self._folding.fold.batch_lines + lines > self._lines:
            self.end()
        if self._folding.fold.batch_lines == 0:
            self._started = time.monotonic()
