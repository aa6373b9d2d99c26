"""The commands for generations of the report: replay, verify, generations, prune."""

import contextlib
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, TextIO

import typer

from processor.edges.database import database, snapshots_at
from processor.edges.generations import Generations
from processor.edges.snapshot import SnapshotFiles
from processor.edges.store import Store
from processor.edges.view import ALL_HOURS, Changes, Hours
from processor.errors import (
    ExitCode,
    GoneError,
    LogError,
    ProcessorError,
    SettingsError,
    StoreError,
)
from processor.shell.options import (
    CHECKPOINTS,
    CORES,
    AllowedLateness,
    AttributionWindow,
    BatchLines,
    BatchSeconds,
    Checkpoints,
    DatabaseUrl,
    Logs,
    MaxLineBytes,
    Timezone,
    Workers,
)
from processor.shell.replay.changes import ChangesFormat, write_changes, write_generations
from processor.shell.replay.recount import Engine, must_agree, recounted
from processor.shell.replay.replay import Replay, replayed
from processor.shell.report.report import Format
from processor.shell.settings import duration, run_settings
from processor.shell.terminal import asked_to_stop, output_to, progress_bar
from processor.shell.wiring import instant_of, with_stdin

app = typer.Typer()
generations_app = typer.Typer()
app.add_typer(generations_app, name="generations")

_SECONDS_IN_AN_HOUR: Final = 3600

_log = logging.getLogger(__name__)


@app.command()
def replay(
    logs: Logs,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            envvar="PROCESSOR_REPLAY_DRY_RUN",
            help="Show what would change, and change nothing.",
        ),
    ] = False,
    keep: Annotated[
        int,
        typer.Option(
            envvar="PROCESSOR_REPLAY_KEEP", min=0, help="Keep so many generations, once replaced."
        ),
    ] = 1,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            envvar="PROCESSOR_REPLAY_FROM",
            help="Make only the hours from this on anew, as 2022-01-01T00:00.",
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(envvar="PROCESSOR_REPLAY_TO", help="Make only the hours before this anew."),
    ] = None,
    format_: Annotated[
        ChangesFormat,
        typer.Option("--format", envvar="PROCESSOR_REPLAY_FORMAT", help="How to write changes."),
    ] = ChangesFormat.TABLE,
    output: Annotated[
        Path | None,
        typer.Option(
            envvar="PROCESSOR_REPLAY_OUTPUT",
            help="Write changes to this file.",
            show_default="standard output",
        ),
    ] = None,
    only_these: Annotated[
        bool,
        typer.Option(
            "--only-these",
            envvar="PROCESSOR_REPLAY_ONLY_THESE",
            help="Forget what other logs, not named here, have put into the report.",
        ),
    ] = False,
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss",
            envvar="PROCESSOR_REPLAY_ACCEPT_LOSS",
            help="Go on without what is in no file any more.",
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
) -> None:
    """Make the report anew from offset zero, by the settings given here, and show what changes.

    A new generation is made beside the live one, which is read and written as before. When it has
    come as far as the live one has, it takes its place in one step; a processor that runs goes on
    with it. Interrupted, it goes on when started again; with other settings, it begins anew.
    """
    settings = run_settings(
        logs=with_stdin(logs, checkpoints),
        accept_loss=accept_loss,
        batch_lines=batch_lines,
        batch_seconds=batch_seconds,
        workers=workers,
        attribution_window=attribution_window,
        allowed_lateness=allowed_lateness,
        timezone=timezone,
        max_line_bytes=max_line_bytes,
    )
    hours = _hours(from_, to)
    if only_these and hours != ALL_HOURS:
        raise SettingsError("--only-these: goes with a replay of all hours, not of some")
    with (
        asked_to_stop() as stop,
        output_to(output) as out,
        opened(database_url, checkpoints) as (store, generations),
        progress_bar(has_end=True) as tell,
    ):
        if dry_run:
            with recounted(
                generations, settings, hours, stop, tell, settings.rules, only_these=only_these
            ) as counted:
                write_outcome(
                    counted.changes_to_recounted(hours) if counted else None, format_, out
                )
            return
        snapshots = snapshots_at(database_url, checkpoints)
        with replayed(
            store, generations, settings, hours, stop, tell, snapshots, only_these=only_these
        ) as changes:
            write_switched(changes, format_, out)
        generations.keep(keep)
        keep_snapshots(generations, snapshots)


