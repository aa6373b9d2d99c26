"""The ledger of what Spark has read: every line has one outcome, or nothing is committed."""

from collections.abc import Iterable
from dataclasses import replace

from processor.core.log import APPLIED, DUPLICATE, LogState
from processor.core.model import Checkpoint, DeadLetter, LogCommit
from processor.errors import LedgerError
from processor.spark.lines import Note


def log_commit(
    log_id: int,
    path: str,
    notes: Iterable[Note],
    refused: Iterable[DeadLetter],
    applied: int,
    checkpoint: Checkpoint,
) -> LogCommit:
    """Return what became of the lines of a log, all of which are read for the first time.

    `notes` come by offset; `refused` are events among theirs that the watermark refused, `applied`
    is how many of the others are no duplicates.

    Raises:
        LedgerError: more came out than went in.

    """
    log = LogState(log_id, Checkpoint())
    events = 0
    for note in notes:
        log.lines += note.lines
        events += note.events
        for event_type, lines in note.ignored.items():
            log.outcomes["ignored", log.name_of(event_type)] += lines
        for dead_letter in note.refused:
            log.bury(DeadLetter(*dead_letter))
    for late in refused:
        log.bury(late)
        events -= 1
    log.outcomes[APPLIED] = applied
    log.outcomes[DUPLICATE] = events - applied
    if applied > events:
        raise LedgerError(
            f"{path}: {events} events went in, {applied} came out; nothing of it was committed. "
            "Please report this with the version"
        )
    return replace(log.commit(), from_offset=0, checkpoint=checkpoint)
