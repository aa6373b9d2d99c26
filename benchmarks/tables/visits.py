"""Table 5: what open visits cost: memory while a daemon holds them, seconds when it starts again.

All lines of a log fall within one minute, so every visit in it stays open. A daemon folds it and
waits, in batches of 10,000 lines, so that little memory is of those; what it holds is that of all
its processes. Then it is stopped and started, and at the same moment a line is appended: a restart
takes until that line is committed. Once with what the daemon wrote when it stopped, once with
`snapshots` removed. Seconds are medians.
"""

import shutil
import statistics
import time
from pathlib import Path

import logs
import ours
import psycopg
from cost import resident_mib
from plan import DATA, Plan
from results import Finding, Table

SETTLE_SECONDS = 1.0
OPTIONS = ("--batch-lines", 10_000)
COLUMNS = {
    "lines": ",d", "open visits": ",d", "MiB": ",.0f", "restart s, snapshot": ".2f",
    "restart s, none": ".2f",
}  # fmt: skip
LINE = (
    '{"event_id":"after-%d","customer_id":1,"fired_at":"2022-01-01T00:00:59Z","user_id":1,'
    '"event_type":"ReferralPageLoad"}\n'
)


def measure(plan: Plan, server: ours.Server) -> Table:
    """Measure few and many open visits."""
    rows = [row_of(lines, plan.restarts, server) for lines in plan.visits]
    few, many = rows
    grown = (many["MiB"] - few["MiB"]) * 1024**2 / (many["open visits"] - few["open visits"])
    on = f"{many['open visits']:,} open visits"
    restart = f"{many['restart s, snapshot']:.2f} / {many['restart s, none']:.2f}"
    found = [
        Finding(
            "bytes per open visit",
            "under 250",
            f"{grown:,.0f}",
            f"{on}, less {few['open visits']:,}",
        ),
        Finding("restart: seconds with / without a snapshot", "under 10", restart, on),
    ]
    how = (__doc__ or "").partition("\n\n")[2].strip()
    return Table("5. Open visits", how, COLUMNS, rows, found)


def row_of(lines: int, restarts: int, server: ours.Server) -> dict[str, object]:
    """Return the figures for one log."""
    url, log = server.fresh(), DATA / "visits.log"
    shutil.copyfile(logs.made(logs.Shape(lines, 1 / 60)), log)
    with ours.watch(url) as watcher:
        with ours.daemon(url, log, *OPTIONS) as pid:
            ours.await_bytes(watcher, log.stat().st_size)
            time.sleep(SETTLE_SECONDS)
            memory = resident_mib(pid)
        opened = watcher.execute("SELECT sum(page_loads) FROM hourly_report").fetchone()
        with_snapshot = [restart(url, log, watcher) for _ in range(restarts)]
        without = [restart(url, log, watcher, remove=True) for _ in range(restarts)]
    return {
        "lines": lines,
        "open visits": int(opened[0]) if opened else 0,
        "MiB": memory,
        "restart s, snapshot": statistics.median(with_snapshot),
        "restart s, none": statistics.median(without),
    }


def restart(url: str, log: Path, watcher: psycopg.Connection, *, remove: bool = False) -> float:
    """Return the seconds from the start of a daemon until a line appended then is committed."""
    if remove:
        shutil.rmtree(ours.CHECKPOINTS / "snapshots", ignore_errors=True)
    size = log.stat().st_size
    started = time.monotonic()
    with ours.daemon(url, log, *OPTIONS):
        with log.open("ab") as file:
            size += file.write((LINE % size).encode())
        ours.await_bytes(watcher, size)
        return time.monotonic() - started
