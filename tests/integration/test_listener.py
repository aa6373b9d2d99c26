"""The HTTP listener: what it answers, whatever is asked and however."""

import contextlib
import http.client
import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from conftest import wait_until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processor.edges import listener as http_listener
from processor.edges.listener import Address, Listener, Response, text
from processor.errors import SettingsError, StoreError

CANARY = "canary@example.com"
GET = b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Parts:
    """A body in parts, which knows whether it was closed."""

    def __init__(self, parts):
        self.parts = parts
        self.closed = False

    def __iter__(self):
        for part in self.parts:
            if isinstance(part, Exception):
                raise part
            yield part

    def close(self):
        """Take note."""
        self.closed = True


def raising(error):
    def route(_request):
        raise error

    return route


@pytest.fixture
def bodies():
    return {
        "/parts": Parts([b"one,", b"", b"two"]),
        "/broken": Parts([b"one,", RuntimeError(CANARY)]),
        "/endless": Parts([bytes(1 << 20)] * 1_000),
    }


@pytest.fixture
def listener(bodies):
    """A listener with routes of all kinds."""
    routes = {
        "/hello": lambda _request: text(200, "hello"),
        "/query": lambda request: text(200, repr(dict(request.query))),
        "/own": lambda _request: Response(
            200, "text/html", b"<p>", {"Content-Security-Policy": "default-src 'self'"}
        ),
        "/defect": raising(RuntimeError(CANARY)),
        "/away": raising(StoreError(CANARY)),
        "/wrong": raising(SettingsError("from: write it so")),
        **{
            path: lambda request: Response(200, "text/csv", bodies[request.path]) for path in bodies
        },
    }
    with Listener(Address("127.0.0.1", 0), routes) as listener:
        yield listener


def connected(listener, timeout=10):
    address = urlsplit(listener.url)
    return socket.create_connection((address.hostname, address.port), timeout)


def exchange(listener, request):
    """Send bytes, and no more; return what is answered until the listener hangs up."""
    with connected(listener) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