@app.command()
def verify(
    logs: Logs,
    engine: Annotated[
        Engine,
        typer.Option(
            envvar="PROCESSOR_VERIFY_ENGINE",
            help="Count by the fold, or by the definitions in SQL, in DuckDB.",
        ),
    ] = Engine.FOLD,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            envvar="PROCESSOR_VERIFY_FROM",
            help="Only the hours from this on, as 2022-01-01T00:00.",
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(envvar="PROCESSOR_VERIFY_TO", help="Only the hours before this."),
    ] = None,
    format_: Annotated[
        ChangesFormat,
        typer.Option(
            "--format", envvar="PROCESSOR_VERIFY_FORMAT", help="How to write rows that differ."
        ),
    ] = ChangesFormat.TABLE,
    output: Annotated[
        Path | None,
        typer.Option(
            envvar="PROCESSOR_VERIFY_OUTPUT",
            help="Write rows that differ to this file.",
            show_default="standard output",
        ),
    ] = None,
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss",
            envvar="PROCESSOR_VERIFY_ACCEPT_LOSS",
            help="Go on without what is in no file any more; rows that it counted will differ.",
        ),
    ] = False,
    database_url: DatabaseUrl = None,
    checkpoints: Checkpoints = CHECKPOINTS,
    batch_lines: BatchLines = 100_000,
    workers: Workers = CORES,
) -> None:
    """Count the logs again, by the rules of the live report, and compare it row by row.

    Up to where the report has read them; it is written and read meanwhile as before. Ends with 0 if
    all rows are equal, and with 4 if any is not.
    """
    settings = run_settings(
        logs=with_stdin(logs, checkpoints),
        accept_loss=accept_loss,
        batch_lines=batch_lines,
        workers=workers,
    )
    hours = _hours(from_, to)
    with (
        asked_to_stop(ExitCode.FAILED) as stop,
        output_to(output) as out,
        opened(database_url, checkpoints) as (_, generations),
        progress_bar(has_end=True) as tell,
        recounted(
            generations, settings, hours, stop, tell, engine=engine, scratch=checkpoints
        ) as counted,
    ):
        if counted is None:
            raise ProcessorError("stopped before all was counted; whether it is equal is not known")
        changes = counted.changes_to_recounted(hours)
        differ = changes.totals.changed_rows  # known also if who reads it has seen enough
        write_changes(changes, format_, out)
    if differ:
        raise typer.Exit(ExitCode.DIFFERS)


@generations_app.callback(invoke_without_command=True)
def generations(
    context: typer.Context,
    format_: Annotated[
        Format,
        typer.Option("--format", envvar="PROCESSOR_GENERATIONS_FORMAT", help="How to write them."),
    ] = Format.TABLE,
    database_url: DatabaseUrl = None,
    checkpoints: Checkpoints = CHECKPOINTS,
) -> None:
    """List the generations of the report: the live one, those it replaced, one being made.

    Or drop one, or switch back to one that is kept.
    """
    if context.invoked_subcommand is not None:  # what was said before its name is meant for it too
        below = (context.default_map or {}).get(context.invoked_subcommand, {})
        given = {"database_url": database_url, "checkpoints": checkpoints}
        context.default_map = {context.invoked_subcommand: {**below, **given}}
    else:
        with (
            opened(database_url, checkpoints) as (_, all_),
            all_.view() as view,
            output_to() as out,
        ):
            write_generations(view.generations, format_, out)


@generations_app.command()
def drop(
    generation: Annotated[int, typer.Argument(help="Its number.")],
    database_url: DatabaseUrl = None,
    checkpoints: Checkpoints = CHECKPOINTS,
) -> None:
    """Drop a generation that is not live, and all that belongs to it."""
    with opened(database_url, checkpoints) as (_, all_):
        all_.drop(generation)
        keep_snapshots(all_, snapshots_at(database_url, checkpoints))


