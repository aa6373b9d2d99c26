"""A connection to Postgres that is made when it is needed, and what its errors mean.

An error closes the connection, and with it the transaction. By its SQLSTATE it is one that passes,
so that the whole may be tried again, or one that does not. Every wait ends: for a connection, for a
server that is gone from the network, and, where a session is told to be `brief`, for each answer.

Session state is not relied on, so a pooler in transaction mode may sit in between.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Self

import psycopg
from psycopg.abc import RV, ConnParam, PQGen
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus

from processor.errors import StoreError

ANSWER_SECONDS: Final = 45.0
"""So long a brief session waits for an answer; longer than the server may take for a statement, so
that this is for a server that says nothing any more, and for a COMMIT, which no time-out ends."""

PASSES: Final = (
    "08",  # the connection broke
    "25006",  # a standby: it is promoted, or the next connection leads elsewhere
    "25P03",  # the server ended a transaction that did nothing for too long,
    "25P04",  # or that lasted too long
    "40",  # a deadlock, or another transaction was first
    "53",  # no room, memory or connections left
    "55P03",  # somebody else holds a lock
    "57",  # cancelled; the server shuts down, restarts, or ends an idle session
    "58",  # the server's own disk or system failed
)
"""What the SQLSTATE begins with of an error that may pass by itself."""

_REFUSED: Final = re.compile(
    "authentication failed|does not exist|no pg_hba.conf entry|no password supplied|"
    "not permitted to log in|permission denied for database|no such (database|user)"
)
"""What is said of a connection that is refused for good: libpq hands out no SQLSTATE then. Where a
server says so in another language, it is tried again, in words."""

_PARAMETERS: Final[dict[str, Any]] = {
    "application_name": "processor",
    "connect_timeout": 10,  # seconds, for each address of each host
    # Without them, a server that is gone from the network is waited for up to two hours.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,  # milliseconds
}

_BEGIN: Final = """
BEGIN; SELECT set_config(name, ours, true) FROM (VALUES
    ('synchronous_commit', 'off', 'on'),
    ('idle_in_transaction_session_timeout', '0', '60s')) AS settings (name, theirs, ours)
WHERE current_setting(name) = theirs"""
"""A commit that was answered is on the disk; a processor that was stopped lets go of its locks."""
_BEGIN_BRIEF: Final = _BEGIN.replace("('idle", "('statement_timeout', '0', '30s'),\n    ('idle")


class Connection(psycopg.Connection):
    """A connection that waits for each answer for `answer_seconds` at most, if that is set."""

    answer_seconds: float | None = None

    @classmethod
    def open(cls, **parameters: ConnParam) -> Self:
        """Connect, by these parameters of libpq; each statement is a transaction of its own."""
        return cls.connect(
            make_conninfo(**{**_PARAMETERS, **parameters}),
            autocommit=True,
            prepare_threshold=None,  # so that a pooler in transaction mode may sit in between
        )

    def wait(self, gen: PQGen[RV], *arguments: Any, **options: Any) -> RV:
        """Wait for what psycopg asks of the server.

        Raises:
            OperationalError: there was no answer in time; the connection is closed.

        """
        if self.answer_seconds is not None:
            gen = self._in_time(gen, self.answer_seconds)
        return super().wait(gen, *arguments, **options)

    def _in_time(self, gen: PQGen[RV], seconds: float) -> PQGen[RV]:
        until = time.monotonic() + seconds
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if time.monotonic() > until:
                    self.close()
                    raise psycopg.OperationalError(f"no answer within {seconds:g} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            answer: RV = end.value
            return answer


Connect = Callable[[], Connection]


class ConnectionLostError(StoreError):
    """The connection broke, or the server gave up on the transaction: reconcile, then go on."""


class DiskFullError(StoreError):
    """The server has no room to write; what it was told to write is not there."""


class Session:
    """Hands out one connection, and makes a new one after an error.

    A `brief` one waits for no answer for longer than `ANSWER_SECONDS`.
    """

    def __init__(self, connect: Connect, *, brief: bool = False) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._brief = brief

    def close(self) -> None:
        """Let go of the connection; the next call makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Hand out the connection.

        Raises:
            ConnectionLostError: what may pass by itself.
            DiskFullError: what passes when somebody makes room.
            StoreError: what does not.

        """
        try:
            if self._connection is None:
                self._connection = self._open()
            yield self._connection
        except psycopg.Error as error:
            is_closed = self._connection is None or self._connection.closed
            self.close()
            raise _in_words(error, is_closed=is_closed) from error
        except BaseException:
            self.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Hand out the connection, in a transaction that is committed in the end."""
        with self.connection() as connection:
            connection.execute(_BEGIN_BRIEF if self._brief else _BEGIN)
            yield connection
            if connection.info.transaction_status is not TransactionStatus.INTRANS:
                # Postgres answers the COMMIT of a failed transaction without an error.
                raise StoreError("a statement failed, and nobody said so; nothing was written")
            connection.commit()

    def _open(self) -> Connection:
        try:
            connection = self._connect()
        except psycopg.OperationalError as error:
            if _is_refused(str(error)):
                raise StoreError(
                    f"Postgres refuses the connection: {_first_line(error)}. Check the database "
                    "URL, and the rights of its user"
                ) from error
            raise
        if self._brief:
            connection.answer_seconds = ANSWER_SECONDS
        return connection


def _in_words(error: psycopg.Error, *, is_closed: bool) -> StoreError:
    state, said = error.sqlstate, _first_line(error)
    if isinstance(error, psycopg.errors.DiskFull):
        return DiskFullError(f"Postgres has no room: {said}")
    # Without a state, it is psycopg's own: what it made of an answer that broke off, as a rule.
    is_lost = isinstance(error, psycopg.OperationalError) or is_closed
    if state.startswith(PASSES) if state else is_lost:
        return ConnectionLostError(f"the database is away or held up: {said}")
    return StoreError(
        f"Postgres refused a statement ({state}): {said}; nothing of it was written. Check the "
        "rights and the schema of the database"
    )


def _is_refused(message: str) -> bool:
    """Whether every server that was asked refuses the connection for good."""
    tries = [line for line in message.splitlines() if "failed: " in line]
    return bool(tries) and all(map(_REFUSED.search, tries))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
