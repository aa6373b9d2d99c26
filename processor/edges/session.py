"""A connection to Postgres that is made when it is needed, and its errors in words."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import psycopg

from processor.errors import StoreError

_ENDED: Final = {"25P03", "25P04"}
"""The server ended a transaction that lasted, or did nothing, for too long."""

Connect = Callable[[], psycopg.Connection]


class ConnectionLostError(StoreError):
    """The connection broke, or the server gave up on the transaction: reconcile, then go on."""


class DiskFullError(StoreError):
    """The server has no room to write; what it was told to write is not there."""


class Session:
    """Hands out one connection, and makes a new one after it broke."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._connection: psycopg.Connection | None = None

    def close(self) -> None:
        """Let go of the connection; the next call makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection]:
        """Hand out the connection.

        Raises:
            ConnectionLostError: what may pass by itself.
            DiskFullError: what passes when somebody makes room.
            StoreError: what does not.

        """
        try:
            if self._connection is None:
                self._connection = self._connect()
            yield self._connection
        except psycopg.errors.DiskFull as error:
            self.close()
            raise DiskFullError(f"Postgres has no room: {_first_line(error)}") from error
        except psycopg.Error as error:
            self.close()
            lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
            if lost or error.sqlstate in _ENDED:
                raise ConnectionLostError(
                    f"the database is away or held up: {_first_line(error)}"
                ) from error
            raise StoreError(
                f"Postgres refused a statement ({error.sqlstate}): {_first_line(error)}; nothing "
                "of it was written. Check the rights and the schema of the database"
            ) from error

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection]:
        """Hand out the connection, in a transaction."""
        with self.connection() as connection, connection.transaction():
            yield connection


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
