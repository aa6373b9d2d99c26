"""What it costs to keep a day's report current: 1,440 refreshes, one a minute, while the log grows.

DuckDB reads the log from its start at every minute. That is measured at the middle of each block of
48 minutes (`--every`) and taken for all of its block; its cost grows evenly with the log, so little
is lost. What it could do instead - keep finished hours, read the last - is a program of its own.

Ours is one `processor run` that follows the log: a minute's lines are appended, the commit that
covers them is waited for, the report is read. Its CPU is that of the process (its start included),
of PostgreSQL, and of reading the report; the connection that looks whether the commit is there is
left out. Time is compressed, so what a day of waiting for lines costs is measured by itself, over
`--idle` seconds without any, and added in a figure of its own; DuckDB waits at no cost. PostgreSQL
cleans up and makes a checkpoint every half hour, so that only `--idle 3600` sees what that costs.

A minute is 1/1440 of the lines.

Usage: python benchmarks/peers/keep_current.py [--lines N] [--every N] [--idle SECONDS]
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import psycopg
from measure import tree_cpu_seconds
from run import (
    DATA,
    HERE,
    database,
    difference,
    expected,
    in_data,
    make_log,
    peers_python,
    processor,
    rows_of,
)

MINUTES = 1440
WAIT_SECONDS = 60
OFFSET = "SELECT byte_offset FROM checkpoints WHERE path = %s"


def main() -> None:
    """Measure, and print the table; JSON goes to `benchmarks/data/keep_current.json`."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--lines", type=int, default=500_000)
    arguments.add_argument(
        "--every", type=int, default=48, help="minutes between measured re-reads"
    )
    arguments.add_argument("--idle", type=float, default=120.0)
    chosen = arguments.parse_args()
    result = compare(chosen.lines, chosen.every, chosen.idle)
    (DATA / "keep_current.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(markdown(result))


def compare(lines: int, every: int = 48, idle: float = 120.0) -> dict[str, object]:
    """Return what a day costs in CPU seconds, by both ways."""
    log = make_log(lines)
    sizes = minute_sizes(log, lines)
    theirs, their_exact = rereading(log, sizes, every)
    ours, our_exact = following(log, sizes, idle)
    busy = ours["process"] + ours["postgres"] + ours["reading"]
    idle_minute = ours["idle_process_per_minute"] + ours["idle_postgres_per_minute"]
    day = busy + idle_minute * MINUTES
    return {
        "lines": lines, "refreshes": MINUTES, "duckdb_cpu_seconds": theirs,
        "duckdb_exact": their_exact, "our_cpu_seconds": busy, "our_cpu_seconds_by_part": ours,
        "our_cpu_seconds_with_a_day_of_waiting": day, "our_exact": our_exact,
        "ratio": theirs / busy, "ratio_with_a_day_of_waiting": theirs / day,
    }  # fmt: skip


def minute_sizes(log: Path, lines: int) -> list[int]:
    """Return how many bytes the log has at the end of each minute."""
    ends = [(minute + 1) * lines // MINUTES for minute in range(MINUTES)]
    sizes, size, minute = [], 0, 0
    with log.open("rb") as file:
        for number, line in enumerate(file, 1):
            size += len(line)
            while minute < MINUTES and ends[minute] == number:
                sizes.append(size)
                minute += 1
    return sizes


def rereading(log: Path, sizes: list[int], every: int) -> tuple[float, str]:
    """Return the CPU seconds of DuckDB's day, and whether its last report was exact."""
    blocks = [range(at, min(at + every, MINUTES)) for at in range(0, MINUTES, every)]
    chosen = [sizes[block[len(block) // 2]] for block in blocks] + sizes[-1:]
    sizes_file, out = DATA / "sizes.json", DATA / "duckdb_reread.csv"
    sizes_file.write_text(json.dumps(chosen), encoding="utf-8")
    command = [peers_python(), HERE / "duckdb_reread.py", log, out, sizes_file]
    done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE)
    *costs, _whole_day = json.loads(done.stdout)
    total = sum(cost * len(block) for cost, block in zip(costs, blocks, strict=True))
    return total, difference(expected(log), rows_of(out))


def following(log: Path, sizes: list[int], idle: float) -> tuple[dict[str, float], str]:
    """Return the CPU seconds of our day by their parts, and whether its last report was exact."""
    live, out = DATA / "live.log", DATA / "live.csv"
    live.unlink(missing_ok=True)
    with database() as (folder, postmaster):
        watcher, reader = (
            psycopg.connect(host=str(folder), user="processor", dbname="postgres", autocommit=True)
            for _ in range(2)
        )
        with watcher, reader, log.open("rb") as source, live.open("wb", buffering=0) as grown:
            without = watcher.info.backend_pid
            postgres_before = tree_cpu_seconds(postmaster, without)
            grown.write(source.read(sizes[0]))
            with daemon(live) as pid:
                reading = refresh(watcher, reader, live, sizes[0])
                waits = []
                for start, end in pairwise(sizes):
                    grown.write(source.read(end - start))
                    appended = time.perf_counter()
                    reading += refresh(watcher, reader, live, end)
                    waits.append(time.perf_counter() - appended)
                process = tree_cpu_seconds(pid)
                postgres = tree_cpu_seconds(postmaster, without)
                time.sleep(idle)
                idle_process = tree_cpu_seconds(pid) - process
                idle_postgres = tree_cpu_seconds(postmaster, without) - postgres
        processor("report", "--format", "csv", "--output", str(out))
        exact = difference(expected(log), rows_of(out))
    parts = {
        "process": process, "postgres": postgres - postgres_before, "reading": reading,
        "idle_process_per_minute": idle_process / idle * 60,
        "idle_postgres_per_minute": idle_postgres / idle * 60,
        "median_wait_seconds": statistics.median(waits),
    }  # fmt: skip
    return parts, exact


def refresh(
    watcher: psycopg.Connection, reader: psycopg.Connection, live: Path, size: int
) -> float:
    """Wait until so many bytes are committed; return the CPU of reading the report on our side."""
    deadline = time.monotonic() + WAIT_SECONDS  # for a daemon that ended, too
    while (row := watcher.execute(OFFSET, [str(live)]).fetchone()) is None or row[0] < size:
        if time.monotonic() > deadline:
            raise TimeoutError(f"byte {size} was not committed; see follow.out")
        time.sleep(0.02)
    before = time.process_time()
    reader.execute("SELECT * FROM hourly_report ORDER BY hour, customer_id").fetchall()
    return time.process_time() - before


@contextmanager
def daemon(live: Path) -> Iterator[int]:
    """Keep `processor run` going, a batch being due as soon as it is read; yield its pid."""
    command = [sys.executable, "-m", "processor", "run", str(live), "--batch-seconds", "0.001"]
    with (DATA / "follow.out").open("wb") as output:
        process = subprocess.Popen([*command, *in_data()], stdout=output, stderr=output)
        try:
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(WAIT_SECONDS)


def markdown(result: dict[str, object]) -> str:
    """Return the result as a Markdown table."""
    theirs, ours = result["duckdb_cpu_seconds"], result["our_cpu_seconds"]
    day = result["our_cpu_seconds_with_a_day_of_waiting"]
    rows = (
        ("DuckDB, reading again from the start", theirs, result["duckdb_exact"]),
        ("processor run, PostgreSQL included", ours, result["our_exact"]),
        ("the same, with a day of waiting for lines", day, ""),
    )
    table = [
        f"{result['lines']:,} lines in a day, {MINUTES:,} refreshes, {os.cpu_count()} cores\n",
        "| way | CPU s | DuckDB's over it | exact |",
        "| --- | --: | --: | --- |",
    ]
    table += [f"| {way} | {cpu:,.1f} | {theirs / cpu:.1f} | {exact} |" for way, cpu, exact in rows]
    return "\n".join(table)


if __name__ == "__main__":
    main()
