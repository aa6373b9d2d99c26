"""Processes that decode chunks, so that more than one core works on a log.

Decoding takes most of the time, and is a function of a chunk's bytes alone: whichever process does
it, and however often, the outcome is the same. So neither the checkpoint nor the table knows how
many workers there are, and a chunk whose worker died is decoded where it is needed.

A chunk and what came of it cross through *mailboxes*: a few files in memory which both processes
hold. A socket between the two says whose turn it is. When either side ends, however it ends, the
socket closes, and a worker that finds it closed ends too.
"""

import gc
import logging
import marshal
import os
import signal
import socket
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from datetime import tzinfo
from typing import Final

from processor.core.decode import Decoded, Decoder
from processor.core.model import Chunk
from processor.shell.settings import zone_of

_MAILBOXES: Final = 2
"""So many chunks a worker: one that it decodes, and the next."""
_TASK: Final = struct.Struct("=BQQQ")
"""Mailbox, bytes of the chunk, its offset, its lines."""
_DONE: Final = struct.Struct("=BQ")
"""Mailbox, bytes of the outcome."""
_PATIENCE_SECONDS: Final = 60.0

_log = logging.getLogger(__name__)


class Task:
    """A chunk on its way: decoded by a worker, unless that dies, or else when it is asked for."""

    def __init__(self, chunk: Chunk, worker: "Worker | None" = None) -> None:
        self.chunk = chunk
        self._worker = worker
        self._decoded: Decoded | None = None

    def result(self, decoder: Decoder) -> Decoded:
        """Return what the lines of the chunk are, waiting for the worker once it has started."""
        while self._decoded is None and self._worker is not None:
            if not self._worker.collect(wait=self._worker.has_answered):
                break
        return self._decoded or decoder.decode(self.chunk)

    def finish(self, decoded: Decoded | None) -> None:
        """Take in the outcome; None when the worker is gone."""
        self._decoded, self._worker = decoded, None


class Workers:
    """So many processes, started with the first chunk and ended by `rest`."""

    def __init__(self, count: int, timezone: str) -> None:
        self.count = count
        self._timezone = timezone
        self.running: list[Worker] = []

    @property
    def have_room(self) -> bool:
        """Whether a chunk can be handed to a worker that is not busy enough."""
        for worker in self.running:
            while worker.collect(wait=False):
                pass
        self.running = [worker for worker in self.running if worker.alive]
        return len(self.running) < self.count or any(w.free for w in self.running)

    def submit(self, chunk: Chunk) -> Task:
        """Hand a chunk to the worker that has the least to do; only while they `have_room`."""
        if len(self.running) < self.count:
            self.running.append(Worker(self._timezone))
        return max(self.running, key=lambda worker: len(worker.free)).submit(chunk)

    def rest(self) -> None:
        """End all workers; they start again with the next chunk."""
        for worker in self.running:
            worker.end()
        self.running = []


class Worker:
    """One process, as its parent sees it."""

    def __init__(self, timezone: str) -> None:
        self._mailboxes = [os.memfd_create("mailbox") for _ in range(_MAILBOXES)]
        self.free = list(range(_MAILBOXES))
        self.alive = True
        self.has_answered = False
        self._tasks: deque[Task] = deque()
        self._socket, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far_end:
            handles = [far_end.fileno(), *self._mailboxes]
            command = [sys.executable, "-m", __name__, timezone, *map(str, handles)]
            # In a group of its own, since a signal to the parent's is the parent's to decide on.
            self._process = subprocess.Popen(
                command, pass_fds=handles, stdin=subprocess.DEVNULL, process_group=0
            )
        self.pid = self._process.pid

    def submit(self, chunk: Chunk) -> Task:
        """Hand a chunk over, into a mailbox that is free."""
        task = Task(chunk, self)
        mailbox = self.free.pop()
        os.pwrite(self._mailboxes[mailbox], chunk.data, 0)
        self._tasks.append(task)
        try:
            self._socket.send(_TASK.pack(mailbox, len(chunk.data), chunk.offset, chunk.lines))
        except OSError:
            self.end()
        return task

    def collect(self, *, wait: bool) -> bool:
        """Take the outcome of the chunk that was handed over first; False if there is none."""
        if not self._tasks:
            return False
        self._socket.settimeout(_PATIENCE_SECONDS if wait else 0)
        try:
            done = self._socket.recv(_DONE.size)
        except BlockingIOError:
            return False
        except OSError:
            done = b""
        if not done:
            _log.warning("a worker died; what it worked on is decoded again")
            self.end()
            return False
        self.has_answered = True
        mailbox, size = _DONE.unpack(done)
        columns = marshal.loads(os.pread(self._mailboxes[mailbox], size, 0))  # noqa: S302 - ours
        self.free.append(mailbox)
        self._tasks.popleft().finish(Decoded(*columns))
        return True

    def end(self) -> None:
        """End the process; what it had not done is left to others."""
        if not self.alive:
            return
        self.alive = False
        for task in self._tasks:
            task.finish(None)
        self._tasks.clear()
        self.free.clear()
        self._socket.close()
        self._process.kill()
        self._process.wait()
        for mailbox in self._mailboxes:
            os.close(mailbox)


def work(timezone: tzinfo, parent: socket.socket, mailboxes: Sequence[int]) -> None:
    """Decode what the parent hands over, until it is gone."""
    gc.disable()  # decoding leaves no cycles behind, and to look for some costs a tenth of it
    decoder = Decoder(timezone)
    while task := parent.recv(_TASK.size):
        mailbox, size, offset, lines = _TASK.unpack(task)
        data = os.pread(mailboxes[mailbox], size, 0)
        decoded = decoder.decode(Chunk(offset, data, lines, offset + size))
        outcome = marshal.dumps(tuple(decoded))
        os.pwrite(mailboxes[mailbox], outcome, 0)
        parent.send(_DONE.pack(mailbox, len(outcome)))


def main() -> None:
    """Run as a worker; a supervisor may tell it, too, what is the parent's to decide on."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    timezone, parent, *mailboxes = sys.argv[1:]
    with socket.socket(fileno=int(parent)) as to_parent:
        work(zone_of(timezone), to_parent, [int(mailbox) for mailbox in mailboxes])


if __name__ == "__main__":
    main()
