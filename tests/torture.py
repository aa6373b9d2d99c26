"""`make torture`: faults by the thousand, and after each log the oracle's report.

    python tests/torture.py --phase kill9 --count 100 --seed 7

Prints the table for docs/reliability.md, and ends with 1 if any report or ledger diverged. A seed
decides which faults come and what the log says; the moment at which each hits is the machine's.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import faults
from lane import Attempt, Score, lane, resources

TESTS = Path(__file__).parent
STORM_SECONDS = 600


PROGRAMS = {
    "simulation": (
        6_000,
        ("tests/simulation/run.py", "--seeds", "{first}-{last}"),
    ),
    "failpoints": (200, ("tests/failpoints/run_failpoints.py", "--hits", "{count}")),
    "long": (1, ("-m", "pytest", "-m", "torture")),
}
"""Phases that are programs of their own, and how many seeds or hits they are told to try."""


class Phase(NamedTuple):
    """So many faults of a kind, a number of them on each log."""

    count: int
    on_each_log: int
    fault: object


PHASES = {
    "kill9": Phase(1_000, 50, faults.kill_processor),
    "postmaster": Phase(200, 25, faults.kill_postmaster),
    "rewinds": Phase(200, 20, faults.rewind),
    "commits": Phase(500, 50, faults.leave_commit_unknown),
    "cuts": Phase(300, 50, faults.cut_anywhere),
    "duels": Phase(200, 25, faults.duel),
}


def one_log(score, phase, count, seed, ends_at):
    """Put faults in while one log grows, until there were so many or the time is up."""
    with Attempt(score, seed) as folder, lane(folder, seed, score) as made:
        for _ in range(count):
            if time.monotonic() > ends_at:
                break
            score.fault(phase.fault(made))


def run_phase(name, count, seed, ends_at):
    """Run a phase on two logs at a time; return its score."""
    phase, score = PHASES[name], Score(name)
    shares = [min(phase.on_each_log, count - at) for at in range(0, count, phase.on_each_log)]
    with ThreadPoolExecutor(2) as pool:
        logs = [
            pool.submit(one_log, score, phase, share, seed + number, ends_at)
            for number, share in enumerate(shares)
        ]
    for log in logs:
        log.result()
    return score


def run_storm(seconds, seed, ends_at):
    """All faults at once, while the log grows by 5,000 lines a second and is rotated."""
    score, samples = Score("storm"), []
    until = min(time.monotonic() + seconds, ends_at)
    with (
        Attempt(score, seed) as folder,
        lane(folder, seed, score, lines_a_second=5_000, rotate_seconds=15) as made,
    ):
        while time.monotonic() < until:
            score.fault(made.dice.choice(faults.STORM)(made))
            rest = time.monotonic() + made.dice.uniform(0.5, 3)
            while time.monotonic() < rest:
                made.tend()
                if sample := resources(made.daemon.pid):
                    samples.append(sample)
                time.sleep(0.25)
    for name, values in zip(
        ("MiB resident", "open files"), zip(*samples, strict=True), strict=True
    ):
        score.notes.append(f"{name}, median (most) of each quarter: {in_quarters(values)}")
        if not is_flat(values):
            score.diverged(seed, f"{name} grew")
    return score


def in_quarters(values):
    """Say how values went, quarter by quarter of the time."""
    return ", ".join(f"{median(part):.0f} ({max(part):.0f})" for part in quarters(values))


def is_flat(values):
    """Whether values were at the end what they were at the beginning, or half as much again."""
    first, *_, last = quarters(values)
    return median(last) <= 1.5 * median(first)


def quarters(values):
    """Return values in four parts."""
    size = len(values) // 4
    return [values[at : at + size] for at in range(0, 4 * size, size)]


def run_program(name, count, seed, ends_at):
    """Run a phase that is a program of its own, and prints a table of its own."""
    score = Score(name)
    command = [
        word.format(first=seed, last=seed + count - 1, count=count) for word in PROGRAMS[name][1]
    ]
    process = subprocess.Popen([sys.executable, *command], cwd=TESTS.parent, start_new_session=True)
    try:
        if process.wait(max(ends_at - time.monotonic(), 1)):
            score.diverged(seed, "see what it printed")
    except subprocess.TimeoutExpired:
        score.notes.append("the time was up before its end")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return score


def table(scores, seed, minutes):
    """Return what came of it, as docs/reliability.md has it."""
    rows = [
        f"Seed {seed}, {minutes:.0f} minutes on {os.cpu_count()} cores.",
        "",
        "| phase | faults | recoveries | slowest | ended in words | divergences |",
        "|---|---|---|---|---|---|",
    ]
    for score in scores:
        slowest = f"{max(score.recoveries):.1f} s" if score.recoveries else ""
        faults = f"{score.faults.total():,}" if score.faults else "see above"
        ended = ", ".join(f"{n}x code {code}" for code, n in sorted(score.ended_by_itself.items()))
        rows.append(
            f"| {score.name} | {faults} | {len(score.recoveries):,} | {slowest} "
            f"| {ended} | {len(score.divergences)} |"
        )
    rows += ["", "| fault | times |", "|---|---|"]
    kinds = sum((score.faults for score in scores), Counter())
    rows += [f"| {kind} | {times:,} |" for kind, times in sorted(kinds.items())]
    rows += [f"\n{score.name}: {note}." for score in scores for note in score.notes]
    rows += [
        f"\nFAILED: {score.name}, seed {seed}: {where}"
        for score in scores
        for seed, where in score.divergences
    ]
    return "\n".join(rows)


def run_all(phases, count, seed, ends_at):
    """Run phases one after another; yield the score of each."""
    for name in phases:
        if name in PROGRAMS:
            yield run_program(name, count or PROGRAMS[name][0], seed, ends_at)
        elif name == "storm":
            yield run_storm(count or STORM_SECONDS, seed, ends_at)
        else:
            yield run_phase(name, count or PHASES[name].count, seed, ends_at)


def main():
    """Run the phases that are asked for; end with 1 if anything diverged."""
    all_phases = ["simulation", "failpoints", *PHASES, "storm", "long"]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--phase", action="append", choices=all_phases, help="all of them if none")
    parser.add_argument("--count", type=int, help="faults, seeds, hits or seconds of each phase")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print("seed", options.seed, flush=True)
    started = time.monotonic()
    ends_at = started + 60 * float(os.environ.get("TORTURE_MINUTES", "90"))
    scores = []
    for score in run_all(options.phase or all_phases, options.count, options.seed, ends_at):
        scores.append(score)
        print(f"{score.name}: {len(score.divergences)} divergences", flush=True)
    print("\n" + table(scores, options.seed, (time.monotonic() - started) / 60))
    return any(score.divergences for score in scores)


if __name__ == "__main__":
    sys.exit(main())
