"""Answers GET and HEAD over HTTP, and nothing else, however it is asked.

A few threads take connections in turn; each answers one request on one, and closes it. So there
are never more at once than threads, and those that come meanwhile wait in the backlog of the
socket. A client has `HEAD_SECONDS` to ask, in `HEAD_BYTES` at most, and `ANSWER_SECONDS` to take
the answer: a slow one, or one that sends garbage, costs a thread for that long and nothing else.
No body is read.

Knows nothing of what it serves: that is what its routes are.
"""

import errno
import io
import ipaddress
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from email.message import Message
from email.utils import formatdate
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, parse_headers
from types import MappingProxyType, TracebackType
from typing import Final, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

from processor.errors import ListenerError, ProcessorError, SettingsError

THREADS: Final = 16
BACKLOG: Final = 128
HEAD_BYTES: Final = 16 << 10
HEAD_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 60.0
MAX_QUERY_FIELDS: Final = 200
_BREATH_SECONDS: Final = 0.1
_DRAIN_BYTES: Final = 1 << 20
_DRAIN_SECONDS: Final = 1.0
_LEAST_SECONDS: Final = 0.001
_REQUEST_LINE: Final = re.compile(r"([!-~]+) ([!-~]+) HTTP/(\d)\.(\d)", re.ASCII)

_NONE: Final = MappingProxyType[str, str]({})

TEXT: Final = "text/plain; charset=utf-8"

