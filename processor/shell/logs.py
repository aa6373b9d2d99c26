"""What the process says of itself on standard error: for people on a terminal, else as JSON lines.

Levels by what the operator must do: *error* to act, *warning* to know of it and maybe act, *info*
nothing, *debug* to find out why. Nothing is said for each line of a log; no message repeats one.
"""

import logging
import os
import sys
import traceback
from enum import StrEnum
from typing import Final, TextIO

import structlog

from processor.errors import ExitCode, ProcessorError
from processor.shell.report.report import printable

_log = logging.getLogger(__name__)


class LogLevel(StrEnum):
    """What is said: this and what is more urgent."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def log_to_stderr(level: LogLevel = LogLevel.INFO) -> None:
    """Have what is logged anywhere in the process said on standard error."""
    is_terminal = sys.stderr.isatty()
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.stdlib.add_log_level,
            *([] if is_terminal else [structlog.stdlib.ExtraAdder()]),
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *(_for_people() if is_terminal else _FOR_PROGRAMS),
        ],
    )
    handler = _Handler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to what standard error is just now: a progress bar has lines written above it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


_FOR_PROGRAMS: Final = (
    structlog.processors.format_exc_info,
    structlog.processors.JSONRenderer(),
)


def _for_people() -> tuple[structlog.typing.Processor, ...]:
    renderer = structlog.dev.ConsoleRenderer(
        colors="NO_COLOR" not in os.environ,
        pad_event_to=0,
        exception_formatter=structlog.dev.plain_traceback,
    )
    return _on_one_line, renderer


def _on_one_line(
    _logger: structlog.typing.WrappedLogger, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Leave nothing in a message that could steer a terminal: names of files may hold anything."""
    return {**event, "event": printable(str(event["event"]))}


def end_with(error: Exception) -> ExitCode:
    """Say why the command ends, in one line, and return its exit code; at *debug*, say all."""
    _log.debug("the command ends with an error", exc_info=error)
    if isinstance(error, ProcessorError):
        return _say(str(error), error.exit_code)
    if isinstance(error, OSError):
        return _say(f"{error.filename or 'output'}: {error.strerror}", ExitCode.FAILED)
    if isinstance(error, MemoryError):
        return _say(
            "there is not enough memory. Give it more, or fewer --workers and smaller "
            "--batch-lines; what was not committed is read again",
            ExitCode.FAILED,
        )
    # What the error says may be of a line.
    last = traceback.extract_tb(error.__traceback__)[-1]
    return _say(
        f"a defect of the processor, {type(error).__name__} in {last.name}, "
        f"{last.filename}:{last.lineno}; report it, with what --log-level debug says",
        ExitCode.FAILED,
    )


def _say(words: str, exit_code: ExitCode) -> ExitCode:
    _log.error("%s", words, extra={"exit_code": int(exit_code)})
    return exit_code
