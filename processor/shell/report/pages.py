"""What the listener serves to people: the page of the report at `/`, its rows at `/api/report`.

The fold needs the processor that they take. So a page is made anew only when the report has changed
and somebody asks for it, and each is followed by a rest of `REST` times what it took. `VIEWERS` at
once are given pages, over one connection to the database, and `READERS` read rows, each over one of
their own; who comes meanwhile waits a little, and then is told to come again. So however slow the
database is, most threads of the listener are left to others.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Final, NamedTuple
from urllib.parse import urlencode

from processor.core.contract import INT64_MAX
from processor.edges.listener import Request, Response, Route, text
from processor.edges.overview import STATEMENT_SECONDS, Choice, Overviews
from processor.edges.reader import Reader
from processor.edges.session import Connect
from processor.errors import SettingsError
from processor.shell.report.hours import Zone, in_zone
from processor.shell.report.page import TABLE_ROWS, Download, policy, render
from processor.shell.report.report import ReportFormat, report_parts
from processor.shell.wiring import customers_of, instant_of

REST: Final = 20
VIEWERS: Final = 4
READERS: Final = 4
KEPT_PAGES: Final = 8
_WAIT_SECONDS: Final = 10.0
_MAX_CUSTOMERS: Final = 100

_TYPES: Final = {
    ReportFormat.CSV: "text/csv; charset=utf-8",
    ReportFormat.JSON: "application/json",
}
_BUSY: Final = text(503, "Too many ask just now; come again.", {"Retry-After": "2"})


class Asked(NamedTuple):
    """What of the report is asked for."""

    choice: Choice
    zone: str
    format_: ReportFormat

    def link(self, format_: ReportFormat) -> str:
        """Return where the rows of it are to be had."""
        fields = [("customer", str(customer)) for customer in self.choice.customers]
        times = (("from", self.choice.start), ("to", self.choice.end))
        fields += [(name, at.isoformat()) for name, at in times if at]
        fields += [("timezone", self.zone), ("format", format_)]
        return f"/api/report?{urlencode(fields)}"


class _Page(NamedTuple):
    """A page that was made, of a version of the report."""

    version: str
    body: bytes


class Pages:
    """Serves the report of a database. After a page was made comes a `rest`, in times of that."""

    def __init__(self, connect: Connect, rest: float = REST) -> None:
        self._connect = connect
        self._rest = rest
        self._overviews = Overviews(connect)
        self._viewers = threading.BoundedSemaphore(VIEWERS)
        self._readers = threading.BoundedSemaphore(READERS)
        self._making = threading.Lock()
        self._kept: dict[Asked, _Page] = {}
        self._rest_until = 0.0

    def close(self) -> None:
        """Let go of the connection to the database."""
        self._overviews.close()

    @property
    def routes(self) -> dict[str, Route]:
        """What is served, by path."""
        return {"/": self.page, "/api/report": self.report}

    def page(self, request: Request) -> Response:
        """Answer with the page, or 304 to who has it already.

        Raises:
            SettingsError: the query asks for what there is not.
            StoreError: there is no report, or it cannot be read just now.

        """
        asked = _asked(request, with_format=False)
        if not self._viewers.acquire(timeout=_WAIT_SECONDS):
            return _BUSY
        try:
            page = self._newest(asked)
        finally:
            self._viewers.release()
        if page is None:
            return _BUSY
        headers = {
            "ETag": f'"{page.version}"',
            "Cache-Control": "no-cache",
            "Content-Security-Policy": f"{policy()}; frame-ancestors 'none'",
        }
        has_it = request.headers.get("If-None-Match") == headers["ETag"]
        status, body = (304, b"") if has_it else (200, page.body)
        return Response(status, "text/html; charset=utf-8", body, headers)

    def report(self, request: Request) -> Response:
        """Answer with rows of the report, as they come from the database.

        Raises:
            SettingsError: the query asks for what there is not.
            StoreError: there is no report, or it cannot be read just now.

        """
        asked = _asked(request, with_format=True)
        if not self._readers.acquire(timeout=_WAIT_SECONDS):
            return _BUSY
        body = self._rows(asked)
        next(body)
        name = f'inline; filename="report.{asked.format_}"'
        return Response(200, _TYPES[asked.format_], body, {"Content-Disposition": name})

    def _rows(self, asked: Asked) -> Iterator[bytes]:
        """Yield nothing, once the first rows are there, and then the rows.

        So what fails at once is answered in words, and not by rows that break off.
        """
        try:
            zone = Zone(asked.zone, "timezone")
            rows = Reader(self._connect, STATEMENT_SECONDS).report(*asked.choice)
            with closing(rows):
                parts = report_parts(in_zone(rows, zone), asked.format_)
                first = next(parts)
                yield b""
                yield first
                yield from parts
        finally:
            self._readers.release()

    def _newest(self, asked: Asked) -> _Page | None:
        """Return the page as the report is, or was a moment ago; None if that takes too long."""
        version = self._overviews.version()
        kept = self._kept.get(asked)
        if kept and kept.version == version:
            return kept
        if not self._making.acquire(timeout=_WAIT_SECONDS):
            return kept
        try:
            kept = self._kept.get(asked)
            if kept and kept.version == version:  # made by another thread meanwhile
                return kept
            rest = self._rest_until - time.monotonic()
            if rest > (0 if kept else _WAIT_SECONDS):
                return kept
            time.sleep(max(rest, 0))
            return self._make(asked)
        finally:
            self._making.release()

    def _make(self, asked: Asked) -> _Page:
        began = time.thread_time()
        zone = Zone(asked.zone, "timezone")
        overview = self._overviews.read(asked.choice, zone.periods, 0, TABLE_ROWS)
        download = Download(asked.link(ReportFormat.CSV), asked.link(ReportFormat.JSON))
        html = render(overview, zone, asked.choice, download, live=True)
        self._rest_until = time.monotonic() + (time.thread_time() - began) * self._rest
        self._kept.pop(asked, None)
        self._kept[asked] = page = _Page(overview.version, html.encode())
        while len(self._kept) > KEPT_PAGES:
            del self._kept[next(iter(self._kept))]
        return page


def _asked(request: Request, *, with_format: bool) -> Asked:
    """Return what a query asks for; an empty field is as none.

    Raises:
        SettingsError: there is no such thing.

    """
    fields = {"customer", "from", "to", "timezone"} | ({"format"} if with_format else set())
    if unknown := sorted(set(request.query) - fields):
        raise SettingsError(
            f"there is no field {unknown[0]!r}; there are {', '.join(sorted(fields))}"
        )
    zone = _one(request, "timezone") or "UTC"
    tz = Zone(zone, "timezone").tz
    start, end = (instant_of(name, _one(request, name), tz) for name in ("from", "to"))
    format_ = _one(request, "format") or ReportFormat.JSON
    if format_ not in _TYPES:
        raise SettingsError(f"format: {format_!r} is none; there are csv and json")
    return Asked(Choice(_customers(request), start, end), zone, ReportFormat(format_))


def _one(request: Request, field: str) -> str | None:
    values = request.query.get(field, [])
    if len(values) > 1:
        raise SettingsError(f"{field}: may be given once")
    return (values[0] if values else "") or None


def _customers(request: Request) -> tuple[int, ...]:
    words = " ".join(request.query.get("customer", [])).replace(",", " ").split()
    try:
        numbers = {int(word) for word in words}
    except ValueError:
        numbers = {INT64_MAX + 1}
    customers = customers_of("customer", sorted(numbers))
    if len(customers) > _MAX_CUSTOMERS:
        raise SettingsError(f"customer: there may be {_MAX_CUSTOMERS}")
    return customers
