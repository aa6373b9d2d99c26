"""The report by its set definitions, in DuckDB: what a table can be held against.

It shares the contract and the rule of the watermark with the fold, and nothing else: no visit is
followed from event to event, nothing is forgotten, and nothing is added up batch by batch.

- A block of lines becomes a table, in the order of the lines. Most lines are *plain*: one flat JSON
  object whose strings and whole numbers can be read in one way only. DuckDB reads these itself;
  `contract.judge` decides on all others, and `contract.parse_fired_at` on unusual times. DuckDB
  alone would be too lenient: it takes "7" for a number, and the first of two equal keys.
- The watermark sees the events of the block in that order, and those that it refuses are left out.
- The report is one query over the set of all events, those of the other logs included.

Events lie in memory up to `_MEMORY`, and beyond that in files, which only their owner may read and
which go when the report is there. What a run that was killed left of them, the next one removes.
"""

import fcntl
import importlib
import os
import shutil
from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC
from io import BytesIO
from itertools import chain
from pathlib import Path
from tempfile import gettempdir, mkdtemp
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from processor.core.contract import (
    CLICK,
    MAX_EVENT_ID_CHARS,
    PAGE_LOAD,
    Event,
    judge,
    parse_fired_at,
)
from processor.core.fold import MAX_AHEAD_LINES
from processor.core.model import HOUR_US, Chunk, Increment, Rules
from processor.core.watermark import Watermark, advance, advance_all, is_late
from processor.errors import LedgerError, ProcessorError, SettingsError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_BLOCK_BYTES: Final = 32 << 20
"""DuckDB works at a block with all cores, a part of 8 MB each."""
_MEMORY: Final = "2GiB"
_SCRATCH: Final = "processor-duckdb-"
_ROWS_AT_ONCE: Final = 10_000

_UNREADABLE: Final = b"\x02"
"""Stands in place of bytes that DuckDB would stumble over. No plain line has it."""
_NO_CONTROLS: Final = bytes.maketrans(b"\r\0\1", _UNREADABLE * 3)
_ASCII: Final = bytes(range(128)) + _UNREADABLE * 128

_STRING: Final = r'"(?:[^"\\\x00-\x1f]|\\/)*"'
_WHOLE: Final = r"-?(?:0|[1-9]\d{0,17})"
_VALUE: Final = rf"(?:{_STRING}|{_WHOLE}|true|false|null)"
_USUAL: Final = (
    rf'\{{"event_id": ?{_STRING}, ?"customer_id": ?{_WHOLE}, ?"fired_at": ?{_STRING}, '
    rf'?"user_id": ?{_WHOLE}, ?"event_type": ?{_STRING}(?:, ?"[^"\\_\x00-\x1f]*": ?{_VALUE})*\}}'
)
"""The plain lines that logs are full of: the fields that count in their usual order, and behind
them others without an underscore in their names. All plain lines are flat, but not twisted; to find
that out takes twice the time."""
_PAIR: Final = rf'"[^"\\\x00-\x1f]*": ?{_VALUE}'
_FLAT: Final = rf"\{{{_PAIR}(?:, ?{_PAIR})*\}}"
_FIELDS: Final = ("event_id", "customer_id", "user_id", "fired_at", "event_type")
_TWISTED: Final = "|".join(
    (
        *(f'"{field}":.*"{field}":' for field in _FIELDS),
        '"(?:event_id|fired_at)": ?[^"]',
        '"(?:customer_id|user_id)": ?[^-0-9]',
    )
)
"""Twin keys, and values of another type than they should be. No string of a flat line holds a
quote, so what looks like a key is one."""

_TIME: Final = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d"
_AMERICAN: Final = rf"\d\d/\d\d/[12]\d{{3}}, {_TIME}"
_ISO_8601: Final = rf"[12]\d{{3}}-\d\d-\d\d[T ]{_TIME}(?:\.\d{{1,6}})?"
_OFFSET: Final = r"(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"

_EVENTS: Final = """
CREATE TEMP TABLE events (
    customer_id BIGINT, user_id BIGINT, event_id VARCHAR, is_click BOOLEAN,
    fired_at BIGINT, hour BIGINT
)
"""

