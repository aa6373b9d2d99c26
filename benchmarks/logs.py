"""Generated logs, kept under `data/` from run to run, and the oracle's report of them."""

import csv
import subprocess
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from peers.common import COLUMNS
from plan import DATA, HERE, Plan


@dataclass(frozen=True)
class Shape:
    """What a log looks like. It has duplicates, but no late and no broken line."""

    lines: int
    hours: float
    customers: int = 8
    users: int = 10_000

    @property
    def path(self) -> Path:
        """Where it is kept."""
        minutes = self.hours * 60
        return DATA / f"{self.lines}-lines-{minutes:g}-min-{self.customers}-customers.log"


def of_length(plan: Plan, lines: int) -> Shape:
    """Return a log of so many lines, as dense as one that has the plan's lines in a day."""
    return Shape(lines, 24 * lines / plan.lines)


def made(shape: Shape) -> Path:
    """Return a log, made when it is first asked for."""
    log = shape.path
    if not log.exists():
        DATA.mkdir(exist_ok=True)
        new = log.with_suffix(".new")
        new.unlink(missing_ok=True)
        options = {
            "events": shape.lines, "hours": shape.hours, "customers": shape.customers,
            "users": shape.users, "duplicates": 0.01, "output": new,
        }  # fmt: skip
        words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        subprocess.run([sys.executable, "-m", "processor", "generate", *words], check=True)
        new.rename(log)
    return log


def head_of(log: Path, lines: int) -> Path:
    """Return the first lines of a log, as a log."""
    head = DATA / f"{log.stem}-head-{lines}.log"
    if not head.exists():
        with log.open("rb") as whole:
            head.write_bytes(b"".join(islice(whole, lines)))
    return head


def expected(log: Path) -> list[tuple[str, ...]]:
    """Return the oracle's rows, made once for each log."""
    out = log.with_suffix(".oracle.csv")
    oracle = HERE.parent / "tests" / "oracle.py"
    newest = max(log.stat().st_mtime, oracle.stat().st_mtime)
    if not out.exists() or out.stat().st_mtime < newest:
        command = [sys.executable, str(HERE / "peers" / "oracle_report.py"), str(log), str(out)]
        subprocess.run(command, check=True)
    return rows_of(out)


def rows_of(path: Path) -> list[tuple[str, ...]]:
    """Return the rows of a report file, without what they have beyond the counts."""
    with path.open(encoding="utf-8", newline="") as file:
        return [tuple(row[name] for name in COLUMNS) for row in csv.DictReader(file)]


def difference(right: list[tuple[str, ...]], rows: list[tuple[str, ...]]) -> str:
    """Say whether rows are the oracle's, and if not, which columns are not."""
    if rows == right:
        return "yes"
    if [row[:2] for row in rows] != [row[:2] for row in right]:
        return f"no: {len(rows)} rows, of {len(right)}"
    pairs = list(zip(rows, right, strict=True))
    wrong = [name for at, name in enumerate(COLUMNS) if any(a[at] != b[at] for a, b in pairs)]
    return "no: " + ", ".join(wrong)
