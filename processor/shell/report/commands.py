"""Puts the report together as it is asked for: its hours or days, in a zone, in a format."""

import tempfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from processor.edges.overview import Choice, Overviews
from processor.edges.parquet import must_be_installed, write_parquet
from processor.edges.reader import Reader, ReportRow
from processor.edges.session import Connect
from processor.errors import SettingsError
from processor.shell.report.hours import DayRow, Zone, by_day, in_zone
from processor.shell.report.page import FILE_CUSTOMERS, FILE_ROWS, csv_link, render
from processor.shell.report.report import ReportFormat, write_report
from processor.shell.terminal import output_to

_PARQUET_TYPES: Final = {
    "hour": "TIMESTAMPTZ",
    "day": "DATE",
    "click_through_rate": "DECIMAL(7, 6)",
}


class Wanted(NamedTuple):
    """How the report is asked for."""

    choice: Choice
    zone: Zone
    format_: ReportFormat
    output: Path | None
    daily: bool

    def check(self) -> None:
        """See that it can be done, before anything is.

        Raises:
            SettingsError: it cannot.

        """
        if self.daily and self.format_ is ReportFormat.HTML:
            raise SettingsError("--daily: the page draws days by itself where there are many hours")
        if self.format_ is ReportFormat.PARQUET:
            if self.output is None:
                raise SettingsError("--format parquet: is no text; name a file by --output")
            must_be_installed()


def write(connect: Connect, wanted: Wanted) -> None:
    """Write the report.

    Raises:
        SettingsError: the zone cannot show an hour of it, or the output cannot be written.
        StoreError: there is none, or it cannot be read.

    """
    if wanted.format_ is ReportFormat.HTML:
        page = page_of(connect, wanted.choice, wanted.zone)
        with output_to(wanted.output) as out:
            out.write(page)
        return
    rows, fields = _rows_of(Reader(connect), wanted)
    if wanted.format_ is ReportFormat.PARQUET and wanted.output:
        _write_parquet(rows, fields, wanted.output)
        return
    with output_to(wanted.output) as out:
        write_report(rows, wanted.format_, out, fields)


def _rows_of(
    reader: Reader, wanted: Wanted
) -> tuple[Iterable[ReportRow | DayRow], tuple[str, ...]]:
    rows = reader.report(*wanted.choice)
    if wanted.daily:
        return by_day(rows, wanted.zone), DayRow._fields
    return in_zone(rows, wanted.zone), ReportRow._fields


def page_of(connect: Connect, choice: Choice, zone: Zone) -> str:
    """Return the report as a page that needs nothing beside it.

    Raises:
        SettingsError: the zone cannot show an hour of it.
        StoreError: there is none, or it cannot be read.

    """
    with closing(Overviews(connect)) as overviews:
        overview = overviews.read(choice, zone.periods, FILE_CUSTOMERS, FILE_ROWS)
    return render(overview, zone, choice, csv_link(overview, zone), live=False)


def _write_parquet(
    rows: Iterable[ReportRow | DayRow], fields: tuple[str, ...], output: Path
) -> None:
    """Write a file, which appears or changes only once it is whole, or what it holds to a pipe."""
    types = {field: _PARQUET_TYPES.get(field, "BIGINT") for field in fields}
    is_file = output.is_file() or not output.exists()
    beside = output.resolve().parent if is_file else None
    try:
        with tempfile.TemporaryDirectory(dir=beside, prefix=".processor-") as folder:
            csv, parquet = Path(folder) / "report.csv", Path(folder) / "report.parquet"
            with output_to(csv) as out:
                write_report(rows, ReportFormat.CSV, out, fields)
            write_parquet(csv, types, parquet)
            if is_file:
                parquet.rename(output.resolve())
            else:
                output.write_bytes(parquet.read_bytes())
    except OSError as error:
        raise SettingsError(f"{output}: cannot be written: {error.strerror}") from error