_READ_BLOCK: Final = """
CREATE OR REPLACE TEMP TABLE block AS
WITH lines AS (
    SELECT line, CASE
        WHEN regexp_full_match(line, $usual) THEN true
        WHEN regexp_full_match(line, $flat) THEN NOT regexp_matches(line, $twisted)
        ELSE false
    END AS is_plain
    FROM read_csv(
        $path, columns = {line: 'VARCHAR'}, auto_detect = false, header = false,
        delim = '\x01', quote = '', escape = '', max_line_size = $max_line_bytes
    )
),
parsed AS (
    SELECT CASE WHEN is_plain THEN json_transform(
        line, '{
            "event_id": "VARCHAR", "customer_id": "BIGINT", "user_id": "BIGINT",
            "fired_at": "VARCHAR", "event_type": "VARCHAR"
        }'
    ) END AS fields
    FROM lines
),
checked AS (
    SELECT fields, fields.event_type IN ($page_load, $click) AS counts, (
        counts AND length(fields.event_id) BETWEEN 1 AND $most_chars
        AND fields.customer_id IS NOT NULL AND fields.user_id IS NOT NULL
        AND fields.fired_at IS NOT NULL
    ) IS TRUE AS is_event
    FROM parsed
)
SELECT fields.event_id, fields.customer_id, fields.user_id, fields.event_type = $click AS is_click,
    CASE
        WHEN NOT is_event THEN NULL
        WHEN $is_utc AND regexp_full_match(fields.fired_at, $american)
            THEN epoch_us(try_strptime(fields.fired_at, '%m/%d/%Y, %H:%M:%S'))
        WHEN regexp_full_match(fields.fired_at, $iso_8601)
            THEN epoch_us(TRY_CAST(fields.fired_at AS TIMESTAMPTZ))
    END AS fired_at,
    CASE WHEN is_event AND fired_at IS NULL THEN fields.fired_at END AS unread_time,
    fields IS NULL OR (counts AND NOT is_event) AS is_odd
FROM checked
"""

_READ_TIMES: Final = """
UPDATE block SET fired_at = times.fired_at
FROM read_csv(
    $path, columns = {text: 'VARCHAR', fired_at: 'BIGINT'}, auto_detect = false, header = false,
    delim = '\x01', quote = '', escape = ''
) times
WHERE unread_time = text
"""

_READ_EVENTS: Final = """
UPDATE block SET event_id = decode(unhex(event.event_id)), customer_id = event.customer_id,
    user_id = event.user_id, is_click = event.is_click, fired_at = event.fired_at
FROM read_csv(
    $path, auto_detect = false, header = false, columns = {
        line: 'BIGINT', event_id: 'VARCHAR', customer_id: 'BIGINT', user_id: 'BIGINT',
        fired_at: 'BIGINT', is_click: 'BOOLEAN'
    }, delim = '\x01', quote = '', escape = ''
) event
WHERE block.rowid = line
"""

_REFUSE: Final = """
UPDATE block SET fired_at = NULL
FROM read_csv($path, columns = {line: 'BIGINT'}, auto_detect = false, header = false) refused
WHERE block.rowid = line
"""

_KEEP: Final = """
INSERT INTO events SELECT customer_id, user_id, event_id, is_click, fired_at,
    (fired_at - (fired_at % $hour + $hour) % $hour) // $hour
FROM block WHERE fired_at IS NOT NULL
"""

_SPAN_LINES: Final = 4096
"""A span of lines that are all near each other in time is shown to the watermark as one."""

_SPANS: Final = """
SELECT rowid // $lines AS span, min(fired_at), max(fired_at)
FROM block WHERE fired_at IS NOT NULL GROUP BY span ORDER BY span
"""

_INSTANTS: Final = """
SELECT rowid, fired_at FROM block
WHERE fired_at IS NOT NULL AND rowid >= $start ORDER BY rowid
"""

_REPORT: Final = """
WITH counted AS (
    SELECT customer_id, hour, count(*) FILTER (NOT is_click) AS page_loads,
        count(*) FILTER (is_click) AS clicks,
        count(DISTINCT user_id) FILTER (is_click) AS unique_user_clicks
    FROM (SELECT DISTINCT * FROM events) GROUP BY ALL
),
near AS (
    SELECT customer_id, hour, is_click,
        fired_at - max(fired_at) FILTER (NOT is_click) OVER before AS since_page_load,
        min(fired_at) FILTER (is_click) OVER after - fired_at AS until_click
    FROM (
        SELECT DISTINCT * FROM events SEMI JOIN (FROM events WHERE is_click) AS click
        USING (customer_id, user_id, event_id)
    )
    WINDOW
        before AS (
            PARTITION BY customer_id, user_id, event_id ORDER BY fired_at
            RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ),
        after AS (
            PARTITION BY customer_id, user_id, event_id ORDER BY fired_at
            RANGE BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING
        )
),
related AS (
    SELECT customer_id, hour,
        count(*) FILTER (is_click AND since_page_load <= $window) AS related_clicks,
        count(*) FILTER (NOT is_click AND until_click <= $window) AS clicked_page_loads
    FROM near GROUP BY ALL
)
SELECT customer_id, hour, page_loads, clicks, unique_user_clicks,
    coalesce(related_clicks, 0), coalesce(clicked_page_loads, 0)
FROM counted LEFT JOIN related USING (customer_id, hour) ORDER BY customer_id, hour
"""


