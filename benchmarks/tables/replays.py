"""Table 8: replays and verifications beside the live report.

On a log that `run --once` has folded: `replay` and `verify`, in turns with a fold of the same log
into an empty database. Then a daemon follows a copy of it while lines are appended at a steady
rate, and replays switch ten times: their speed, and the longest wait of a statement for a lock, by
what PostgreSQL says of its sessions every few milliseconds.
"""

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import cost
import logs
import ours
from plan import DATA, Plan
from results import Finding, Table

RATE = 5_000
SWITCHES = 10
TICK_SECONDS = 0.02
SAMPLE_SECONDS = 0.005
COLUMNS = {"what": "", "lines": ",d", "seconds": ".2f", "lines/s": ",.0f", "of run --once": ".2f"}

_LOCK_WAIT = """
SELECT coalesce(max(extract(epoch FROM clock_timestamp() - query_start)), 0)::float
FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"""


def measure(plan: Plan, server: ours.Server) -> Table:
    """Measure all."""
    log, lines = logs.made(logs.of_length(plan, plan.lines)), plan.lines
    words = {
        "replay": ("replay", log),
        "verify": ("verify", log),
        "verify --engine duckdb": ("verify", log, "--engine", "duckdb"),
    }
    seconds: dict[str, list[float]] = {"run --once": [], **{name: [] for name in words}}
    for _ in range(plan.rounds):
        seconds["run --once"].append(ours.fold(server, log).seconds)
        url = server.url("bench")
        for name, command in words.items():
            seconds[name].append(cost.run(ours.command(url, *command), ours.OUTPUT).seconds)
    best = {name: statistics.median(found) for name, found in seconds.items()}
    beside, longest_wait = beside_a_daemon(log, lines, server)
    best[f"replay beside a daemon at {RATE:,} lines/s"] = beside
    rows: list[dict[str, object]] = [
        {
            "what": name,
            "lines": lines,
            "seconds": found,
            "lines/s": lines / found,
            "of run --once": best["run --once"] / found,
        }
        for name, found in best.items()
    ]
    on = f"{lines:,} lines"
    findings = [
        Finding(
            "replay / run --once",
            "0.9",
            f"{best['run --once'] / best['replay']:.2f}",
            on,
        ),
        Finding(
            "longest wait of a commit for a replay",
            "under 1 s",
            f"{longest_wait:.3f} s",
            f"{SWITCHES} switches beside {RATE:,} lines/s",
        ),
    ]
    how = (__doc__ or "").partition("\n\n")[2].strip()
    return Table("8. Replays", how, COLUMNS, rows, findings)


def beside_a_daemon(log: Path, lines: int, server: ours.Server) -> tuple[float, float]:
    """Return the seconds of a replay, and the longest wait for a lock, of ten that switch."""
    copy = DATA / "replayed.log"
    url, found = server.fresh(), list[float]()
    with log.open("rb") as whole, copy.open("wb") as first:
        first.writelines(islice(whole, lines * 9 // 10))
        with ours.watch(url) as watcher, ours.daemon(url, copy):
            first.flush()
            ours.await_bytes(watcher, copy.stat().st_size)
            with appended(copy, list(whole)), longest_lock_wait(url) as waits:
                for _ in range(SWITCHES):
                    words = ours.command(url, "replay", copy, "--keep", "0")
                    found.append(cost.run(words, DATA / "replay.out").seconds)
    return statistics.median(found), max(waits)


@contextmanager
def appended(log: Path, lines: list[bytes]) -> Iterator[None]:
    """Append lines at the rate, again and again the same ones if they do not last."""
    done = threading.Event()

    def append() -> None:
        started, written = time.monotonic(), 0
        with log.open("ab", buffering=0) as file:
            while not done.wait(TICK_SECONDS):
                due = int((time.monotonic() - started) * RATE)
                file.write(b"".join(lines[number % len(lines)] for number in range(written, due)))
                written = due

    thread = threading.Thread(target=append)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def longest_lock_wait(url: str) -> Iterator[list[float]]:
    """Collect how long statements have waited for a lock, in seconds."""
    waits, done = [0.0], threading.Event()

    def look() -> None:
        with ours.watch(url) as watcher:
            while not done.wait(SAMPLE_SECONDS):
                row = watcher.execute(_LOCK_WAIT).fetchone()
                waits.append(row[0] if row else 0.0)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield waits
    finally:
        done.set()
        thread.join()
