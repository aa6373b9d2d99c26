"""Whatever is done to the files of a log, it is read like one file that was never rotated."""

import gzip
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from processor.edges.source import LogReader


class RotatedLog(RuleBasedStateMachine):
    """A list of lines is the model; what was read so far must be its beginning."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "app.log"
        self.written = b""
        self.read = b""
        self.known = {}
        self.lines = 0
        self.reader = None
        self.being_copied = None

    def teardown(self):
        """Remove the files."""
        if self.reader:
            self.reader.close()
        shutil.rmtree(self.folder)

    @initialize(lines=st.integers(0, 3))
    def begin(self, lines):
        """There is a log."""
        self.path.touch()
        self.append(lines, 10)
        self.start()

    def start(self):
        """Open it where it was left off."""
        self.reader = LogReader(self.path, len(self.read), list(self.known.values()))

    @precondition(lambda self: self.being_copied is None)
    @rule(lines=st.integers(1, 4), size=st.sampled_from([10, 10, 3_000, 10_000]))
    def append(self, lines, size):
        """Write some lines, no two of which are equal."""
        with self.path.open("ab") as log:
            for _ in range(lines):
                self.lines += 1
                line = b"%d %s\n" % (self.lines, b"x" * size)
                log.write(line)
                self.written += line

    @rule(chunks=st.integers(1, 3), most=st.sampled_from([1, 2, 1 << 60]))
    def read_on(self, chunks, most):
        """Read a little, and take note of it."""
        for _ in range(chunks):
            if chunk := self.reader.read(most):
                assert chunk.offset == len(self.read)
                self.read += chunk.data
                self.reader.take_note(chunk)

    @rule()
    def look(self):
        """Look which files there are."""
        self.reader.look()

    @rule()
    def commit(self):
        """Keep what the files are known by."""
        for file in self.reader.known_files():
            self.known[file.start_offset] = file

    @rule()
    def restart(self):
        """Stop and go on, having committed."""
        self.commit()
        self.reader.close()
        self.start()

    @precondition(lambda self: self.being_copied is None)
    @rule()
    def create(self):
        """Rename and create."""
        self.shift()
        self.path.rename(self.folder / "app.log.1")
        self.path.touch()

    @precondition(lambda self: self.being_copied is None)
    @rule()
    def copy(self):
        """Copy, to truncate later."""
        self.shift()
        self.being_copied = self.folder / "app.log.1"
        shutil.copyfile(self.path, self.being_copied)

    @precondition(lambda self: self.being_copied is not None)
    @rule()
    def truncate(self):
        """Truncate what was copied."""
        os.truncate(self.path, 0)
        self.being_copied = None

    @precondition(lambda self: self.being_copied is None)
    @rule(number=st.integers(1, 4))
    def compress(self, number):
        """Compress one of the older files."""
        plain = self.folder / f"app.log.{number}"
        if plain.exists():
            with gzip.open(plain.with_name(plain.name + ".gz"), "wb") as packed:
                packed.write(plain.read_bytes())
            plain.unlink()

    def shift(self):
        """Make room for the newest of the older files."""
        numbers = sorted((int(f.name.split(".")[2]), f) for f in self.folder.glob("app.log.*"))
        for number, file in reversed(numbers):
            file.rename(self.folder / f"app.log.{number + 1}{file.suffix * (file.suffix == '.gz')}")

    @invariant()
    def nothing_is_lost_or_read_twice(self):
        """What was read is what was written, as far as it was read."""
        assert self.written.startswith(self.read)

    @precondition(lambda self: self.being_copied is None)
    @rule()
    def finish(self):
        """All that was written is read, without a word of loss."""
        for _ in range(200):
            self.read_on(3, 1 << 60)
            if not self.reader.look() and self.read == self.written:
                break
        assert self.read == self.written
        assert self.reader.messages == []


TestRotatedLog = RotatedLog.TestCase
TestRotatedLog.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
