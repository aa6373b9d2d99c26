"""The page and its rows on a listener: what is answered, and what it costs."""

import csv
import http.client
import io
import json
import re
import socket
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from urllib.parse import quote, urlsplit

import psycopg
import pytest
from conftest import wait_until

from processor.core.model import Rules
from processor.edges import overview as overview_module
from processor.edges.listener import Address, Listener
from processor.edges.reader import Reader
from processor.edges.store import Store
from processor.shell.report import page as page_module
from processor.shell.report import pages as pages_module
from processor.shell.report.pages import Pages


class Connections:
    """Connects to a database, and counts how many connections there were at once."""

    def __init__(self, url):
        self.url, self.most, self._lock, self._open = url, 0, threading.Lock(), []

    def __call__(self):
        """Connect."""
        connection = psycopg.connect(self.url, autocommit=True, prepare_threshold=None)
        with self._lock:
            self._open = [other for other in self._open if not other.closed]
            self._open.append(connection)
            self.most = max(self.most, len(self._open))
        return connection

    @property
    def open(self):
        """How many are open now."""
        return sum(not connection.closed for connection in self._open)


@contextmanager
def served(url, rest=0):
    """Serve the report of a database; yield a listener that knows what it connects with."""
    connect = Connections(url)
    with (
        closing(Pages(connect, rest)) as pages,
        Listener(Address("127.0.0.1", 0), pages.routes) as listener,
    ):
        listener.connect = connect
        yield listener


@pytest.fixture
def site(folded_url):
    """A report of 30 hours, served."""
    with served(folded_url) as listener:
        yield listener


@pytest.fixture
def own_site(database_url):
    """A database of its own, with a report without rows, served."""
    with closing(Store(lambda: psycopg.connect(database_url, autocommit=True))) as store:
        store.migrate()
        store.adopt(Rules())
    with served(database_url) as listener:
        yield listener


def add_rows(url, customers, hours, first="2022-01-01Z"):
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO hourly_counts SELECT customer, %s::timestamptz + hour * interval '1 hour',"
            " 20, 5, 3, 4, 4, generation FROM generations, generate_series(1, %s) customer,"
            " generate_series(0, %s - 1) hour",
            (first, customers, hours),
        )
        connection.execute("UPDATE generations SET commits = commits + 1")


def get(site, path, method="GET", headers=None):
    """Ask as a well-behaved client does; return the response, read."""
    with closing(http.client.HTTPConnection(urlsplit(site.url).netloc, timeout=60)) as connection:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        response.text = response.read().decode()
        return response


def test_rows_are_had_as_json_and_csv(site, folded_url):
    """The same as `report` writes, filtered in the same way."""
    expected = list(Reader(lambda: psycopg.connect(folded_url)).report())
    as_json, as_csv = get(site, "/api/report"), get(site, "/api/report?format=csv")
    assert (as_json.status, as_json.headers["Content-Type"]) == (200, "application/json")
    assert as_csv.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert [tuple(row.values())[:7] for row in json.loads(as_json.text)] == [
        row[:7] for row in expected
    ]
    assert [tuple(row.values()) for row in csv.DictReader(io.StringIO(as_csv.text))] == [
        tuple(map(str, row)) for row in expected
    ]
    customer = expected[0].customer_id
    chosen = get(
        site,
        f"/api/report?customer={customer}&customer={expected[1].customer_id}"
        "&from=2022-01-01T10:00&to=2022-01-01T02:00Z&timezone=Asia/Tokyo",
    )
    assert [(row["customer_id"], row["hour"]) for row in json.loads(chosen.text)] == [
        (row.customer_id, "2022-01-01T10:00:00+09:00")
        for row in expected
        if row.hour == "2022-01-01T01:00:00Z" and row.customer_id in {customer, expected[1][0]}
    ]
    assert get(site, "/api/report?customer=&from=&to=&timezone=&format=").text == as_json.text


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("customer=x", "customer: is a whole number of 64 bits"),
        (f"customer={2**63}", "customer: is a whole number of 64 bits"),
        ("customer=" + "9" * 5_000, "customer: is a whole number of 64 bits"),
        ("customer=" + "+".join(map(str, range(101))), "customer: there may be 100"),
        ("from=yesterday", "from: 'yesterday' is no date or time"),
        ("to=0001-01-01T00:00%2B14:00", "before the year 1"),
        ("from=2022-01-01&from=2022-01-02", "from: may be given once"),
        ("timezone=Mars/Base", "timezone: no such time zone"),
        ("timezone=..%2F..%2Fetc%2Fpasswd", "timezone: no such time zone"),
        ("timezone=%00", "timezone: no such time zone"),
        ("timezone=Asia/Kolkata", "+5:30:00 from UTC"),
        ("colour=red", "there is no field 'colour'"),
        ("%3Cscript%3E=1", "there is no field '<script>'"),
        ("from=%1b[31m%e2%80%ae", r"'\x1b[31m\u202e' is no date"),
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/report"])
def test_what_there_is_not_is_said_in_words(site, path, query, words):
    """400 and plain text that no browser takes for a page; nothing is left in use."""
    answer = get(site, f"{path}?{query}")
    assert (answer.status, answer.headers["Content-Type"]) == (400, "text/plain; charset=utf-8")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert words in answer.text
    wait_until(lambda: site.connect.open <= 1, what="the end of connections")


