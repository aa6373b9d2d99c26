"""The commands below `processor spark`. Spark itself is imported by the one that runs."""

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

from processor.edges.database import snapshots_at
from processor.errors import SettingsError
from processor.shell.options import (
    CHECKPOINTS,
    AllowedLateness,
    AttributionWindow,
    Checkpoints,
    DatabaseUrl,
    MaxLineBytes,
    Timezone,
)
from processor.shell.replay.changes import ChangesFormat
from processor.shell.replay.commands import keep_snapshots, opened, write_switched
from processor.shell.settings import RunSettings, run_settings
from processor.shell.terminal import asked_to_stop, output_to, progress_bar
from processor.spark.urls import path_of

app = typer.Typer(
    no_args_is_help=True,
    help="The same report by Apache Spark, for logs that one machine cannot get through.",
)

Urls = Annotated[
    list[str],
    typer.Argument(
        metavar="URL...",
        envvar="PROCESSOR_SPARK_URLS",
        help="Logs, or patterns of logs, on anything that Spark reads: a path, s3a://…, hdfs://…",
        show_default=False,
    ),
]
Master = Annotated[
    str | None,
    typer.Option(
        envvar="PROCESSOR_SPARK_MASTER",
        help="Where Spark runs, as spark://host:7077 or local[4].",
        show_default="what spark-submit was told, or all cores of this machine",
    ),
]


@app.command()
def replay(
    urls: Urls,
    master: Master = None,
    keep: Annotated[
        int,
        typer.Option(
            envvar="PROCESSOR_SPARK_REPLAY_KEEP",
            min=0,
            help="Keep so many generations, once replaced.",
        ),
    ] = 1,
    format_: Annotated[
        ChangesFormat,
        typer.Option(
            "--format", envvar="PROCESSOR_SPARK_REPLAY_FORMAT", help="How to write changes."
        ),
    ] = ChangesFormat.TABLE,
    output: Annotated[
        Path | None,
        typer.Option(
            envvar="PROCESSOR_SPARK_REPLAY_OUTPUT",
            help="Write changes to this file.",
            show_default="standard output",
        ),
    ] = None,
    only_these: Annotated[
        bool,
        typer.Option(
            "--only-these",
            envvar="PROCESSOR_SPARK_REPLAY_ONLY_THESE",
            help="Forget what other logs, not named here, have put into the report.",
        ),
    ] = False,
    database_url: DatabaseUrl = None,
    checkpoints: Checkpoints = CHECKPOINTS,
    attribution_window: AttributionWindow = "30m",
    allowed_lateness: AllowedLateness = "10m",
    timezone: Timezone = "UTC",
    max_line_bytes: MaxLineBytes = 1 << 20,
) -> None:
    """Make the report anew from the beginning of logs, by Spark, and show what changes.

    A new generation is made beside the live one, and takes its place in one step. Logs on this
    machine are read on meanwhile as before; a processor that runs goes on with the new one.
    """
    settings = _settings(
        urls,
        attribution_window=attribution_window,
        allowed_lateness=allowed_lateness,
        timezone=timezone,
        max_line_bytes=max_line_bytes,
    )
    engine: Any = _spark("processor.spark.engine")
    with (
        asked_to_stop() as stop,
        output_to(output) as out,
        opened(database_url, checkpoints) as (store, generations),
        progress_bar(has_end=True) as tell,
    ):
        snapshots = snapshots_at(database_url, checkpoints)
        with engine.replayed(
            master, urls, store, generations, settings, stop, tell, snapshots, only_these=only_these
        ) as changes:
            write_switched(changes, format_, out)
        generations.keep(keep)
        keep_snapshots(generations, snapshots)


@app.command()
def run(
    urls: Urls,
    once: Annotated[
        bool,
        typer.Option(
            "--once",
            envvar="PROCESSOR_SPARK_ONCE",
            help="Stop when all files that are there are counted. Else wait for more files.",
        ),
    ] = False,
    master: Master = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            envvar="PROCESSOR_SPARK_CHECKPOINT",
            help="Where Spark keeps its state: a folder or URL that driver and executors reach.",
            show_default="spark, in the folder of --checkpoints",
        ),
    ] = None,
    files_per_trigger: Annotated[
        int | None,
        typer.Option(
            envvar="PROCESSOR_SPARK_FILES_PER_TRIGGER",
            min=1,
            help="A micro-batch has at most so many files.",
            show_default="all that are there",
        ),
    ] = None,
    database_url: DatabaseUrl = None,
    checkpoints: Checkpoints = CHECKPOINTS,
    attribution_window: AttributionWindow = "30m",
    allowed_lateness: AllowedLateness = "10m",
    timezone: Timezone = "UTC",
    max_line_bytes: MaxLineBytes = 1 << 20,
) -> None:
    """Count files into the report as they appear, in micro-batches, by Spark.

    A file is read once, and must be complete when it appears. Goes on where the last run with the
    same --checkpoint ended, however it ended.
    """
    settings = _settings(
        urls,
        once=once,
        attribution_window=attribution_window,
        allowed_lateness=allowed_lateness,
        timezone=timezone,
        max_line_bytes=max_line_bytes,
    )
    engine: Any = _spark("processor.spark.engine")
    if checkpoint is None:
        state = checkpoints / "spark"
        state.mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds ids
        checkpoint = str(state.resolve())
    with asked_to_stop() as stop, opened(database_url, checkpoints) as (store, _):
        engine.run(master, urls, store, settings, stop, checkpoint, files_per_trigger)


def _settings(urls: list[str], **values: Any) -> RunSettings:
    return run_settings(logs=[Path(path_of(url)) for url in urls], **values)


def _spark(module: str) -> Any:
    """Import what stands on Spark.

    Raises:
        SettingsError: Spark is not installed.

    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SettingsError(
            f"Spark is not installed ({error.name} is missing): install the extra `spark`, "
            "pip install '.[spark]', and Java 17"
        ) from error
