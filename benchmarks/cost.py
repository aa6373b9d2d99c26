"""What a process costs: wall seconds, CPU seconds and peak memory of its whole tree.

CPU comes from `wait4`, so a child that nobody waited for would be missed; a PostgreSQL that it used
is added by the CPU that its processes took meanwhile. Memory is sampled ten times a second: of the
tree the sum of each process's high-water mark, of PostgreSQL the sum of proportional set sizes,
which count shared memory once.
"""

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 0.1


class Cost(NamedTuple):
    """What one run of a process took."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    postgres_cpu_seconds: float = 0.0
    postgres_peak_mib: float = 0.0

    @property
    def all_cpu_seconds(self) -> float:
        """CPU, PostgreSQL's included."""
        return self.cpu_seconds + self.postgres_cpu_seconds

    @property
    def all_peak_mib(self) -> float:
        """Peak memory, PostgreSQL's included."""
        return self.peak_mib + self.postgres_peak_mib


def run(
    command: Sequence[str | Path],
    log: Path,
    environment: Mapping[str, str] | None = None,
    postgres: int | None = None,
) -> Cost:
    """Run a command to its end, its output going to `log`; `postgres` is its server's pid.

    Raises:
        CalledProcessError: it failed.

    """
    cpu_before = tree_cpu_seconds(postgres) if postgres else 0.0
    peaks, done = [0.0, 0.0], threading.Event()
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, env={**os.environ, **(environment or {})}, stdout=output, stderr=output
        )
        sampler = threading.Thread(target=_sample, args=(process.pid, postgres, peaks, done))
        sampler.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    postgres_cpu = tree_cpu_seconds(postgres) - cpu_before if postgres else 0.0
    done.set()
    sampler.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, [str(word) for word in command])
    return Cost(seconds, usage.ru_utime + usage.ru_stime, peaks[0], postgres_cpu, peaks[1])


def _sample(root: int, postgres: int | None, peaks: list[float], done: threading.Event) -> None:
    while not done.wait(SAMPLE_SECONDS):
        peaks[0] = max(peaks[0], _mib(root, "status", "VmHWM:"))
        if postgres:
            peaks[1] = max(peaks[1], _mib(postgres, "smaps_rollup", "Pss:"))


def resident_mib(root: int) -> float:
    """Return the memory that a process tree holds now."""
    return _mib(root, "status", "VmRSS:")


def _mib(root: int, file: str, name: str) -> float:
    return sum(_kib(pid, file, name) for pid in tree(root)) / 1024


def _kib(pid: int, file: str, name: str) -> int:
    for line in _read(pid, file).splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0


def tree(root: int) -> list[int]:
    """Return a process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def tree_cpu_seconds(root: int, without: int | None = None) -> float:
    """Return the CPU of a process tree so far, children that ended included.

    Of a process that lives by its own clock, to the nanosecond: /proc has ticks of 10 ms, cut off
    for each process, which is more than one that waits uses in a minute. Of those that ended, what
    their parent was told, in ticks.
    """
    seconds = 0.0
    for pid in tree(root):
        if pid != without and (fields := stat(pid)):
            seconds += sum(int(field) for field in fields[13:15]) / TICKS
            with suppress(OSError):  # gone meanwhile
                seconds += time.clock_gettime(_cpu_clock(pid))
    return seconds


def _cpu_clock(pid: int) -> int:
    """Return the clock of a process's CPU, as clock_getcpuclockid(3) makes it on Linux."""
    return (~pid << 3) | 2


def stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name, or none if it is gone."""
    return _read(pid, "stat").rpartition(")")[2].split()


def _read(pid: int, file: str) -> str:
    try:
        return Path(f"/proc/{pid}/{file}").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""
