"""Whatever is done to the files of a log, it is read like one file that was never rotated."""

from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule
from rotated_files import RotatedFiles

from processor.edges import source
from processor.edges.source import LogReader
from processor.errors import GoneError

DRAIN, LONGEST = 2.0, 8_000


class RotatedLog(RotatedFiles):
    """What was read must be the lines of the files, one after the other."""

    longest = LONGEST

    def __init__(self):
        super().__init__()
        self.read = b""
        self.known = {}
        self.reader = None
        self.starts = [0]
        self.now = 0.0
        self.clock = source.time
        source.time = SimpleNamespace(monotonic=lambda: self.now)

    def teardown(self):
        """Close what is open."""
        source.time = self.clock
        if self.reader:
            self.reader.close()
        super().teardown()

    def start(self):
        """Open it where it was left off."""
        self.reader = self.open(len(self.read))

    def open(self, offset):
        """Open the log at an offset, by what was committed."""
        return LogReader(self.path, offset, list(self.known.values()), DRAIN, LONGEST)

    @rule(chunks=st.integers(1, 3), most=st.sampled_from([1, 2, 1 << 60]))
    def read_on(self, chunks, most):
        """Read a little."""
        for _ in range(chunks):
            if chunk := self.reader.read(most):
                self.read += self.lines_of(chunk, len(self.read))
                self.starts.append(len(self.read))

    def lines_of(self, chunk, offset):
        """Return the lines that a chunk stands for."""
        assert chunk.offset == offset
        lines = chunk.data
        if not lines:
            lines = self.expected()[offset : chunk.end]
            assert len(lines) > LONGEST
        assert lines.count(b"\n") == chunk.lines
        assert len(lines) == chunk.end - chunk.offset
        return lines

    @rule(seconds=st.sampled_from([0.1, 1, 3]))
    def wait(self, seconds):
        """Some time passes."""
        self.now += seconds

    @rule(data=st.data())
    def read_again(self, data):
        """Fold the state again, from somewhere up to the checkpoint."""
        self.commit()
        offset = data.draw(st.sampled_from(self.starts))
        try:
            again = self.open(offset)
        except GoneError:
            assert self.has_lost_files
            return
        try:
            while offset < len(self.read):
                chunk = again.read(data.draw(st.sampled_from([1, 1 << 60])), len(self.read))
                assert chunk is not None
                lines = self.lines_of(chunk, offset)
                assert self.read[offset:].startswith(lines)
                offset += len(lines)
        except GoneError:
            assert self.has_lost_files
        finally:
            again.close()

    @rule()
    def look(self):
        """Look which files there are."""
        self.reader.look()

    @rule()
    def commit(self):
        """Keep what the files are known by."""
        files = self.reader.files_up_to(len(self.read))
        self.known |= {file.start_offset: file for file in files.changed}
        for file in [
            f for f in self.known.values() if f.start_offset + f.read_bytes < files.oldest
        ]:
            del self.known[file.start_offset]

    @rule()
    def restart(self):
        """Stop and go on, having committed."""
        self.commit()
        self.reader.close()
        self.start()

    @invariant()
    def nothing_is_lost_or_read_twice(self):
        """What was read is what was written, as far as it was read."""
        assert self.expected().startswith(self.read)

    @precondition(lambda self: not self.is_being_copied)
    @rule()
    def finish(self):
        """All that was written is read, without a word of loss."""
        for _ in range(300):
            self.now += 0.5
            self.read_on(3, 1 << 60)
            if not self.reader.look() and self.read == self.expected():
                break
        assert self.read == self.expected()
        assert self.may_warn or self.reader.messages == []
        self.commit()


TestRotatedLog = RotatedLog.TestCase
TestRotatedLog.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, derandomize=True
)


@pytest.mark.torture
class TestRotatedLogAtLength(RotatedLog.TestCase):
    """The same, more often."""

    settings = settings(max_examples=2_000, stateful_step_count=50, deadline=None)