def test_formats_are_of_the_rows(site):
    """The page has none; the rows have two."""
    assert "there is no field 'format'" in get(site, "/?format=csv").text
    assert "'xml' is none; there are csv and json" in get(site, "/api/report?format=xml").text


@pytest.mark.parametrize("path", ["/", "/api/report"])
def test_nothing_can_be_written(site, path):
    """Only GET and HEAD are answered, and a HEAD has no body."""
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        answer = get(site, path, method)
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
    head = get(site, path, "HEAD")
    assert (head.status, head.text) == (200, "")
    assert get(site, f"{path}?customer={'9' * 20_000}").status == 431
    wait_until(lambda: site.connect.open <= 1, what="the end of connections")


def test_the_page_is_guarded(site):
    """By a policy that names its script and its styles, and lets nobody frame it."""
    answer = get(site, "/")
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert re.search(r"script-src 'sha256-[^']+'; style-src 'sha256-[^']+'", policy)


def test_who_has_the_page_is_told_so_until_the_report_changes(own_site, database_url):
    """304 without a body; after a commit, the new page."""
    add_rows(database_url, customers=3, hours=2)
    first = get(own_site, "/")
    etag = first.headers["ETag"]
    again = get(own_site, "/", headers={"If-None-Match": etag})
    assert (again.status, again.text, again.headers["ETag"]) == (304, "", etag)
    add_rows(database_url, customers=1, hours=1, first="2022-02-01Z")
    changed = get(own_site, "/", headers={"If-None-Match": etag})
    assert changed.status == 200
    assert changed.headers["ETag"] != etag
    assert "2022-02-01 00:00" in changed.text


@pytest.fixture
def made(monkeypatch):
    """The pages that are made, one after the other."""
    pages = []

    def render(*arguments, **options):
        pages.append(page_module.render(*arguments, **options))
        return pages[-1]

    monkeypatch.setattr(pages_module, "render", render)
    return pages


def test_a_hundred_at_once_are_served_over_few_connections(site, made, monkeypatch):
    """All get the page, which is made once; all get their rows, four at a time."""
    monkeypatch.setattr(pages_module, "_WAIT_SECONDS", 60)
    with ThreadPoolExecutor(100) as clients:
        found = list(clients.map(lambda n: get(site, "/" if n % 2 else "/api/report"), range(100)))
    assert {answer.status for answer in found} == {200}
    assert len({answer.text for answer in found}) == 2
    assert len(made) == 1
    assert site.connect.most <= 1 + pages_module.READERS


def test_making_pages_leaves_the_processor_to_the_fold(own_site, database_url, made):
    """After each comes a rest: until then the last one is shown, and who has none waits or goes."""
    add_rows(database_url, customers=1, hours=1)
    with served(database_url, rest=1e9) as site:
        old = get(site, "/")
        add_rows(database_url, customers=1, hours=1, first="2022-02-01Z")
        assert get(site, "/").text == old.text
        busy = get(site, "/?customer=1")
        assert (busy.status, busy.headers["Retry-After"]) == (503, "2")
    assert len(made) == 1
    assert get(own_site, "/").text != old.text


def test_few_pages_are_kept(own_site, database_url, made):
    """However many different ones are asked for; those that were made last."""
    add_rows(database_url, customers=20, hours=1)
    paths = [f"/?customer={customer}" for customer in range(1, 3 + pages_module.KEPT_PAGES)]
    for path in paths:
        get(own_site, path)
    get(own_site, paths[-1])
    assert len(made) == len(paths)
    get(own_site, paths[0])
    assert len(made) == len(paths) + 1


