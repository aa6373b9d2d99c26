"""The command line: options, environment and settings file in, an exit code out."""

import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from processor.edges.database import database, snapshots_at
from processor.edges.listener import Address
from processor.edges.overview import Choice
from processor.edges.reader import Reader
from processor.edges.store import Store
from processor.errors import SettingsError
from processor.shell import generate as generator
from processor.shell.logs import LogLevel, end_with, log_to_stderr
from processor.shell.operate import commands as operations
from processor.shell.operate.health import Health
from processor.shell.operate.listening import listening, routes_of
from processor.shell.operate.metrics import Metrics
from processor.shell.operate.pulse import Pulse
from processor.shell.operate.watching import watch_status
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
    defaults,
)
from processor.shell.replay import commands as replays
from processor.shell.report import commands as reports
from processor.shell.report import report as rendering
from processor.shell.report.hours import Zone
from processor.shell.report.pages import Pages
from processor.shell.report.report import Format, ReportFormat, TableOrJson
from processor.shell.run import daemon
from processor.shell.settings import Beginning, duration, run_settings
from processor.shell.stop import Stop
from processor.shell.terminal import (
    asked_to_stop,
    exit_on_sigterm,
    open_closed_streams,
    output_to,
    progress_bar,
)
from processor.shell.wiring import customers_of, instant_of, open_reader, open_store, with_stdin
from processor.spark.commands import app as spark_app

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: **0** done, **1** failed, **2** usage or settings, "
    "**3** another processor owns the log, **4** `verify` found rows that differ.",
)
app.add_typer(replays.app)
app.add_typer(operations.app)
app.add_typer(spark_app, name="spark")


def _say_version(wanted: bool) -> None:
    if wanted:
        print(f"processor {version('processor')}")
        raise typer.Exit


@app.callback()
def processor(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            envvar="PROCESSOR_CONFIG",
            help="A TOML file of options, such as `allowed_lateness = '1h'`. What the environment "
            "or the command line says goes first.",
        ),
    ] = None,
    log_level: Annotated[
        LogLevel,
        typer.Option(
            envvar="PROCESSOR_LOG_LEVEL",
            help="What to say on standard error: this and what is more urgent. As JSON lines where "
            "that is no terminal.",
        ),
    ] = LogLevel.INFO,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="Show the version, and exit."
        ),
    ] = False,
) -> None:
    """Turn the event logs of referral pages into an exact hourly report in Postgres.

    Reads JSON lines, counts page loads and clicks for each customer and hour, and keeps the report
    exact through crashes, duplicates and replays: each batch and the place it ends at in the log
    are committed together.

    Try it: `processor generate --events 10000 --output app.log`, `processor run --once app.log`,
    `processor report`.
    """
    log_to_stderr(log_level)
    if config is not None:
        context.default_map = defaults(config, context)


@app.command()
def run(
    logs: Logs,
    once: Annotated[
        bool,
        typer.Option(
            "--once", envvar="PROCESSOR_ONCE", help="Stop at the end of the logs. Else follow them."
        ),
    ] = False,
    from_: Annotated[
        Beginning,
        typer.Option(
            "--from",
            envvar="PROCESSOR_RUN_FROM",
            help="Where to begin in a log that is seen for the first time and there already.",
        ),
    ] = Beginning.BEGINNING,
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss",
            envvar="PROCESSOR_RUN_ACCEPT_LOSS",
            help="Go on though a file is gone of which open visits are needed.",
        ),
    ] = False,
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
    """Fold logs into the report: what is there (`--once`), or line by line for ever.

    Goes on where the last run ended, however it ended. SIGTERM and SIGINT stop it cleanly.
    A line is complete with its newline; what follows the last newline is left for later.
    """
    if Path("-") in logs and not once:
        raise SettingsError("-: standard input ends; read it with --once")
    settings = run_settings(
        logs=with_stdin(logs, checkpoints),
        once=once,
        from_=from_,
        accept_loss=accept_loss,
        batch_lines=batch_lines,
        batch_seconds=batch_seconds,
        workers=workers,
        attribution_window=attribution_window,
        allowed_lateness=allowed_lateness,
        timezone=timezone,
        max_line_bytes=max_line_bytes,
    )
    address = Address.parse(listen) if listen else None
    ready_after = duration("--ready-lag", ready_lag)
    metrics = Metrics()
    pulse = Pulse(lambda: metrics.has_begun)
    with (
        asked_to_stop(stop=Stop(on_look=pulse.beat, look_seconds=pulse.beat_seconds)) as stop,
        database(database_url, checkpoints) as connect,
        closing(Store(connect)) as store,
        closing(Pages(connect)) as pages,
    ):
        health = Health(metrics, pulse, Reader(connect).ping, ready_after)
        routes = {**pages.routes, **routes_of(metrics, health)}
        with listening(address, routes), progress_bar(has_end=once) as tell:
            snapshots = snapshots_at(database_url, checkpoints)
            daemon.run(store, settings, stop, tell, snapshots, metrics)


