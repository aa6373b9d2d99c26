"""Table 7: what following costs when nothing happens, and how soon something is noticed.

Idle: CPU of the daemon and of the server over the time, on a log and on a pattern. Delays: from
the first line of a new file until it is committed, medians of ten; after a rotation by rename and
create the old file is watched for a second before the new one counts. Memory: peak of a run with 1
GiB of address space over one line of 1 GiB, and over a million lines.
"""

import os
import resource
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import ours
from cost import tree_cpu_seconds
from logs import head_of, made, of_length
from plan import DATA, Plan
from results import Finding, Table

from processor.shell.generate import LogShape, generate

IDLE_SECONDS = 20.0
TURNS = 10
GIB = 1 << 30
COLUMNS = {"what": "", "figure": "", "of": ""}
LINE = f"{next(iter(generate(LogShape(events=1, seed=1))))}\n"


def measure(plan: Plan, server: ours.Server) -> Table:
    """Measure each figure."""
    folder = DATA / "following"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    one, pattern = idle(server, folder, "app.log"), idle(server, folder, "*.log")
    rotated = delay(server, folder, "app.log", rotate)
    found = delay(server, folder, "*.log", lambda log, turn: log.with_name(f"{turn}.log"))
    long_line, million = (
        bounded(server, one_long_line(folder)),
        bounded(server, head_of(made(of_length(plan, 1_000_000)), 1_000_000)),
    )
    rows: list[dict[str, object]] = [
        {"what": "idle, one log", "figure": f"{one:.2f} % of a core", "of": "20 s"},
        {"what": "idle, a pattern", "figure": f"{pattern:.2f} % of a core", "of": "20 s"},
        {"what": "first line after a rotation", "figure": f"{rotated:.2f} s", "of": "10 rotations"},
        {"what": "first line of a new match", "figure": f"{found:.2f} s", "of": "10 logs"},
        {"what": "one line of 1 GiB", "figure": f"{long_line:,.0f} MiB", "of": "RLIMIT_AS 1 GiB"},
        {"what": "1,000,000 lines", "figure": f"{million:,.0f} MiB", "of": "RLIMIT_AS 1 GiB"},
    ]
    findings = [Finding("idle CPU", "under 1 %", f"{max(one, pattern):.2f} % of a core", "20 s")]
    how = (__doc__ or "").partition("\n\n")[2].strip()
    return Table("7. Following", how, COLUMNS, rows, findings)


def idle(server: ours.Server, folder: Path, name: str) -> float:
    """Return the percent of a core that is taken while nothing is written."""
    (folder / "app.log").write_text(LINE, encoding="utf-8")
    url = server.fresh()
    with ours.watch(url) as connection, ours.daemon(url, folder / name) as pid:
        ours.await_bytes(connection, len(LINE))
        time.sleep(2)
        before = tree_cpu_seconds(pid) + tree_cpu_seconds(server.pid)
        time.sleep(IDLE_SECONDS)
        after = tree_cpu_seconds(pid) + tree_cpu_seconds(server.pid)
    return 100 * (after - before) / IDLE_SECONDS


def rotate(log: Path, turn: int) -> Path:
    """Rename and create; return what is written to next."""
    log.rename(log.with_name(f"app.log-20220101{turn:02}"))
    return log


def delay(
    server: ours.Server, folder: Path, name: str, go_on: Callable[[Path, int], Path]
) -> float:
    """Return how long the first line of a new file waits until it is committed."""
    for old in folder.iterdir():
        old.unlink()
    log, url, delays = folder / "app.log", server.fresh(), list[float]()
    log.write_text(LINE, encoding="utf-8")
    with ours.watch(url) as connection, ours.daemon(url, folder / name):
        ours.await_bytes(connection, len(LINE))
        query = "SELECT coalesce(sum(lines), 0) FROM checkpoints"
        for turn in range(TURNS):
            time.sleep(1.37)  # at no fixed distance from a look at the folder
            target = go_on(log, turn)
            with target.open("a", encoding="utf-8") as file:
                file.write(LINE)
            started = time.perf_counter()
            while connection.execute(query).fetchone() != (turn + 2,):
                time.sleep(0.005)
            delays.append(time.perf_counter() - started)
    return statistics.median(delays)


def one_long_line(folder: Path) -> Path:
    """Return a log with a line of 1 GiB; it is a hole, and takes no room."""
    path = folder / "long.log"
    path.write_text(LINE, encoding="utf-8")
    os.truncate(path, len(LINE) + GIB)
    with path.open("a", encoding="utf-8") as log:
        log.write(f"\n{LINE}")
    return path


def bounded(server: ours.Server, log: Path) -> float:
    """Return the peak memory of a run in bounded address space, in MiB."""
    url = server.fresh()

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (GIB, GIB))

    words = ours.command(url, "run", "--once", "--workers", 1, log)
    with ours.OUTPUT.open("wb") as output:
        process = subprocess.Popen(words, preexec_fn=bound, stdout=output, stderr=output)  # noqa: PLW1509
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"the run failed; see {ours.OUTPUT}")
    return usage.ru_maxrss / 1024
