"""Table 1: who makes the same report, how fast, and at what cost, on the same log in one run.

Each round runs every one in turn, so that a machine that drifts does so for all of them.
"""

import ast
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cost
import logs
import ours
from plan import CORES, DATA, HERE, Plan
from results import Finding, Table
from venv_of_peers import peers_python

STREAMING = "streaming, in memory"
HOW = """Whole processes, from start to exit, on a log of {lines:,} lines ({mib:,.0f} MiB, a day, 8
customers, 10,000 users, 1 % duplicates) that is in the page cache. Each round runs all in turn;
figures are medians over the rounds, ratios medians of the ratios within a round, to our own row on
as many cores. The processor commits durably to a PostgreSQL that runs already; its CPU and memory
are counted in. `exact`: whether the report is the one of the tests' oracle. Memory is the sum of
the processes' peaks, so what they share counts for each."""
COLUMNS = {
    "who": "", "does": "", "cores": "d", "lines": ",d", "rounds": "d", "events/s": ",.0f",
    "CPU s per million": ".2f", "peak MiB": ",.0f", "our events/s over its": ".2f",
    "its CPU over ours": ".2f", "exact": "",
}  # fmt: skip


@dataclass
class Peer:
    """One who makes the report; without a script, the processor. `lines`: of a prefix only."""

    name: str
    does: str
    cores: int
    script: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    slow: bool = False
    writes: bool = True
    postgres: bool = False
    lines: int = 0
    costs: list[cost.Cost] = field(default_factory=list)
    exact: str = "not measured"


def peers(plan: Plan) -> list[Peer]:
    """Return all there are."""
    counts = sorted({1, CORES})
    into, shot = "exactly once into Postgres", "one shot"
    of = [Peer("bare orjson loop", "decodes only", 1, "bare_loop", writes=False)]
    of += [Peer(f"processor x{n}", into, n, postgres=True) for n in counts]
    of += [Peer("DuckDB", shot, CORES, "duckdb_one_shot")]
    of += [Peer("polars", shot, CORES, "polars_one_shot")]
    of += [Peer("pandas", shot, 1, "pandas_one_shot", slow=True)]
    of += [
        Peer(f"Bytewax x{n}", STREAMING, n, "bytewax_stream", {"PEER_WORKERS": str(n)})
        for n in counts
    ]
    of += [
        Peer(
            f"Bytewax by event x{n}", STREAMING, n, "bytewax_stream",
            {"PEER_WORKERS": str(n), "PEER_ITEMS": "events"}, slow=True,
        )
        for n in counts
    ]  # fmt: skip
    of += [
        Peer(f"Pathway x{n}", STREAMING, n, "pathway_stream", {"PATHWAY_THREADS": str(n)}, True)
        for n in counts
    ]
    upsert = Peer("upsert per event", "rows in Postgres", 1, "upsert_per_event", slow=True)
    upsert.postgres, upsert.lines = True, plan.upserts
    return [*of, upsert]


def measure(plan: Plan, server: ours.Server) -> Table:
    """Measure all, and compare their reports."""
    log = logs.made(logs.of_length(plan, plan.lines))
    python, everyone = peers_python(), peers(plan)
    for number in range(plan.rounds):
        for peer in everyone:
            if number < (plan.slow_rounds if peer.slow else plan.rounds):
                print(f"round {number + 1}: {peer.name}", file=sys.stderr)
                run_one(peer, log, python, server)
    for peer in everyone:
        peer.lines = peer.lines or plan.lines
    rows = [row_of(peer, everyone) for peer in everyone]
    how = HOW.format(lines=plan.lines, mib=log.stat().st_size / 1024**2)
    scripts = dict.fromkeys(peer.script for peer in everyone if peer.script)
    notes = [left_out(HERE / "peers" / f"{script}.py") for script in scripts]
    title = "1. The same report, by others"
    return Table(title, how, COLUMNS, rows, findings(plan, everyone), notes)