def report_of(
    logs: Iterable[Iterable[Chunk]], rules: Rules, folder: Path | None = None
) -> Iterator[Increment]:
    """Yield the rows of the report over logs, each given as its chunks, by customer and hour.

    What has no room in memory is put into `folder`, or else where temporary files are.

    Raises:
        SettingsError: DuckDB is not installed.
        ProcessorError: DuckDB cannot go on, for want of room most likely.

    """
    try:
        duckdb = importlib.import_module("duckdb")
    except ImportError as error:
        raise SettingsError(
            "DuckDB is not installed: install duckdb, which is the extra `duckdb`"
        ) from error
    return _report_of(duckdb, logs, rules, folder)


def _report_of(
    duckdb: Any, logs: Iterable[Iterable[Chunk]], rules: Rules, folder: Path | None
) -> Iterator[Increment]:
    with _scratch(folder) as scratch:
        settings = {
            "temp_directory": str(scratch),
            "memory_limit": _MEMORY,
            "autoinstall_known_extensions": False,
            "enable_external_file_cache": False,
        }
        try:
            with duckdb.connect(":memory:", config=settings) as database:
                yield from _Report(database, rules).over(logs)
        except duckdb.Error as error:
            # Its own messages quote what was read.
            raise ProcessorError(
                f"DuckDB cannot go on: {type(error).__name__}. It uses up to {_MEMORY} of memory, "
                f"and beyond that files in {scratch.parent}: see that there is room"
            ) from None
        except RuntimeError as error:
            # So it wraps what the handler of a signal raised while it was busy.
            if isinstance(error.__cause__, KeyboardInterrupt | SystemExit):
                raise error.__cause__ from None
            raise


class _Report:
    """Takes in logs, one after the other, and makes the report of all of them."""

    def __init__(self, database: "DuckDBPyConnection", rules: Rules) -> None:
        self._database = database
        self._rules = rules
        self._zone = UTC if rules.timezone == "UTC" else ZoneInfo(rules.timezone)
        is_utc = self._zone is UTC
        self._reading = {
            "usual": _USUAL,
            "flat": _FLAT,
            "twisted": _TWISTED,
            "is_utc": is_utc,
            "american": _AMERICAN,
            "iso_8601": _ISO_8601 + _OFFSET + "?" * is_utc,
            "page_load": PAGE_LOAD,
            "click": CLICK,
            "most_chars": MAX_EVENT_ID_CHARS,
            "max_line_bytes": rules.max_line_bytes,
        }
        database.execute("SET TimeZone = 'UTC'")
        database.execute(_EVENTS)

    def over(self, logs: Iterable[Iterable[Chunk]]) -> Iterator[Increment]:
        """Yield the report of logs."""
        for log in logs:
            lateness = _Lateness(self._rules.allowed_lateness_us)
            for block in _blocks(log):
                self.read(block)
                self._update(_REFUSE, ((line,) for line in self._refused(lateness)))
                self._database.execute(_KEEP, {"hour": HOUR_US})
        window = {"window": self._rules.attribution_window_us}
        rows = self._database.execute(_REPORT, window)
        while some := rows.fetchmany(_ROWS_AT_ONCE):
            yield from map(Increment._make, some)

    def read(self, block: Sequence[Chunk]) -> None:
        """Make the table `block`: a row for each line, with `fired_at` if that is an event."""
        with _memory_file(_harmless(chunk.data) for chunk in block) as path:
            self._database.execute(_READ_BLOCK, {**self._reading, "path": path})
        self._update(_READ_TIMES, self._times())
        self._update(_READ_EVENTS, self._judged(block))
        if self._rows("SELECT count(*) FROM block") != [(sum(chunk.lines for chunk in block),)]:
            raise LedgerError(
                f"bytes {block[0].offset} to {block[-1].end} of a log: DuckDB read another number "
                "of lines than there are. Please report this with the version"
            )

    def _times(self) -> Iterator[tuple[object, ...]]:
        """Yield the times that DuckDB was not to read, and what instants they are."""
        for (text,) in self._rows("SELECT DISTINCT unread_time FROM block WHERE unread_time <> ''"):
            with suppress(ValueError):
                yield text, parse_fired_at(text, self._zone)

    def _judged(self, block: Sequence[Chunk]) -> Iterator[tuple[object, ...]]:
        """Yield the events among the lines that DuckDB was not to read."""
        odd = {number for (number,) in self._rows("SELECT rowid FROM block WHERE is_odd")}
        lines = chain.from_iterable(BytesIO(chunk.data) for chunk in block) if odd else ()
        for number, line in enumerate(lines):
            if number in odd and isinstance(event := judge(line[:-1], self._zone), Event):
                yield number, event.event_id.encode().hex(), *event[2:], int(event.is_click)

    def _refused(self, lateness: "_Lateness") -> Iterator[int]:
        """Yield the lines of the events that the watermark refuses."""
        for span, first, last in self._rows(_SPANS, lines=_SPAN_LINES):
            if not lateness.lets_pass(first, last):
                yield from lateness.refused(self._rows(_INSTANTS, start=span * _SPAN_LINES))
                break

    def _rows(self, query: str, **values: object) -> list[Any]:
        return self._database.execute(query, values).fetchall()

    def _update(self, query: str, rows: Iterable[tuple[object, ...]]) -> None:
        """Hand rows over to a query that reads them from `$path`."""
        lines = ["\x01".join(map(str, row)).encode() + b"\n" for row in rows]
        if lines:
            with _memory_file(lines) as path:
                self._database.execute(query, {"path": path})


