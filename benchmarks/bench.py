"""Measure everything: prints tables, and writes `RESULTS.md` and `results.svg`.

They are written to `data/` as tables are done, and a whole run puts them beside this file at its
end; a quick one, or one of chosen tables, does not.

Usage: python benchmarks/bench.py [--lines N] [--rounds R] [--memory-lines N] [--quick]
       [--only TABLE...]
"""

import argparse
import dataclasses
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import results
from ours import Server, server
from plan import CORES, DATA, HERE, QUICK, Plan
from tables import (
    current,
    following,
    listening,
    live,
    memory,
    peers,
    replays,
    spark,
    sweeps,
    visits,
)
from venv_of_peers import REQUIREMENTS, peers_python

TABLES: dict[str, Callable[[Plan, Server], results.Table]] = {
    "peers": peers.measure,
    "current": current.measure,
    "sweeps": sweeps.measure,
    "live": live.measure,
    "visits": visits.measure,
    "memory": memory.measure,
    "following": following.measure,
    "replays": replays.measure,
    "listening": listening.measure,
    "spark": spark.measure,
}
NAMED = ("bytewax", "duckdb", "orjson", "pandas", "pathway", "polars")


def main() -> None:
    """Measure, print, write."""
    chosen = arguments().parse_args()
    plan = QUICK if chosen.quick else Plan()
    sizes = ("lines", "rounds", "memory_lines")
    given = {name: value for name in sizes if (value := getattr(chosen, name)) is not None}
    plan = dataclasses.replace(plan, **given)
    DATA.mkdir(exist_ok=True)
    with server() as at:
        run(chosen.only or list(TABLES), plan, at)
    if not chosen.only and not chosen.quick:
        for name in ("RESULTS.md", "results.svg"):
            shutil.copy(DATA / name, HERE / name)


def run(names: Sequence[str], plan: Plan, at: Server) -> None:
    """Measure tables, and print and write each as it is done."""
    tables = []
    for name in names:
        tables.append(TABLES[name](plan, at))
        print(results.markdown(tables[-1]) + "\n", flush=True)
        write(header(plan, at), tables)
    print(results.findings(tables))


def arguments() -> argparse.ArgumentParser:
    """Return what can be asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lines", type=int, help="in a day's log (2,000,000)")
    parser.add_argument("--rounds", type=int, help="of table 1, of those that are not slow (3)")
    parser.add_argument("--memory-lines", type=int, help="of table 6 (20,000,000)")
    parser.add_argument(
        "--quick", action="store_true", help="small logs, one round: for developing"
    )
    parser.add_argument("--only", nargs="+", choices=TABLES, help="these tables")
    return parser


def header(plan: Plan, at: Server) -> str:
    """Say what ran, where, and how."""
    text = REQUIREMENTS.read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", text, re.MULTILINE))
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    command = " ".join(["python benchmarks/bench.py", *sys.argv[1:]])
    return f"""# How fast it is

Written by `make bench` (`{command}`); do not edit. A day's log has {plan.lines:,} lines.

- Machine: {CORES} cores ({cpu_name()}), {memory_gib:.0f} GiB of memory, {platform.system()}.
- Python {platform.python_version()}, PostgreSQL {at.version()} (embedded, its defaults).
- Peers: {", ".join(f"{name} {pins[name]}" for name in NAMED)}.

Machines differ and drift, so ratios within one run mean more than times."""


def cpu_name() -> str:
    """Return what the processor calls itself."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def write(head: str, tables: Sequence[results.Table]) -> None:
    """Write the results, and the chart if table 1 is among them, to `data/`."""
    parts = [head, results.findings(tables)]
    for table in tables:
        parts.append(results.markdown(table))
        if {"who", "events/s"} <= table.columns.keys():
            draw(table, DATA / "results.svg")
            parts.append("![Events per second, and CPU seconds per million](results.svg)")
    (DATA / "RESULTS.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def draw(table: results.Table, out: Path) -> None:
    """Draw the chart of table 1."""
    rows = [
        (row["who"], row["events/s"], row["CPU s per million"], "processor" in str(row["who"]))
        for row in table.rows
        if "events/s" in row
    ]
    source = DATA / "chart.json"
    source.write_text(json.dumps(rows), encoding="utf-8")
    command = [str(peers_python()), str(HERE / "chart.py"), str(source), str(out)]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