def run_one(peer: Peer, log: Path, python: Path, server: ours.Server) -> None:
    """Run a peer once, take down its cost, and compare its report."""
    log = logs.head_of(log, peer.lines) if peer.lines else log
    out, output = DATA / f"{peer.name}.csv", DATA / f"{peer.name}.out"
    out.unlink(missing_ok=True)
    try:
        if peer.script:
            environment = {**peer.environment, "PEER_DATABASE_URL": server.fresh()}
            command = [python, HERE / "peers" / f"{peer.script}.py", log, out]
            postgres = server.pid if peer.postgres else None
            peer.costs.append(cost.run(command, output, environment, postgres))
        else:
            peer.costs.append(ours.fold(server, log, "--workers", peer.cores, out=out))
    except subprocess.CalledProcessError as error:
        peer.exact = f"failed with {error.returncode}"
        return
    if not peer.writes:
        peer.exact = "no report"
    elif not peer.exact.startswith("no:"):  # once wrong, always wrong
        peer.exact = logs.difference(logs.expected(log), logs.rows_of(out))


def row_of(peer: Peer, everyone: list[Peer]) -> dict[str, object]:
    """Return the figures of a peer."""
    row: dict[str, object] = {
        "who": peer.name, "does": peer.does, "cores": peer.cores, "lines": peer.lines,
        "rounds": len(peer.costs), "exact": peer.exact,
    }  # fmt: skip
    if not peer.costs:
        return row
    row["events/s"] = peer.lines / median(peer, lambda cost: cost.seconds)
    row["CPU s per million"] = 1e6 / peer.lines * median(peer, lambda cost: cost.all_cpu_seconds)
    row["peak MiB"] = median(peer, lambda cost: cost.all_peak_mib)
    we = of_ours(everyone, peer.cores)
    if peer is not we:
        row["our events/s over its"] = ratio(peer, we, lambda cost: cost.seconds)
        row["its CPU over ours"] = ratio(peer, we, lambda cost: cost.all_cpu_seconds)
    return row


def median(peer: Peer, figure: Callable[[cost.Cost], float]) -> float:
    """Return the median of a figure over the rounds."""
    return statistics.median(map(figure, peer.costs))


def ratio(peer: Peer, we: Peer, figure: Callable[[cost.Cost], float]) -> float:
    """Return the median over rounds of a figure per line, a peer's over ours."""
    scale = we.lines / peer.lines
    pairs = zip(peer.costs, we.costs, strict=False)  # a slow one ran in the first rounds only
    return statistics.median(figure(theirs) * scale / figure(own) for theirs, own in pairs)


def of_ours(everyone: list[Peer], cores: int) -> Peer:
    """Return the processor on so many cores."""
    return next(peer for peer in everyone if not peer.script and peer.cores == cores)


def findings(plan: Plan, everyone: list[Peer]) -> list[Finding]:
    """Return the ratios that were asked for, of those that were measured."""
    on = f"{plan.lines:,} lines"
    found = []
    for figure, aim, who in (
        ("one process, end to end, over the bare loop", "0.28, tried for 0.4", "bare orjson loop"),
        ("all cores, end to end, over DuckDB in one shot", "0.45, tried for 1.0", "DuckDB"),
    ):
        peer = next(peer for peer in everyone if peer.name == who)
        found += [Finding(figure, aim, f"{over(peer, everyone):.2f}", on)] if peer.costs else []
    for cores in sorted({1, CORES}):
        streams = [p for p in everyone if p.costs and p.does == STREAMING and p.cores == cores]
        if streams:
            best = min(streams, key=lambda peer: median(peer, lambda cost: cost.seconds))
            figure = f"over the fastest streaming peer on as many cores ({best.name})"
            found.append(Finding(figure, "4", f"{over(best, everyone):.2f}", on))
    return found


def over(peer: Peer, everyone: list[Peer]) -> float:
    """Return our events per second over a peer's, on as many cores."""
    return ratio(peer, of_ours(everyone, peer.cores), lambda cost: cost.seconds)


def left_out(script: Path) -> str:
    """Return what a peer's docstring says that it is, and leaves out."""
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    text = " ".join(text.split())
    return f"{text.partition('. ')[0]}. Leaves out{text.partition('Leaves out')[2]}"
