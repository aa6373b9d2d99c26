"""What several commands set up: the database, the logs, the times that they are given."""

import contextlib
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, tzinfo
from pathlib import Path

from processor.core.contract import INT64_MAX, INT64_MIN
from processor.edges.database import database
from processor.edges.files import STDIN
from processor.edges.reader import Reader
from processor.edges.store import Store
from processor.errors import SettingsError
from processor.shell.terminal import spool_stdin


def with_stdin(logs: list[Path], checkpoints: Path) -> list[Path]:
    """Put a file in the place of `-`: standard input, which can be read again from there."""
    if Path("-") not in logs:
        return logs
    spool_stdin(checkpoints)
    return [STDIN if log == Path("-") else log for log in logs]


@contextlib.contextmanager
def open_store(url: str | None, checkpoints: Path) -> Iterator[Store]:
    """Open the writing side of a database, with its schema as it was found."""
    with database(url, checkpoints) as connect, contextlib.closing(Store(connect)) as store:
        yield store


@contextlib.contextmanager
def open_reader(url: str | None, checkpoints: Path) -> Iterator[Reader]:
    """Open the reading side of a database."""
    with database(url, checkpoints) as connect:
        yield Reader(connect)


def customers_of(option: str, customers: Collection[int]) -> tuple[int, ...]:
    """Return the customers that an option names.

    Raises:
        SettingsError: one of them cannot be a customer.

    """
    if any(not INT64_MIN <= customer <= INT64_MAX for customer in customers):
        raise SettingsError(f"{option}: is a whole number of 64 bits, or several")
    return tuple(customers)


def instant_of(option: str, text: str | None, zone: tzinfo = UTC) -> datetime | None:
    """Return the time that an option names, in `zone` without an offset; None without the option.

    Raises:
        SettingsError: it names none.

    """
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(
            f"{option}: {text!r} is no date or time; write 2022-01-01 or 2022-01-01T00:00:00Z"
        ) from None
    try:
        return (instant if instant.tzinfo else instant.replace(tzinfo=zone)).astimezone(UTC)
    except OverflowError:
        raise SettingsError(f"{option}: {text!r} is before the year 1, or after 9999") from None
