"""A file system in memory: what the package uses of one, and what happens to files in it.

Everything under `ROOT` is here. `installed` puts it in the place of the real one for the modules of
the package that read and write files. An inode that is free is used again, lowest first, as ext4
and tmpfs do. `step(what, path)` is called before each access: there a simulation may crash, fail
it, or let something happen to the files.
"""

import errno
import fnmatch
import glob
import io
import itertools
import os
import stat
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from processor.edges import files, snapshot

ROOT = "/simulated"
DEVICE = 7
_FIRST_FD = 100_000


class Inode:
    """A file: its bytes, and how many names and handles it has."""

    def __init__(self, number):
        self.number = number
        self.data = b""
        self.names = 0
        self.handles = 0


class SimulatedFiles:
    """Names, inodes and handles. Methods without `_` are for who simulates, and are no steps."""

    def __init__(self, step):
        self.step = step
        self.names = {}
        self.most_read = None
        """How much a read returns at most, if it is short."""
        self.folders = {ROOT}
        self.owner = 0
        """Which process opens files just now."""
        self._inodes = {}
        self._handles = {}
        self._numbers = itertools.count(_FIRST_FD)

    def write(self, path, data):
        """Put a file at a path, or append to the one that is there; return its inode."""
        inode = self.names.get(path) or self.create(path)
        inode.data += data
        return inode

    def create(self, path):
        """Put a new and empty file at a path."""
        number = next(n for n in range(1, len(self._inodes) + 2) if n not in self._inodes)
        inode = self._inodes[number] = Inode(number)
        self._link(path, inode)
        return inode

    def rename(self, old, new):
        """Rename a file; one that has the name already is gone."""
        inode = self.names.pop(old)
        inode.names -= 1
        inode.names += 1
        if former := self.names.pop(new, None):
            former.names -= 1
            self._free(former)
        self.names[new] = inode

    def unlink(self, path):
        """Take a name away."""
        inode = self.names.pop(path)
        inode.names -= 1
        self._free(inode)

    def release(self, inode):
        """Let go of a handle of somebody else."""
        inode.handles -= 1
        self._free(inode)

    def close_all(self, owner):
        """Let go of all handles of a process, as its end does; return how many there were."""
        left = [fd for fd, (_, opened_by) in self._handles.items() if opened_by == owner]
        for fd in left:
            self._close(fd)
        return len(left)

    def _link(self, path, inode):
        if former := self.names.pop(path, None):
            former.names -= 1
            self._free(former)
        inode.names += 1
        self.names[path] = inode

    def _free(self, inode):
        if not inode.names and not inode.handles and inode.number:
            del self._inodes[inode.number]

    def _found(self, path):
        try:
            return self.names[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path) from None

    def _status(self, inode):
        return SimpleNamespace(
            st_mode=stat.S_IFREG | 0o600,
            st_dev=DEVICE,
            st_ino=inode.number,
            st_size=len(inode.data),
        )

    # What `os` has.

    def _open(self, path, flags, mode=0o600):
        path = str(path)
        self.step("open", path)
        if flags & os.O_DIRECTORY:
            return self._handle(Inode(0))
        if flags & os.O_CREAT:
            inode = self.create(path)
        inode = self._found(path)
        return self._handle(inode)

    def _handle(self, inode):
        fd = next(self._numbers)  # no number twice: what a dead process left may be closed late
        inode.handles += 1
        self._handles[fd] = inode, self.owner
        return fd

    def _close(self, fd):
        inode, _ = self._handles.pop(fd, (None, 0))
        if inode:
            self.release(inode)

    def _pread(self, fd, size, offset):
        self.step("read", "")
        if self.most_read:
            size = min(size, self.most_read())
        return self._handles[fd][0].data[offset : offset + size]

    def _fstat(self, fd):
        return self._status(self._handles[fd][0])

    def _fsync(self, fd):
        self.step("fsync", "")

    def _fdopen(self, fd, mode, buffering=-1):
        handle = _Handle(self, fd)
        return io.BufferedWriter(handle) if "w" in mode else io.BufferedReader(handle)

    # What `pathlib.Path` has.

    def _stat(self, path):
        self.step("stat", str(path))
        return self._status(self._found(str(path)))

    def _is_there(self, path):
        return str(path) in self.names or str(path) in self.folders

    def _iterdir(self, path):
        self.step("list", str(path))
        folder = f"{path}/"
        return [Path(name) for name in self.names if name.rpartition("/")[0] + "/" == folder]

    def _glob(self, path, pattern):
        return [file for file in self._iterdir(path) if fnmatch.fnmatch(file.name, pattern)]

    def _read(self, path, mode="r", *_args):
        assert mode == "rb"
        return self._fdopen(self._open(path, os.O_RDONLY), mode)

    def _mkdir(self, path, *_args, **_options):
        self.folders.add(str(path))

    def _unlink(self, path, missing_ok=False):
        self.step("unlink", str(path))
        if str(path) in self.names or not missing_ok:
            self._found(str(path))
            self.unlink(str(path))

    def _rename(self, path, new):
        self.step("rename", str(new))
        self._found(str(path))
        self.rename(str(path), str(new))
        self.step("renamed", str(new))

    def _mkstemp(self, suffix, prefix, folder):
        name = f"{folder}/{prefix}{next(self._numbers)}{suffix}"
        return self._open(name, os.O_CREAT), name

    def _matching(self, pattern, recursive=False):
        path = Path(pattern)
        try:
            return [str(file) for file in self._glob(path.parent, path.name)]
        except OSError:
            return []  # `glob` knows no errors


