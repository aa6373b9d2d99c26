"""The options that several commands share, and the settings file that gives their defaults."""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from processor.errors import SettingsError

Logs = Annotated[
    list[Path],
    typer.Argument(
        metavar="LOG...", envvar="PROCESSOR_LOGS", help="JSON-lines logs.", show_default=False
    ),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        envvar="PROCESSOR_DATABASE_URL",
        help="PostgreSQL 14 or later. Without it, an embedded one runs under the checkpoints "
        "folder. A URL with a password belongs into the environment: others can see options.",
        show_default="embedded",
    ),
]
Checkpoints = Annotated[
    Path,
    typer.Option(
        envvar="PROCESSOR_CHECKPOINTS", help="Where snapshots and the embedded database live."
    ),
]
BatchLines = Annotated[
    int, typer.Option(envvar="PROCESSOR_BATCH_LINES", help="A batch has at most so many lines,")
]
BatchSeconds = Annotated[
    float,
    typer.Option(
        envvar="PROCESSOR_BATCH_SECONDS", help="and is committed so long after its first at most."
    ),
]
Workers = Annotated[
    int,
    typer.Option(
        envvar="PROCESSOR_WORKERS",
        help="Decode in so many processes while there is much to read. Changes nothing but speed.",
        show_default="the number of cores, up to 4",
    ),
]
AttributionWindow = Annotated[
    str,
    typer.Option(
        envvar="PROCESSOR_ATTRIBUTION_WINDOW",
        help="A click relates to a page load of its visit that fired so long before it at most.",
    ),
]
AllowedLateness = Annotated[
    str,
    typer.Option(
        envvar="PROCESSOR_ALLOWED_LATENESS",
        help="A line further behind the others of its log is a dead letter, reason late.",
    ),
]
Timezone = Annotated[
    str,
    typer.Option(envvar="PROCESSOR_TIMEZONE", help="Zone of times that carry no offset."),
]

MaxLineBytes = Annotated[
    int,
    typer.Option(
        envvar="PROCESSOR_MAX_LINE_BYTES",
        help="A line as long as that is a dead letter, reason too_long. 64 KiB at least.",
    ),
]

Listen = Annotated[
    str | None,
    typer.Option(
        envvar="PROCESSOR_LISTEN",
        metavar="HOST:PORT",
        help="Serve `/metrics`, `/healthz` and `/readyz` there, as 127.0.0.1:9464. Who can "
        "reach it can read it.",
        show_default="nowhere",
    ),
]
ReadyLag = Annotated[
    str,
    typer.Option(
        envvar="PROCESSOR_READY_LAG",
        help="`/readyz` says no once a line has waited for longer to get into the report.",
    ),
]

CHECKPOINTS: Final = Path("checkpoints")

_NOT_SHARED: Final = {("report", "timezone")}
"""The zone of times in a log is not the zone of who reads the report."""

CORES: Final = min(len(os.sched_getaffinity(0)), 4)
"""How many workers there are unless somebody says otherwise."""


def defaults(path: Path, context: typer.Context) -> dict[str, dict[str, Any]]:
    """Return the settings file as defaults for each command.

    A key of the file is an option of every command that has it, and means the same by it; in a
    table named as a command, of that one alone.

    Raises:
        SettingsError: the file cannot be read, or names an option that there is not.

    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{path}: is not TOML: {error}") from error
    commands = context.command.commands  # type: ignore[attr-defined]
    tables = {name: values.pop(name) for name in commands if isinstance(values.get(name), dict)}
    _check(path, values, set().union(*map(_known_to, commands.values())))
    for name, table in tables.items():
        _check(path, table, _known_to(commands[name]))
    return {
        name: _chosen(command, _shared_with(name, values), tables.get(name, {}))
        for name, command in commands.items()
    }


def _shared_with(command: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return what a command takes of the settings that are for all: not what it means otherwise."""
    return {key: value for key, value in values.items() if (command, key) not in _NOT_SHARED}


def _chosen(command: Any, values: dict[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    """Return what of the settings a command has an option for, and each command below it.

    What its `table` sets for the command itself is not meant for those below it.
    """
    # Settings are named as options are, with underscores; click names some parameters otherwise.
    options = {_setting_name(parameter): parameter.name for parameter in command.params}
    chosen = {options[key]: value for key, value in (values | table).items() if key in options}
    below = getattr(command, "commands", {})
    rest = {key: value for key, value in table.items() if key not in options}
    return chosen | {name: _chosen(below[name], values, rest) for name in below}


def _known_to(command: Any) -> set[str]:
    below = getattr(command, "commands", {}).values()
    return {*map(_setting_name, command.params)}.union(*map(_known_to, below))


def _check(path: Path, table: dict[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(table) - known):
        raise SettingsError(
            f"{path}: no option is called {unknown[0]}; there are {', '.join(sorted(known))}"
        )


def _setting_name(parameter: Any) -> str:
    return str(parameter.opts[0]).lstrip("-").replace("-", "_")
