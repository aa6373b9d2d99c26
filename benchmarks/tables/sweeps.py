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
OPEN_SHARE = 0.75  # of lines, about: those that begin a visit
COLUMNS = {
    "varies": "", "is": "", "lines": ",d", "events/s": ",.0f", "CPU s per million": ".2f",
    "peak MiB": ",.0f", "of it PostgreSQL": ",.0f",
}  # fmt: skip
HOW = """`processor run --once`, start and exit included, medians of {rounds} rounds. What does not
vary: {lines:,} lines over 6 hours, 8 customers, batches of 100,000 lines, as many workers as by
default. A longer log is as dense, so it spans more hours; more open visits come from the same
lines within less time."""


class Point(NamedTuple):
    """A log, and how it is folded."""

    varies: str
    value: str
    shape: Shape
    options: tuple[str, ...] = ()


def points(plan: Plan) -> Iterator[Point]:
    """Yield what is measured."""
    base = logs.of_length(plan, plan.lines // 4)
    for times in (1, 2, 4, 8):
        shape = logs.of_length(plan, base.lines * times)
        yield Point("log length", f"{shape.lines:,} lines", shape)
    for hours in (24.0, 6.0, 1.0, 0.5):
        opened = round(base.lines * OPEN_SHARE * min(1, OPEN_HOURS / hours), -3)
        yield Point("open visits", f"about {opened:,.0f}", Shape(base.lines, hours))
    for customers in (8, 1_000, 50_000):
        yield Point("customers", f"{customers:,}", Shape(base.lines, base.hours, customers))
    for batch_lines in (1_000, 10_000, 100_000):
        options = ("--batch-lines", str(batch_lines))
        yield Point("batch size", f"{batch_lines:,} lines", base, options)
    for workers in sorted({1, CORES}):
        yield Point("workers", str(workers), base, ("--workers", str(workers)))


def measure(plan: Plan, server: ours.Server) -> Table:
    """Measure each point in each round."""
    costs: dict[Point, list[Cost]] = {point: [] for point in points(plan)}
    for number in range(plan.sweep_rounds):
        for point, taken in costs.items():
            print(f"round {number + 1}: {point.varies} {point.value}", file=sys.stderr)
            taken.append(ours.fold(server, logs.made(point.shape), *point.options))
    rows = [row_of(point, taken) for point, taken in costs.items()]
    how = HOW.format(rounds=plan.sweep_rounds, lines=plan.lines // 4)
    return Table("3. What changes the cost", how, COLUMNS, rows)


def row_of(point: Point, costs: list[Cost]) -> dict[str, object]:
    """Return the figures of a point."""
    lines = point.shape.lines
    return {
        "varies": point.varies,
        "is": point.value,
        "lines": lines,
        "events/s": lines / statistics.median(cost.seconds for cost in costs),
        "CPU s per million": 1e6 / lines * statistics.median(c.all_cpu_seconds for c in costs),
        "peak MiB": statistics.median(cost.all_peak_mib for cost in costs),
        "of it PostgreSQL": statistics.median(cost.postgres_peak_mib for cost in costs),
    }
