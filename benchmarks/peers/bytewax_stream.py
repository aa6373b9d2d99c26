"""Bytewax: the same job as a dataflow, on PEER_WORKERS processes (1).

Tuned as far as it would go. The log is cut into blocks, which the processes take in turn, so that
each decodes its share of it; threads would share one lock, and were slower. The events of a block
go on as one list for each of a few buckets of users, since an item of the dataflow costs more than
an event does; with PEER_ITEMS=events each goes on by itself, keyed by its user, as its guides have
it. A bucket's logic de-duplicates, joins within the window, counts distinct users and
hands increments on to the rows that they belong to. Python's collector is told to look less often.

State is bounded: visits are kept by the half hour and clicking users by the hour, and are forgotten
once every process has read past them by the allowed lateness. Leaves out: dead letters (a broken
line ends the run; a late one is not noticed), clocks gone wild, the ledger, recovery (off: no
snapshots are taken), and a durable store: rows are kept in memory and written at the end.
"""

import gc
import json
import os
import socket
import subprocess
import sys
import time
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

BUCKETS = [str(number) for number in range(16)]
BLOCK_BYTES = 1 << 20
LATENESS_SECONDS = 600
LISTENING = "0A"  # in /proc/net/tcp
COUNTED = frozenset((LOAD, CLICK))
LOADS, CLICKS, USERS, RELATED, CLICKED = range(5)

report: dict[tuple[int, int], list[int]] = {}


class Part(StatefulSourcePartition):
    """Every so manieth block of a log: the lines that begin in it."""

    def __init__(self, log: str, number: int, parts: int) -> None:
        self.file = Path(log).open("rb")  # noqa: SIM115 - closed by `close`
        self.size = Path(log).stat().st_size
        self.number, self.parts = number, parts
        self.start = number * BLOCK_BYTES

    def next_batch(self) -> list[tuple[int, list[bytes]]]:
        """Return the lines of the next block, as one item."""
        if self.start >= self.size:
            raise StopIteration
        if self.start:
            self.file.seek(self.start - 1)
            self.file.readline()
        left = self.start + BLOCK_BYTES - self.file.tell()
        self.start += self.parts * BLOCK_BYTES
        return [(self.number, self.file.readlines(left) if left > 0 else [])]

    def snapshot(self) -> int:
        """Return where it is; recovery is off, so nobody asks."""
        return self.start

    def close(self) -> None:
        """Close the file."""
        self.file.close()


class Parts(FixedPartitionedSource):
    """A log in as many parts as there are workers."""

    def __init__(self, log: str, parts: int) -> None:
        self.log, self.parts = log, parts

    def list_parts(self) -> list[str]:
        """Name the parts."""
        return [str(number) for number in range(self.parts)]

    def build_part(self, _step: str, part: str, _state: int | None) -> Part:
        """Open a part."""
        return Part(self.log, int(part), self.parts)


def decode(block: tuple[int, list[bytes]]) -> list[tuple[str, tuple[int, int, list]]]:
    """Return (bucket, (part, newest time, events)) for each bucket of users, from one block."""
    part, lines = block
    events = [[] for _ in BUCKETS]
    newest, few = 0, len(BUCKETS)
    for line in lines:
        fields = orjson.loads(line)
        kind = fields["event_type"]
        if kind in COUNTED:
            user, at = fields["user_id"], second_of(fields["fired_at"])
            visit = fields["event_id"], fields["customer_id"], user
            events[user % few].append((visit, kind == LOAD, at))
            newest = max(newest, at)
    return [(key, (part, newest, of_it)) for key, of_it in zip(BUCKETS, events, strict=True)]


def decode_events(block: tuple[int, list[bytes]]) -> list[tuple[str, tuple[int, int, list]]]:
    """Return the same for each event by itself, keyed by its user."""
    return [
        (str(event[0][2]), (part, event[2], [event]))
        for _, (part, _, events) in decode(block)
        for event in events
    ]


