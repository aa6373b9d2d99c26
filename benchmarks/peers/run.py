"""Measure peers that make the same report, each as a whole process, on the same log in one run.

Each round runs every one in turn, so that a machine that drifts does so for all of them; figures
are medians over the rounds, ratios are medians of the ratios within a round. Every report is
compared with the oracle's of the tests, so that nobody wins by being wrong. The log has duplicates,
but no late and no broken line: few peers could tell them.

The processor is measured as `processor replay`, from its start to its end, durable commits
included; its PostgreSQL runs already, and its CPU and memory are added. The report is read back
from the table outside of the measured time; the peers write theirs as a file within it.

Usage: python benchmarks/peers/run.py [--lines N] [--rounds R] [--prefix N] [--only NAME...]
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import psycopg
from common import COLUMNS
from measure import Cost
from measure import run as measured

from processor.edges.embedded import embedded

HERE = Path(__file__).resolve().parent
DATA = HERE.parent / "data"
REQUIREMENTS = HERE.parent / "peers-requirements.txt"
OURS = "processor"
TABLES = "hourly_counts, checkpoints, ledger, dead_letters, rules"
WORKERS = (("bytewax_stream", "PEER_WORKERS"), ("pathway_stream", "PATHWAY_THREADS"))


@dataclass
class Peer:
    """One who makes the report. `prefix`: measured on the first lines only, its rate stands."""

    name: str
    kind: str
    writes: bool = True
    postgres: bool = False
    prefix: bool = False
    script: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    costs: list[Cost] = field(default_factory=list)
    exact: str = "not measured"


def peers() -> list[Peer]:
    """Return all there are."""
    cores = os.cpu_count() or 1
    return [
        Peer("bare_loop", "decodes only, one core", writes=False),
        Peer(OURS, "exactly once into Postgres", postgres=True),
        Peer("duckdb_one_shot", "one shot, all cores"),
        Peer("polars_one_shot", "one shot, all cores"),
        Peer("pandas_one_shot", "one shot"),
        *(
            Peer(f"{script} x{n}", "streaming, in memory", script=script, environment={key: str(n)})
            for script, key in WORKERS
            for n in sorted({1, cores})
        ),
        Peer("upsert_per_event", "an upsert per event", postgres=True, prefix=True),
    ]


@dataclass
class Bench:
    """A log, its first lines, and the database."""

    log: Path
    lines: int
    head: Path
    head_lines: int
    database: Path
    postmaster: int

    def of(self, peer: Peer) -> tuple[Path, int]:
        """Return the log that a peer reads, and its lines."""
        return (self.head, self.head_lines) if peer.prefix else (self.log, self.lines)


def main() -> None:
    """Measure, and print the table; JSON goes to `benchmarks/data/peers.json`."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--lines", type=int, default=500_000)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--prefix", type=int, default=50_000, help="lines for slow peers")
    arguments.add_argument("--only", nargs="+", help="these peers; the processor is always one")
    chosen = arguments.parse_args()
    rows = compare(chosen.lines, chosen.rounds, chosen.prefix, chosen.only)
    (DATA / "peers.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(f"{chosen.lines:,} lines, {chosen.rounds} rounds, {os.cpu_count()} cores\n")
    print(markdown(rows))


def compare(
    lines: int, rounds: int = 3, prefix: int = 50_000, only: Sequence[str] | None = None
) -> list[dict[str, object]]:
    """Measure the peers and return a row for each, as JSON has it."""
    python = peers_python()
    chosen = [peer for peer in peers() if not only or {peer.name, peer.script} & {OURS, *only}]
    with bench(lines, prefix) as at:
        for number in range(rounds):
            for peer in chosen:
                print(f"round {number + 1}: {peer.name}", file=sys.stderr)
                run_one(peer, python, at)
        ours = next(peer for peer in chosen if peer.name == OURS)
        return [row_of(peer, ours, at) for peer in chosen]


@contextmanager
def bench(lines: int, prefix: int) -> Iterator[Bench]:
    """Make the logs and keep the database running."""
    log = make_log(lines)
    head = DATA / "head.log"
    with log.open("rb") as whole, head.open("wb") as part:
        part.writelines(islice(whole, prefix))
    with database() as (folder, postmaster):
        yield Bench(log, lines, head, min(prefix, lines), folder, postmaster)


@contextmanager
def database() -> Iterator[tuple[Path, int]]:
    """Keep an embedded PostgreSQL running, its tables empty; yield its folder and pid."""
    checkpoints = DATA / "checkpoints"
    with embedded(checkpoints):
        pid = (checkpoints / "postgres" / "postmaster.pid").read_text(encoding="ascii")
        processor("migrate")
        folder = checkpoints / "postgres"
        url = f"postgresql://processor@/postgres?host={folder}"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"TRUNCATE {TABLES}")  # of an earlier run, on other logs
        yield folder, int(pid.split()[0])


def run_one(peer: Peer, python: Path, at: Bench) -> None:
    """Run a peer once, take down its cost, and compare its report."""
    log, _ = at.of(peer)
    out, output = DATA / f"{peer.name}.csv", DATA / f"{peer.name}.out"
    out.unlink(missing_ok=True)
    url = f"postgresql://processor@/postgres?host={at.database}"
    if peer.name == OURS:
        command = [sys.executable, "-m", "processor", "replay", str(log), *in_data()]
    else:
        command = [str(python), str(HERE / f"{peer.script or peer.name}.py"), str(log), str(out)]
    try:
        environment = {"PEER_DATABASE_URL": url, **peer.environment}
        cost = measured(command, output, environment, at.postmaster if peer.postgres else None)
    except subprocess.CalledProcessError as error:
        peer.exact = f"failed with {error.returncode}, see {output.name}"
        return
    peer.costs.append(cost)
    if peer.name == OURS:
        processor("report", "--format", "csv", "--output", str(out))
    if not peer.writes:
        peer.exact = "no report"
    elif not peer.exact.startswith("no:"):  # once wrong, always wrong
        peer.exact = difference(expected(log), rows_of(out))


