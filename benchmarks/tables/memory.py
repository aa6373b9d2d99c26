"""Table 6: whether memory stays flat over a long log, as event time passes.

`processor run --once`, whose memory (of all its processes, PostgreSQL left out) is looked at ten
times a second. The log is as dense as the others, so it spans more hours; each row is the highest
figure within a quarter of the time that the run takes.
"""

import subprocess
import time

import logs
import ours
from cost import resident_mib
from plan import Plan
from results import Finding, Table

SAMPLE_SECONDS = 0.1
QUARTERS = ("first", "second", "third", "last")
COLUMNS = {"quarter of the log": "", "highest MiB": ",.0f"}


def measure(plan: Plan, server: ours.Server) -> Table:
    """Measure one long log, which is deleted afterwards if it is longer than the others."""
    shape = logs.of_length(plan, plan.memory_lines)
    samples = sampled(ours.command(server.fresh(), "run", "--once", logs.made(shape)))
    if shape.lines > 2 * plan.lines:
        shape.path.unlink()
    count = len(QUARTERS)
    bounds = [number * len(samples) // count for number in range(count + 1)]
    highest = [max(samples[bounds[n] : max(bounds[n + 1], bounds[n] + 1)]) for n in range(count)]
    rows = [
        {"quarter of the log": name, "highest MiB": mib}
        for name, mib in zip(QUARTERS, highest, strict=True)
    ]
    on = f"{shape.lines:,} lines, {shape.hours:,.0f} hours"
    measured = f"{highest[0]:,.0f} first, {highest[-1]:,.0f} last quarter"
    how = f"On {on}. " + (__doc__ or "").partition("\n\n")[2].strip()
    finding = Finding("peak memory as event time passes, MiB", "flat", measured, on)
    return Table("6. Memory over a long log", how, COLUMNS, rows, [finding])


def sampled(command: list[str]) -> list[float]:
    """Return the memory of a command's processes, from its start to its end."""
    samples = []
    with ours.OUTPUT.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        while process.poll() is None:
            samples.append(resident_mib(process.pid))
            time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return samples
