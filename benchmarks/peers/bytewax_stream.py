"""Bytewax: the same job as a dataflow, on PEER_WORKERS processes (1).

Each process decodes its own byte range of the log, as if there were as many logs; that suits a log
that is complete, and is kinder than one reader. Threads would share one lock, and were slower.

Users are keyed into 64 buckets, so that batches stay large; a bucket's logic de-duplicates, joins
and counts distinct users, in any order of lines, and hands increments of a batch on to the row that
they belong to. Leaves out: forgetting (memory grows with the log), lateness, dead letters (a
broken line ends the run), the ledger, recovery (off: no snapshots are taken), and a durable store:
rows are kept in memory and written at the end.
"""

import json
import os
import socket
import subprocess
import sys
from collections import defaultdict
from itertools import chain
from pathlib import Path
from typing import Any

import bytewax.operators as op
import orjson
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import cluster_main, run_main
from common import CLICK, LOAD, WINDOW_SECONDS, second_of, write_report

BUCKETS = [str(number) for number in range(64)]
BATCH_BYTES = 1 << 22
LOADS, CLICKS, USERS, RELATED, CLICKED = range(5)

report: dict[tuple[int, int], list[int]] = {}


class Range(StatefulSourcePartition):
    """Lines of a log that begin within a byte range."""

    def __init__(self, log: str, number: int, ranges: int) -> None:
        size = Path(log).stat().st_size
        self.file = Path(log).open("rb")  # noqa: SIM115 - closed by `close`
        self.end = size * (number + 1) // ranges
        if number:
            self.file.seek(size * number // ranges - 1)
            self.file.readline()

    def next_batch(self) -> list[bytes]:
        """Return the next lines."""
        left = self.end - self.file.tell()
        if left <= 0:
            raise StopIteration
        return self.file.readlines(min(left, BATCH_BYTES))

    def snapshot(self) -> int:
        """Return where it is; recovery is off, so nobody asks."""
        return self.file.tell()

    def close(self) -> None:
        """Close the file."""
        self.file.close()


class Ranges(FixedPartitionedSource):
    """A log in as many byte ranges as there are workers."""

    def __init__(self, log: str, ranges: int) -> None:
        self.log, self.ranges = log, ranges

    def list_parts(self) -> list[str]:
        """Name the ranges."""
        return [str(number) for number in range(self.ranges)]

    def build_part(self, _step: str, part: str, _state: int | None) -> Range:
        """Open a range."""
        return Range(self.log, int(part), self.ranges)


def decode(lines: list[bytes]) -> list[tuple[str, tuple]]:
    """Return the events that count, by the bucket of their user."""
    events = []
    for line in lines:
        fields = orjson.loads(line)
        kind = fields["event_type"]
        if kind in {LOAD, CLICK}:
            user = fields["user_id"]
            visit = fields["event_id"], fields["customer_id"], user
            event = visit, kind == LOAD, second_of(fields["fired_at"])
            events.append((BUCKETS[user & 63], event))
    return events


class Bucket(StatefulBatchLogic):
    """Visits and clicking users of a bucket. Instants are {when: whether it is of a pair}."""

    def __init__(self) -> None:
        self.loads: dict[tuple, dict[int, bool]] = {}
        self.clicks: dict[tuple, dict[int, bool]] = {}
        self.users: set[tuple[int, int, int]] = set()

    def on_batch(self, batch: list[tuple]) -> tuple[list, bool]:
        """Return what a batch adds to each row."""
        added: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0] * 5)
        for visit, is_load, at in batch:
            (self.load if is_load else self.click)(added, visit, at)
        return list(added.items()), False

    def load(self, added: dict, visit: tuple, at: int) -> None:
        """Take up a page load."""
        loads = self.loads.setdefault(visit, {})
        if at in loads:
            return
        row = added[visit[1], at - at % 3600]
        row[LOADS] += 1
        loads[at] = False
        for clicked, related in self.clicks.get(visit, {}).items():
            if at <= clicked <= at + WINDOW_SECONDS:
                row[CLICKED] += not loads[at]
                loads[at] = True
                if not related:
                    self.clicks[visit][clicked] = True
                    added[visit[1], clicked - clicked % 3600][RELATED] += 1

    def click(self, added: dict, visit: tuple, at: int) -> None:
        """Take up a click."""
        clicks = self.clicks.setdefault(visit, {})
        if at in clicks:
            return
        hour = at - at % 3600
        row = added[visit[1], hour]
        row[CLICKS] += 1
        clicks[at] = False
        user = visit[1], hour, visit[2]
        if user not in self.users:
            self.users.add(user)
            row[USERS] += 1
        for loaded, was_clicked in self.loads.get(visit, {}).items():
            if loaded <= at <= loaded + WINDOW_SECONDS:
                row[RELATED] += not clicks[at]
                clicks[at] = True
                if not was_clicked:
                    self.loads[visit][loaded] = True
                    added[visit[1], loaded - loaded % 3600][CLICKED] += 1

    def snapshot(self) -> Any:
        """Return the state; recovery is off, so nobody asks."""
        return self.loads, self.clicks, self.users


def add(row: list[int] | None, counts: list[int]) -> tuple[list[int], list[int]]:
    """Return a row with an increment added to it, to keep and to hand on."""
    row = counts if row is None else [a + b for a, b in zip(row, counts, strict=True)]
    return row, row


class ReportSink(DynamicSink, StatelessSinkPartition):
    """Keeps the newest state of each row."""

    def build(self, _step: str, _worker: int, _workers: int) -> "ReportSink":
        """Return itself: there is one partition."""
        return self

    def write_batch(self, items: list[tuple[str, list[int]]]) -> None:
        """Take rows up."""
        for key, row in items:
            customer, hour = key.split()
            report[int(customer), int(hour)] = row


def dataflow(log: str, workers: int) -> Dataflow:
    """Return the job."""
    flow = Dataflow("report")
    lines = op.input("read", flow, Ranges(log, workers))
    events = op.flat_map_batch("decode", lines, decode)
    added = op.stateful_batch("fold", events, lambda _state: Bucket())
    by_row = op.map("row", added, lambda item: (f"{item[1][0][0]} {item[1][0][1]}", item[1][1]))
    op.output("report", op.stateful_map("add", by_row, add), ReportSink())
    return flow


def main(log: str, out: str, *of_a_worker: str) -> None:
    """Run the dataflow to the end of the log, then write the report: one part of it each."""
    workers = int(os.environ.get("PEER_WORKERS", "1"))
    flow = dataflow(log, workers)
    if of_a_worker:
        number, addresses = of_a_worker
        cluster_main(flow, addresses.split(), int(number))
        part = [(*key, *row) for key, row in report.items()]
        Path(f"{out}.{number}").write_text(json.dumps(part), encoding="utf-8")
        return
    if workers == 1:
        run_main(flow)
        write_report(out, ((*key, *row) for key, row in report.items()))
        return
    addresses = " ".join(free_addresses(workers))
    parts = [Path(f"{out}.{number}") for number in range(workers)]
    processes = [
        subprocess.Popen([sys.executable, __file__, log, out, str(number), addresses])
        for number in range(workers)
    ]
    exits = [process.wait() for process in processes]
    if any(exits):
        sys.exit(1)
    rows = chain.from_iterable(json.loads(part.read_text(encoding="utf-8")) for part in parts)
    write_report(out, rows)
    for part in parts:
        part.unlink()


def free_addresses(count: int) -> list[str]:
    """Return addresses on this machine that nobody uses."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return addresses


if __name__ == "__main__":
    main(*sys.argv[1:])
