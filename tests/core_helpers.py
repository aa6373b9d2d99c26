"""What the tests of the core stand on: lines, logs in memory, and a daemon without a store."""

import json
from collections import Counter, deque
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import accumulate

from processor.core.contract import CLICK, PAGE_LOAD, Event, Ignored, judge
from processor.core.decode import Decoded, Decoder
from processor.core.fold import Fold
from processor.core.framing import BLOCK_BYTES, Framer
from processor.core.log import LogState
from processor.core.model import Checkpoint, Chunk, LogImage, Rules
from processor.core.visits import Visits

MINUTE, HOUR, DAY, YEAR = 60, 3_600, 86_400, 365 * 86_400
"""In seconds, as all times in here are: seconds since `START`."""
START = datetime(2022, 1, 1, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RULES = Rules()
ALL_LINES = 1 << 62


def us_of(moment):
    """Return an aware datetime in microseconds since the epoch."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def us(at):
    """Return a time of the tests in microseconds since the epoch."""
    return us_of(START + timedelta(seconds=at))


def fired_at(at):
    """Write a time as logs do: the American way, or as ISO 8601 where it is no whole second."""
    moment = START + timedelta(seconds=at)
    return moment.isoformat() if moment.microsecond else moment.strftime("%m/%d/%Y, %H:%M:%S")


def event(event_type, at, visit="visit", customer=7, user=1, **more):
    """Return a line of a log."""
    fields = {
        "event_id": visit,
        "customer_id": customer,
        "fired_at": fired_at(at),
        "user_id": user,
        "event_type": event_type,
        **more,
    }
    return json.dumps(fields).encode()


def page_load(at, *visit, **more):
    """Return the line of a page load."""
    return event(PAGE_LOAD, at, *visit, **more)


def click(at, *visit, **more):
    """Return the line of a click."""
    return event(CLICK, at, *visit, **more)


def beats(first, last, step=MINUTE):
    """Return page loads of visits of their own: they do nothing but move the watermark."""
    return [page_load(at, f"beat {at}", 1, 1) for at in range(first, last, step)]


def log_of(lines):
    """Return lines as the bytes of a log."""
    return b"".join(line + b"\n" for line in lines)


def chunk_of(lines, offset=0):
    """Return lines as a chunk of a log."""
    data = log_of(lines)
    return Chunk(offset, data, len(lines), offset + len(data))


def judged(chunk, zone=UTC):
    """Return what the lines of a chunk are, decided by the model, line by line."""
    decoded, offset = Decoded([], [], [], [], [], [], {}, []), chunk.offset
    for number, line in enumerate(chunk.data.split(b"\n")[:-1]):
        verdict = judge(line, zone)
        if isinstance(verdict, Event):
            is_click, event_id, customer, user, instant = verdict
            if is_click:
                decoded.clicks.append(len(decoded.visits))
                decoded.users.append(user)
            decoded.visits.append(f"{customer} {user} {event_id}")
            decoded.customers.append(customer)
            decoded.instants.append(instant)
        else:
            decoded.no_events.append(number)
            if isinstance(verdict, Ignored):
                name = verdict.event_type
                decoded.ignored[name] = decoded.ignored.get(name, 0) + 1
            else:
                refusal = offset, len(line), verdict.reason, verdict.detail
                decoded.refused.append(refusal)
        offset += len(line) + 1
    return decoded


class MemoryLog:
    """Reads a log that is held in memory, as the source reads files; `visible` is its length."""

    def __init__(self, data, offset=0, block_bytes=BLOCK_BYTES):
        self.data = data
        self.visible = len(data)
        self.framer = Framer(offset, block_bytes)

    def read(self, most=ALL_LINES, end=None):
        """Return up to `most` lines that follow the last ones, None when no line is complete."""
        if chunk := self.framer.take(most):
            return chunk
        while block := self._next_block(self.visible if end is None else end):
            if chunk := self.framer.feed(block) or self.framer.take(most):
                return chunk
            if len(block) < self.framer.block_bytes:
                break
        return None

    def _next_block(self, end):
        offset = self.framer.next_read
        return self.data[offset : min(end, offset + self.framer.block_bytes)]

    def line_at(self, offset):
        """Return the line that starts at `offset`, without moving on."""
        return MemoryLog(self.data, offset, self.framer.block_bytes).read(1)


def pieces(chunk):
    """Return [(offset, line)] of a chunk; the line is None where it is too long."""
    if not chunk.data:
        assert chunk.lines == 1
        return [(chunk.offset, None)]
    *lines, tail = chunk.data.split(b"\n")
    assert (len(lines), tail) == (chunk.lines, b"")
    offsets = accumulate((len(line) + 1 for line in lines), initial=chunk.offset)
    return list(zip(offsets, lines, strict=False))


class Run:
    """Folds logs as the daemon does, and keeps its commits as the store does."""

    def __init__(self, *logs, rules=RULES, zone=UTC, block_bytes=BLOCK_BYTES):
        self.logs = {log_id: log_of(lines) for log_id, lines in enumerate(logs, 1)}
        self.rules, self.zone, self.block_bytes = rules, zone, block_bytes
        self.commits = []
        self.restart(0)

    def restart(self, commits):
        """Lose the memory, and all but the first `commits` commits; fold the state again."""
        del self.commits[commits:]
        self.fold, self.decode = Fold(self.rules), Decoder(self.zone).decode
        self.states = {i: self.fold.open(i, self.checkpoint(i), self.names(i)) for i in self.logs}
        self.readers = {
            log_id: MemoryLog(data, self.states[log_id].offset, self.block_bytes)
            for log_id, data in self.logs.items()
        }
        for log_id in self.logs:
            self._rebuild(self.states[log_id], self.readers[log_id], self.checkpoint(log_id))

    def snapshot(self):
        """Return the working state as a file would hold it; no batch may be in hand."""
        images = [state.image() for state in self.states.values()]
        return json.dumps([self.fold.open_from, list(map(asdict, images)), [*self.fold.pieces()]])

    def restart_from(self, snapshot, commits):
        """Lose the memory, and all but the first `commits` commits; fold on from a snapshot."""
        del self.commits[commits:]
        open_from, images, pieces = json.loads(snapshot)
        logs = [(LogImage(**image), self.names(image["log_id"])) for image in images]
        self.fold = Fold.restored(self.rules, open_from, logs, pieces)
        self.decode = Decoder(self.zone).decode
        self.states = {log_id: self.fold.log(log_id) for log_id in self.logs}
        self.readers = {
            log_id: MemoryLog(data, self.states[log_id].offset, self.block_bytes)
            for log_id, data in self.logs.items()
        }
        for log_id in self.logs:
            self._fold_silently(self.states[log_id], self.readers[log_id], self.checkpoint(log_id))

    def _rebuild(self, state, reader, checkpoint):
        for offset in checkpoint.ahead_offsets:
            if offset < state.offset:
                self.fold.recall(state, offset, self.decode(reader.line_at(offset)))
        self._fold_silently(state, reader, checkpoint)

    def _fold_silently(self, state, reader, checkpoint):
        while state.offset < checkpoint.byte_offset:
            self.take_in(state, reader.read(end=checkpoint.byte_offset))
            self.fold.cut()
        assert (state.offset, state.mark.at) == (checkpoint.byte_offset, checkpoint.watermark)

    def of_log(self, log_id=1):
        """Return what was committed of a log, batch by batch."""
        return [log for commit in self.commits for log in commit.logs if log.log_id == log_id]

    def checkpoint(self, log_id=1):
        """Return the checkpoint of a log after the last commit."""
        return self.of_log(log_id)[-1].checkpoint if self.of_log(log_id) else Checkpoint()

    def names(self, log_id=1):
        """Return the names of event types that a log has ignored."""
        return [n for log in self.of_log(log_id) for o, n in log.outcomes if o == "ignored"]

    def read(self, most=ALL_LINES):
        """Fold the next lines of the log that is furthest behind; False when none has any."""
        for log_id in sorted(self.logs, key=lambda i: self._event_time(self.states[i])):
            if chunk := self.readers[log_id].read(most):
                self.take_in(self.states[log_id], chunk)
                return True
        return False

    def take_in(self, state, chunk):
        """Fold a chunk of a log."""
        self.fold.fold(state, chunk, self.decode(chunk))

    def _event_time(self, state):
        return state.mark.at is not None, state.mark.at or 0

    def cut(self):
        """Commit the batch in hand."""
        if commit := self.fold.cut():
            self.commits.append(commit)

    def to_end(self, batch_lines=ALL_LINES):
        """Fold and commit all that is left."""
        while self.read(batch_lines - self.fold.batch_lines):
            if self.fold.batch_lines >= batch_lines:
                self.cut()
        self.cut()
        return self

    def anyhow(self, rng, restarts=3):
        """Fold all, in batches of any size, crashing and going on from any earlier commit.

        From a snapshot too, whichever commit it was taken at, if it is not newer than the commit.
        """
        snapshots = []
        while self.read(rng.choice((1, 2, 7, 40, 200))):
            if rng.random() < 0.4:
                self.cut()
                snapshots.append(({i: s.offset for i, s in self.states.items()}, self.snapshot()))
            if restarts and rng.random() < 0.1:
                commits = rng.randint(0, len(self.commits))
                self.restart(commits)
                usable = [
                    snapshot
                    for offsets, snapshot in snapshots
                    if all(at <= self.checkpoint(i).byte_offset for i, at in offsets.items())
                ]
                if usable and rng.random() < 0.6:
                    self.restart_from(rng.choice(usable), commits)
                restarts -= 1
        self.cut()
        return self

    def table(self):
        """Return {(customer, hour): the five counts}, as the oracle does."""
        table = {}
        for commit in self.commits:
            for customer, hour, *counts in commit.increments:
                key = customer, f"{EPOCH + timedelta(hours=hour):%Y-%m-%dT%H:00:00Z}"
                table[key] = tuple(map(sum, zip(table.get(key, [0] * 5), counts, strict=True)))
        return table

    def ledger(self, log_id=1):
        """Return the lines of a log by (outcome, name)."""
        outcomes = sum((Counter(log.outcomes) for log in self.of_log(log_id)), Counter())
        return dict(+outcomes)

    def dead_letters(self, log_id=1):
        """Return the dead letters of a log, in the order in which they were buried."""
        return [letter for log in self.of_log(log_id) for letter in log.dead_letters]


def items_held(value):
    """Return how many items a working state holds, in all its collections together."""
    if isinstance(value, Fold | LogState | Visits):
        return sum(map(items_held, vars(value).values()))
    if isinstance(value, dict):
        return sum(1 + items_held(item) for item in value.values())
    if isinstance(value, list | tuple | set | deque):
        return sum(1 + items_held(item) for item in value)
    return 0
