"""Table 3: what a line costs, against log length, open visits, customers, batches, workers."""

import statistics
import sys
from collections.abc import Iterator
from typing import NamedTuple

import logs
import ours
from cost import Cost
from logs import Shape
from plan import CORES, Plan
from results import Table

OPEN_HOURS = 40 / 60  # a visit stays open for the allowed lateness and the attribution window
DEFAULT_BATCH_LINES = 100_000
OPEN_SHARE = 0.75  # of lines, about: those that begin a visit
COLUMNS = {
    "varies": "", "is": "", "lines": ",d", "events/s": ",.0f", "CPU s per million": ".2f",
    "peak MiB": ",.0f", "of it PostgreSQL": ",.0f",
}  # fmt: skip
HOW = """`processor run --once`, start and exit included, medians over rounds ({rounds}). What does
not vary: {lines:,} lines over 12 hours, 8 customers, batches of 100,000 lines, as many workers as
by default. One run may stand in several rows. A longer log is as dense, so it spans more hours;
more open visits come from the same lines within less time."""


class Run(NamedTuple):
    """A log, and how it is folded."""

    shape: Shape
    options: tuple[str, ...] = ()


class Point(NamedTuple):
    """What a run is an example of; one run may be that of several things."""

    varies: str
    value: str
    run: Run


def points(plan: Plan) -> Iterator[Point]:
    """Yield what is measured."""
    base = logs.of_length(plan, plan.lines // 2)
    for lines in (base.lines // 2, base.lines, 2 * base.lines, 4 * base.lines):
        yield Point("log length", f"{lines:,} lines", Run(logs.of_length(plan, lines)))
    for hours in (24.0, base.hours, 2.0, 0.5):
        opened = round(base.lines * OPEN_SHARE * min(1, OPEN_HOURS / hours), -3)
        yield Point("open visits", f"about {opened:,.0f}", Run(Shape(base.lines, hours)))
    for customers in (8, 1_000, 50_000):
        yield Point("customers", f"{customers:,}", Run(Shape(base.lines, base.hours, customers)))
    for batch_lines in (1_000, 10_000, DEFAULT_BATCH_LINES):
        options = ("--batch-lines", str(batch_lines))
        run = Run(base, options if batch_lines != DEFAULT_BATCH_LINES else ())
        yield Point("batch size", f"{batch_lines:,} lines", run)
    for workers in sorted({1, CORES}):
        yield Point("workers", str(workers), Run(base, ("--workers", str(workers))))


def measure(plan: Plan, server: ours.Server) -> Table:
    """Measure each run in each round."""
    costs: dict[Run, list[Cost]] = {point.run: [] for point in points(plan)}
    for number in range(plan.sweep_rounds):
        for run, taken in costs.items():
            print(f"round {number + 1}: {run.shape} {' '.join(run.options)}", file=sys.stderr)
            taken.append(ours.fold(server, logs.made(run.shape), *run.options))
    rows = [row_of(point, costs[point.run]) for point in points(plan)]
    how = HOW.format(rounds=plan.sweep_rounds, lines=plan.lines // 2)
    return Table("3. What changes the cost", how, COLUMNS, rows)


def row_of(point: Point, costs: list[Cost]) -> dict[str, object]:
    """Return the figures of a point."""
    lines = point.run.shape.lines
    return {
        "varies": point.varies,
        "is": point.value,
        "lines": lines,
        "events/s": lines / statistics.median(cost.seconds for cost in costs),
        "CPU s per million": 1e6 / lines * statistics.median(c.all_cpu_seconds for c in costs),
        "peak MiB": statistics.median(cost.all_peak_mib for cost in costs),
        "of it PostgreSQL": statistics.median(cost.postgres_peak_mib for cost in costs),
    }
