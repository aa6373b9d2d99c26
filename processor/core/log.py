"""One log as the fold sees it: its watermark, the batch in hand from it, where to rebuild from.

A *marker* is an offset with the watermark there. Every line before a marker is either not later
than the marker's watermark, or remembered as *ahead*. So once event time has passed a marker's
watermark far enough, only the remembered lines before it still matter, and a rebuild starts there.

Every line has one outcome: `lines = applied + duplicates + ignored + dead letters`.
"""

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable
from typing import Final

from processor.core.contract import OTHER_NAMES
from processor.core.decode import Decoded
from processor.core.model import MINUTE_US, Checkpoint, DeadLetter, LogCommit, LogImage
from processor.core.watermark import Watermark
from processor.errors import LedgerError

APPLIED: Final = ("applied", "")
DUPLICATE: Final = ("duplicate", "")

MAX_IGNORED_NAMES: Final = 100
"""How many event types of a log are counted by name; the others count together."""


class LogState:
    """What the fold knows of one log, and of the batch in hand from it."""

    def __init__(
        self,
        log_id: int,
        checkpoint: Checkpoint,
        names: Iterable[str] = (),
        starts_at: int | None = None,
    ) -> None:
        self.log_id = log_id
        self.starts_at = starts_at
        self.is_finished = False
        self.offset = checkpoint.rebuild_from
        self.mark = Watermark(checkpoint.rebuild_watermark)
        self.markers = deque([(self.offset, self.mark.at)])
        self.ahead: list[tuple[int, int]] = []
        self.names = set(names)
        self.start_batch()

    @classmethod
    def restored(cls, image: LogImage, names: Iterable[str]) -> "LogState":
        """Return the state that `image` was made of; `names` are the event types ignored by now."""
        log = cls(image.log_id, Checkpoint(rebuild_from=image.offset), names, image.starts_at)
        log.mark = Watermark(image.watermark, tuple(image.run))
        log.markers = deque((offset, at) for offset, at in image.markers)
        log.ahead = [(fired_at, offset) for fired_at, offset in image.ahead]
        return log

    def image(self) -> LogImage:
        """Return what is known of the log, as a value; to be asked for between two batches."""
        markers, ahead = tuple(self.markers), tuple(self.ahead)
        mark = self.mark
        return LogImage(self.log_id, self.offset, mark.at, mark.run, markers, ahead, self.starts_at)

    def start_batch(self) -> None:
        """Forget the batch in hand."""
        self.from_offset = self.offset
        self.lines = 0
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.dead_letters: list[DeadLetter] = []

    @property
    def event_time(self) -> int | None:
        """How far the log has come: its watermark, or where it is known to start or go on."""
        times = [time for time in (self.mark.at, self.starts_at) if time is not None]
        return max(times, default=None)

    @property
    def rebuild_from(self) -> int:
        """From which offset on the log would have to be folded again."""
        return self.markers[0][0]

    @property
    def ahead_lines(self) -> int:
        """How many lines are ahead of the watermark."""
        if self.mark.at is None:
            return len(self.ahead)
        return len(self.ahead) - bisect_left(self.ahead, (self.mark.at + 1, 0))

    def name_of(self, event_type: str) -> str:
        """Return the name by which an ignored event type is counted: the log chooses them."""
        if event_type not in self.names:
            if len(self.names) >= MAX_IGNORED_NAMES:
                return OTHER_NAMES
            self.names.add(event_type)
        return event_type

    def account(self, decoded: Decoded, applied: int, duplicates: int) -> None:
        """Account for the lines of a chunk, save for events that were refused."""
        self.outcomes[APPLIED] += applied
        self.outcomes[DUPLICATE] += duplicates
        for event_type, lines in decoded.ignored.items():
            self.outcomes["ignored", self.name_of(event_type)] += lines
        for reason, lines in Counter([refusal[2] for refusal in decoded.refused]).items():
            self.outcomes["dead_letter", reason] += lines
        self.dead_letters.extend(map(DeadLetter._make, decoded.refused))

    def bury(self, dead_letter: DeadLetter) -> None:
        """Account for a line as a dead letter."""
        self.outcomes["dead_letter", dead_letter.reason] += 1
        self.dead_letters.append(dead_letter)

    def place_marker(self) -> None:
        """Remember this offset as a place to rebuild from, once a minute of event time."""
        at = self.mark.at
        if at is not None and not self.mark.run:
            last = self.markers[-1][1]
            if last is None or at >= last + MINUTE_US:
                self.markers.append((self.offset, at))

    def drop_before(self, horizon: int) -> None:
        """Forget what only lines before `horizon` need."""
        while len(self.markers) > 1:
            at = self.markers[1][1]
            if at is None or at >= horizon:
                break
            self.markers.popleft()
        first = self.markers[0][1]
        if first is not None:  # what the watermark had yet to come to there counts as ahead again
            del self.ahead[: bisect_left(self.ahead, (min(horizon, first), 0))]

    def commit(self) -> LogCommit:
        """Return the batch in hand as a value.

        Raises:
            LedgerError: the outcomes do not add up to the lines.

        """
        if self.lines != self.outcomes.total():
            raise LedgerError(
                f"log {self.log_id}, bytes {self.from_offset} to {self.offset}: {self.lines} lines "
                f"went in, {self.outcomes.total()} came out; nothing of it was committed. "
                "Please report this with the version"
            )
        rebuild_from, rebuild_watermark = self.markers[0]
        ahead = sorted(
            offset
            for fired_at, offset in self.ahead
            if offset < rebuild_from or self.mark.at is None or fired_at > self.mark.at
        )
        checkpoint = Checkpoint(
            self.offset, self.mark.at, rebuild_from, rebuild_watermark, tuple(ahead)
        )
        return LogCommit(
            self.log_id,
            self.from_offset,
            checkpoint,
            self.lines,
            self.outcomes,
            tuple(sorted(self.dead_letters)),
        )
