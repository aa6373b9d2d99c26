"""The files of a log, and all that rotation does to them, for state machines to be made of."""

import gzip
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from processor.edges.files import zstd

PACK = {"gz": gzip.open, "zst": zstd.open}


class RotatedFiles(RuleBasedStateMachine):
    """The model is a list of what each file holds.

    Whoever reads them has `start` and `finish`, which reads all that there is and commits it.
    """

    longest = 1 << 20

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "app.log"
        self.files = [b""]
        self.lines = 0
        self.is_being_copied = False
        self.may_warn = False
        self.has_lost_files = False

    def teardown(self):
        """Remove the files."""
        shutil.rmtree(self.folder)

    def line(self, number, size):
        """Return a line that is no other's."""
        return (b"%d." % number) * (size // 3)

    @initialize(lines=st.integers(0, 3))
    def begin(self, lines):
        """There is a log."""
        self.path.touch()
        self.append(lines, 10, tear=False)
        self.start()

    def expected(self):
        """Return the lines that there are: of the last file with a line, the complete ones.

        What is as long as a line may be will be one.
        """
        with_lines = (b"\n" in data or len(data) >= self.longest for data in self.files)
        *older, last = [-1, *(i for i, has_line in enumerate(with_lines) if has_line)]
        parts = [data for data in self.files[: max(last, 0)] if data]
        parts = [data if data.endswith(b"\n") else data + b"\n" for data in parts]
        newest = self.files[last] if older else b""
        return b"".join(parts) + newest[: newest.rfind(b"\n") + 1]

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
            data += self.line(self.lines, size) + b"\n"
        data = data[:-5] if tear else data
        with self.path.open("ab") as log:
            log.write(data)
        self.files[-1] += data

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

    @precondition(rotatable)
    @rule()
    def expire(self):
        """Delete the oldest file, once all is read."""
        self.finish()
        older = sorted(self.folder.glob("app.log.*"), key=lambda f: int(f.name.split(".")[2]))
        if older and self.is_whole():
            self.may_warn |= not self.files[-1]  # the newest one with lines may not be left yet
            self.has_lost_files = True
            older[-1].unlink()

    @precondition(rotatable)
    @rule(is_truncated=st.booleans())
    def damage(self, is_truncated):
        """Delete or truncate the log once it is read, so that what is lost is nothing."""
        self.finish()
        if self.files[-1] and self.is_whole():
            self.may_warn = self.has_lost_files = True
            self.files.append(b"")
            if is_truncated:
                os.truncate(self.path, 0)
            else:
                self.path.unlink()

    def is_whole(self):
        """Whether each file ends with a newline, so that all is read that there is."""
        return all(data.endswith(b"\n") for data in self.files if data)

    def shift(self):
        """Make room for the newest of the older files."""
        numbers = sorted((int(f.name.split(".")[2]), f) for f in self.folder.glob("app.log.*"))
        for number, file in reversed(numbers):
            packed = file.suffix if file.suffix[1:] in PACK else ""
            file.rename(self.folder / f"app.log.{number + 1}{packed}")
