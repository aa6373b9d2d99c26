"""What can stop the processor. Bad lines never do: they are values (see `core.contract`).

Every error says what went wrong, where, and what to do about it, and carries the exit code that
the command ends with. No message repeats a value that was read from a log, or a database URL.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    OWNED = 3
    DIFFERS = 4


class ProcessorError(Exception):
    """The base of all errors that are meant for the operator."""

    exit_code = ExitCode.FAILED


class SettingsError(ProcessorError):
    """A setting is wrong, or does not agree with what the database was made with."""

    exit_code = ExitCode.USAGE


class LogError(ProcessorError):
    """A log cannot be read, or is not the log that its checkpoint was made from."""


class GoneError(LogError):
    """A part of a log that is still needed is not there any more."""


class StoreError(ProcessorError):
    """The database cannot be used as it is."""


class EmbeddedError(ProcessorError):
    """The embedded database cannot be started or stopped."""


class ListenerError(ProcessorError):
    """Nobody answers where a processor should listen."""


class CheckpointMovedError(ProcessorError):
    """A checkpoint is not where it was left: another processor owns the log."""

    exit_code = ExitCode.OWNED


class ReplacedError(ProcessorError):
    """Another generation of the report is live than the one that was written to."""


class RewoundError(CheckpointMovedError):
    """Nobody moved the checkpoint: the database went back to an earlier state."""

    exit_code = ExitCode.FAILED


class LedgerError(ProcessorError):
    """Lines went in that did not come out: a defect of the processor, stopped before a commit."""