@generations_app.command()
def switch(
    generation: Annotated[int, typer.Argument(help="Its number.")],
    format_: Annotated[
        ChangesFormat,
        typer.Option("--format", envvar="PROCESSOR_SWITCH_FORMAT", help="How to write changes."),
    ] = ChangesFormat.TABLE,
    database_url: DatabaseUrl = None,
    checkpoints: Checkpoints = CHECKPOINTS,
    workers: Workers = CORES,
) -> None:
    """Make a generation live again that was replaced, once it has all that the live one has."""
    with (
        asked_to_stop() as stop,
        opened(database_url, checkpoints) as (store, all_),
        progress_bar(has_end=True) as tell,
    ):
        with all_.view() as view:
            found = next((g for g in view.generations if g.generation == generation), None)
            live = view.live
        if found is None or found.state != "kept" or live is None:
            raise SettingsError(
                f"generation {generation} is not one that is kept; see `processor generations`"
            )
        must_agree(found, found.rules)
        settings = run_settings(logs=[Path(path) for path in live.paths], workers=workers)
        store.bind(generation, found.rules)
        snapshots = snapshots_at(database_url, checkpoints)
        try:
            with (
                output_to() as out,
                Replay(store, all_, settings, stop, tell, snapshots).run() as changes,
            ):
                write_outcome(changes, format_, out)
        except GoneError as error:
            raise LogError(
                f"generation {generation} cannot be made live: what it has not read yet is in no "
                "file any more. Make the report anew with `processor replay`"
            ) from error


@app.command()
def prune(
    older_than: Annotated[
        str,
        typer.Option(
            envvar="PROCESSOR_PRUNE_OLDER_THAN", help="An age, as 90d or 12h.", show_default=False
        ),
    ],
    report_hours: Annotated[
        bool,
        typer.Option(
            "--report-hours",
            envvar="PROCESSOR_PRUNE_REPORT_HOURS",
            help="Prune old hours of the report too; they are not counted again.",
        ),
    ] = False,
    database_url: DatabaseUrl = None,
    checkpoints: Checkpoints = CHECKPOINTS,
) -> None:
    """Forget pointers to old dead letters, and generations that were replaced long ago.

    How many dead letters there were stays in the ledger. What lines still to come need stays too.
    """
    try:
        before = datetime.now(UTC) - duration("--older-than", older_than)
    except OverflowError:
        raise SettingsError(f"--older-than: {older_than!r} ago is before the year 1") from None
    with opened(database_url, checkpoints) as (_, all_):
        pruned = all_.prune(before, hours=report_hours)
        keep_snapshots(all_, snapshots_at(database_url, checkpoints))
    print(
        f"pruned {pruned.dead_letters} dead letters, {pruned.generations} generations, "
        f"{pruned.rows} rows of the report"
    )


@contextlib.contextmanager
def opened(url: str | None, checkpoints: Path) -> Iterator[tuple[Store, Generations]]:
    """Open a database for one who writes a generation, with its schema up to date."""
    with (
        database(url, checkpoints) as connect,
        contextlib.closing(Store(connect)) as store,
        contextlib.closing(Generations(connect)) as generations,
    ):
        store.migrate()
        yield store, generations


def write_outcome(changes: Changes | None, format_: ChangesFormat, out: TextIO) -> None:
    """Write what differs; end here if that did not become known."""
    if changes is None:
        _log.info("stopped before it was done; what is live is as it was")
        raise typer.Exit(ExitCode.DONE)
    write_changes(changes, format_, out)


def write_switched(changes: Changes | None, format_: ChangesFormat, out: TextIO) -> None:
    """Write what changed with a report that is live now.

    Raises:
        StoreError: that cannot be; live it is.

    """
    try:
        write_outcome(changes, format_, out)
        out.flush()
    except BrokenPipeError:
        raise  # who reads it has seen enough
    except (StoreError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise StoreError(
            f"the new report is live, but what changed cannot be written: {why}. What it "
            "replaced is kept; see `processor generations`"
        ) from error


def keep_snapshots(generations: Generations, snapshots: SnapshotFiles) -> None:
    """Remove snapshots that are of no use any more; if that cannot be, the next run will."""
    with contextlib.suppress(StoreError, OSError), generations.view() as view:
        snapshots.keep_only([found.generation for found in view.generations])


def _hours(from_: str | None, to: str | None) -> Hours:
    hours = Hours(instant_of("--from", from_), instant_of("--to", to))
    for option, at in (("--from", hours.first), ("--to", hours.end)):
        if at is not None and at.timestamp() % _SECONDS_IN_AN_HOUR:
            raise SettingsError(f"{option}: {at:%Y-%m-%d %H:%M:%S %Z} is not the start of an hour")
    if hours.first and hours.end and hours.first >= hours.end:
        raise SettingsError("--from: must be before --to")
    return hours
