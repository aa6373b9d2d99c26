"""Measure how soon a line is in the report, and what that costs, while a log is written live.

Starts a daemon on the embedded database, appends lines at a steady rate, and watches checkpoints:
a line's delay is the time from its write to the commit that holds it. CPU time is that of the
daemon and of all server processes together.

Usage: python benchmarks/live.py [--rate LINES_PER_SECOND] [--seconds S]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg

from processor.edges.embedded import embedded
from processor.shell.generate import LogShape, generate

WARM_UP_SECONDS = 3.0
TICK_SECONDS = 0.005


def main() -> None:
    """Write, watch, print."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--rate", type=int, default=1_000)
    arguments.add_argument("--seconds", type=float, default=20)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        log = Path("app.log")
        log.touch()
        with embedded(Path("checkpoints")) as connect:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "processor", "run", str(log)], stderr=subprocess.DEVNULL
            )
            try:
                time.sleep(WARM_UP_SECONDS)
                with connect() as connection:
                    measure(connection, log, daemon.pid, chosen.rate, chosen.seconds)
            finally:
                daemon.terminate()
                daemon.wait()


def measure(connection: psycopg.Connection, log: Path, pid: int, rate: int, seconds: float) -> None:
    """Append lines at `rate` and print how long each waited for its commit."""
    total = int(rate * seconds)
    lines = generate(LogShape(events=total, hours=seconds / 3600))
    processes = [pid, *server_processes()]
    written: list[float] = []
    delays: list[float] = []
    started, cpu_before = time.monotonic(), cpu_seconds(processes)
    with log.open("a", buffering=1 << 20) as file:
        while len(delays) < total:
            due = min(int((time.monotonic() - started) * rate), total)
            file.writelines(f"{next(lines)}\n" for _ in range(due - len(written)))
            file.flush()
            written += [time.monotonic()] * (due - len(written))
            committed = committed_lines(connection)
            delays += [time.monotonic() - at for at in written[len(delays) : committed]]
            time.sleep(TICK_SECONDS)
    took = time.monotonic() - started
    cpu = (cpu_seconds(processes) - cpu_before) / took
    median, p99 = statistics.median(delays), statistics.quantiles(delays, n=100)[98]
    print(
        f"{rate:,} lines/s for {seconds:.0f} s: in the report after {median:.2f} s (median), "
        f"{p99:.2f} s (p99), {max(delays):.2f} s (longest); {100 * cpu:.1f} % of one core, "
        "Postgres and these measurements' own queries included"
    )


def committed_lines(connection: psycopg.Connection) -> int:
    """Return how many lines the report accounts for."""
    row = connection.execute("SELECT coalesce(sum(lines), 0)::bigint FROM checkpoints").fetchone()
    return int(row[0]) if row else 0


def server_processes() -> list[int]:
    """Return the processes of the embedded server."""
    postmaster = Path("checkpoints/postgres/postmaster.pid").read_text(encoding="ascii").split()[0]
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text(encoding="ascii")
    return [int(postmaster), *map(int, children.split())]


def cpu_seconds(processes: list[int]) -> float:
    """Return the CPU time that processes have used."""
    ticks = 0
    for process in processes:
        fields = (
            Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        )
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
