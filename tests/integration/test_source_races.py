"""What rotation does to a log between two steps of who reads it: each found by simulation."""

import errno
import gzip
import os
import shutil
import signal
from contextlib import closing
from pathlib import Path

import pytest

from processor.core.model import Rules
from processor.edges import files, history, source
from processor.edges.files import NotNowError
from processor.edges.snapshot import Head, read, write
from processor.edges.source import LogReader
from processor.errors import GoneError

LINES = b"".join(b"%d is a line of the log\n" % n for n in range(400))
MORE = b"".join(b"%d is another line\n" % n for n in range(700))


@pytest.fixture
def log(tmp_path):
    """The path of a log that has some lines."""
    path = tmp_path / "app.log"
    path.write_bytes(LINES)
    return path


@pytest.fixture(autouse=True)
def _ends():
    """An endless loop fails the test."""
    signal.alarm(20)
    yield
    signal.alarm(0)


def known_of(log, lines=1 << 60):
    """Return how the files of a log are known once some lines are read, and up to where."""
    with closing(LogReader(log)) as reader:
        end = 0
        while chunk := reader.read(lines):
            end = chunk.end
            if lines < 1 << 60:
                break
        return reader.files_up_to(end).changed, end


def drain(reader):
    """Read all that there is."""
    data = b""
    while True:
        if chunk := reader.read():
            data += chunk.data
        elif not reader.look():
            return data


def equal(data, expected):
    """Compare what was read, in brief words."""
    is_equal = data == expected
    assert is_equal, f"{len(data)} bytes, not {len(expected)}: {data[:30]}…, not {expected[:30]}…"


def copytruncate(log, more=MORE):
    """Copy and truncate, and write on."""
    shutil.copyfile(log, log.with_name("app.log.1"))
    os.truncate(log, 0)
    with log.open("ab") as file:
        file.write(more)


def after(monkeypatch, owner, name, act, calls=1):
    """Have something happen once, right after a function was called for the n-th time."""
    real, left = getattr(owner, name), [calls]

    def function(*arguments, **options):
        result = real(*arguments, **options)
        left[0] -= 1
        if left[0] == 0:
            act()
        return result

    monkeypatch.setattr(owner, name, function)


@pytest.mark.parametrize("lines", [150, 1 << 60])
def test_a_log_truncated_between_listing_and_opening_is_not_gone(log, monkeypatch, lines):
    """Its copy came after the listing, in which it is missed: the files are listed again."""
    known, offset = known_of(log, lines)
    after(monkeypatch, files, "_listed", lambda: copytruncate(log), calls=2)
    with closing(LogReader(log, offset, known)) as reader:
        equal(drain(reader), LINES[offset:] + MORE)
        assert reader.messages == []


@pytest.mark.parametrize("offset", [0, 1])
def test_a_log_truncated_while_it_is_opened_again_is_read_on_in_its_copy(log, monkeypatch, offset):
    """Also from its start, where nothing that was read by now tells it from another."""
    known, end = known_of(log)
    after(monkeypatch, history, "open_file", lambda: copytruncate(log))
    with closing(LogReader(log, offset * end, known)) as reader:
        equal(drain(reader), LINES[offset * end :] + MORE)
        assert reader.messages == []


def test_a_log_truncated_and_written_to_while_it_is_read_is_noticed(log, monkeypatch):
    """Between two reads of one block, the second of which finds what was written since."""
    with closing(LogReader(log)) as reader:
        data = reader.read().data
        real, first = os.pread, []

        def pread(fd, size, at):
            block = real(fd, size, at)
            if not first:  # the end of what was read, and nothing yet of what follows
                first.append(block)
                copytruncate(log)
            return block

        with monkeypatch.context() as patch:
            patch.setattr(files.os, "pread", pread)
            data += reader.read().data
        assert first
        data += drain(reader)
        equal(data, LINES + MORE)


def test_a_file_put_in_the_place_of_one_that_is_read_again_is_not_new(log, monkeypatch):
    """As rsync does: it is known by all that was read of it before, not by what is read again."""
    known, _ = known_of(log)
    log.rename(log.with_name("app.log.1"))
    log.write_bytes(MORE)

    def restore():
        shutil.copyfile(log.with_name("app.log.1"), log.with_name("copy"))
        log.with_name("copy").rename(log.with_name("app.log.1"))

    after(monkeypatch, history, "open_file", restore)
    with closing(LogReader(log, 0, known)) as reader:
        equal(drain(reader), LINES + MORE)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE])
