"""What may become of the files of a log while it is read: one case each."""

import errno
import gzip
import os
import shutil
import signal
import time
from contextlib import closing
from pathlib import Path

import pytest

from processor.edges.source import LogReader
from processor.errors import GoneError


@pytest.fixture
def log(tmp_path):
    """The path of a log."""
    return tmp_path / "app.log"


@pytest.fixture(autouse=True)
def _ends():
    """An endless loop fails the test."""
    signal.alarm(20)
    yield
    signal.alarm(0)


def write(path, text):
    """Append to a file."""
    with path.open("a") as file:
        file.write(text)


def pack(path, text, level=9):
    """Put a compressed file in its place, at once."""
    with gzip.open(path.with_name("packed"), "wt", compresslevel=level) as file:
        file.write(text)
    path.with_name("packed").rename(path)


def drain(reader):
    """Read all that there is."""
    data = b""
    while True:
        if chunk := reader.read():
            data += chunk.data
        elif not reader.look():
            return data


def opened(path, **options):
    """Open a log from its start."""
    return closing(LogReader(path, **options))


def test_a_long_line_without_an_end_is_passed_in_a_rotated_file(log):
    """It counts once, with a newline that is not there."""
    write(log.with_name("app.log.1"), "x" * 1_100_000)
    write(log, "b\n")
    with opened(log) as reader:
        assert reader.read() == (0, b"", 1, 1_100_001)
        assert drain(reader) == b"b\n"


def test_a_copy_that_takes_the_place_of_the_log_is_read_on(log):
    """As rsync and editors make them."""
    write(log, "a\nb\n")
    with opened(log) as reader:
        assert drain(reader) == b"a\nb\n"
        shutil.copy(log, log.with_name("copy"))
        log.with_name("copy").rename(log)
        reader.look()
        write(log, "c\n")
        assert drain(reader) == b"c\n"
        assert reader.messages == []


def test_an_unread_file_that_is_compressed_anew_keeps_its_place(log):
    """What is gone is read where it was."""
    write(log, "0\n")
    with opened(log) as reader:
        drain(reader)
        log.rename(log.with_name("app.log.3"))
        write(log.with_name("app.log.2"), "a\n")
        pack(log.with_name("app.log.1.gz"), "b\n", 1)
        write(log, "c\n")
        reader.look()
        pack(log.with_name("app.log.1.gz"), "b\n", 9)
        assert drain(reader) == b"a\nb\nc\n"


def test_an_unread_file_that_is_deleted_keeps_its_place(log):
    """It is open already."""
    write(log, "a\n")
    with opened(log) as reader:
        drain(reader)
        log.rename(log.with_name("app.log.2"))
        write(log.with_name("app.log.1"), "b\n")
        write(log, "c\n")
        reader.look()
        log.unlink()
        write(log, "d\n")
        assert drain(reader) == b"b\nc\nd\n"


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_file_with_two_names_is_one(log, link):
    """As loggers make them that keep a link to the newest file."""
    write(log.with_name("app.log-20220101"), "a\nb\n")
    link(log.with_name("app.log-20220101"), log)
    with opened(log) as reader:
        assert drain(reader) == b"a\nb\n"


def test_a_file_that_is_truncated_while_it_is_folded_again_is_gone(log):
    """It is said, and not looked for again and again."""
    write(log, "".join(f"{n}\n" for n in range(400_000)))
    with opened(log) as reader:
        drain(reader)
        log.rename(log.with_name("app.log.1"))
        write(log, "c\n")
        drain(reader)
        known = reader.files_up_to(1 << 60).changed
    with opened(log, known=known) as reader:
        reader.read()
        os.truncate(log.with_name("app.log.1"), 0)
        with pytest.raises(GoneError):
            drain(reader)


