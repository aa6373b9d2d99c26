"""Every failpoint, every action, every hit: `python tests/failpoints/run_failpoints.py --hits 200`.

Prints for each step how many of its first hits were tested by each action, and after how many of
them report and ledger were the oracle's.

- A step of each batch is tested in one life. For a crash, N - 1 hits pass, and at the next one it
  dies; every `APART`th hit of a life fails, and all of them are held up. Then a new processor goes
  on to the end. For the steps of a reconnect, the answer to each COMMIT is lost; for those of
  snapshots, one is written after each batch.
- A step of each start is tested in a chain: a batch more in each life, at whose first hit it acts.
- Those of a migration are tested as often as they are met on the way from an empty database.
"""

import argparse
import logging
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import psycopg  # noqa: E402 - it is no package
from failpoints import ACTIONS, Failpoints  # noqa: E402
from psycopg.conninfo import conninfo_to_dict, make_conninfo  # noqa: E402
from workload import BATCH_LINES, Workload, saving  # noqa: E402

from processor.edges.embedded import embedded  # noqa: E402

EXTRA_LINES = 6
APART = 20
SHARE = 10
SURVEYS = {
    "batch": {},
    "reconnect": {"loses": True},
    "snapshot": {"saves": True},
}
KINDS = (*SURVEYS, "start", "migration")


def plan(workload, most):
    """Return {(kind, step): how many lines each of its first hits takes}, up to `most` hits."""
    planned = {}
    lines = BATCH_LINES * (most + 10)
    met = {kind: workload.survey(lines, **how) for kind, how in SURVEYS.items()}
    once = Counter({step: len(hits) for step, hits in met["batch"].items()})
    for kind, steps in met.items():
        for step, hits in steps.items():
            is_new = kind == "batch" or len(hits) > 2 * once[step] + 3
            if is_new and len(hits) > 5:
                planned[kind, step] = [
                    lines if step.endswith(" read") else folded + EXTRA_LINES  # reads go ahead
                    for folded in hits[:most]
                ]
    known = {step for _, step in planned}
    for kind, act, times in (
        ("start", workload.restart, most),
        ("migration", workload.migrate_anew, 0),
    ):
        points = Failpoints()
        with saving(kind == "start"):
            assert act(points)
            assert act(points)
        for step, hits in points.hits.items():
            if step != "errors" and step not in known:
                planned[kind, step] = [0] * (times or hits // 2)
        known = {step for _, step in planned}
    return planned


def act_at(workload, task):
    """Act at some hits of a step in one life; return at how many, and whether all is right."""
    kind, step, action, hits, lines = task
    points = Failpoints(step, hits, action, lambda: workload.write(workload.written + 1))
    points.loses = kind == "reconnect"
    if kind == "start":
        points.at = (1,)
        with saving(True):
            is_equal = workload.restart(points)
    elif kind == "migration":
        is_equal = workload.migrate_anew(points)
    else:
        is_equal = workload.run(lines, points, saves=kind == "snapshot")
    return points.acted, is_equal


@contextmanager
def server():
    """Start a PostgreSQL for it; only the processor dies, so that it need not wait for the disk."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)
        with embedded(folder / "checkpoints"):
            url = make_conninfo(
                host=str(folder / "checkpoints/postgres"), user="processor", dbname="postgres"
            )
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET fsync = off")
                connection.execute("SELECT pg_reload_conf()")
            yield url, folder


_workload = None


def _begin(url, folder):
    """Give a process a database and a folder of its own."""
    global _workload  # noqa: PLW0603 - what a process is given once
    logging.disable(logging.CRITICAL)
    name = f"failpoints_{os.getpid()}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    (folder / name).mkdir()
    _workload = Workload(make_conninfo(**{**conninfo_to_dict(url), "dbname": name}), folder / name)


def _plan(most):
    return plan(_workload, most)


def _test(tasks):
    if tasks[0][0] == "start":
        _workload.empty()
    return [(task, *act_at(_workload, task)) for task in tasks]


def tasks_of(planned):
    """Yield what is done in one life each: the kind, step, action, hits, and lines to be read."""
    for (kind, step), lines in planned.items():
        hits = range(1, len(lines) + 1)
        for at in hits:
            yield kind, step, "crash", (at,), lines[at - 1]
        together = 1 if kind in ("start", "migration") else APART
        for first in range(1, together + 1) if together > 1 else hits:
            some = tuple(range(first, len(lines) + 1, together)) if together > 1 else (first,)
            if some:
                yield kind, step, "error", some, lines[some[-1] - 1]
        if together > 1:
            yield kind, step, "delay", tuple(hits), lines[-1]
        else:
            yield from ((kind, step, "delay", (at,), lines[at - 1]) for at in hits)


def shares_of(tasks):
    """Yield tasks that a process does one after the other: a chain, or a few."""
    chains = defaultdict(list)
    for task in tasks:
        kind, step, action, hits, _ = task
        chains[kind, step, action, 0 if kind == "start" else hits[0] // SHARE].append(task)
    yield from sorted(chains.values(), key=lambda chain: chain[0][0] != "start")


def main():
    """Test all, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hits", type=int, default=200, help="how many hits of each step")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="steps of what")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    started, table = time.monotonic(), defaultdict(Counter)
    with server() as (url, folder):
        pool = ProcessPoolExecutor(options.processes, initializer=_begin, initargs=(url, folder))
        with pool:
            planned = pool.submit(_plan, options.hits).result()
            chosen = {at: lines for at, lines in planned.items() if at[0] in options.kinds}
            for done in pool.map(_test, shares_of(tasks_of(chosen))):
                for (kind, step, action, hits, _), acted, is_equal in done:
                    table[kind, step][action] += len(hits)
                    table[kind, step][action, "EQ"] += acted * is_equal
                    if not is_equal:
                        print(f"{kind}, {step}, hits {hits}, {action}: NOT EQUAL", flush=True)
    return report_on(table, (time.monotonic() - started) / 60)


def report_on(table, minutes):
    """Print how many hits were tested, and after how many all was as it should be."""
    print(f"{'step':44}" + "".join(f"{action:>16}" for action in ACTIONS))
    total = Counter()
    for (kind, step), row in sorted(table.items()):
        total.update(row)
        cells = (f"{row[action, 'EQ']} of {row[action]}" for action in ACTIONS)
        print(f"{kind + ': ' + step:44}" + "".join(f"{cell:>16}" for cell in cells))
    cells = (f"{total[action, 'EQ']} of {total[action]}" for action in ACTIONS)
    print(f"{'all':44}" + "".join(f"{cell:>16}" for cell in cells))
    print(f"{len(table)} steps in {minutes:.1f} minutes")
    return any(total[action] != total[action, "EQ"] for action in ACTIONS)


if __name__ == "__main__":
    sys.exit(main())
