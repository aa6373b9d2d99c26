"""Looks whether a run would work here, and says what to do about what would not.

Each check stands on its own, but for those that need an answer of the database. Changes nothing,
save for a file in the checkpoints folder that is gone again at once.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from processor.core.model import Rules
from processor.edges.database import database
from processor.edges.embedded import binaries
from processor.edges.files import files_of, logs_of, open_file
from processor.edges.inspection import Inspection
from processor.edges.listener import Address
from processor.edges.store import differing_rules
from processor.errors import ProcessorError
from processor.shell.settings import RunSettings, duration, run_settings

NEEDED_BYTES: Final = 512 << 20
"""Room for a snapshot of some million open visits, and for the embedded database to go on."""
OLDEST_VERSION: Final = 140000
CLOCK_SECONDS: Final = 5.0

OK: Final = "ok"
FAILED: Final = "FAILED"


class Finding(NamedTuple):
    """What a check found, and what to do about it."""

    state: str
    check: str
    detail: str


def findings(
    options: dict[str, Any],
    url: str | None,
    checkpoints: Path,
    listen: str | None,
    ready_lag: str,
) -> Iterator[Finding]:
    """Yield what is found, for a run with these options."""
    settings: list[RunSettings] = []
    yield from _checked("settings", lambda: _settings(options, listen, ready_lag, settings))
    if settings:
        yield from _logs(settings[0])
    yield from _checked("checkpoints", lambda: _folder(checkpoints))
    yield from _checked("room on disk", lambda: _room(checkpoints))
    yield from _database(url, checkpoints, settings[0].rules if settings else None)


def _checked(check: str, act: Callable[[], str]) -> Iterator[Finding]:
    try:
        yield Finding(OK, check, act())
    except (ProcessorError, OSError) as error:
        yield Finding(FAILED, check, str(error))


class _WrongError(ProcessorError):
    """What a check found wrong."""


def _settings(
    options: dict[str, Any], listen: str | None, ready_lag: str, settings: list[RunSettings]
) -> str:
    settings.append(run_settings(**options))
    duration("--ready-lag", ready_lag)
    if listen:
        Address.parse(listen)
    return "valid"


def _logs(settings: RunSettings) -> Iterator[Finding]:
    logs = logs_of(settings.logs)
    if not logs:
        yield Finding(OK, "logs", "none matches yet; a run waits for one")
    for log in logs:
        yield from _checked("log", lambda log=log: _log(log))  # type: ignore[misc]


def _log(path: Path) -> str:
    files = files_of(path)
    for file in files:
        open_file(file).close()
    if not files:
        return f"{path}: not there yet; a run waits for it"
    size_bytes = sum(file.size_bytes for file in files)
    return f"{path}: readable, {size_bytes} bytes in {len(files)} files"


def _folder(folder: Path) -> str:
    there = _nearest(folder)
    if folder.exists():
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
            file.flush()
            os.fsync(file.fileno())
        return f"{folder}: writable"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise _WrongError(
            f"{folder}: cannot be made in {there}. Make it, or choose another with --checkpoints"
        )
    return f"{folder}: not there yet; a run makes it"


def _room(folder: Path) -> str:
    free_bytes = shutil.disk_usage(_nearest(folder)).free
    if free_bytes < NEEDED_BYTES:
        raise _WrongError(
            f"{folder}: {free_bytes >> 20} MiB are free, {NEEDED_BYTES >> 20} may be needed. Make "
            "room, or choose another place with --checkpoints"
        )
    return f"{folder}: {free_bytes >> 20} MiB are free"


def _nearest(folder: Path) -> Path:
    """Return the folder, or the first above it that is there."""
    return next(there for there in (folder, *folder.absolute().parents) if there.exists())


def _database(url: str | None, checkpoints: Path, rules: Rules | None) -> Iterator[Finding]:
    if not url and not (checkpoints / "postgres").exists():
        yield from _checked("database", lambda: f"embedded, not there yet; {binaries()} makes it")
        return
    try:
        with database(url, checkpoints) as connect, closing(Inspection(connect)) as inspection:
            yield from _of_server(inspection, rules)
    except ProcessorError as error:
        yield Finding(FAILED, "database", str(error))


def _of_server(inspection: Inspection, rules: Rules | None) -> Iterator[Finding]:
    asked_at = now()
    server = inspection.server()
    answered_at = now()
    yield Finding(OK, "database", f"PostgreSQL {server.version} answers")
    yield from _checked("version", lambda: _version(server.version, server.version_number))
    yield from _checked("clock", lambda: _clock(asked_at, server.clock, answered_at))
    if server.is_read_only:
        words = "takes no writes: it is a standby, or set to read only. Use the primary"
        yield Finding(FAILED, "writes", words)
    if not server.has_schema:
        yield from _checked("schema", lambda: _no_schema(may_create=server.may_create))
        return
    yield from _checked("schema", lambda: _schema(*inspection.schema_versions()))
    if not server.is_read_only:
        yield from _checked("rights", lambda: _rights(inspection))
    if rules:
        yield from _checked("rules", lambda: _rules(inspection.live_rules(), rules))


def now() -> datetime:
    """Return what the clock here shows."""
    return datetime.now(UTC)


def _version(version: str, number: int) -> str:
    if number < OLDEST_VERSION:
        raise _WrongError(f"PostgreSQL {version} is too old. Use {OLDEST_VERSION // 10_000}")
    return "new enough"


def _clock(asked_at: datetime, server: datetime, answered_at: datetime) -> str:
    ahead = max((asked_at - server).total_seconds(), (server - answered_at).total_seconds(), 0.0)
    if ahead > CLOCK_SECONDS:
        raise _WrongError(
            f"this machine and the database differ by {ahead:.0f} s. The report does not depend on "
            "it, but what is told of lag and commits does. Have both use NTP"
        )
    return "as that of the database"


def _no_schema(*, may_create: bool) -> str:
    if not may_create:
        raise _WrongError(
            "there are no tables, and this user may not make them. Run `processor migrate` as "
            "somebody who may, then schema/roles.sql"
        )
    return "not there yet; a run makes it"


def _schema(found: int, needed: int) -> str:
    if found > needed:
        raise _WrongError(f"version {found}, newer than {needed}. Run the newer processor")
    if found < needed:
        raise _WrongError(f"version {found}, {needed} is needed. Run `processor migrate`")
    return f"version {found}"


def _rights(inspection: Inspection) -> str:
    inspection.must_be_usable()
    return "enough to run"


def _rules(live: Rules | None, wanted: Rules) -> str:
    if live is None:
        return "no report yet; a run begins one by these settings"
    if differences := differing_rules(live, wanted):
        raise _WrongError(
            f"the report was made by others ({differences}). Use the old settings, or make it anew "
            "with `processor replay`"
        )
    return "those of the report"