def test_a_checkpoint_after_a_line_without_its_newline_is_found_again(log):
    """The file was left there, however newly it is known."""
    write(log, "a\nb")
    with opened(log) as reader:
        drain(reader)
        log.rename(log.with_name("app.log.1"))
        write(log, "c\n")
        reader.look()
        end = reader.read(1).end
        known = reader.files_up_to(end).changed
    assert end == 4
    with opened(log, known=known, drain_seconds=60) as reader:
        lines = b""
        while len(lines) < end:
            lines += reader.read(1, end).data
        assert lines == b"a\nb\n"
        assert reader.read().data == b"c\n"


def test_what_is_written_to_a_file_that_was_left_is_told(log):
    """It is not read, but not passed over in silence."""
    with log.open("a") as held, opened(log) as reader:
        held.write("a\n")
        held.flush()
        drain(reader)
        log.rename(log.with_name("app.log.1"))
        write(log, "c\n")
        drain(reader)
        held.write("late\n")
        held.flush()
        log.rename(log.with_name("app.log.0"))
        write(log, "d\n")
        assert drain(reader) == b"d\n"
        (said,) = reader.messages
        assert "5 bytes were written to it after it was left" in said


def test_a_file_is_not_forgotten_while_its_folder_cannot_be_listed(log, monkeypatch):
    """Else it would be new again."""
    with opened(log) as reader:
        for number in range(3):
            write(log, f"{number}\n")
            drain(reader)
            log.rename(log.with_name(f"app.log.{3 - number}"))
        write(log, "n\n")
        drain(reader)

        def refuse(_self):
            raise PermissionError

        with monkeypatch.context() as patch:
            patch.setattr(Path, "iterdir", refuse)
            log.rename(log.with_name("app.log.0"))
            write(log, "m\n")
            drain(reader)
        log.unlink()
        log.with_name("app.log.0").unlink()
        write(log, "k\n")
        assert drain(reader) == b"k\n"


def test_a_look_tells_of_a_new_file(log):
    """It has to be read, though the old one is at its end."""
    write(log, "a\n")
    with opened(log) as reader:
        assert (reader.read().data, reader.read()) == (b"a\n", None)
        log.rename(log.with_name("app.log.1"))
        write(log, "b\n")
        assert reader.look()
        assert not reader.look()
        assert reader.read().data == b"b\n"


def test_a_new_file_without_a_line_is_not_waited_for_in_a_hurry(log):
    """The old one is looked at now and then, since nothing tells of it."""
    write(log, "a\n")
    with opened(log, drain_seconds=1e-6) as reader:
        drain(reader)
        assert reader.wakes_in() is None
        log.rename(log.with_name("app.log.1"))
        log.touch()
        assert reader.look()
        assert reader.read() is None
        assert reader.wakes_in() >= 0.5


def test_names_that_only_look_like_rotated_ones_are_left_alone(log):
    """Numbers that are neither an index nor a date belong to others."""
    for name in (
        "app.log.1.1",
        "app.log.80800",
        "app.log-7",
        "app.log.bak",
        "app.logs",
        "app.log.",
    ):
        write(log.with_name(name), "other\n")
    for name in ("app.log-20220102", "app.log-2022-01-03T04", "app.log.20220101", "app.log.12"):
        write(log.with_name(name), f"{name}\n")
    write(log, "z\n")
    with opened(log) as reader:
        assert drain(reader).split() == [
            b"app.log.12",
            b"app.log.20220101",
            b"app.log-20220102",
            b"app.log-2022-01-03T04",
            b"z",
        ]


def test_a_new_file_that_must_not_be_read_yet_is_tried_again(log, monkeypatch):
    """Fault 15: logrotate makes it before it sets its owner."""
    write(log, "a\n")
    with opened(log, drain_seconds=0.01) as reader:
        drain(reader)
        log.rename(log.with_name("app.log.1"))
        write(log, "b\n")

        def refuse(path, _flags):
            raise PermissionError(errno.EACCES, "Permission denied", path)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refuse)
            assert not reader.look()
            assert not reader.look()
            assert reader.wakes_in() == 1.0
            (said,) = reader.messages
            assert said.endswith("trying again")
        assert reader.look()
        time.sleep(0.02)
        assert drain(reader) == b"b\n"
