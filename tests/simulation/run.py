"""Runs many seeds, on all cores: `python tests/simulation/run.py --seeds 0-9999`."""

import argparse
import logging
import os
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from simulate import simulate  # noqa: E402 - it is no package


def attempt(seed):
    """Return the seed, what happened, and what went wrong."""
    logging.disable(logging.CRITICAL)
    try:
        return seed, simulate(seed), None
    except Exception:
        return seed, Counter(), traceback.format_exc()


def main():
    """Print what was simulated, and the seeds that failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0-999", help="first and last")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    first, last = map(int, options.seeds.split("-"))
    started, totals, failed = time.monotonic(), Counter(), []
    with ProcessPoolExecutor(options.processes) as pool:
        for seed, counts, error in pool.map(attempt, range(first, last + 1), chunksize=10):
            totals.update(counts)
            if error:
                failed.append(seed)
                print(f"seed {seed}:\n{error}", flush=True)
    minutes = (time.monotonic() - started) / 60
    runs = last + 1 - first
    for what, times in sorted(totals.items()):
        print(f"{times:12,}  {what}")
    print(f"{runs:,} runs in {minutes:.1f} minutes, {runs / minutes:,.0f} a minute")
    print(f"{len(failed)} divergences{': seeds ' if failed else ''}{', '.join(map(str, failed))}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