@app.command()
def report(
    format_: Annotated[
        ReportFormat,
        typer.Option(
            "--format",
            envvar="PROCESSOR_REPORT_FORMAT",
            help="How to write it. `html` is a page with charts that needs nothing beside it.",
        ),
    ] = ReportFormat.TABLE,
    customer: Annotated[
        list[int] | None,
        typer.Option(
            envvar="PROCESSOR_REPORT_CUSTOMER", help="Only this customer; may be repeated."
        ),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            envvar="PROCESSOR_REPORT_FROM",
            help="Only hours from this on, as 2022-01-01T00:00.",
        ),
    ] = None,
    to: Annotated[
        str | None, typer.Option(envvar="PROCESSOR_REPORT_TO", help="Only hours before this.")
    ] = None,
    timezone: Annotated[
        str,
        typer.Option(
            envvar="PROCESSOR_REPORT_TIMEZONE",
            help="Show hours of this zone, which must be whole hours from UTC; `--from` and `--to` "
            "are its times too.",
        ),
    ] = "UTC",
    daily: Annotated[
        bool,
        typer.Option(
            "--daily",
            envvar="PROCESSOR_REPORT_DAILY",
            help="Add up days of the zone. But not users: those of two hours may be the same.",
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            envvar="PROCESSOR_REPORT_OUTPUT",
            help="Write to this file.",
            show_default="standard output",
        ),
    ] = None,
    database_url: DatabaseUrl = None,
    checkpoints: Checkpoints = CHECKPOINTS,
) -> None:
    """Show the hourly report: by hour and customer.

    `related_clicks` are clicks within the attribution window after a page load of the same visit,
    `clicked_page_loads` the page loads with such a click; their share of all page loads is
    `click_through_rate`. Unique users of several hours must not be added up.
    """
    zone = Zone(timezone)
    choice = Choice(
        customers_of("--customer", customer or ()),
        instant_of("--from", from_, zone.tz),
        instant_of("--to", to, zone.tz),
    )
    wanted = reports.Wanted(choice, zone, format_, output, daily)
    wanted.check()
    with database(database_url, checkpoints) as connect:
        reports.write(connect, wanted)


@app.command()
def status(
    format_: Annotated[
        TableOrJson,
        typer.Option("--format", envvar="PROCESSOR_STATUS_FORMAT", help="How to write it."),
    ] = TableOrJson.TABLE,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            envvar="PROCESSOR_STATUS_WATCH",
            help="Show it live, with rates and the time left, until Ctrl-C.",
        ),
    ] = False,
    database_url: DatabaseUrl = None,
    checkpoints: Checkpoints = CHECKPOINTS,
) -> None:
    """Show how far each log is folded in, and what became of its lines.

    For every log, `lines = applied + duplicates + ignored + dead_letters`.
    """
    if watch:
        with asked_to_stop() as stop, open_reader(database_url, checkpoints) as reader:
            watch_status(reader.status, stop)
        return
    with open_reader(database_url, checkpoints) as reader, output_to() as out:
        rendering.write_status(reader.status(), format_, out)


