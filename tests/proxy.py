"""A small proxy between the processor and its database, which does harm at a message of choice.

It knows of the protocol where one message ends, and nothing else. Its clients must ask neither for
TLS nor for GSSAPI.
"""

import contextlib
import socket
import struct
import threading
from enum import Enum
from typing import NamedTuple

from psycopg.conninfo import make_conninfo
from servers import USER

TO_SERVER, TO_CLIENT = "to server", "to client"
RESET_AT_ONCE = struct.pack("ii", 1, 0)


class Harm(Enum):
    """What is done at a message; None lets it pass."""

    CUT_BEFORE = "cut before a message"
    CUT_AFTER = "cut after a message"
    STALL = "silent from a message on"


class Message(NamedTuple):
    """A message: its direction, its number among all of them, its type and what it says."""

    direction: str
    number: int
    kind: bytes
    body: bytes

    @property
    def is_first(self):
        """Whether it is the first of a connection."""
        return self.kind == b""

    @property
    def is_commit(self):
        """Whether the client asks for a commit."""
        return (
            self.direction == TO_SERVER and self.kind in (b"Q", b"P") and b"COMMIT\0" in self.body
        )

    @property
    def is_committed(self):
        """Whether the server says that a commit is done."""
        return self.direction == TO_CLIENT and self.kind == b"C" and self.body == b"COMMIT\0"


class Proxy:
    """Passes messages to a server's socket and back; `judge` names the harm to do at each.

    Both can be changed at any time.
    """

    def __init__(self, server, judge=lambda _message: None):
        self.server = server
        self.judge = judge
        self.goes_on = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._links = []
        self._count = 0
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self):
        """Return the proxy, which listens already."""
        return self

    def __exit__(self, *_error):
        """Let go of all connections, and listen no more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        self.cut()

    def url(self, dbname="postgres", **more):
        """Return a connection string."""
        host, port = self._listener.getsockname()
        plain = {"sslmode": "disable", "gssencmode": "disable"}
        return make_conninfo(host=host, port=port, user=USER, dbname=dbname, **plain, **more)

    def cut(self):
        """Reset all connections, stalled ones too."""
        with self._lock:
            links, self._links = self._links, []
            self.goes_on.set()
            self.goes_on = threading.Event()
        for link in links:
            link.reset()

    def harm_at(self, direction, kind, body):
        """Number a message, and return what is to be done at it."""
        with self._lock:
            self._count += 1
            return self.judge(Message(direction, self._count, kind, body))

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server = socket.socket(socket.AF_UNIX)
            link = _Link(self, client, server)
            try:
                server.connect(str(self.server.socket))
            except OSError:
                link.reset()
                link.close()
                continue
            with self._lock:
                self._links = [link for link in self._links if not link.is_over] + [link]
            link.start()


class _Link:
    """A connection of a client, and the one that it leads to."""

    def __init__(self, proxy, client, server):
        self._proxy = proxy
        self._ends = client, server
        self._is_reset = False
        self._threads = [
            threading.Thread(target=self._pass, args=way, daemon=True)
            for way in ((client, server, TO_SERVER), (server, client, TO_CLIENT))
        ]

    @property
    def is_over(self):
        """Whether nothing passes any more."""
        return not any(thread.is_alive() for thread in self._threads)

    def start(self):
        """Pass what comes, both ways."""
        for thread in self._threads:
            thread.start()
        threading.Thread(target=self.close, daemon=True).start()

    def close(self):
        """Close both ends, the client's by an RST if the link was reset, once nothing passes."""
        for thread in self._threads:
            if thread.ident:
                thread.join()
        client, server = self._ends
        if self._is_reset:
            with contextlib.suppress(OSError):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_ONCE)
        client.close()
        server.close()

    def reset(self):
        """Have both ways end."""
        self._is_reset = True
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RD)  # wakes up who reads from it; tells nobody

    def _pass(self, source, sink, direction):
        with contextlib.suppress(OSError), source.makefile("rb") as stream:
            self._pass_messages(stream, sink, direction)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)  # an end at one side is one at the other

    def _pass_messages(self, stream, sink, direction):
        goes_on = self._proxy.goes_on
        has_type = direction == TO_CLIENT
        while message := _read(stream, has_type=has_type):
            kind, body = message
            has_type = True
            harm = self._proxy.harm_at(direction, kind, body)
            if harm is Harm.STALL:
                goes_on.wait()
            elif harm is not Harm.CUT_BEFORE:
                sink.sendall(kind + (len(body) + 4).to_bytes(4, "big") + body)
            if harm is not None:
                self.reset()
                return


def _read(stream, *, has_type):
    """Return type and body of the next message, None at the end. A client's first has no type."""
    kind = stream.read(1) if has_type else b""
    size = stream.read(4)
    if len(size) < 4:
        return None
    return kind, stream.read(int.from_bytes(size, "big") - 4)
