"""Shows the status of all logs live on a terminal: rates, lag, and the time left to catch up."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Final, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from processor.edges.reader import LogStatus
from processor.errors import SettingsError, StoreError
from processor.shell.report.report import LogLedger, ledger, printable
from processor.shell.stop import Stop

LOOK_SECONDS: Final = 1.0
RATE_SECONDS: Final = 10.0
"""Rates are those of so long, so that they do not jump with each batch."""


class Rate(NamedTuple):
    """What is committed of a log in a second."""

    lines: float
    bytes: float


class Rates:
    """The rates of logs, by what is shown one after the other."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[float, int, int]]] = {}

    def see(self, log: LogLedger, now: float) -> Rate:
        """Take up what a log shows now, and return its rate."""
        seen = self._seen.setdefault(log.path, deque())
        if seen and seen[-1][2] > log.byte_offset:
            seen.clear()  # another generation, which has not come as far
        seen.append((now, log.lines, log.byte_offset))
        while now - seen[0][0] > RATE_SECONDS:
            seen.popleft()
        then, lines, offset = seen[0]
        seconds = now - then or 1.0
        return Rate((log.lines - lines) / seconds, (log.byte_offset - offset) / seconds)


def time_left(log: LogLedger, rate: Rate) -> str:
    """Return in words how long it takes to catch up."""
    if log.lag_bytes is None:
        return "its file is gone"
    if log.lag_bytes <= 0:
        return "caught up"
    if rate.bytes <= 0:
        return "waits"
    return str(timedelta(seconds=round(log.lag_bytes / rate.bytes)))


def watch_status(status: Callable[[], list[LogStatus]], stop: Stop) -> None:
    """Show what `status` returns, again and again, until a stop is asked for.

    A database that is away is said, and waited for.

    Raises:
        SettingsError: there is no terminal to show it on.
        StoreError: the database is away from the beginning on.

    """
    console = Console()
    if not console.is_terminal:
        raise SettingsError("--watch: needs a terminal; `run --listen` is for programs")
    rates = Rates()
    shown = _table(status(), rates)
    with Live(shown, console=console, auto_refresh=False) as live:
        while not stop.wait(LOOK_SECONDS):
            try:
                shown = _table(status(), rates)
            except StoreError as error:
                shown.caption = printable(str(error))
            live.update(shown, refresh=True)


def _table(logs: Iterable[LogStatus], rates: Rates) -> Table:
    table = Table()
    for heading in ("log", "lines", "lines/s", "MB/s", "dead letters", "lag", "progress"):
        table.add_column(heading, justify="left" if heading == "log" else "right")
    table.add_column("time left")
    table.add_column("watermark")
    for log in map(ledger, logs):
        rate = rates.see(log, time.monotonic())
        table.add_row(
            printable(log.path),
            f"{log.lines:,}",
            f"{rate.lines:,.0f}",
            f"{rate.bytes / 1e6:.2f}",
            f"{log.dead_letters:,}",
            "-" if log.lag_bytes is None else f"{log.lag_bytes:,}",
            ProgressBar(total=log.size_bytes or 1, completed=log.byte_offset, width=12),
            time_left(log, rate),
            log.watermark or "-",
        )
    return table
