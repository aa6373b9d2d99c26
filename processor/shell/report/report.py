"""Renders what the reader returns: as a table for people, as CSV and JSON for programs."""

import csv
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from io import StringIO
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

import orjson
from rich.console import Console
from rich.table import Table

from processor.edges.history import History, known_by
from processor.edges.reader import DeadLetterGroup, DeadLetterRow, LogStatus, ReportRow
from processor.edges.source import LogReader
from processor.errors import LogError
from processor.shell.report.hours import DayRow


class Format(StrEnum):
    """How to render."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


class ReportFormat(StrEnum):
    """How to render the report."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    MARKDOWN = "markdown"
    HTML = "html"
    PARQUET = "parquet"


class TableOrJson(StrEnum):
    """How to render what does not fit into rows."""

    TABLE = "table"
    JSON = "json"


def write_report(
    rows: Iterable[ReportRow | DayRow],
    format_: ReportFormat,
    out: TextIO,
    fields: Sequence[str] = ReportRow._fields,
) -> None:
    """Write the report, by hour or by day; `html` and `parquet` are written elsewhere."""
    if format_ is ReportFormat.JSON:
        _write_json((row._asdict() for row in rows), out)
    elif format_ is ReportFormat.CSV:
        _write_csv(fields, rows, out)
    elif format_ is ReportFormat.MARKDOWN:
        _write_markdown(fields, rows, out)
    else:
        headings = [name.replace("_", " ") for name in fields]
        write_table(headings, rows, out, left={"hour", "day"})


def report_parts(rows: Iterable[ReportRow], format_: ReportFormat) -> Iterator[bytes]:
    """Yield the report as CSV or JSON, in parts, in memory that does not grow with it."""
    if format_ is ReportFormat.CSV:
        parts = _csv_parts(ReportRow._fields, rows)
    else:
        parts = _json_parts(row._asdict() for row in rows)
    return (part.encode() for part in parts)


class LogLedger(NamedTuple):
    """A log's checkpoint and ledger, as `status` shows it."""

    path: str
    byte_offset: int
    size_bytes: int | None
    lag_bytes: int | None
    watermark: str | None
    lines: int
    applied: int
    duplicates: int
    ignored: int
    dead_letters: int
    ignored_by_name: dict[str, int]
    dead_letters_by_reason: dict[str, int]


def ledger(log: LogStatus) -> LogLedger:
    """Return the status of a log, with the size that its file has now."""
    size = _size_bytes(log)

    def by_name(wanted: str) -> dict[str, int]:
        found = ((name, lines) for (kind, name), lines in log.outcomes.items() if kind == wanted)
        return dict(sorted(found))

    ignored, dead_letters = by_name("ignored"), by_name("dead_letter")
    return LogLedger(
        path=log.path,
        byte_offset=log.byte_offset,
        size_bytes=size,
        lag_bytes=None if size is None else size - log.byte_offset,
        watermark=log.watermark,
        lines=log.lines,
        applied=sum(by_name("applied").values()),
        duplicates=sum(by_name("duplicate").values()),
        ignored=sum(ignored.values()),
        dead_letters=sum(dead_letters.values()),
        ignored_by_name=ignored,
        dead_letters_by_reason=dead_letters,
    )


def _size_bytes(log: LogStatus) -> int | None:
    try:
        path = Path(log.path)
        reader = LogReader(path, log.byte_offset, known_by(path, log.files, log.byte_offset))
    except LogError:
        return None
    try:
        return reader.size_bytes()
    finally:
        reader.close()


def write_status(logs: Iterable[LogStatus], format_: TableOrJson, out: TextIO) -> None:
    """Write the checkpoint and ledger of each log."""
    ledgers = [ledger(log) for log in logs]
    if format_ is TableOrJson.JSON:
        _write_json((row._asdict() for row in ledgers), out)
        return
    for row in ledgers:
        table = Table(title=printable(row.path), title_justify="left", show_header=False)
        table.add_column(style="bold")
        table.add_column(justify="right")
        for name, value in row._asdict().items():
            if isinstance(value, dict):
                for part, lines in value.items():
                    table.add_row(f"{name.partition('_by_')[0]}: {part}", _cell(lines))
            else:
                table.add_row(name, _cell(value))
        _console(out).print(table)


