"""Renders how one generation of the report differs from another."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from html import escape
from typing import Final, TextIO

import orjson

from processor.edges.store import rules_in_words
from processor.edges.view import ChangedRow, Changes, Counts, Generation, Totals
from processor.shell.report.report import Format, write_rows, write_table

_HEADINGS: Final = tuple(name.replace("_", " ") for name in Counts._fields)
_NOTHING: Final = Counts(0, 0, 0, 0, 0)


class ChangesFormat(StrEnum):
    """How to render changes."""

    TABLE = "table"
    JSON = "json"
    HTML = "html"


def write_changes(changes: Changes, format_: ChangesFormat, out: TextIO) -> None:
    """Write what differs, with totals."""
    totals = changes.totals
    if format_ is ChangesFormat.JSON:
        _write_json(changes, totals, out)
    elif format_ is ChangesFormat.HTML:
        _write_html(changes, totals, out)
    else:
        out.write(f"{in_words(totals)}\n")
        if totals.changed_rows:
            headings = ("customer id", "hour", *_HEADINGS)
            write_table(headings, _cells(changes, totals), out, left={"hour"})


def in_words(totals: Totals) -> str:
    """Say how much differs."""
    rows = f"{totals.rows_before} rows before, {totals.rows_after} after"
    return f"{totals.changed_rows or 'no'} rows differ ({rows})"


def _cells(changes: Changes, totals: Totals) -> Iterator[tuple[str, ...]]:
    for row in changes:
        yield str(row.customer_id), str(_at(row.hour)), *_from_to(row.before, row.after)
    yield "", "all hours", *_from_to(totals.before, totals.after)


def _from_to(before: Counts | None, after: Counts | None) -> list[str]:
    """Return each count, and what it becomes where that is something else."""
    pairs = zip(before or _NOTHING, after or _NOTHING, strict=True)
    return [f"{old} → {new}" if old != new else str(new) for old, new in pairs]


def _write_json(changes: Changes, totals: Totals, out: TextIO) -> None:
    """Write an object, a row a line, without holding it in memory."""
    head = {
        "changed_rows": totals.changed_rows,
        "before": {"rows": totals.rows_before, **totals.before._asdict()},
        "after": {"rows": totals.rows_after, **totals.after._asdict()},
    }
    out.write(orjson.dumps(head).decode()[:-1] + ',"changes":[')
    separator = "\n"
    for row in changes:
        out.write(separator + orjson.dumps(_as_dict(row)).decode())
        separator = ",\n"
    out.write("\n]}\n")


def _as_dict(row: ChangedRow) -> dict[str, object]:
    return {
        "customer_id": row.customer_id,
        "hour": _at(row.hour),
        "before": row.before and row.before._asdict(),
        "after": row.after and row.after._asdict(),
    }


def write_generations(found: Iterable[Generation], format_: Format, out: TextIO) -> None:
    """List generations; times are of the database's clock, in UTC."""
    fields = ("generation", "state", "lines", "logs", "begun_at", "live_from", "live_until")
    rows = (
        (
            one.generation,
            one.state,
            one.lines,
            len(one.paths),
            *map(_at, (one.begun_at, one.live_from, one.live_until, *one.hours)),
            f"contract version {one.contract_version}, {rules_in_words(one.rules)}",
        )
        for one in found
    )
    write_rows((*fields, "first_hour", "end_hour", "rules"), rows, format_, out)


def _at(moment: datetime | None) -> str | None:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if moment else None


_PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Changes of the hourly report</title>
<style>
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #1d2733 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #dde3ea }
th { position: sticky; top: 0; background: #fff }
td.changed { background: #fff3d6 }
tr:last-child { font-weight: 600 }
</style>
<h1>Changes of the hourly report</h1>
<p>"""


def _write_html(changes: Changes, totals: Totals, out: TextIO) -> None:
    """Write a page that needs nothing beside it."""
    out.write(f"{_PAGE}{escape(in_words(totals))}. Hours are in UTC.</p>\n<table>\n<tr>")
    out.writelines(f"<th>{escape(name)}</th>" for name in ("customer id", "hour", *_HEADINGS))
    for cells in _cells(changes, totals):
        out.write("</tr>\n<tr>")
        for cell in cells:
            mark = ' class="changed"' if "→" in cell else ""
            out.write(f"<td{mark}>{escape(cell)}</td>")
    out.write("</tr>\n</table>\n</html>\n")
