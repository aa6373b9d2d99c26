"""Whatever is done to the files of a log, it is read like one file that was never rotated."""

import gzip
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from processor.edges import source
from processor.edges.files import zstd
from processor.edges.source import LogReader
from processor.errors import GoneError

DRAIN, LONGEST = 2.0, 8_000
PACK = {"gz": gzip.open, "zst": zstd.open}


class RotatedLog(RuleBasedStateMachine):
    """The model is a list of what each file holds; what was read must be what they come to."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "app.log"
        self.files = [b""]
        self.read = b""
        self.known = {}
        self.lines = 0
        self.reader = None
        self.is_being_copied = False
        self.was_damaged = False
        self.has_lost_files = False
        self.starts = [0]
        self.now = 0.0
        self.clock = source.time
        source.time = SimpleNamespace(monotonic=lambda: self.now)

    def teardown(self):
        """Remove the files."""
        source.time = self.clock
        if self.reader:
            self.reader.close()
        shutil.rmtree(self.folder)

    def expected(self):
        """Return the lines that there are: of the last file with a line, the complete ones."""
        *older, last = [-1, *(i for i, data in enumerate(self.files) if b"\n" in data)]
        parts = [data for data in self.files[: max(last, 0)] if data]
        parts = [data if data.endswith(b"\n") else data + b"\n" for data in parts]
        newest = self.files[last] if older else b""
        return b"".join(parts) + newest[: newest.rfind(b"\n") + 1]

    @initialize(lines=st.integers(0, 3))
    def begin(self, lines):
        """There is a log."""
        self.path.touch()
        self.append(lines, 10, tear=False)
        self.start()

    def start(self):
        """Open it where it was left off."""
        self.reader = self.open(len(self.read))

    def open(self, offset):
        """Open the log at an offset, by what was committed."""
        return LogReader(self.path, offset, list(self.known.values()), DRAIN, LONGEST)

    def untouched(self):
        """Whether nobody is about to truncate the file."""
        return not self.is_being_copied

    def rotatable(self):
        """Whether there is a file that nobody is about to truncate."""
        return not self.is_being_copied and self.path.exists()

    @precondition(untouched)
    @rule(
        lines=st.integers(1, 4), size=st.sampled_from([10, 10, 3_000, 10_000]), tear=st.booleans()
    )
    def append(self, lines, size, tear):
        """Write some lines, no two of which are equal, or all but the end of the last."""
        data = b""
        for _ in range(lines):
            self.lines += 1
            data += (b"%d." % self.lines) * (size // 3) + b"\n"
        data = data[:-5] if tear else data
        with self.path.open("ab") as log:
            log.write(data)
        self.files[-1] += data

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

    @precondition(untouched)
    @rule(number=st.integers(0, 4))
    def restore(self, number):
        """Put a copy in the place of a file, as rsync does."""
        names = [self.path.name, *(f"app.log.{n}{end}" for n in (1, 2) for end in ("", ".gz"))]
        file = self.folder / names[number]
        if file.exists():
            copy = self.folder / "copy"
            shutil.copyfile(file, copy)
            copy.rename(file)

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

    @precondition(rotatable)
    @rule()
    def create(self):
        """Rename and create."""
        self.shift()
        self.path.rename(self.folder / "app.log.1")
        self.path.touch()
        self.files.append(b"")

    @precondition(rotatable)
    @rule()
    def copy(self):
        """Copy, to truncate later."""
        self.shift()
        self.is_being_copied = True
        shutil.copyfile(self.path, self.folder / "app.log.1")

    @precondition(lambda self: self.is_being_copied)
    @rule()
    def truncate(self):
        """Truncate what was copied."""
        os.truncate(self.path, 0)
        self.is_being_copied = False
        self.files.append(b"")

    @precondition(untouched)
    @rule(number=st.integers(1, 4), how=st.sampled_from(sorted(PACK)))
    def compress(self, number, how):
        """Compress one of the older files."""
        plain = self.folder / f"app.log.{number}"
        if plain.exists():
            with PACK[how](f"{plain}.{how}", "wb") as packed:
                packed.write(plain.read_bytes())
            plain.unlink()

    @precondition(untouched)
    @rule()
    def expire(self):
        """Delete the oldest file, once all is read."""
        self.finish()
        self.commit()
        older = sorted(self.folder.glob("app.log.*"), key=lambda f: int(f.name.split(".")[2]))
        for file in older[-1:]:
            if len(self.read) == len(b"".join(self.files)) and self.path.exists():
                self.was_damaged |= b"\n" not in self.files[-1]  # it may not be left yet
                self.has_lost_files = True
                file.unlink()

    @precondition(rotatable)
    @rule(is_truncated=st.booleans())
    def damage(self, is_truncated):
        """Delete or truncate the log once it is read, so that what is lost is nothing."""
        self.finish()
        if self.files[-1].endswith(b"\n") and len(self.read) == len(self.expected()):
            self.commit()
            self.was_damaged = self.has_lost_files = True
            self.files.append(b"")
            if is_truncated:
                os.truncate(self.path, 0)
            else:
                self.path.unlink()

    def shift(self):
        """Make room for the newest of the older files."""
        numbers = sorted((int(f.name.split(".")[2]), f) for f in self.folder.glob("app.log.*"))
        for number, file in reversed(numbers):
            packed = file.suffix if file.suffix[1:] in PACK else ""
            file.rename(self.folder / f"app.log.{number + 1}{packed}")

    @invariant()
    def nothing_is_lost_or_read_twice(self):
        """What was read is what was written, as far as it was read."""
        assert self.expected().startswith(self.read)

    @precondition(untouched)
    @rule()
    def finish(self):
        """All that was written is read, without a word of loss."""
        for _ in range(300):
            self.now += 0.5
            self.read_on(3, 1 << 60)
            if not self.reader.look() and self.read == self.expected():
                break
        assert self.read == self.expected()
        assert self.was_damaged or self.reader.messages == []


TestRotatedLog = RotatedLog.TestCase
TestRotatedLog.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


@pytest.mark.torture
class TestRotatedLogAtLength(RotatedLog.TestCase):
    """The same, more often."""

    settings = settings(max_examples=2_000, stateful_step_count=50, deadline=None)
