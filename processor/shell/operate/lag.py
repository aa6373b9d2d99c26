"""How far behind a log the commits are: in bytes, and since when."""

from collections import deque
from typing import Final

MAX_MARKS: Final = 1_000
MARK_SECONDS: Final = 1.0


class Lag:
    """The lag of one log, by its sizes as they were seen and the offset that is committed.

    Its seconds are the age of the oldest line that is not committed, as far as it was seen: what
    was there before counts from the first look on. A *mark* is a size and when it was seen.
    """

    def __init__(self, offset: int, size_bytes: int, now: float) -> None:
        self._offset = offset
        self._size_bytes = self._at_first = size_bytes
        self._settled = offset
        self._marks = deque([(size_bytes, now)] if size_bytes > offset else [])

    @property
    def bytes(self) -> int:
        """How many bytes are there and not committed, those of half a line included."""
        return max(self._size_bytes - self._offset, 0)

    @property
    def is_catching_up(self) -> bool:
        """Whether something that was there at the first look is not committed yet."""
        return self._offset < self._at_first

    def seconds(self, now: float) -> float:
        """Return for how long the oldest of the lines has been there."""
        return now - self._marks[0][1] if self._marks else 0.0

    def see(self, size_bytes: int, now: float) -> None:
        """Take note of how long the log is."""
        self._size_bytes = size_bytes
        last_at = self._marks[-1][1] if self._marks else float("-inf")
        at = self._drop_beyond(size_bytes, now)
        last_size = max(self._marks[-1][0] if self._marks else self._offset, self._settled)
        if size_bytes > last_size and (at < now or now - last_at >= MARK_SECONDS):
            self._marks.append((size_bytes, at))
            if len(self._marks) > MAX_MARKS:  # the oldest stays: it tells the seconds
                self._marks = deque(list(self._marks)[::2])

    def commit(self, offset: int) -> None:
        """Take note of what is committed."""
        self._offset = offset
        while self._marks and self._marks[0][0] <= offset:
            self._marks.popleft()

    def settle(self, offset: int, size_bytes: int, now: float) -> None:
        """Take note that no line is complete beyond an offset: half a line may wait for ever."""
        self.see(size_bytes, now)
        at = self._drop_beyond(offset, now)
        if self._offset < offset and not (self._marks and self._marks[-1][0] == offset):
            self._marks.append((offset, at))
        self._settled = max(size_bytes, offset)
        self._at_first = min(self._at_first, offset)

    def _drop_beyond(self, size_bytes: int, now: float) -> float:
        """Drop marks of more than is there; return since when that much was there."""
        at = now
        while self._marks and self._marks[-1][0] > size_bytes:
            _, at = self._marks.pop()
        return at