def test_a_known_file_that_cannot_be_opened_for_a_moment_is_not_new(log, monkeypatch, number):
    """Fault 15: it is read once; until it can be told which it is, nothing is read."""
    known, offset = known_of(log)
    log.rename(log.with_name("app.log.1"))
    log.write_bytes(MORE)
    with closing(LogReader(log, offset, known)) as reader:
        drain(reader)
        known += [f for f in reader.files_up_to(1 << 60).changed if f.start_offset]
        offset = known[-1].end_offset
    real, refused = os.open, []

    def refuse_once(path, *arguments):
        if str(path).endswith("app.log.1") and not refused:
            refused.append(path)
            raise OSError(number, os.strerror(number), path)
        return real(path, *arguments)

    log.with_name("app.log.1").rename(log.with_name("x"))  # another inode, as a copy has
    shutil.copyfile(log.with_name("x"), log.with_name("app.log.1"))
    log.with_name("x").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "open", refuse_once)
        with pytest.raises(NotNowError):
            LogReader(log, 0, known)
    assert refused
    with closing(LogReader(log, offset, known)) as reader:
        equal(drain(reader), b"")


def test_a_listing_that_fails_for_one_file_is_no_listing(log, monkeypatch):
    """Fault 16: without the older file, the newer one would be read before it."""
    log.rename(log.with_name("app.log.1"))
    log.write_bytes(MORE)
    real, failed = type(log).stat, []

    def fail_once(path, **options):
        if path.name == "app.log.1" and not failed:
            failed.append(path)
            raise OSError(errno.EIO, "Input/output error")
        return real(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(log), "stat", fail_once)
        with pytest.raises(source.LogError, match=r"app\.log\.1.*Input/output error"):
            LogReader(log)
    with closing(LogReader(log)) as reader:
        equal(drain(reader), LINES + MORE)


def test_a_compressed_file_is_decompressed_once_while_it_is_read_again(log, monkeypatch):
    """Not from its start for each block, which would take as long as the square of its length."""
    known, _ = known_of(log)
    packed = log.with_name("app.log.1.gz")
    packed.write_bytes(gzip.compress(LINES))
    log.write_bytes(MORE)
    jumps = []

    class Counted(gzip.GzipFile):
        def seek(self, offset, whence=0):
            if whence == os.SEEK_SET:
                jumps.append(offset)
            return super().seek(offset, whence)

    monkeypatch.setitem(files._DECOMPRESS, ".gz", lambda file: Counted(fileobj=file))  # noqa: SLF001
    with closing(LogReader(log, 0, known, max_line_bytes=100)) as reader:
        equal(drain(reader), LINES + MORE)
    assert len(jumps) < 20


def test_a_compressed_file_that_was_rewritten_is_gone(log):
    """It is said, and not looked for again and again."""
    packed = log.with_name("app.log.1.gz")
    log.rename(log.with_name("app.log.1"))
    packed.write_bytes(gzip.compress(LINES))
    log.with_name("app.log.1").unlink()
    known, offset = known_of(log)
    with packed.open("r+b") as file:
        file.truncate()
        file.write(gzip.compress(LINES[:6_000]))
    with pytest.raises(GoneError), closing(LogReader(log, offset, known)) as reader:
        drain(reader)


def handles():
    """Return what is open."""
    return sorted(str(handle.name) for handle in Path("/proc/self/fd").iterdir())


def test_nothing_stays_open_after_a_file_that_cannot_be_read(log, monkeypatch):
    """Fault 14: whoever tries again does not run out of handles."""
    log.rename(log.with_name("app.log.1"))
    log.write_bytes(MORE)

    def fail(*_arguments):
        raise OSError(errno.EIO, "Input/output error")

    before = handles()
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "pread", fail)
        with pytest.raises(source.LogError):
            LogReader(log)
    assert handles() == before


def test_a_left_over_that_cannot_be_removed_does_not_keep_a_snapshot_from_being_written(tmp_path):
    """Nor those that are of no use from being removed."""
    (tmp_path / "report.1.x.tmp/held").mkdir(parents=True)
    path = tmp_path / "report.1"
    write(path, Head(1, Rules(), 0, (), {}), [])
    assert read(path)[0].contract_version == 1
