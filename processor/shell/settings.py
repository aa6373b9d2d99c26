"""The settings of a run, checked. Where they come from (options, environment, file) is `cli`'s."""

import re
from datetime import UTC, timedelta, tzinfo
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
)
from pydantic_core import ErrorDetails

from processor.core.model import SECOND_US, Rules
from processor.edges.files import STDIN
from processor.errors import SettingsError

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)", re.ASCII)
_UNIT_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_NO_DURATION: Final = "is no duration; write 90d, 12h, 30m or 10s"


def _duration(value: object) -> object:
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        try:
            return timedelta(seconds=float(match[1]) * _UNIT_SECONDS[match[2]])
        except OverflowError:
            raise ValueError("is longer than there are days") from None
    return value


Duration = Annotated[timedelta, BeforeValidator(_duration), Field(ge=timedelta(0))]


def duration(option: str, text: str) -> timedelta:
    """Return how long an option says.

    Raises:
        SettingsError: it is no duration.

    """
    try:
        return TypeAdapter(Duration).validate_python(text)
    except ValidationError:
        raise SettingsError(f"{option}: {text!r} {_NO_DURATION}") from None


class Beginning(StrEnum):
    """Where a log is read from that is seen for the first time."""

    BEGINNING = "beginning"
    END = "end"


class RunSettings(BaseModel):
    """What `run` and `replay` work by."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    logs: tuple[Path, ...] = Field(min_length=1)
    once: bool = False
    from_: Beginning = Beginning.BEGINNING
    accept_loss: bool = False
    batch_lines: int = Field(default=100_000, ge=1)
    batch_seconds: float = Field(default=0.5, gt=0, le=3600)
    workers: int = Field(default=1, ge=1, le=64)
    attribution_window: Duration = timedelta(minutes=30)
    allowed_lateness: Duration = timedelta(minutes=10)
    timezone: str = "UTC"
    max_line_bytes: int = Field(default=1 << 20, ge=1 << 16, le=1 << 30)

    @field_validator("logs")
    @classmethod
    def _distinct(cls, logs: tuple[Path, ...]) -> tuple[Path, ...]:
        for log in logs:
            try:
                str(log).encode()
            except UnicodeEncodeError:
                raise ValueError("a name that is not UTF-8 cannot be kept; rename it") from None
        return tuple(dict.fromkeys(log if log == STDIN else log.resolve() for log in logs))

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        return known_zone(name)

    @property
    def zone(self) -> tzinfo:
        """The zone of times that carry no offset."""
        return zone_of(self.timezone)

    @property
    def rules(self) -> Rules:
        """What shapes the numbers."""
        return Rules(
            round(self.attribution_window.total_seconds() * SECOND_US),
            round(self.allowed_lateness.total_seconds() * SECOND_US),
            self.timezone,
            self.max_line_bytes,
        )


def known_zone(name: str) -> str:
    """Return the name of a zone.

    Raises:
        ValueError: there is none of that name.

    """
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(
            "no such time zone here; write a name like Europe/Berlin, and install the "
            "package tzdata if this machine has no zones"
        ) from error
    return name


def zone_of(name: str) -> tzinfo:
    """Return the zone of a name that was checked."""
    return UTC if name == "UTC" else ZoneInfo(name)


def _message(problem: ErrorDetails) -> str:
    if problem["type"] == "time_delta_parsing":
        return f"{problem['input']!r} {_NO_DURATION}"
    return problem["msg"].removeprefix("Value error, ")


def run_settings(**values: Any) -> RunSettings:
    """Return checked settings.

    Raises:
        SettingsError: names each setting that is wrong, as its option.

    """
    try:
        return RunSettings(**values)
    except ValidationError as error:
        problems = [
            f"--{str(problem['loc'][0]).rstrip('_').replace('_', '-')}: " + _message(problem)
            for problem in error.errors(include_url=False)
        ]
        raise SettingsError("; ".join(problems)) from None
