"""Table 9: the same report by Spark.

Whole processes, from start to exit, in turn, on a log and on a quarter of it, which tell apart what
a start costs and what a line costs: the lines that are more, over the seconds that are more. Spark
runs in one JVM with as many cores as it says (`local[N]`), a Python worker beside each. `spark run`
reads the log in eight files, in micro-batches of two.
"""

import importlib.util
import os
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

import cost
import logs
import ours
from plan import DATA, Plan
from results import Table

COLUMNS = {
    "who": "", "cores": "d", "lines": ",d", "seconds": ".1f", "lines/s": ",.0f",
    "start, s": ".1f", "more lines/s": ",.0f", "core-µs a line": ".1f", "of run --once": ".2f",
}  # fmt: skip
FILES = 8
STATE = DATA / "spark-state"
LOOPBACK = {
    "SPARK_LOCAL_IP": "127.0.0.1",
    "PYSPARK_SUBMIT_ARGS": "--conf spark.driver.host=127.0.0.1 pyspark-shell",
}

Run = Callable[[Path, str, int], list[str]]


def measure(plan: Plan, server: ours.Server) -> Table:
    """Measure all."""
    how = (__doc__ or "").partition("\n\n")[2].strip()
    title = "9. Spark"
    if importlib.util.find_spec("pyspark") is None:
        return Table(title, how, COLUMNS, [], notes=["Not measured: the extra is not installed."])
    sizes = [logs.made(logs.of_length(plan, lines)) for lines in (plan.lines // 4, plan.lines)]
    kinds: dict[str, Run] = {"run --once": fold, "spark replay": replay, "spark run": stream}
    rows: list[dict[str, object]] = []
    for cores in (1, 2):
        for name, command in kinds.items():
            few, many = (seconds(plan, server, log, command, cores) for log in sizes)
            rows.append(row(plan, name, cores, few, many))
    for one in rows:
        same = next(r for r in rows if (r["who"], r["cores"]) == ("run --once", one["cores"]))
        one["of run --once"] = same["seconds"] / one["seconds"]  # type: ignore[operator]
    return Table(title, how, COLUMNS, rows)


def row(plan: Plan, name: str, cores: int, few: float, many: float) -> dict[str, object]:
    """Return what a quarter of the lines and all of them tell."""
    per_line = (many - few) / (plan.lines - plan.lines // 4)
    return {
        "who": name,
        "cores": cores,
        "lines": plan.lines,
        "seconds": many,
        "lines/s": plan.lines / many,
        "start, s": many - plan.lines * per_line,
        "more lines/s": 1 / per_line,
        "core-µs a line": per_line * cores * 1e6,
    }


def seconds(plan: Plan, server: ours.Server, log: Path, command: Run, cores: int) -> float:
    """Return how long a command takes on an empty database, in the middle of some rounds."""
    found = []
    for _ in range(plan.rounds):
        shutil.rmtree(STATE, ignore_errors=True)
        words = command(log, server.fresh(), cores)
        found.append(cost.run(words, ours.OUTPUT, LOOPBACK).seconds)
    return statistics.median(found)


def fold(log: Path, url: str, cores: int) -> list[str]:
    """Return the command of the local fold."""
    return ours.command(url, "run", "--once", log, "--workers", cores)


def replay(log: Path, url: str, cores: int) -> list[str]:
    """Return the command of a replay by Spark."""
    return ours.command(url, "spark", "replay", log, "--master", f"local[{cores}]")


def stream(log: Path, url: str, cores: int) -> list[str]:
    """Return the command of a stream by Spark."""
    options = ("--once", "--files-per-trigger", 2, "--checkpoint", STATE.as_uri())
    return ours.command(url, "spark", "run", in_files(log), "--master", f"local[{cores}]", *options)


def in_files(log: Path) -> Path:
    """Return a folder with a log in files, one after the other, made when first asked for."""
    folder = log.with_suffix(".files")
    if not folder.exists():
        new = folder.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        size = -(-log.stat().st_size // FILES)
        with log.open("rb") as lines:
            for number in range(FILES):
                part = new / f"{number}.log"
                part.write_bytes(lines.read(size) + lines.readline())
                os.utime(part, (1_700_000_000 + number,) * 2)
        new.rename(folder)
    return folder