@app.command("dead-letters")
def dead_letters(
    format_: Annotated[
        Format,
        typer.Option("--format", envvar="PROCESSOR_DEAD_LETTERS_FORMAT", help="How to write it."),
    ] = Format.TABLE,
    each: Annotated[
        bool,
        typer.Option(
            "--each", envvar="PROCESSOR_DEAD_LETTERS_EACH", help="List where each of them is."
        ),
    ] = False,
    show: Annotated[
        bool,
        typer.Option(
            "--show",
            envvar="PROCESSOR_DEAD_LETTERS_SHOW",
            help="List each, read back from its log. It may hold personal data.",
        ),
    ] = False,
    database_url: DatabaseUrl = None,
    checkpoints: Checkpoints = CHECKPOINTS,
) -> None:
    """Show how many lines do not count, and why; or where each of them is, or what it says.

    Reasons: `malformed` is no JSON object, `event_type` has none, `invalid` has a field outside the
    contract, `late` and `ahead` are too far from the other lines of the log in time, `too_long` is
    as long as `--max-line-bytes`.
    """
    with open_reader(database_url, checkpoints) as reader, output_to() as out:
        if each or show:
            lines = rendering.Lines(reader.status()) if show else None
            rendering.write_dead_letters(reader.dead_letters(), format_, out, lines)
        else:
            rendering.write_dead_letter_groups(reader.dead_letter_groups(), format_, out)


@app.command()
def migrate(database_url: DatabaseUrl = None, checkpoints: Checkpoints = CHECKPOINTS) -> None:
    """Bring the database to the schema of this version. `run` and `replay` do it too."""
    with open_store(database_url, checkpoints) as store:
        for migration in store.migrate():
            print(f"applied {migration.version:04}_{migration.name}")


@app.command()
def generate(
    events: Annotated[
        int, typer.Option(envvar="PROCESSOR_GENERATE_EVENTS", min=0, help="How many lines.")
    ],
    hours: Annotated[
        float, typer.Option(envvar="PROCESSOR_GENERATE_HOURS", min=0, help="The time they span.")
    ] = 24.0,
    customers: Annotated[int, typer.Option(envvar="PROCESSOR_GENERATE_CUSTOMERS", min=1)] = 8,
    users: Annotated[int, typer.Option(envvar="PROCESSOR_GENERATE_USERS", min=1)] = 100,
    seed: Annotated[
        int,
        typer.Option(envvar="PROCESSOR_GENERATE_SEED", help="The same seed makes the same log."),
    ] = 0,
    rate: Annotated[
        float | None,
        typer.Option(
            envvar="PROCESSOR_GENERATE_RATE",
            min=0.001,
            help="Write so many lines per second, live, with the times at which they are written.",
        ),
    ] = None,
    duplicates: Annotated[
        float,
        typer.Option(
            envvar="PROCESSOR_GENERATE_DUPLICATES",
            min=0,
            max=1,
            help="Share of lines that come again.",
        ),
    ] = 0.0,
    malformed: Annotated[
        float,
        typer.Option(
            envvar="PROCESSOR_GENERATE_MALFORMED", min=0, max=1, help="Share of broken lines."
        ),
    ] = 0.0,
    late: Annotated[
        float,
        typer.Option(
            envvar="PROCESSOR_GENERATE_LATE",
            min=0,
            max=1,
            help="Share of lines that are 11 minutes to 3 hours late.",
        ),
    ] = 0.0,
    output: Annotated[
        Path | None,
        typer.Option(
            envvar="PROCESSOR_GENERATE_OUTPUT",
            help="Append to this file.",
            show_default="standard output",
        ),
    ] = None,
) -> None:
    """Make a log of made-up visits, in the shape of a real one."""
    shape = generator.LogShape(
        events=events,
        hours=hours if rate is None else events / rate / 3600,
        customers=customers,
        users=users,
        seed=seed,
        duplicates=duplicates,
        malformed=malformed,
        late=late,
        start=generator.START if rate is None else datetime.now(UTC),
    )
    with output_to(output, append=True) as out:
        if rate is None:
            out.writelines(line + "\n" for line in generator.generate(shape))
            return
        started = time.monotonic()
        for number, line in enumerate(generator.generate(shape)):
            ahead = number / rate - (time.monotonic() - started)
            if ahead > 0:
                out.flush()
                time.sleep(ahead)
            out.write(line + "\n")


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    exit_on_sigterm()
    open_closed_streams()
    log_to_stderr()
    try:
        app(prog_name="processor")
    except Exception as error:  # noqa: BLE001 - the last word: one line, whatever went wrong
        sys.exit(end_with(error))
