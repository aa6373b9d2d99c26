"""A log that grows by torn pieces and is rotated, and the comparison with the oracle."""

import random
import threading
from itertools import islice

from oracle import lines_of, report

from processor.shell.generate import LogShape, generate

LINES_AN_HOUR = 3_000


class GrowingLog:
    """A log, and beside it a copy of all that was ever written to it."""

    def __init__(self, folder, seed, **shape):
        self.path = folder / "logs/app.log"
        self.all = folder / "all.jsonl"
        self.path.parent.mkdir(parents=True)
        self.rotations = 0
        self._dice = random.Random(seed)
        events = shape.pop("events", 10_000_000)
        trouble = {"duplicates": 0.02, "malformed": 0.01, "late": 0.01}
        shape = {"hours": events / LINES_AN_HOUR, "users": 300, **trouble, **shape}
        self._lines = generate(LogShape(events=events, seed=seed, **shape))
        self._torn = b""
        self._log, self._copy = self.path.open("ab", 0), self.all.open("ab", 0)

    def close(self):
        """Let go of the files."""
        self._log.close()
        self._copy.close()

    def grow(self, lines):
        """Append so many lines; the last may lack its end for now."""
        data = self._torn + b"".join(b"%s\n" % line.encode() for line in islice(self._lines, lines))
        cut = self._dice.choice([0, 0, self._dice.randrange(1, 100)])
        self._torn = data[-cut:] if cut else b""
        self._write(data[:-cut] if cut else data)

    def mend(self):
        """Append the end of the last line."""
        self._write(self._torn)
        self._torn = b""

    def rotate(self):
        """Rename and create."""
        self.mend()
        for number in range(self.rotations, 0, -1):
            self.path.with_name(f"app.log.{number}").rename(
                self.path.with_name(f"app.log.{number + 1}")
            )
        self.path.rename(self.path.with_name("app.log.1"))
        self._log.close()
        self._log = self.path.open("ab", 0)
        self.rotations += 1

    def _write(self, data):
        self._copy.write(data)
        self._log.write(data)


class Growing:
    """Has a log grow in a thread of its own, and rotates it now and then."""

    def __init__(self, log, lines_a_second, rotate_seconds):
        self.log = log
        self._tick_seconds = 0.02
        self._lines = round(lines_a_second * self._tick_seconds)
        self._rotate_ticks = round(rotate_seconds / self._tick_seconds)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._grow, daemon=True)

    def __enter__(self):
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_error):
        """Stop; the last line is whole."""
        self._ended.set()
        self._thread.join()
        self.log.mend()

    def _grow(self):
        ticks = 0
        while not self._ended.wait(self._tick_seconds):
            self.log.grow(self._lines)
            ticks += 1
            if ticks % self._rotate_ticks == 0:
                self.log.rotate()


def equal(command, log, lag=0):
    """Compare report and ledger with the oracle, and with the lines that were written."""
    assert command.report() == report(lines_of(log.all))
    ledger = command.ledger()
    assert ledger["lines"] == len(lines_of(log.all))
    assert ledger["byte_offset"] == log.all.stat().st_size
    assert ledger["lag_bytes"] == lag


def settle(command, log, *, lag=0):
    """Let a last run read on, and compare."""
    command("run", "--once", log.path)
    equal(command, log, lag)
