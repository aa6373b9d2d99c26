"""A log that is read: its file, what the fold knows of it, and what is decoded ahead of that."""

import logging
from collections import deque
from collections.abc import Collection
from typing import Final, NamedTuple

from processor.core.log import LogState
from processor.core.model import HOUR_US
from processor.edges.source import LogReader
from processor.shell.run.workers import Task, Workers

CHUNKS_AHEAD: Final = 4
"""So many chunks a worker are read ahead: those in its mailboxes, and as many that wait."""
_WORTH_WORKERS_BYTES: Final = 16 << 20
"""About a tenth of a second of folding: less is done before a worker has started."""

_log = logging.getLogger(__name__)


class OpenLog(NamedTuple):
    """A log that is read: its file, what the fold knows of it, and what was read ahead of that.

    It is read up to the offset `end`, or as far as there is something to read.
    """

    reader: LogReader
    state: LogState
    ahead: deque[Task]
    end: int | None = None

    def size_bytes(self) -> int:
        """Return up to which offset there is something to read by now."""
        return self.reader.size_bytes() if self.end is None else self.end

    def lags(self) -> bool:
        """Whether there is so much to read that starting workers is worth it."""
        return self.size_bytes() - self.state.offset >= _WORTH_WORKERS_BYTES

    def tell(self) -> None:
        """Say what became of its files."""
        for message in self.reader.messages:
            _log.warning("%s", message)
        self.reader.messages.clear()

    def next(self, most: int) -> Task | None:
        """Return up to `most` lines that are folded next, None when no line is complete."""
        if self.ahead:
            return self.ahead.popleft()
        chunk = self.reader.read(most, self.end)
        return Task(chunk) if chunk else None


def read_ahead(logs: Collection[OpenLog], workers: Workers, most: int) -> None:
    """Keep the workers busy with what is folded next of logs that lag, a chunk each in turn.

    The log that is furthest behind comes first.

    What is decoded waits to be folded, so that it counts until then: memory stays bounded.
    """
    if workers.count < 2:  # noqa: PLR2004 - one alone would do what the parent can do
        return
    room = workers.count * CHUNKS_AHEAD - sum(len(log.ahead) for log in logs)
    lagging = deque[OpenLog]()
    if room > 0:
        lagging.extend(log for log in logs if log.lags())
        latest = (lagging[0].state.event_time or 0) + HOUR_US if lagging else 0
        while lagging and (lagging[-1].state.event_time or 0) > latest:
            lagging.pop()  # it is not its turn for long
    while room > 0 and lagging and workers.have_room:
        log = lagging.popleft()
        if chunk := log.reader.read(most, log.end):
            log.ahead.append(workers.submit(chunk))
            lagging.append(log)
            room -= 1
