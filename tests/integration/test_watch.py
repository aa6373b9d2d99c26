"""Waiting for a log: every change ends it, nothing else does, and no change is missed."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from processor.edges import watch as module
from processor.edges.watch import PACE_SECONDS, Watch

SOON_SECONDS = 5
LONG_SECONDS = 60


def append(path):
    with path.open("a") as file:
        file.write("{}\n")


def rename_into_place(path):
    new = path.with_suffix(".new")
    new.write_text("{}\n" * 2)
    new.rename(path)


def make_with_folder(path):
    path.parent.mkdir()
    append(path)


@contextmanager
def meanwhile(act, *arguments):
    """Let something happen while the test waits."""
    timer = threading.Timer(0.15, act, arguments)
    timer.start()
    yield
    timer.join()


def seconds_waited(watch, seconds=LONG_SECONDS):
    started = time.monotonic()
    watch.wait(seconds)
    return time.monotonic() - started


def ends(watch, act, *arguments):
    """Whether something that happens during a wait ends it."""
    with meanwhile(act, *arguments):
        return 0.1 < seconds_waited(watch) < SOON_SECONDS


@pytest.fixture(params=["inotify", "no instance left", "no watch left", "a network file system"])
def way(request, monkeypatch):
    """inotify, and the reasons why it may not tell."""
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)

    class NoWatch(module.INotify):
        def add_watch(self, _path, _mask):
            raise OSError(28, "inotify watch limit reached")

    class Deaf(module.INotify):
        def add_watch(self, path, _mask):
            return super().add_watch(path, module.flags.UNMOUNT)

    def no_instance():
        raise OSError(24, "inotify instance limit reached")

    if request.param == "no instance left":
        monkeypatch.setattr(module, "INotify", no_instance)
    elif request.param == "no watch left":
        monkeypatch.setattr(module, "INotify", NoWatch)
    elif request.param == "a network file system":
        monkeypatch.setattr(module, "INotify", Deaf)
        monkeypatch.setattr(module, "_LOCAL", frozenset())
    return request.param


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("act", [append, rename_into_place, os.unlink, os.truncate])
def test_a_change_of_the_file_ends_a_wait(tmp_path, act):
    """Whatever it is, and however it is found out."""
    log = tmp_path / "app.log"
    log.write_text("{}\n")
    with Watch([log]) as watch:
        assert ends(watch, act, log, *([1] if act is os.truncate else []))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("act", [append, rename_into_place, make_with_folder])
def test_a_file_that_comes_ends_a_wait_and_is_watched_from_then_on(tmp_path, act):
    """Made, renamed into place, and in a folder that was not there either."""
    log = tmp_path / "logs" / "app.log"
    if act is not make_with_folder:
        log.parent.mkdir()
    with Watch([log]) as watch:
        assert ends(watch, act, log)
        while seconds_waited(watch, 0.5) < 0.5:
            pass  # a folder, and then the file in it
        assert ends(watch, append, log)
        assert ends(watch, rename_into_place, log)
        assert ends(watch, append, log)


def test_a_link_is_followed_to_the_file(tmp_path):
    """What is written to the file ends a wait, as does a link that leads elsewhere now."""
    files = [tmp_path / name / "app.log" for name in ("one", "other")]
    for file in files:
        make_with_folder(file)
    (tmp_path / "links").mkdir()
    link, new = tmp_path / "links" / "app.log", tmp_path / "links" / "new"
    link.symlink_to(files[0])
    new.symlink_to(files[1])
    with Watch([link]) as watch:
        assert ends(watch, append, files[0])
        assert ends(watch, new.rename, link)
        assert ends(watch, append, files[1])


@pytest.mark.usefixtures("way")
def test_what_happened_since_the_last_wait_ends_the_next(tmp_path):
    """Nobody needs to wait when it happens."""
    log = tmp_path / "app.log"
    with Watch([log]) as watch:
        append(log)
        assert seconds_waited(watch) < SOON_SECONDS
        append(log)
        assert seconds_waited(watch) < SOON_SECONDS


@pytest.mark.usefixtures("way")
def test_it_ends_in_time(tmp_path):
    """When nothing happens, no earlier and not much later."""
    with Watch([tmp_path / "app.log"]) as watch:
        assert 0.7 <= seconds_waited(watch, 0.7) < SOON_SECONDS
        assert seconds_waited(watch, 0) < PACE_SECONDS


def test_other_files_end_no_wait(tmp_path):
    """A folder may be full of them."""
    with Watch([tmp_path / "app.log"]) as watch, meanwhile(append, tmp_path / "other.log"):
        assert seconds_waited(watch, 1) >= 1


def test_nothing_is_done_while_nothing_happens(tmp_path):
    """The process sleeps, and is not woken up."""
    log = tmp_path / "app.log"
    append(log)
    with Watch([log]) as watch:
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        watch.wait(2)
        assert resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before <= 3


def test_a_log_that_is_written_to_all_the_time_is_told_of_at_a_pace(tmp_path):
    """A thousand writes do not make a thousand reads."""
    log = tmp_path / "app.log"
    writing = threading.Event()
    writing.set()

    def write():
        while writing.is_set():
            append(log)
            time.sleep(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with Watch([log]) as watch:
            started = time.monotonic()
            for _ in range(10):
                watch.wait()
            assert time.monotonic() - started >= 9 * PACE_SECONDS
    finally:
        writing.clear()
        writer.join()


SIGNALLED = """
import os, signal, sys
from pathlib import Path
from processor.edges.watch import Watch
got = []
signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
with Watch([Path(sys.argv[1])]) as watch:
    if sys.argv[2] == "before":
        os.kill(os.getpid(), signal.SIGTERM)
    print("waiting", flush=True)
    watch.wait()
    print(got, flush=True)
"""


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_signal_ends_a_wait_also_one_that_came_before_it(tmp_path, when):
    """Between asking whether to stop and waiting, too."""
    command = [sys.executable, "-c", SIGNALLED, tmp_path / "app.log", when]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "waiting\n"
        if when == "during":
            process.send_signal(signal.SIGTERM)
        assert process.wait(SOON_SECONDS) == 0
        assert process.stdout.readline() == f"[{signal.SIGTERM:d}]\n"


def test_nothing_is_left_open(tmp_path):
    """Neither files, nor what Python writes signals to."""
    open_files = Path("/proc/self/fd")
    before = len(list(open_files.iterdir()))
    with Watch([tmp_path / "app.log"]):
        pass
    assert len(list(open_files.iterdir())) == before
    assert signal.set_wakeup_fd(-1) == -1
