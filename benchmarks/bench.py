"""Measure the processor against the bare decoding loop, on the same log in the same run.

Prints a table and writes nothing. Each figure is the median of several runs, taken in turn, since
machines differ and drift: the ratios mean more than the times.

Usage: python benchmarks/bench.py [--lines N] [--hours H] [--runs R]
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC
from pathlib import Path

import orjson

from processor.core.fold import Fold
from processor.core.framing import Framer
from processor.core.model import Checkpoint, Rules
from processor.edges.embedded import embedded

VISITS = 300_000


def main() -> None:
    """Generate a log, measure, print."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--lines", type=int, default=2_000_000)
    arguments.add_argument("--hours", type=float, default=24)
    arguments.add_argument("--runs", type=int, default=5)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        log = Path("app.log")
        made = timed(
            lambda: processor(
                "generate", "--events", str(chosen.lines), "--hours", str(chosen.hours),
                "--users", "10000", "--output", str(log),
            )
        )  # fmt: skip
        print(f"{chosen.lines:,} lines, {log.stat().st_size / 1e6:.0f} MB, {chosen.hours} hours")
        print(f"generate: {chosen.lines / made:,.0f} lines/s")
        bare, fold, end_to_end = [], [], []
        with embedded(Path("checkpoints")):  # it is shared, so no run starts or stops it
            processor("migrate")
            for _ in range(chosen.runs):
                bare.append(timed(lambda: bare_loop(log)))
                fold.append(timed(lambda: fold_only(log)))
                end_to_end.append(timed(lambda: processor("replay", str(log))))
        print_rates(chosen.lines, bare, fold, end_to_end)
    print_memory()


def print_rates(lines: int, bare: list[float], fold: list[float], end_to_end: list[float]) -> None:
    """Print lines per second, and each over the bare loop of its own round."""
    for name, seconds in (
        ("bare loop: for line in log: orjson.loads(line)", bare),
        ("read and fold, no commit", fold),
        ("end to end: processor replay, into Postgres", end_to_end),
    ):
        ratio = statistics.median(b / s for b, s in zip(bare, seconds, strict=True))
        rate = lines / statistics.median(seconds)
        print(f"{name:56} {rate:>10,.0f} lines/s {ratio:6.2f} of bare")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"peak memory of any process, end to end: {peak:.0f} MiB")


def bare_loop(log: Path) -> None:
    """Decode each line, and do nothing with it."""
    with log.open("rb") as lines:
        for line in lines:
            orjson.loads(line)


def fold_only(log: Path) -> None:
    """Do all of the work but the database's."""
    fold, framer = Fold(Rules(), UTC), Framer(0)
    state = fold.open(1, Checkpoint())
    with log.open("rb") as file:
        while block := os.pread(file.fileno(), framer.block_bytes, framer.next_read):
            framer.feed(block)
            while lines := framer.take(100_000):
                fold.fold(state, lines)
                if fold.batch_lines >= 100_000:
                    fold.cut()
    fold.cut()


def print_memory() -> None:
    """Print what an open visit costs: many visits within one minute, so that all stay open."""
    command = [sys.executable, __file__, "--visits"]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"working state: {grown / VISITS:.0f} bytes per open visit ({VISITS:,} visits)")


def visits_memory() -> None:
    """Print by how many bytes the process grows with `VISITS` open visits."""
    line = (
        '{"event_id":"%08x-0000-4000-8000-%012x","customer_id":%d,'
        '"fired_at":"2022-01-01T00:00:%02dZ","user_id":%d,"event_type":"ReferralPageLoad"}'
    )
    fold, framer = Fold(Rules(), UTC), Framer(0)
    state = fold.open(1, Checkpoint())
    before = resident_bytes()
    for first in range(0, VISITS, 1000):
        framer.feed(
            b"".join(
                (line % (n, n, n % 300, n % 60, n) + "\n").encode()
                for n in range(first, first + 1000)
            )
        )
        while lines := framer.take(1000):
            fold.fold(state, lines)
        fold.cut()
    assert fold.open_visits == VISITS  # noqa: S101 - a wrong count must not be printed
    print(resident_bytes() - before)


def resident_bytes() -> int:
    """Return the memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def processor(*arguments: str) -> None:
    """Run the installed command."""
    subprocess.run([sys.executable, "-m", "processor", *arguments], check=True, capture_output=True)


def timed(act: Callable[[], None]) -> float:
    """Return how many seconds it took."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


if __name__ == "__main__":
    if sys.argv[1:] == ["--visits"]:
        visits_memory()
    else:
        main()