SECURITY_HEADERS: Final = MappingProxyType(
    {
        "Cache-Control": "no-store",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
)
"""What every answer has, unless its route says otherwise."""

_log = logging.getLogger(__name__)


class Request(NamedTuple):
    """What is asked for. `query` has the values of each field in the order in which they came."""

    path: str
    query: Mapping[str, list[str]]
    headers: Message


class Response(NamedTuple):
    """An answer. A `body` in parts is sent as they come; if one fails, the client can tell.

    One that has a `close` is closed in any case. `headers` go before `SECURITY_HEADERS`.
    """

    status: int
    content_type: str
    body: bytes | Iterable[bytes]
    headers: Mapping[str, str] = _NONE


Route = Callable[[Request], Response]
"""Answers a request, in a thread of the listener.

A `SettingsError` becomes 400, with its words; any other `ProcessorError` 503, and all else 500,
with none but that the log of the process tells more.
"""


def text(status: int, words: str, headers: Mapping[str, str] = _NONE) -> Response:
    """Return an answer in words."""
    return Response(status, TEXT, f"{words}\n".encode(), headers)


class Address(NamedTuple):
    """Where to listen. Port 0 is any that is free."""

    host: str
    port: int

    @classmethod
    def parse(cls, written: str) -> Self:
        """Return the address that is written as `host:port`, an IPv6 one as `[::1]:9464`.

        Raises:
            SettingsError: it is not.

        """
        host, colon, port = written.rpartition(":")
        bare = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
        is_port = port.isascii() and port.isdigit() and int(port) < 1 << 16
        if not (bare and colon and is_port) or (":" in bare) != (bare != host):
            raise SettingsError(
                f"--listen: {written!r} is no address; write 127.0.0.1:9464, or 0.0.0.0:9464 to "
                "be reached from elsewhere"
            )
        return cls(bare, int(port))


class Listener:
    """Serves routes, each by its exact path, from `start` to `close`."""

    def __init__(self, address: Address, routes: Mapping[str, Route]) -> None:
        """Take the address.

        Raises:
            SettingsError: it is in use, or not of this machine.

        """
        self._routes = routes
        self._socket = _listen(address)
        host, port = self._socket.getsockname()[:2]
        self._is_local = ipaddress.ip_address(host).is_loopback
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def start(self) -> None:
        """Begin to answer."""
        for number in range(THREADS):
            threading.Thread(target=self._serve, name=f"listen-{number}", daemon=True).start()
        _log.info("listening on %s", self.url)

    def close(self) -> None:
        """Take no more requests; answers under way are not waited for."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the threads
        self._socket.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError as error:
                if error.errno in {errno.EBADF, errno.EINVAL}:
                    return  # closed
                time.sleep(_BREATH_SECONDS)  # too many open files, say
                continue
            with connection:
                try:
                    if _exchange(connection, self._answer):
                        _hang_up(connection)
                except OSError:
                    pass  # who hangs up gets no answer
                except Exception as error:  # noqa: BLE001 - no request may end the thread
                    _tell_of_failure("a request", error)

    def _answer(self, request: Request) -> Response:
        """Return the answer to a request, whatever its route does."""
        if not self._is_for_us(request.headers["Host"]):
            return text(421, "This address is for this machine: ask for localhost or its IP.")
        if (route := self._routes.get(request.path)) is None:
            return text(404, f"There is nothing here. There is {', '.join(sorted(self._routes))}.")
        try:
            return route(request)
        except SettingsError as error:
            return text(400, str(error))
        except ProcessorError as error:
            _tell_of_failure(request.path, error)
            return text(503, "Not possible just now; the log of the process tells why.")
        except Exception as error:  # noqa: BLE001 - a defect of a page must not end the thread
            _tell_of_failure(request.path, error)
            return text(500, "This failed; the log of the process tells more.")

    def _is_for_us(self, host: str | None) -> bool:
        """Whether a browser may ask by this name. No page elsewhere can make one of its own local.

        Only where nobody but this machine can ask: there, it is the browser that is tricked.
        """
        if host is None or not self._is_local:
            return True
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name == "localhost" or bool(ipaddress.ip_address(name))
        except ValueError:
            return False


def _listen(address: Address) -> socket.socket:
    try:
        family, *_, at = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        return socket.create_server(at[:2], family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        words = error.strerror if isinstance(error, OSError) else "is no name of a host"
        reason = str(words).partition(" (")[0]  # Python adds the address
        raise SettingsError(
            f"--listen: {address.host}:{address.port}: {reason}; choose another address, or end "
            "what listens there"
        ) from error


class _RefusedError(Exception):
    """A request that no route sees; `response` says why."""

    def __init__(self, status: int, words: str, headers: Mapping[str, str] = _NONE) -> None:
        super().__init__(words)
        self.response = text(status, words, headers)


class _Asked(NamedTuple):
    method: str
    minor_version: int
    request: Request


def _exchange(connection: socket.socket, answer: Route) -> bool:
    """Read one request, and send its answer; False when there was none."""
    try:
        if not (head := _read_head(connection)):
            return False
        asked = _parse(head)
    except _RefusedError as refused:
        _send(connection, refused.response)
        return True
    response = answer(asked.request)
    if asked.minor_version == 0 and not isinstance(response.body, bytes):
        _close(response.body)
        response = text(505, "This needs HTTP/1.1: how long it is shows at its end.")
    with_body = asked.method != "HEAD"
    _send(connection, response, with_body=with_body, path=asked.request.path)
    return True


def _read_head(connection: socket.socket) -> bytes:
    """Return all up to the first empty line; nothing if nothing came at all."""
    head = bytearray()
    deadline = time.monotonic() + HEAD_SECONDS
    while (end := head.find(b"\r\n\r\n")) < 0:
        if len(head) >= HEAD_BYTES:
            raise _RefusedError(431, f"The request is longer than {HEAD_BYTES} bytes.")
        try:
            connection.settimeout(max(deadline - time.monotonic(), _LEAST_SECONDS))
            data = connection.recv(HEAD_BYTES)
        except TimeoutError:
            data = b""
        if not data:
            if not head:
                return b""
            raise _RefusedError(408, f"The request did not end within {HEAD_SECONDS:.0f} s.")
        head += data
    return bytes(head[: end + 4])


def _parse(head: bytes) -> _Asked:
    line, _, fields = head.partition(b"\r\n")
    if (match := _REQUEST_LINE.fullmatch(line.decode("latin-1"))) is None:
        raise _RefusedError(400, "This is no HTTP request.")
    method, target, major, minor = match.groups()
    if major != "1":
        raise _RefusedError(505, "Ask by HTTP/1.1.")
    if method not in {"GET", "HEAD"}:
        raise _RefusedError(405, "There is only GET and HEAD.", {"Allow": "GET, HEAD"})
    headers = _headers(fields)
    hosts = len(headers.get_all("Host", []))
    if hosts > 1 or (minor != "0" and hosts == 0):
        raise _RefusedError(400, "The request must have one header Host.")
    path, _, query = target.partition("?")
    try:
        values = parse_qs(query, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        raise _RefusedError(400, "The query has too many fields.") from None
    return _Asked(method, int(minor), Request(path, values, headers))


def _headers(fields: bytes) -> Message:
    try:
        headers = parse_headers(io.BytesIO(fields))
    except HTTPException:
        raise _RefusedError(431, "The request has too many headers.") from None
    if headers.defects or headers.get_payload():
        raise _RefusedError(400, "The headers of the request are broken.")
    return headers


def _send(
    connection: socket.socket, response: Response, *, with_body: bool = True, path: str = ""
) -> None:
    """Send an answer; one that fails half-way has no end that a client could take for the end."""
    deadline = time.monotonic() + ANSWER_SECONDS
    is_whole = isinstance(response.body, bytes)
    parts = [response.body] if isinstance(response.body, bytes) else response.body
    try:
        _send_before(deadline, connection, _head_of(response))
        if with_body:
            for part in filter(None, parts):
                chunk = part if is_whole else b"%x\r\n%b\r\n" % (len(part), part)
                _send_before(deadline, connection, chunk)
            _send_before(deadline, connection, b"" if is_whole else b"0\r\n\r\n")
    except OSError:
        pass  # who hangs up, or does not take it, gets no answer
    except Exception as error:  # noqa: BLE001 - a defect of a page must not end the thread
        _tell_of_failure(path, error)
    finally:
        _close(response.body)


def _send_before(deadline: float, connection: socket.socket, data: bytes) -> None:
    connection.settimeout(max(deadline - time.monotonic(), _LEAST_SECONDS))
    connection.sendall(data)


def _head_of(response: Response) -> bytes:
    is_whole = isinstance(response.body, bytes)
    fields = {
        **SECURITY_HEADERS,
        "Content-Type": response.content_type,
        "Date": formatdate(usegmt=True),
        "Server": "processor",
        **({"Content-Length": str(len(response.body))} if isinstance(response.body, bytes) else {}),
        **({} if is_whole else {"Transfer-Encoding": "chunked"}),
        **response.headers,
        "Connection": "close",
    }
    lines = [f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _hang_up(connection: socket.socket) -> None:
    """Take in what a client still sends, within bounds, or it would lose the answer unread."""
    connection.shutdown(socket.SHUT_WR)
    deadline = time.monotonic() + _DRAIN_SECONDS
    left = _DRAIN_BYTES
    while left > 0 and (seconds := deadline - time.monotonic()) > 0:
        connection.settimeout(seconds)
        data = connection.recv(64 << 10)
        if not data:
            return
        left -= len(data)


def _close(body: object) -> None:
    if close := getattr(body, "close", None):
        close()


def _tell_of_failure(path: str, error: Exception) -> None:
    """Say that a page failed; what an error that is not ours says may hold data."""
    if isinstance(error, ProcessorError):
        _log.warning("%s cannot be served: %s", path, error)
    else:
        _log.error("%s cannot be served, by a defect: %s", path, type(error).__name__)
    _log.debug("%s cannot be served", path, exc_info=error)


def ask(address: Address, path: str) -> tuple[int, str]:
    """Return status and words of what a listener answers.

    Raises:
        ListenerError: nobody does.

    """
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104
    connection = HTTPConnection(host, address.port, timeout=HEAD_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode().strip()
    except (OSError, HTTPException) as error:
        raise ListenerError(
            f"{host}:{address.port}: does not answer ({error}); is `processor run` there, with "
            "--listen?"
        ) from error
    finally:
        connection.close()