class Bucket(StatefulBatchLogic):
    """Visits of a bucket, {half hour: {visit: {when: whether it is of a pair}}}, and its users."""

    def __init__(self, parts: int) -> None:
        self.loads: dict[int, dict[tuple, dict[int, bool]]] = defaultdict(dict)
        self.clicks: dict[int, dict[tuple, dict[int, bool]]] = defaultdict(dict)
        self.users: dict[int, set[tuple[int, int]]] = defaultdict(set)
        self.newest = [0] * parts

    def on_batch(self, batch: list[tuple[int, int, list]]) -> tuple[list, bool]:
        """Return what a batch adds to each row."""
        added: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0] * 5)
        for part, newest, events in batch:
            for visit, is_load, at in events:
                (self.load if is_load else self.click)(added, visit, at)
            self.newest[part] = max(self.newest[part], newest)
        self.forget(min(self.newest) - LATENESS_SECONDS)
        return list(added.items()), False

    def load(self, added: dict, visit: tuple, at: int) -> None:
        """Take up a page load."""
        slot = at // WINDOW_SECONDS
        loads = self.loads[slot].setdefault(visit, {})
        if at in loads:
            return
        row = added[visit[1], at - at % 3600]
        row[LOADS] += 1
        loads[at] = False
        for later in (slot, slot + 1):
            clicks = self.clicks[later].get(visit, {})
            for clicked, related in clicks.items():
                if at <= clicked <= at + WINDOW_SECONDS:
                    row[CLICKED] += not loads[at]
                    loads[at] = True
                    if not related:
                        clicks[clicked] = True
                        added[visit[1], clicked - clicked % 3600][RELATED] += 1

    def click(self, added: dict, visit: tuple, at: int) -> None:
        """Take up a click."""
        slot, hour = at // WINDOW_SECONDS, at - at % 3600
        clicks = self.clicks[slot].setdefault(visit, {})
        if at in clicks:
            return
        row = added[visit[1], hour]
        row[CLICKS] += 1
        clicks[at] = False
        if visit[1:] not in self.users[hour]:
            self.users[hour].add(visit[1:])
            row[USERS] += 1
        for earlier in (slot - 1, slot):
            loads = self.loads[earlier].get(visit, {})
            for loaded, was_clicked in loads.items():
                if loaded <= at <= loaded + WINDOW_SECONDS:
                    row[RELATED] += not clicks[at]
                    clicks[at] = True
                    if not was_clicked:
                        loads[loaded] = True
                        added[visit[1], loaded - loaded % 3600][CLICKED] += 1

    def forget(self, before: int) -> None:
        """Drop what no line from `before` on is a duplicate of, or makes a pair with."""
        last_slot = before // WINDOW_SECONDS - 2
        for visits in (self.loads, self.clicks):
            for slot in [slot for slot in visits if slot <= last_slot]:
                del visits[slot]
        for hour in [hour for hour in self.users if hour + 3600 <= before]:
            del self.users[hour]

    def snapshot(self) -> Any:
        """Return the state; recovery is off, so nobody asks."""
        return self.loads, self.clicks, self.users, self.newest


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
    blocks = op.input("read", flow, Parts(log, workers))
    by_event = os.environ.get("PEER_ITEMS") == "events"
    events = op.flat_map("decode", blocks, decode_events if by_event else decode)
    added = op.stateful_batch("fold", events, lambda _state: Bucket(workers))
    by_row = op.map("row", added, lambda item: (f"{item[1][0][0]} {item[1][0][1]}", item[1][1]))
    op.output("report", op.stateful_map("add", by_row, add), ReportSink())
    return flow


def main(log: str, out: str, *of_a_worker: str) -> None:
    """Run the dataflow to the end of the log, then write the report: one part of it each."""
    gc.freeze()
    gc.set_threshold(200_000)
    workers = int(os.environ.get("PEER_WORKERS", "1"))
    flow = dataflow(log, workers)
    if of_a_worker:
        number, addresses = of_a_worker
        await_listeners(addresses.split()[: int(number)])
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


def await_listeners(addresses: list[str]) -> None:
    """Wait for the workers that this one connects to: who is refused tries again a second later."""
    wanted = {f"{int(address.rpartition(':')[2]):04X}" for address in addresses}
    while True:
        sockets = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()]
        if wanted <= {words[1][-4:] for words in sockets if words[3] == LISTENING}:
            return
        time.sleep(0.005)


if __name__ == "__main__":
    main(*sys.argv[1:])
