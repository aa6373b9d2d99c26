"""A log that somebody writes, rotates, compresses and tears, a small step at a time.

`pieces` is what each of its files held, oldest first: what the log really was. Between two steps
anything may happen; within one nothing does.
"""

import gzip
from collections import deque

from scribe_lines import lines_of_log

HOWS = ("never", "create", "create", "dated", "copytruncate")


class SimulatedLog:
    """Writes `lines` lines to `path` in the simulated `files`, rotating `how`."""

    def __init__(self, files, path, rng, lines, longest):
        self.files, self.path, self.rng = files, path, rng
        self.how = rng.choice(HOWS)
        self.packs = rng.random() < 0.5
        self.pieces = [b""]
        self.deleted = 0
        """Up to which offset the log is not to be had any more."""
        self._tasks = deque()
        self._days = 0
        self._lines = self._unequal(lines_of_log(rng, lines), longest)
        self._inode = None

    def _unequal(self, lines, longest):
        """Yield lines no two of which are equal, and some that are too long."""
        for number, line in enumerate(lines):
            padding = 2 * self.rng.randrange(longest) if self.rng.random() < 0.003 else 0
            if line.endswith(b"}"):
                yield line[:-1] + b',"n":%d,"pad":"%s"}\n' % (number, b"x" * padding)
            elif padding or not line:
                yield b"%d %s\n" % (number, b"y" * padding)
            else:
                yield line + b"\n"

    @property
    def is_done(self):
        """Whether all is written, and no rotation is under way."""
        return self._lines is None and not self._tasks

    def text(self):
        """Return the bytes of the log: a file that was left ends with a newline."""
        *older, newest = self.pieces
        closed = (p if p.endswith(b"\n") else p + b"\n" for p in older if p)
        return b"".join(closed) + newest

    def act(self):
        """Do the next small thing."""
        if self._tasks:
            self._tasks.popleft()()
        elif self._inode is None:
            self._create()
        elif self._lines is not None and self.rng.random() < 0.75:
            self._append()
        elif self._lines is not None:
            self.rng.choice((self._rotate, self._rotate, self._pack, self._restore))()

    def end(self):
        """Write all that is left, and end what is under way."""
        while not self.is_done:
            self.act()
        self._write(b"" if self.pieces[-1].endswith(b"\n") else b"\n")

    def _create(self):
        self._hold(self.files.create(self.path))

    def _hold(self, inode):
        """Write to this file from now on."""
        if self._inode:
            self.files.release(self._inode)
        inode.handles += 1
        self._inode = inode

    def _append(self):
        data = b""
        for _ in range(self.rng.choice((1, 2, 5, 20))):
            line = next(self._lines, None)
            if line is None:
                self._lines = None
                break
            data += line
        if len(data) > 1 and self.rng.random() < 0.2:
            cut = self.rng.randrange(1, len(data))
            self._write(data[:cut])
            self._tasks.append(lambda: self._write(data[cut:]))
        else:
            self._write(data)

    def _write(self, data):
        self._inode.data += data
        self.pieces[-1] += data

    def _older(self):
        """Return the numbered files, oldest first."""
        names = [n for n in self.files.names if n.startswith(self.path + ".")]
        return sorted(names, key=lambda n: -int(n.removeprefix(self.path + ".").split(".")[0]))

    def _shift(self):
        for name in self._older():
            number, *end = name.removeprefix(self.path + ".").split(".", 1)
            new = ".".join([self.path, str(int(number) + 1), *end])
            self._tasks.append(lambda old=name, new=new: self.files.rename(old, new))

    def _rotate(self):
        if self.path not in self.files.names or self.how == "never":
            return
        if self.how == "dated":
            self._days += 1
            self._tasks.append(lambda: self._rename(f"{self.path}-202201{self._days:02}"))
        else:
            self._shift()
            first = f"{self.path}.1"
            if self.how == "create":
                self._tasks.append(lambda: self._rename(first))
            else:
                self._copy(first)

    def _rename(self, name):
        self.files.rename(self.path, name)
        tasks = [self._open_new]
        if self.rng.random() < 0.5:  # who writes has not noticed yet
            tasks.insert(0, self._append_if_more)
        if self.rng.random() < 0.3:
            tasks.insert(0, lambda: self.files.create(self.path))
        self._tasks.extend(tasks)

    def _append_if_more(self):
        if self._lines is not None and (line := next(self._lines, None)):
            self._write(line)

    def _open_new(self):
        self._hold(self.files.names.get(self.path) or self.files.create(self.path))
        self.pieces.append(b"")

    def _copy(self, name):
        """Copy in two steps, and truncate."""
        cut = self.rng.randrange(len(self._inode.data) + 1)

        def truncate():
            self._inode.data = b""
            self.pieces.append(b"")

        self._tasks.extend(
            (
                lambda: self.files.write(name, self._inode.data[:cut]),
                lambda: self.files.write(name, self._inode.data[cut:]),
                truncate,
            )
        )

    def _pack(self):
        """Compress one of the older files."""
        plain = [n for n in self._rotated() if not n.endswith(".gz")]
        if not plain or not self.packs:
            return
        name = self.rng.choice(plain)
        packed = gzip.compress(self.files.names[name].data, mtime=0)
        cut = self.rng.randrange(len(packed))
        self._tasks.extend(
            (
                lambda: self.files.write(name + ".gz", packed[:cut]),
                lambda: self.files.write(name + ".gz", packed[cut:]),
                lambda: self.files.unlink(name),
            )
        )

    def _restore(self):
        """Put a copy in the place of an older file, as rsync does."""
        if names := self._rotated():
            name = self.rng.choice(names)
            self.files.write(f"{self.path}~", self.files.names[name].data)
            self.files.rename(f"{self.path}~", name)

    def _rotated(self):
        return [n for n in self.files.names if n.startswith(self.path) and n[len(self.path) :]]

    def delete_oldest(self, committed):
        """Delete the oldest of several files, if it is read; `committed` is how much is."""
        names = sorted(self._rotated()) if self.how == "dated" else self._older()
        if names and not self._tasks:
            name = names[0]
            data = self.files.names[name].data
            data = gzip.decompress(data) if name.endswith(".gz") else data
            end = self.deleted + len(data) + bool(data and not data.endswith(b"\n"))
            if end <= committed:
                self.files.unlink(name)
                self.deleted = end
