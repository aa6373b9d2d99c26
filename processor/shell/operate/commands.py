"""The commands for those who keep the processor running: doctor, healthcheck."""

from typing import Annotated

import typer

from processor.edges.listener import Address, ask
from processor.errors import ExitCode, SettingsError
from processor.shell.operate import doctor as doctor_checks
from processor.shell.operate.doctor import FAILED
from processor.shell.options import (
    CHECKPOINTS,
    CORES,
    AllowedLateness,
    AttributionWindow,
    BatchLines,
    BatchSeconds,
    Checkpoints,
    DatabaseUrl,
    Listen,
    Logs,
    MaxLineBytes,
    ReadyLag,
    Timezone,
    Workers,
)
from processor.shell.report.report import Format, write_rows
from processor.shell.terminal import output_to

app = typer.Typer()


@app.command()
def doctor(
    logs: Logs,
    format_: Annotated[
        Format,
        typer.Option("--format", envvar="PROCESSOR_DOCTOR_FORMAT", help="How to write it."),
    ] = Format.TABLE,
    database_url: DatabaseUrl = None,
    checkpoints: Checkpoints = CHECKPOINTS,
    batch_lines: BatchLines = 100_000,
    batch_seconds: BatchSeconds = 0.5,
    workers: Workers = CORES,
    attribution_window: AttributionWindow = "30m",
    allowed_lateness: AllowedLateness = "10m",
    timezone: Timezone = "UTC",
    max_line_bytes: MaxLineBytes = 1 << 20,
    listen: Listen = None,
    ready_lag: ReadyLag = "1m",
) -> None:
    """Look whether `run` would work with these options, and say what to do about what would not.

    Checks settings, logs, the checkpoints folder and its room, the database, its clock, schema and
    rights, and the rules of the report. Ends with 1 if a check fails.
    """
    options = {
        "logs": logs,
        "batch_lines": batch_lines,
        "batch_seconds": batch_seconds,
        "workers": workers,
        "attribution_window": attribution_window,
        "allowed_lateness": allowed_lateness,
        "timezone": timezone,
        "max_line_bytes": max_line_bytes,
    }
    found = list(doctor_checks.findings(options, database_url, checkpoints, listen, ready_lag))
    with output_to() as out:
        write_rows(doctor_checks.Finding._fields, found, format_, out)
    if any(finding.state == FAILED for finding in found):
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def healthcheck(listen: Listen = None) -> None:
    """Ask the `run` that listens there whether its loop turns; ends with 1 if it does not say so.

    For containers and supervisors that have nothing else to ask with.
    """
    if not listen:
        raise SettingsError("--listen: is missing; name the address that `run` listens on")
    status, words = ask(Address.parse(listen), "/healthz")
    print(words)
    if status != 200:  # noqa: PLR2004 - it is HTTP's
        raise typer.Exit(ExitCode.FAILED)