def get(listener, path, method="GET", headers=None):
    """Ask as a well-behaved client does; return the response, read."""
    connection = http.client.HTTPConnection(urlsplit(listener.url).netloc, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        response.text = response.read().decode()
        return response


def test_a_route_is_answered(listener):
    """GET has the body, HEAD the same headers without it, and the connection is closed."""
    answer, head = get(listener, "/hello"), get(listener, "/hello", "HEAD")
    assert (answer.status, answer.text, head.status, head.text) == (200, "hello\n", 200, "")
    assert answer.headers["Content-Length"] == head.headers["Content-Length"] == "6"
    assert answer.headers["Connection"] == head.headers["Connection"] == "close"
    assert exchange(listener, GET % b"/hello").endswith(b"\r\n\r\nhello\n")


def test_a_route_sees_the_query(listener):
    """Fields may be repeated or empty."""
    answer = get(listener, "/query?a=1&a=%C3%A9&b=")
    assert answer.text == "{'a': ['1', 'é'], 'b': ['']}\n"


def test_answers_are_guarded(listener):
    """No answer may be kept, sniffed, framed or run; none tells a version; a route may say more."""
    for path in ("/hello", "/none", "/defect", "/own"):
        headers = get(listener, path).headers
        assert (headers["Cache-Control"], headers["Server"]) == ("no-store", "processor")
        assert headers["X-Content-Type-Options"] == "nosniff"
        expected = "'self'" if path == "/own" else "'none'; frame-ancestors 'none'"
        assert headers.get_all("Content-Security-Policy") == [f"default-src {expected}"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get"])
def test_there_is_only_get_and_head(listener, method):
    """Any other method is refused, and told what there is; a body is not read."""
    answer = get(listener, "/hello", method, {"Content-Length": str(1 << 40)})
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        (b"", None),
        (b"\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        (b"GET /hello\r\n\r\n", 400),
        (b"GET  /hello HTTP/1.1\r\n\r\n", 400),
        (b"GET /hello HTTP/1.1 \r\nHost: localhost\r\n\r\n", 400),
        (b"GET /\xff\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /hello HTTP/1.1\r\n\r\n", 400),
        (b"GET /hello HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /hello HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n", 400),
        (b"GET /hello HTTP/1.1\r\nHost: [\r\n\r\n", 421),
        (b"GET /hello HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
        (b"GET /hello HTTP/1.0\r\n\r\n", 200),
        (b"GET /parts HTTP/1.0\r\n\r\n", 505),
        (b"GET /../hello HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (GET % b"http://elsewhere/hello", 404),
        (GET % b"//hello", 404),
        (GET % b"/", 404),
        (GET % (b"/query?" + b"a=1&" * 1_000), 400),
        (GET % (b"/" + b"a" * 20_000), 431),
        (b"GET /hello HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1_000_000, 431),
        (b"GET /hello HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"POST /hello HTTP/1.1\r\nHost: localhost\r\n\r\n" + bytes(500_000), 405),
    ],
)
def test_broken_and_huge_requests_are_answered(listener, request_bytes, expected):
    """Garbage has a code of its own, and the answer arrives though more is sent than is read."""
    answer = exchange(listener, request_bytes)
    assert (int(answer.split()[1]) if answer else None) == expected
    assert get(listener, "/hello").status == 200


def test_a_page_elsewhere_cannot_ask_in_disguise(listener):
    """A browser that was told that a foreign name is this machine gets nothing."""
    for host in ("attacker.example", "attacker.example:80", "localhost.attacker.example", ""):
        assert get(listener, "/hello", headers={"Host": host}).status == 421
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:9464", "[::1]:80", "10.0.0.1"):
        assert get(listener, "/hello", headers={"Host": host}).status == 200


def test_who_opens_it_to_others_may_name_it_as_they_like():
    """A listener on all addresses answers to any name: a container has one."""
    with Listener(Address("0.0.0.0", 0), {"/": lambda _request: text(200, "")}) as listener:  # noqa: S104
        port = urlsplit(listener.url).port
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: processor\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_slow_clients_are_hung_up_on(listener, monkeypatch):
    """Half a request, or none, costs a thread for a while only, and nobody else waits longer."""
    monkeypatch.setattr(http_listener, "HEAD_SECONDS", 0.3)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(listener)) for _ in range(40)]
        for number, client in enumerate(clients):
            if number % 2:
                client.sendall(b"GET /hello HT")
        assert get(listener, "/hello").status == 200
        for number, client in enumerate(clients):
            answer = client.recv(65536)
            assert answer.startswith(b"HTTP/1.1 408 ") if number % 2 else answer == b""


def test_a_client_that_does_not_take_its_answer_is_hung_up_on(listener, bodies, monkeypatch):
    """The answer is given up, and what it was made from is closed."""
    monkeypatch.setattr(http_listener, "ANSWER_SECONDS", 0.2)
    with connected(listener) as client:
        client.sendall(GET % b"/endless")
        wait_until(lambda: bodies["/endless"].closed, what="the end of the answer")
    assert get(listener, "/hello").status == 200


def test_a_hundred_at_once_are_all_answered(listener):
    """More clients than threads wait for their turn; none is refused."""
    with ThreadPoolExecutor(100) as clients:
        answers = list(clients.map(lambda _: get(listener, "/hello"), range(100)))
    assert [answer.status for answer in answers] == [200] * 100
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("listen-")]
    assert len(threads) == http_listener.THREADS


def test_a_failing_route_tells_nothing_of_its_data(listener, caplog):
    """The client learns the code, the log the kind of error, at a level that says what to do."""
    caplog.set_level(logging.INFO)
    answers = [get(listener, path) for path in ("/defect", "/away", "/wrong")]
    assert [answer.status for answer in answers] == [500, 503, 400]
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "RuntimeError" in caplog.messages[0]
    assert CANARY not in "".join(answer.text for answer in answers) + caplog.messages[0]
    assert answers[2].text == "from: write it so\n"


def test_a_body_in_parts_has_an_end(listener, bodies):
    """It arrives whole, and what it was made from is closed; with HEAD, nothing is made."""
    answer = get(listener, "/parts")
    assert (answer.status, answer.text) == (200, "one,two")
    wait_until(lambda: bodies["/parts"].closed)
    assert get(listener, "/endless", "HEAD").status == 200
    wait_until(lambda: bodies["/endless"].closed)


def test_a_body_that_fails_half_way_has_none(listener, bodies, caplog):
    """A client cannot take a part for the whole."""
    with pytest.raises(http.client.IncompleteRead):
        get(listener, "/broken")
    wait_until(lambda: bodies["/broken"].closed)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert CANARY not in caplog.text


@given(st.binary(max_size=200), st.binary(max_size=200))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_request_ends_a_thread(listener, caplog, line, fields):
    """Whatever comes, an answer goes out, and no thread is lost."""
    answer = exchange(listener, line + b" / HTTP/1.1\r\nHost: " + fields + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 ")
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("9464", None),
        (":9464", None),
        ("::1:9464", None),
        ("[localhost]:9464", None),
        ("localhost:65536", None),
        ("localhost:-1", None),
        ("localhost:", None),
        ("http://localhost:9464", None),
        ("", None),
    ],
)
def test_an_address_is_a_host_and_a_port(written, expected):
    """Anything else is refused with what to write."""
    if expected:
        assert Address.parse(written) == expected
    else:
        with pytest.raises(SettingsError, match=r"write 127\.0\.0\.1:9464"):
            Address.parse(written)


def test_an_address_that_cannot_be_had_is_told(listener):
    """In use, of another machine, or no name at all: words, and the setting that is wrong."""
    port = urlsplit(listener.url).port
    for host in ("127.0.0.1", "192.0.2.1", "no.such.host.invalid", "a" * 70):
        with pytest.raises(SettingsError, match=f"--listen: {host}:{port}: .*another address"):
            Listener(Address(host, port), {})


def test_close_lets_go_of_the_address(listener):
    """Threads end, and another one can listen there."""
    listener.close()
    address = Address("127.0.0.1", urlsplit(listener.url).port)
    Listener(address, {}).close()
    names = (thread.name for thread in threading.enumerate())
    wait_until(lambda: not any(name.startswith("listen-") for name in names))