def write_dead_letters(
    rows: Iterable[DeadLetterRow], format_: Format, out: TextIO, lines: "Lines | None" = None
) -> None:
    """Write the pointers to dead letters, and with `lines` what they point to."""
    if lines:
        with_lines = ((*row, lines.at(row)) for row in rows)
        write_rows((*DeadLetterRow._fields, "line"), with_lines, format_, out)
    else:
        write_rows(DeadLetterRow._fields, rows, format_, out)


def write_dead_letter_groups(rows: Iterable[DeadLetterGroup], format_: Format, out: TextIO) -> None:
    """Write how many lines do not count, and why."""
    write_rows(DeadLetterGroup._fields, rows, format_, out)


def write_rows(
    fields: Sequence[str], shown: Iterable[tuple[Any, ...]], format_: Format, out: TextIO
) -> None:
    """Write rows with their fields' names."""
    if format_ is Format.JSON:
        _write_json((dict(zip(fields, row, strict=True)) for row in shown), out)
    elif format_ is Format.CSV:
        _write_csv(fields, shown, out)
    else:
        headings = [name.replace("_", " ") for name in fields]
        write_table(
            headings,
            shown,
            out,
            left={"path", "reason", "detail", "line", "state", "rules", "check"},
        )


def printable(text: str) -> str:
    """Return `text` with escapes for all that could steer a terminal or hide from a reader."""
    return "".join(
        character if unicodedata.category(character)[0] != "C" else ascii(character)[1:-1]
        for character in text
    )


_SHOWN_BYTES: Final = 4096


class Lines:
    """Reads lines back from the files of their logs; those of one log at a time are at hand."""

    def __init__(self, logs: Iterable[LogStatus]) -> None:
        self._files = {log.path: log.files for log in logs}
        self._history: History | None = None

    def at(self, row: DeadLetterRow) -> str:
        """Return the line that a row points to, cut off if it is long; nothing if it is gone."""
        path = Path(row.path)
        if self._history is None or self._history.path != path:
            if self._history:
                self._history.close()
            self._history = History(path, self._files[row.path])
        line = self._history.bytes_at(row.byte_offset, min(row.byte_length, _SHOWN_BYTES))
        return printable(line.decode(errors="backslashreplace"))


def _write_csv(fields: Sequence[str], rows: Iterable[Sequence[Any]], out: TextIO) -> None:
    out.writelines(_csv_parts(fields, rows))


def _csv_parts(fields: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Yield a header and then rows, many at a time."""
    remaining = chain([fields], rows)
    while part := list(islice(remaining, _PART_ROWS)):
        out = StringIO()
        csv.writer(out, lineterminator="\n").writerows(part)
        yield out.getvalue()


def _write_markdown(fields: Sequence[str], rows: Iterable[Sequence[Any]], out: TextIO) -> None:
    """Write a table of numbers and times: nothing in it needs an escape."""

    def write(cells: Iterable[str]) -> None:
        out.write(f"| {' | '.join(cells)} |\n")

    write(name.replace("_", " ") for name in fields)
    write(":--" if name in {"hour", "day"} else "--:" for name in fields)
    for row in rows:
        write("" if value is None else str(value) for value in row)


def _write_json(rows: Iterable[dict[str, Any]], out: TextIO) -> None:
    out.writelines(_json_parts(rows))


def _json_parts(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield an array, a row a line, many at a time."""
    remaining = iter(rows)
    separator = "[\n"
    while part := list(islice(remaining, _PART_ROWS)):
        yield separator + ",\n".join(orjson.dumps(row, default=float).decode() for row in part)
        separator = ",\n"
    yield "[]\n" if separator == "[\n" else "\n]\n"


_PART_ROWS: Final = 1_000
_PAGE_ROWS: Final = 10_000


def write_table(
    headings: Sequence[str], rows: Iterable[Sequence[Any]], out: TextIO, left: set[str]
) -> None:
    """Write a table; a long one in pages, so that it need not be held in memory."""
    remaining = iter(rows)
    page = list(islice(remaining, _PAGE_ROWS))
    while True:
        table = Table()
        for heading in headings:
            table.add_column(heading, justify="left" if heading in left else "right")
        for row in page:
            table.add_row(*map(_cell, row))
        _console(out).print(table)
        page = list(islice(remaining, _PAGE_ROWS))
        if not page:
            return


def _cell(value: object) -> str:
    return "-" if value is None else printable(str(value))


def _console(out: TextIO) -> Console:
    """Return a console as wide as its table where there is no terminal to fit it to."""
    return Console(
        file=out, markup=False, highlight=False, emoji=False, width=None if out.isatty() else 400
    )