class _Lateness:
    """Shows the events of one log to its watermark, in their order, as the fold does."""

    def __init__(self, allowed_lateness: int) -> None:
        self._allowed_lateness = allowed_lateness
        self._mark = Watermark()
        self._ahead = list[int]()

    def lets_pass(self, first: int, last: int) -> bool:
        """Take in events between two instants; False when they have to be shown one by one."""
        mark = advance_all(self._mark, first, last, self._allowed_lateness)
        self._mark = mark or self._mark
        return mark is not None

    def refused(self, events: Iterable[tuple[int, int]]) -> Iterator[int]:
        """Take in events (line, instant) one by one; yield the lines of those it refuses."""
        low, high = self._unremarkable()
        for line, fired_at in events:
            if not low <= fired_at <= high:
                if self._refuses(fired_at):
                    yield line
                low, high = self._unremarkable()

    def _unremarkable(self) -> tuple[int, int]:
        """Return the first and last instant that tell the watermark nothing."""
        at, run = self._mark
        return (0, -1) if at is None or run else (at - self._allowed_lateness, at)

    def _refuses(self, fired_at: int) -> bool:
        """Take in an event; True when it is late, or ahead as too many others are."""
        if is_late(self._mark, fired_at, self._allowed_lateness):
            return True
        self._mark = advance(self._mark, fired_at, self._allowed_lateness)
        at = self._mark.at
        if at is not None:
            if fired_at <= at:
                return False
            del self._ahead[: bisect_right(self._ahead, at)]
        if len(self._ahead) >= MAX_AHEAD_LINES:
            return True
        insort(self._ahead, fired_at)
        return False


def _blocks(log: Iterable[Chunk]) -> Iterator[list[Chunk]]:
    """Yield the chunks of a log in blocks, without the lines that are too long."""
    block, size = list[Chunk](), 0
    for chunk in log:
        if chunk.data:
            block.append(chunk)
            size += len(chunk.data)
        if size >= _BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _harmless(data: bytes) -> bytes:
    """Return lines so that they can be read as a table, and those that could not are not plain."""
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    if b"\r" in data or b"\0" in data or b"\1" in data:
        data = data.translate(_NO_CONTROLS)
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError:
            data = data.translate(_ASCII)
    return data


@contextmanager
def _memory_file(parts: Iterable[bytes]) -> Iterator[str]:
    """Yield the path of a nameless file in memory."""
    fd = os.memfd_create("lines")
    with os.fdopen(fd, "wb") as file:
        file.writelines(parts)
        file.flush()
        yield f"/proc/self/fd/{fd}"


@contextmanager
def _scratch(folder: Path | None) -> Iterator[Path]:
    """Make a folder for the time being, and remove those of processes that were killed.

    It is locked before it has the name by which others find it, and as long as it is used.
    """
    parent = folder or Path(gettempdir())
    for left_over in parent.glob(f"{_SCRATCH}*"):
        with suppress(OSError), _locked(left_over):
            shutil.rmtree(left_over)
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = Path(mkdtemp(dir=parent))  # of mode 0700
    except OSError as error:
        raise ProcessorError(f"{parent}: cannot be written: {error.strerror}") from error
    with _locked(new):
        scratch = new.rename(parent / f"{_SCRATCH}{new.name}")
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)
