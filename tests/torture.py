"""`make torture`: faults by the thousand, and after each log the oracle's report.

    python tests/torture.py --phase kill9 --count 100 --seed 7

Prints the table for docs/reliability.md, and ends with 1 if any report or ledger diverged. A seed
decides which faults come and what the log says; the moment at which each hits is the machine's.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import faults
from lane import Attempt, Score, lane, resources

TESTS = Path(__file__).parent
STORM_SECONDS = 600


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
        for number, share in enumerate(shares):
            pool.submit(one_log, score, phase, share, seed + number, ends_at)
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
    score.notes = [in_words(samples)] if samples else []
    return score


def in_words(samples):
    """Say how memory and open files went, quarter by quarter of the time."""
    quarter = max(len(samples) // 4, 1)
    parts = [samples[at : at + quarter] for at in range(0, len(samples), quarter)][:4]
    told = [
        ", ".join(f"{median(values):.0f} ({max(values):.0f})" for values in column)
        for column in zip(*(zip(*part, strict=True) for part in parts), strict=True)
    ]
    return f"median (most) of each quarter: MiB resident {told[0]}; open files {told[1]}"


def run_command(name, command, ends_at):
    """Run a part that is a program of its own; its last lines are what it tells."""
    score = Score(name)
    done = subprocess.run(
        [sys.executable, *command],
        cwd=TESTS.parent,
        check=False,
        stdout=subprocess.PIPE,
        text=True,
        timeout=max(ends_at - time.monotonic(), 1),
    )
    print(done.stdout, flush=True)
    if done.returncode:
        score.divergences.append((command[-1], "its output above"))
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
        ended = ", ".join(f"{n}x code {code}" for code, n in sorted(score.ended_by_itself.items()))
        rows.append(
            f"| {score.name} | {score.faults.total():,} | {len(score.recoveries):,} | {slowest} "
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


def main():
    """Run the phases that are asked for; end with 1 if anything diverged."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--phase", action="append", choices=[*PHASES, "storm"])
    parser.add_argument("--count", type=int, help="faults of each phase; seconds of the storm")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print("seed", options.seed, flush=True)
    started = time.monotonic()
    ends_at = started + 60 * float(os.environ.get("TORTURE_MINUTES", "90"))
    scores = []
    for name in options.phase or [*PHASES, "storm"]:
        if name == "storm":
            score = run_storm(options.count or STORM_SECONDS, options.seed, ends_at)
        else:
            score = run_phase(name, options.count or PHASES[name].count, options.seed, ends_at)
        scores.append(score)
        print(f"{name}: {score.faults.total()} faults, {len(score.divergences)} divergences")
    print("\n" + table(scores, options.seed, (time.monotonic() - started) / 60))
    return any(score.divergences for score in scores)


if __name__ == "__main__":
    sys.exit(main())
