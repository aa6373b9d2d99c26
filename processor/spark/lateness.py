"""Shows the events of a log to its watermark, in their order, as the fold does.

Runs in the executors. A log is shown in chunks; most of them the watermark passes as a whole, by
their first and last instant alone. Knows nothing of visits, and no other log.
"""

from bisect import insort
from collections.abc import Callable, Iterable, Iterator
from statistics import median_low
from typing import TYPE_CHECKING, Final

import numpy as np
import orjson
import pyarrow as pa

from processor.core.contract import Refused
from processor.core.fold import AHEAD, LATE, MAX_AHEAD_LINES
from processor.core.log import LogState
from processor.core.model import Checkpoint, Rules
from processor.core.watermark import advance, advance_all, is_late

if TYPE_CHECKING:
    from numpy.typing import NDArray

JUDGED: Final = (
    "log string, offset long, length long, reason string, detail string, checkpoint binary"
)
"""What a log was judged to be: a row for each event that it refused, and one with its checkpoint,
as JSON: the watermark, `rebuild_from`, the watermark there, and the offsets that are ahead."""


class Lateness:
    """The watermark of one log, and where it could be folded again from."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._log = LogState(0, Checkpoint())

    def refused(
        self, start: int, end: int, instants: "NDArray[np.int64]", offsets: "NDArray[np.int64]"
    ) -> list[tuple[int, Refused]]:
        """Take in the events of the lines from `start` to `end`; return which are refused, and why.

        `offsets` are those of their lines.
        """
        log, lateness = self._log, self._rules.allowed_lateness_us
        log.offset = start
        log.place_marker()
        log.offset = end
        if len(instants) == 0:
            return []
        mark = advance_all(log.mark, int(instants.min()), int(instants.max()), lateness)
        if mark is not None:
            log.mark, refused = mark, []
        else:
            refused = list(self._one_by_one(instants.tolist(), offsets))
        if log.mark.at is not None:
            log.drop_before(self._rules.oldest_needed(log.mark.at))
        return refused

    def _one_by_one(
        self, instants: Iterable[int], offsets: "NDArray[np.int64]"
    ) -> Iterator[tuple[int, Refused]]:
        log, lateness = self._log, self._rules.allowed_lateness_us
        for position, fired_at in enumerate(instants):
            at = log.mark.at
            if at is not None and not log.mark.run and at - lateness <= fired_at <= at:
                continue
            if is_late(log.mark, fired_at, lateness):
                yield position, LATE
                continue
            log.mark = advance(log.mark, fired_at, lateness)
            if log.mark.at is None or fired_at > log.mark.at:
                if log.ahead_lines >= MAX_AHEAD_LINES:
                    yield position, AHEAD
                else:
                    insort(log.ahead, (fired_at, int(offsets[position])))

    def event_time(self) -> int | None:
        """Return how far event time has come: never further than most lines agree on."""
        at, run = self._log.mark
        return median_low(run) if at is None and run else at

    def checkpoint(self) -> Checkpoint:
        """Return how the log stands after all that it was shown."""
        return self._log.commit().checkpoint


def judge_logs(rules: Rules) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Return what judges the logs of a partition, given their chunks by log and offset.

    The columns are `log`, `offset`, `end` and `places`; see `lines` for the last one.
    """

    def judge(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        log, lateness = None, Lateness(rules)
        for batch in batches:
            for chunk in batch.to_pylist():
                if chunk["log"] != log:
                    if log is not None:
                        yield _judged([_last(log, lateness)])
                    log, lateness = chunk["log"], Lateness(rules)
                offsets, lengths, instants = np.frombuffer(chunk["places"], np.int64).reshape(3, -1)
                refused = lateness.refused(chunk["offset"], chunk["end"], instants, offsets)
                if refused:
                    yield _judged(
                        (log, int(offsets[at]), int(lengths[at]), why.reason, why.detail, None)
                        for at, why in refused
                    )
        if log is not None:
            yield _judged([_last(log, lateness)])

    return judge


def _last(log: str, lateness: Lateness) -> tuple[object, ...]:
    return log, None, None, None, None, orjson.dumps(tuple(lateness.checkpoint()))


_TYPES: Final = (pa.string(), pa.int64(), pa.int64(), pa.string(), pa.string(), pa.binary())


def _judged(rows: Iterable[tuple[object, ...]]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(column, type_) for column, type_ in zip(columns, _TYPES, strict=True)]
    return pa.RecordBatch.from_arrays(
        arrays, names=[column.split()[0] for column in JUDGED.split(", ")]
    )
