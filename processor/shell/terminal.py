"""What the process shares with its terminal and its supervisor: signals, progress, output."""

import contextlib
import logging
import os
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final, TextIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from processor.edges.notify import notify
from processor.errors import ExitCode, SettingsError
from processor.shell.stop import Stop

PROGRESS_SECONDS: Final = 30.0
_FORCED_STOP_SECONDS: Final = 4.5

_log = logging.getLogger(__name__)


def spool_stdin(folder: Path) -> None:
    """Make standard input a file, so that it can be read at any offset; one without a name.

    A pipe that ends without a newline ends with a line all the same: nothing will follow it.
    """
    if stat.S_ISREG(os.fstat(0).st_mode):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.write(b"\n")
        file.flush()
        os.dup2(file.fileno(), 0)


@contextlib.contextmanager
def asked_to_stop(exit_code: ExitCode = ExitCode.DONE, stop: Stop | None = None) -> Iterator[Stop]:
    """Let the first SIGTERM or SIGINT ask for a stop, and the second end the process at once.

    A stop that takes too long, because the database holds a statement up, is cut short with the
    exit code: what was not committed is folded again by the next run.
    """
    stop = stop or Stop()

    def ask(_number: int, _frame: object) -> None:
        if stop.requested:
            os._exit(ExitCode.FAILED)
        stop.requested = True
        notify("STOPPING=1")
        signal.setitimer(signal.ITIMER_REAL, _FORCED_STOP_SECONDS)

    def cut_short(_number: int, _frame: object) -> None:
        os._exit(exit_code)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    signal.signal(signal.SIGALRM, cut_short)
    yield stop


@contextlib.contextmanager
def progress_bar(*, has_end: bool) -> Iterator[Callable[[int, int], None]]:
    """Show progress and the time left, where there is an end: a bar, or a line now and then."""
    console = Console(stderr=True)
    if not has_end:
        yield lambda _done, _all: None
        return
    if not console.is_terminal:
        yield _ProgressLines()
        return
    columns = (TextColumn("folding"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("folding")
        yield lambda done, all_: progress.update(task, completed=done, total=all_)


class _ProgressLines:
    """Says every `PROGRESS_SECONDS` how far it has come since the first call."""

    def __init__(self) -> None:
        self._started = self._told = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int, in_all: int) -> None:
        """Take note of the bytes that are done, of so many in all."""
        now = time.monotonic()
        self._first = done if self._first is None else self._first
        if now - self._told >= PROGRESS_SECONDS and done > self._first:
            self._told = now
            left = (in_all - done) * (now - self._started) / (done - self._first)
            percent = 100 * done / max(in_all, 1)
            _log.info("%.1f %% is folded, about %s left", percent, timedelta(seconds=round(left)))


@contextlib.contextmanager
def output_to(path: Path | None = None, *, append: bool = False) -> Iterator[TextIO]:
    """Open what to write to: a file, which appears or changes only once it is whole, or stdout.

    A reader that has seen enough, as `head` has, ends the process without an error.
    """
    if path is None:
        try:
            yield sys.stdout
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    try:
        with _opened(path, append=append) as out:
            yield out
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be written: {error.strerror}. Choose another --output"
        ) from error


@contextlib.contextmanager
def _opened(path: Path, *, append: bool) -> Iterator[TextIO]:
    """Open a file; without `append`, what it holds takes the place of what it held at the end.

    What is no plain file, as a pipe or a terminal, is written to as it is, and stays.
    """
    if append or (path.exists() and not path.is_file()):
        with path.open("a" if append else "w", encoding="utf-8", newline="") as out:
            yield out
        return
    path = path.resolve()  # a link stays one
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8", newline="") as out:
            yield out
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)


def exit_on_sigterm() -> None:
    """Let SIGTERM unwind a command, so that it leaves nothing running behind."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))


def open_closed_streams() -> None:
    """Have output and errors go nowhere if they are closed, before a file takes their place."""
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - for good
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115 - for good