class _Handle(io.RawIOBase):
    """An open file, as `open` gives one."""

    def __init__(self, simulated, fd):
        self._files, self._fd, self._at = simulated, fd, 0

    def fileno(self):
        return self._fd

    def readable(self):
        return True

    def writable(self):
        return True

    def seekable(self):
        return True

    def readinto(self, buffer):
        data = self._files._pread(self._fd, len(buffer), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def write(self, data):
        self._files.step("write", "")
        inode, _ = self._files._handles[self._fd]
        inode.data = inode.data[: self._at] + bytes(data)
        self._at = len(inode.data)
        return len(data)

    def seek(self, offset, whence=0):
        base = (0, self._at, len(self._files._handles[self._fd][0].data))[whence]
        self._at = base + offset
        return self._at

    def close(self):
        if not self.closed:
            self._files._close(self._fd)
        super().close()


def _either(name, simulated):
    """Return a method of `Path` that leads here for what is under `ROOT`."""
    real = getattr(Path, name)

    def method(self, *arguments, **options):
        if str(self).startswith(ROOT):
            return simulated(self, *arguments, **options)
        return real(self, *arguments, **options)

    return method


@contextmanager
def installed(simulated):
    """Have the package use the simulated files."""
    fake_os = SimpleNamespace(
        open=simulated._open,
        close=simulated._close,
        pread=simulated._pread,
        fstat=simulated._fstat,
        fsync=simulated._fsync,
        fdopen=simulated._fdopen,
        **{name: getattr(os, name) for name in dir(os) if name.startswith("O_")},
    )
    methods = {
        "stat": simulated._stat,
        "exists": simulated._is_there,
        "is_file": simulated._is_there,
        "iterdir": simulated._iterdir,
        "glob": simulated._glob,
        "open": simulated._read,
        "mkdir": simulated._mkdir,
        "unlink": simulated._unlink,
        "rename": simulated._rename,
        "replace": simulated._rename,
        "resolve": lambda path: path,
    }
    with ExitStack() as stack:
        for name, method in methods.items():
            stack.enter_context(patch.object(Path, name, _either(name, method)))
        for module in (files, snapshot):
            stack.enter_context(patch.object(module, "os", fake_os))
        fake_glob = SimpleNamespace(glob=simulated._matching, has_magic=glob.has_magic)
        stack.enter_context(patch.object(files, "glob", fake_glob))
        fake_tempfile = SimpleNamespace(mkstemp=simulated._mkstemp)
        stack.enter_context(patch.object(snapshot, "tempfile", fake_tempfile))
        yield
