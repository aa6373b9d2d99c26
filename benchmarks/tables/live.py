"""Table 4: how soon a line is in the report, and what that costs, while a log is written live.

A daemon follows a log on its defaults, lines are appended at a steady rate, and checkpoints are
watched: a line's delay is the time from its write until a query finds the commit that holds it. CPU
is that of the daemon and of all server processes but the watcher's, in percent of one core.
"""

import statistics
import time
from pathlib import Path
from typing import NamedTuple

import ours
import psycopg
from cost import tree_cpu_seconds
from plan import DATA, Plan
from results import Finding, Table

from processor.shell.generate import LogShape, generate

RATES = (1_000, 10_000)
ASKED_RATE = 1_000
WARM_UP_LINES = 100
TICK_SECONDS = 0.005
COLUMNS = {
    "lines/s": ",d", "seconds": ".0f", "p50 s": ".2f", "p99 s": ".2f", "longest s": ".2f",
    "CPU %": ".1f",
}  # fmt: skip


class Seen(NamedTuple):
    """How long each line waited, and the CPU that all took, over the seconds it lasted."""

    delays: list[float]
    cpu_seconds: float
    seconds: float


def measure(plan: Plan, server: ours.Server) -> Table:
    """Measure each rate."""
    rows = [row_of(rate, at_rate(rate, plan.live_seconds, server)) for rate in RATES]
    asked = next(row for row in rows if row["lines/s"] == ASKED_RATE)
    on = f"{ASKED_RATE:,} lines/s for {plan.live_seconds:.0f} s"
    found = [
        Finding(
            "live: seconds until a line is in the report, p50 / p99",
            "p99 under 1",
            f"{asked['p50 s']:.2f} / {asked['p99 s']:.2f}",
            on,
        ),
        Finding(
            "live: CPU, PostgreSQL included", "under 10 %", f"{asked['CPU %']:.1f} % of a core", on
        ),
    ]
    how = (__doc__ or "").partition("\n\n")[2].strip()
    return Table("4. Live", how, COLUMNS, rows, found)


def row_of(rate: int, seen: Seen) -> dict[str, object]:
    """Return the figures of a rate."""
    return {
        "lines/s": rate,
        "seconds": seen.seconds,
        "p50 s": statistics.median(seen.delays),
        "p99 s": statistics.quantiles(seen.delays, n=100)[98],
        "longest s": max(seen.delays),
        "CPU %": 100 * seen.cpu_seconds / seen.seconds,
    }


def at_rate(rate: int, seconds: float, server: ours.Server) -> Seen:
    """Follow a log that grows at a rate, once the daemon is up."""
    log, url, total = DATA / "live.log", server.fresh(), int(rate * seconds)
    shape = LogShape(events=WARM_UP_LINES + total, hours=(WARM_UP_LINES / rate + seconds) / 3600)
    lines = [f"{line}\n".encode() for line in generate(shape)]
    log.write_bytes(b"".join(lines[:WARM_UP_LINES]))
    with ours.watch(url) as watcher, ours.daemon(url, log) as pid:
        ours.await_bytes(watcher, log.stat().st_size)
        without = watcher.info.backend_pid

        def cpu() -> float:
            return tree_cpu_seconds(pid) + tree_cpu_seconds(server.pid, without)

        before, started = cpu(), time.monotonic()
        delays = append(log, lines[WARM_UP_LINES:], rate, watcher)
        return Seen(delays, cpu() - before, time.monotonic() - started)


def append(log: Path, lines: list[bytes], rate: int, watcher: psycopg.Connection) -> list[float]:
    """Append lines at a rate, and return how long each waited until it was committed."""
    written: list[float] = []
    delays: list[float] = []
    started = time.monotonic()
    with log.open("ab", buffering=0) as file:
        while len(delays) < len(lines):
            due = min(int((time.monotonic() - started) * rate), len(lines))
            file.write(b"".join(lines[len(written) : due]))
            written += [time.monotonic()] * (due - len(written))
            held = ours.committed(watcher, "lines") - WARM_UP_LINES
            delays += [time.monotonic() - at for at in written[len(delays) : held]]
            time.sleep(TICK_SECONDS)
    return delays
