"""How much is measured: the sizes of one run of the benchmarks."""

import os
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Plan:
    """Sizes, in lines, rounds and seconds; `rounds` of those that are slow are `slow_rounds`."""

    lines: int = 2_000_000
    rounds: int = 3
    slow_rounds: int = 1
    sweep_rounds: int = 1
    upserts: int = 50_000
    refreshes: int = 1_440  # of table 2, in a day; a multiple of 30
    memory_lines: int = 20_000_000
    live_seconds: float = 30.0
    idle_seconds: float = 60.0
    visits: tuple[int, int] = (200_000, 6_000_000)
    restarts: int = 2


QUICK = Plan(
    lines=100_000,
    rounds=1,
    sweep_rounds=1,
    upserts=5_000,
    refreshes=120,
    memory_lines=200_000,
    live_seconds=5.0,
    idle_seconds=5.0,
    visits=(50_000, 200_000),
    restarts=1,
)
