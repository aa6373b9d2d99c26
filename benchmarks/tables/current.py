"""Table 2: what it costs to keep a day's report current, each minute, while its log grows.

DuckDB reads the log from its start at each refresh. That is measured at the middle of each of 30
blocks of the day and taken for all of its block; its cost grows evenly with the log, so little is
lost. What it could do instead, keep finished hours and read the last, is a program of its own.

Ours is one `processor run` that follows the log: a refresh's lines are appended, the commit that
covers them is waited for, the report is read. Its CPU is that of the process (its start included),
of PostgreSQL, and of reading the report; the connection that looks whether the commit is there is
left out. Time is compressed, so what a day of waiting for lines costs is measured by itself, and
added in a row of its own; DuckDB waits at no cost. Each refresh has as many new lines.
"""

import json
import subprocess
import time
from itertools import islice, pairwise
from pathlib import Path

import logs
import ours
import psycopg
from cost import tree_cpu_seconds
from plan import DATA, HERE, Plan
from results import Finding, Table
from venv_of_peers import peers_python

BLOCKS = 30
SETTLE_SECONDS = 90
"""So long after the last refresh, PostgreSQL has done what the day left it to do (statistics,
vacuum), which counts as the day's work and not as waiting."""
COLUMNS = {"way": "", "CPU s": ",.1f", "DuckDB's over it": ",.1f", "exact": ""}


def measure(plan: Plan, server: ours.Server) -> Table:
    """Measure a day by both ways."""
    log = logs.made(logs.of_length(plan, plan.lines))
    sizes = refresh_sizes(log, plan.lines, plan.refreshes)
    theirs, their_exact = rereading(log, sizes)
    busy, idle, our_exact = following(log, sizes, plan.idle_seconds, server)
    costs = (
        ("DuckDB, reading again from the start", theirs, their_exact),
        ("processor run, PostgreSQL included", busy, our_exact),
        ("the same, with a day of waiting for lines", busy + idle, our_exact),
    )
    rows = [
        {"way": way, "CPU s": cpu, "DuckDB's over it": theirs / cpu, "exact": exact}
        for way, cpu, exact in costs
    ]
    on = f"{plan.lines:,} lines in a day, {plan.refreshes:,} refreshes"
    figure = "keeping a day's report current: CPU of DuckDB re-reading over ours"
    measured = f"{theirs / busy:.1f}; {theirs / (busy + idle):.1f} with a day of waiting"
    how = f"On {on}. " + (__doc__ or "").partition("\n\n")[2].strip()
    title = "2. Keeping the report current"
    return Table(title, how, COLUMNS, rows, [Finding(figure, "100", measured, on)])


def refresh_sizes(log: Path, lines: int, refreshes: int) -> list[int]:
    """Return how many bytes the log has at each refresh."""
    ends = [number * lines // refreshes for number in range(refreshes + 1)]
    sizes = [0]
    with log.open("rb") as file:
        for start, end in pairwise(ends):
            sizes.append(sizes[-1] + sum(map(len, islice(file, end - start))))
    return sizes[1:]


def rereading(log: Path, sizes: list[int]) -> tuple[float, str]:
    """Return the CPU seconds of DuckDB's day, and whether its last report was exact."""
    of_a_block = len(sizes) // BLOCKS
    chosen = sizes[of_a_block // 2 :: of_a_block] + sizes[-1:]
    sizes_file, out = DATA / "sizes.json", DATA / "duckdb_reread.csv"
    sizes_file.write_text(json.dumps(chosen), encoding="utf-8")
    command = [peers_python(), HERE / "peers" / "duckdb_reread.py", log, out, sizes_file]
    done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE)
    *costs, _whole_day = json.loads(done.stdout)
    return sum(costs) * of_a_block, logs.difference(logs.expected(log), logs.rows_of(out))


def following(
    log: Path, sizes: list[int], idle_seconds: float, server: ours.Server
) -> tuple[float, float, str]:
    """Return the CPU seconds of our day, of waiting for a day, and whether it ended exact."""
    grown, out, url = DATA / "growing.log", DATA / "current.csv", server.fresh()
    grown.write_bytes(b"")
    with ours.watch(url) as watcher, ours.watch(url) as reader:

        def cpu(pid: int) -> float:
            without = watcher.info.backend_pid
            return tree_cpu_seconds(pid) + tree_cpu_seconds(server.pid, without)

        postgres_before = tree_cpu_seconds(server.pid, watcher.info.backend_pid)
        with ours.daemon(url, grown, "--batch-seconds", "0.001") as pid:
            reading = a_day(log, grown, sizes, watcher, reader)
            time.sleep(SETTLE_SECONDS)
            after = cpu(pid)
            time.sleep(idle_seconds)
            waiting = (cpu(pid) - after) / idle_seconds * 86_400
    ours.done(url, "report", "--format", "csv", "--output", out)
    exact = logs.difference(logs.expected(log), logs.rows_of(out))
    return after - postgres_before + reading, waiting, exact


def a_day(
    log: Path,
    grown: Path,
    sizes: list[int],
    watcher: psycopg.Connection,
    reader: psycopg.Connection,
) -> float:
    """Append and read the report at each refresh; return the CPU of reading on our side."""
    reading = 0.0
    with log.open("rb") as source, grown.open("ab", buffering=0) as file:
        for start, end in pairwise([0, *sizes]):
            file.write(source.read(end - start))
            ours.await_bytes(watcher, end)
            before = time.process_time()
            reader.execute("SELECT * FROM hourly_report ORDER BY hour, customer_id").fetchall()
            reading += time.process_time() - before
    return reading
