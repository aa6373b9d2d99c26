"""Table 9: what it costs to be asked.

`run --once` of the same log into an empty database, in turns: without a listener, with one that
nobody asks, and with one that is asked for its metrics, or for its page, a hundred times at once,
each second, by curl, on the same cores. What is asked for must be answered, each time, but for a
page before the first one is made.
"""

import socket
import statistics
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import logs
import ours
from plan import Plan
from results import Finding, Table

AT_ONCE = 100
ASKED = {
    f"asked {AT_ONCE} times at once each second for {what}": path
    for what, path in (("metrics", "/metrics"), ("its page", "/"))
}
COLUMNS = {"what": "", "lines": ",d", "seconds": ".2f", "lines/s": ",.0f", "of run --once": ".2f"}


def measure(plan: Plan, server: ours.Server) -> Table:
    """Measure all."""
    log, lines = logs.made(logs.of_length(plan, plan.lines)), plan.lines
    seconds: dict[str, list[float]] = {"run --once": [], "with a listener": []}
    seconds |= {asked: [] for asked in ASKED}
    answers: dict[str, list[str]] = {asked: [] for asked in ASKED}
    for _ in range(plan.rounds):
        seconds["run --once"].append(ours.fold(server, log).seconds)
        listen = "--listen", f"127.0.0.1:{free_port()}"
        seconds["with a listener"].append(ours.fold(server, log, *listen).seconds)
        for asked, path in ASKED.items():
            with asking(f"{listen[1]}{path}") as found:
                seconds[asked].append(ours.fold(server, log, *listen).seconds)
            answers[asked] += found
    typical = {what: statistics.median(found) for what, found in seconds.items()}
    rows: list[dict[str, object]] = [
        {
            "what": what,
            "lines": lines,
            "seconds": found,
            "lines/s": lines / found,
            "of run --once": typical["run --once"] / found,
        }
        for what, found in typical.items()
    ]
    findings = [
        Finding(
            f"fold while {asked} / not asked",
            "0.8",
            f"{typical['run --once'] / typical[asked]:.2f}",
            f"{lines:,} lines; {len(found):,} answers, "
            f"{sum(answer != '200' for answer in found)} of them not 200",
        )
        for asked, found in answers.items()
    ]
    how = (__doc__ or "").partition("\n\n")[2].strip()
    return Table("9. Listening", how, COLUMNS, rows, findings)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def asking(url: str) -> Iterator[list[str]]:
    """Ask meanwhile, once it listens; collect the codes of the answers."""
    answers, done = list[str](), threading.Event()
    words = [
        "curl",
        "--silent",
        "--output",
        str(Path("/dev/null")),
        "--write-out",
        "%{http_code}\n",
    ]
    words += ["--parallel", "--parallel-immediate", "--parallel-max", str(AT_ONCE)]
    words.append(f"http://{url}#[1-{AT_ONCE}]")

    def ask() -> None:
        while not done.wait(1):
            asked = subprocess.run(words, capture_output=True, text=True, check=False)
            codes = asked.stdout.split()
            if set(codes) != {"000"}:  # not yet there, or not any more
                answers.extend(codes)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        done.set()
        thread.join()
