"""Chunks through real processes: the same outcome as without them, whatever becomes of them."""

import os
import signal
from collections import deque
from datetime import UTC
from pathlib import Path

import pytest
from conftest import wait_until
from core_helpers import ALL_LINES, chunk_of, click, event, log_of, page_load

from processor.core.decode import Decoder
from processor.core.log import LogState
from processor.core.model import Checkpoint, Chunk
from processor.edges.source import LogReader
from processor.shell.run import workers as module
from processor.shell.run.open_log import CHUNKS_AHEAD, OpenLog, read_ahead
from processor.shell.run.workers import Workers
from processor.shell.settings import zone_of

BOM = b"\xef\xbb\xbf"
CHUNKS = [
    chunk_of([page_load(0), click(60), event("FaqClick", 1), b"{", BOM + page_load(9)], offset=7),
    chunk_of([page_load(0, "long \u2028 \0 name", 1 << 62, -(1 << 63))] * 3000, offset=1 << 40),
    Chunk(5, b"", 1, 1 << 21),
    chunk_of([event("EMPTY_VALUE", 0), b"", b"null", page_load(0, fired_at="13/01/2022")]),
]


@pytest.fixture
def make():
    """Make workers, and end them."""
    made = []

    def workers(count, timezone="UTC"):
        made.append(Workers(count, timezone))
        return made[-1]

    yield workers
    for workers in made:
        workers.rest()


class Never:
    """A decoder that is not to be needed."""

    def decode(self, chunk):
        """Fail."""
        raise AssertionError(f"the chunk at {chunk.offset} was not decoded by a worker")


def open_files():
    """Return how many files this process holds."""
    return len(list(Path("/proc/self/fd").iterdir()))


def answering(workers):
    """Return the workers, once each has answered."""
    while workers.have_room:
        workers.submit(CHUNKS[0])
    wait_until(lambda: workers.have_room and all(w.has_answered for w in workers.running))
    wait_until(lambda: workers.have_room and all(len(w.free) == 2 for w in workers.running))
    return workers


@pytest.mark.parametrize("count", [1, 3])
def test_workers_decode_as_the_parent_does(make, count):
    """Each chunk comes out as what it is, in whatever order the outcomes are asked for."""
    workers, decoder = answering(make(count)), Decoder()
    for asked in (1, -1):
        tasks = [(chunk, workers.submit(chunk)) for chunk in CHUNKS if workers.have_room]
        assert len(tasks) >= min(2 * count, len(CHUNKS))
        for chunk, task in tasks[::asked]:
            assert task.result(Never()) == decoder.decode(chunk)


def test_workers_read_times_in_the_zone_of_the_settings(make):
    """A time without an offset is not one in UTC."""
    workers = answering(make(1, "Asia/Kolkata"))
    (instant,) = workers.submit(chunk_of([page_load(0)])).result(Never()).instants
    assert [instant] == Decoder(zone_of("Asia/Kolkata")).decode(chunk_of([page_load(0)])).instants
    assert [instant] != Decoder(UTC).decode(chunk_of([page_load(0)])).instants


def test_while_workers_start_the_parent_decodes_itself(make):
    """Nobody waits for a process that is not there yet."""
    workers = make(1)
    task = workers.submit(CHUNKS[0])
    assert not workers.running[0].has_answered
    assert task.result(Decoder()) == Decoder().decode(CHUNKS[0])


@pytest.mark.parametrize(("number", "patience"), [(signal.SIGKILL, 60), (signal.SIGSTOP, 0.2)])
def test_what_a_worker_leaves_undone_is_decoded_by_the_parent(make, monkeypatch, number, patience):
    """Whether it is gone, or only never answers; another one takes its place."""
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", patience)
    workers = answering(make(1))
    pid = workers.running[0].pid
    os.kill(pid, number)
    tasks = [(chunk, workers.submit(chunk)) for chunk in CHUNKS[:2]]
    for chunk, task in tasks:
        assert task.result(Decoder()) == Decoder().decode(chunk)
    assert workers.have_room
    assert not Path(f"/proc/{pid}").exists()
    assert answering(workers).running[0].pid != pid


def test_workers_that_rest_are_gone_and_leave_no_file_open(make):
    """They start again with the next chunk."""
    before = open_files()
    workers = answering(make(2))
    pids = [worker.pid for worker in workers.running]
    workers.rest()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert open_files() == before
    assert answering(workers).submit(CHUNKS[3]).result(Never()) == Decoder().decode(CHUNKS[3])


def test_what_is_read_ahead_is_bounded_however_fast_the_workers_are(make, tmp_path):
    """What is decoded and not yet folded counts too, over all logs together."""
    path = tmp_path / "app.log"
    path.write_bytes(log_of([page_load(0)]) * 200_000)
    workers = answering(make(2))
    logs = [OpenLog(LogReader(path, 0), LogState(n, Checkpoint()), deque()) for n in range(2)]
    most = 2 * CHUNKS_AHEAD
    for _ in range(3 * most):
        read_ahead(logs, workers, ALL_LINES)
        wait_until(lambda: workers.have_room)
    assert sum(len(log.ahead) for log in logs) == most
    assert all(log.ahead for log in logs)
    for log in logs:
        log.reader.close()