def processor(*arguments: str) -> None:
    """Run a command of the processor, on the database of the benchmarks."""
    command = [sys.executable, "-m", "processor", *arguments, *in_data()]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def in_data() -> list[str]:
    """Return the option that names the database of the benchmarks."""
    return ["--checkpoints", str(DATA / "checkpoints")]


def difference(expected_rows: list[tuple], rows: list[tuple]) -> str:
    """Say whether rows are the oracle's, and if not, which columns are."""
    if rows == expected_rows:
        return "yes"
    if [row[:2] for row in rows] != [row[:2] for row in expected_rows]:
        return f"no: {len(rows)} rows, of {len(expected_rows)}"
    pairs = list(zip(rows, expected_rows, strict=True))
    wrong = [
        name for at, name in enumerate(COLUMNS) if any(row[at] != right[at] for row, right in pairs)
    ]
    return "no: " + ", ".join(wrong)


def rows_of(path: Path) -> list[tuple]:
    """Return the rows of a report file, without what they have beyond the counts."""
    with path.open(encoding="utf-8", newline="") as file:
        return [tuple(row[name] for name in COLUMNS) for row in csv.DictReader(file)]


def expected(log: Path) -> list[tuple]:
    """Return the oracle's rows, made once for each log."""
    out = log.with_suffix(".oracle.csv")
    if not out.exists() or out.stat().st_mtime < log.stat().st_mtime:
        command = [sys.executable, str(HERE / "oracle_report.py"), str(log), str(out)]
        subprocess.run(command, check=True)
    return rows_of(out)


def make_log(lines: int) -> Path:
    """Return a day's log of so many lines, made once."""
    log = DATA / f"day-{lines}.log"
    if not log.exists():
        DATA.mkdir(exist_ok=True)
        new = log.with_suffix(".new")
        new.unlink(missing_ok=True)
        command = [
            sys.executable, "-m", "processor", "generate", "--events", str(lines), "--hours", "24",
            "--users", "10000", "--duplicates", "0.01", "--late", "0", "--output", str(new),
        ]  # fmt: skip
        subprocess.run(command, check=True)
        new.rename(log)
    return log


def peers_python() -> Path:
    """Return the Python of the peers' own venv, made again when the pins have changed."""
    venv = DATA / "venv"
    done = venv / "installed"
    if not done.exists() or done.stat().st_mtime < REQUIREMENTS.stat().st_mtime:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        pip = [str(venv / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--requirement", str(REQUIREMENTS)], check=True)
        done.touch()
    return venv / "bin" / "python"


def row_of(peer: Peer, ours: Peer, at: Bench) -> dict[str, object]:
    """Return the figures of a peer."""
    _, lines = at.of(peer)
    row: dict[str, object] = {
        "name": peer.name, "kind": peer.kind, "lines": lines, "exact": peer.exact,
        "rounds": [cost._asdict() for cost in peer.costs],
    }  # fmt: skip
    if not peer.costs:
        return row

    def median(figure: Callable[[Cost], float]) -> float:
        return statistics.median(map(figure, peer.costs))

    row["events_per_second"] = lines / median(lambda cost: cost.seconds)
    row["cpu_seconds_per_million"] = 1e6 / lines * median(cpu)
    row["peak_mib"] = median(lambda cost: cost.peak_mib + cost.postgres_peak_mib)
    row["peak_mib_of_postgres"] = median(lambda cost: cost.postgres_peak_mib)
    if len(peer.costs) == len(ours.costs):
        pairs = list(zip(peer.costs, ours.costs, strict=True))
        scale = at.lines / lines
        row["our_rate_over_it"] = statistics.median(a.seconds * scale / b.seconds for a, b in pairs)
        row["its_cpu_over_ours"] = statistics.median(cpu(a) * scale / cpu(b) for a, b in pairs)
    return row


def cpu(cost: Cost) -> float:
    """Return the CPU of a run, PostgreSQL's included."""
    return cost.cpu_seconds + cost.postgres_cpu_seconds


def markdown(rows: list[dict[str, object]]) -> str:
    """Return the rows as a Markdown table."""
    head = (
        "peer", "does", "lines", "events/s", "CPU s per million", "peak MiB", "of it Postgres",
        "our events/s over its", "its CPU over ours", "exact",
    )  # fmt: skip
    figures = (
        ("lines", ",.0f"), ("events_per_second", ",.0f"), ("cpu_seconds_per_million", ".2f"),
        ("peak_mib", ",.0f"), ("peak_mib_of_postgres", ",.0f"), ("our_rate_over_it", ".2f"),
        ("its_cpu_over_ours", ".2f"),
    )  # fmt: skip
    table = [head, ["---", "---", *["--:"] * len(figures), "---"]]
    table += [
        [row["name"], row["kind"], *(format(row[k], f) if k in row else "" for k, f in figures),
         row["exact"]]
        for row in rows
    ]  # fmt: skip
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in table)


if __name__ == "__main__":
    main()