def test_slow_readers_of_rows_do_not_keep_others_from_the_page(own_site, database_url, monkeypatch):
    """Four take their rows slowly; a fifth is told to come again, until one goes."""
    monkeypatch.setattr(pages_module, "_WAIT_SECONDS", 0.05)
    add_rows(database_url, customers=1_000, hours=60)
    address = urlsplit(own_site.url)
    with ExitStack() as slow:
        for _ in range(pages_module.READERS):
            client = slow.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so does the kernel
            client.connect((address.hostname, address.port))
            client.sendall(b"GET /api/report HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 200"
        assert get(own_site, "/api/report").status == 503
        assert get(own_site, "/").status == 200
    wait_until(lambda: get(own_site, "/api/report?customer=1").status == 200)


def test_rows_are_sent_in_bounded_memory(own_site, database_url):
    """Of 60,000 rows, 10 MB, some thousand are held at a time."""
    add_rows(database_url, customers=1_000, hours=60)
    get(own_site, "/api/report?customer=1")
    tracemalloc.start()
    try:
        with closing(http.client.HTTPConnection(urlsplit(own_site.url).netloc)) as connection:
            connection.request("GET", "/api/report")
            response = connection.getresponse()
            size = sum(len(part) for part in iter(lambda: response.read(1 << 16), b""))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size > 9_000_000
    assert peak < 2_500_000


def test_a_page_of_many_years_and_customers_stays_small(own_site, database_url):
    """Six years of hours, 20,000 customers: drawn by month, and the latest rows."""
    add_rows(database_url, customers=2, hours=6 * 366 * 24, first="2010-01-01Z")
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO hourly_counts SELECT 100 + n, '2020-01-01Z', 1, 0, 0, 0, 0, generation "
            "FROM generations, generate_series(1, 20000) n"
        )
        connection.execute("UPDATE generations SET commits = commits + 1")
    page = get(own_site, "/")
    assert page.status == 200
    assert len(page.text) < 500_000
    assert "Click-through rate by month" in page.text
    assert "9,998 with fewer than 30 page loads are not ranked" in page.text
    assert "Only the 10,000 customers with the most page loads are" in page.text


def test_hours_far_ahead_of_all_logs_are_told_of_and_not_drawn(own_site, database_url):
    """A clock that was a thousand years ahead does not flatten the chart; some hours are drawn."""
    add_rows(database_url, customers=2, hours=5)
    add_rows(database_url, customers=1, hours=1, first="2022-01-02 03:00Z")
    add_rows(database_url, customers=1, hours=1, first="3022-01-01Z")
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO checkpoints (generation, path, committed_by, watermark) "
            "SELECT generation, '/app.log', 'x', '2022-01-01 04:59:00Z' FROM generations"
        )
    page = get(own_site, "/").text
    assert "1 rows are more than a day ahead of all logs" in page
    assert "2022-01-01 00:00 to 2022-01-02 03:59" in page
    assert "Click-through rate by hour" in page
    assert "3022-01-01 00:00" in page


def test_a_database_that_is_held_up_costs_a_reader_seconds(own_site, database_url, monkeypatch):
    """503, in words that tell nothing of it; and all is well when it goes on."""
    add_rows(database_url, customers=1, hours=1)
    monkeypatch.setattr(pages_module, "STATEMENT_SECONDS", 1)
    monkeypatch.setattr(overview_module, "_TIMEOUT", "SET LOCAL statement_timeout = '1s'")
    with psycopg.connect(database_url) as other:
        other.execute("LOCK TABLE hourly_counts")
        for path in ("/", "/api/report"):
            answer = get(own_site, path)
            assert (answer.status, answer.text) == (
                503,
                "Not possible just now; the log of the process tells why.\n",
            )
    for path in ("/", "/api/report"):
        assert get(own_site, path).status == 200


def test_a_database_that_is_held_up_leaves_the_listener_to_others(
    own_site, database_url, monkeypatch
):
    """Of those who wait for it there are few; the others are told to come again, or served."""
    monkeypatch.setattr(pages_module, "_WAIT_SECONDS", 0.05)
    add_rows(database_url, customers=1, hours=1)
    with psycopg.connect(database_url) as other, ThreadPoolExecutor(10) as clients:
        other.execute("LOCK TABLE hourly_counts, generations")
        asked = [clients.submit(get, own_site, f"/?customer={n}") for n in range(10)]
        wait_until(lambda: sum(future.done() for future in asked) == 10 - pages_module.VIEWERS)
        assert {future.result().status for future in asked if future.done()} == {503}
        assert get(own_site, "/elsewhere").status == 404
        waiting = [future for future in asked if not future.done()]
        other.rollback()
        assert 200 in {future.result().status for future in waiting}
    assert get(own_site, "/").status == 200


def test_a_connection_that_broke_is_made_anew(own_site, database_url):
    """The next reader gets a page."""
    add_rows(database_url, customers=1, hours=1)
    assert get(own_site, "/").status == 200
    with psycopg.connect(database_url) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    wait_until(lambda: get(own_site, "/").status == 200)


def test_rows_that_a_zone_cannot_show_break_off(own_site, database_url):
    """What fails at once is 400; what fails later has no end that a client could take for one."""
    add_rows(database_url, customers=2_000, hours=1)
    add_rows(database_url, customers=1, hours=1, first="2022-06-01Z")
    zone = quote("Australia/Lord_Howe")
    with pytest.raises(http.client.IncompleteRead):
        get(own_site, f"/api/report?timezone={zone}")
    assert get(own_site, f"/api/report?timezone={zone}&from=2022-06-01").status == 400
    assert get(own_site, f"/api/report?timezone={zone}&to=2022-05-01").status == 200
