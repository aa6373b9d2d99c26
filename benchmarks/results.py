"""What was measured, and how it is shown: tables of rows, and the figures that were asked for."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH = 100


@dataclass(frozen=True)
class Finding:
    """A figure, what is aimed at, what was measured, and on what."""

    figure: str
    aim: str
    measured: str
    on: str


@dataclass(frozen=True)
class Table:
    """Rows under headings. `columns` gives each heading its format, "" for text.

    A row is {heading: value}; a heading that it lacks is left empty.
    """

    title: str
    how: str
    columns: dict[str, str]
    rows: list[dict[str, object]]
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def markdown(table: Table) -> str:
    """Return a table under its title, with how it was measured and its notes."""
    cells = [[_cell(row, name, how) for name, how in table.columns.items()] for row in table.rows]
    aligned = ["--:" if how else "---" for how in table.columns.values()]
    parts = [f"## {table.title}", filled(table.how), grid(list(table.columns), aligned, cells)]
    if table.notes:
        parts.append("\n".join(f"- {note}" for note in table.notes))
    return "\n\n".join(parts)


def filled(text: str) -> str:
    """Return paragraphs, wrapped."""
    return "\n\n".join(textwrap.fill(part, WIDTH) for part in text.split("\n\n"))


def findings(tables: Sequence[Table]) -> str:
    """Return the figures that are aimed at, of all tables."""
    rows = [
        [one.figure, one.aim, one.measured, one.on] for table in tables for one in table.findings
    ]
    head = ["figure", "aim", "measured", "on"]
    return "## Targets\n\n" + grid(head, ["---", "---", "--:", "---"], rows)


def grid(head: Sequence[str], aligned: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, its columns as wide as what they hold."""
    widths = [max(map(len, column)) for column in zip(head, aligned, *rows, strict=True)]
    rule = [f"{'-' * (w - 1)}{how[-1]}" for w, how in zip(widths, aligned, strict=True)]
    lines = [head, rule, *rows]
    return "\n".join("| " + " | ".join(_padded(line, widths, aligned)) + " |" for line in lines)


def _padded(line: Sequence[str], widths: Sequence[int], aligned: Sequence[str]) -> list[str]:
    return [
        cell.rjust(width) if how.endswith(":") else cell.ljust(width)
        for cell, width, how in zip(line, widths, aligned, strict=True)
    ]


def _cell(row: dict[str, object], name: str, how: str) -> str:
    value = row.get(name, "")
    return format(value, how) if how and value != "" else str(value)
