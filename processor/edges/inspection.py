"""What a database is and allows, before anything is asked of it. Writes nothing."""

from datetime import datetime
from typing import Any, Final, LiteralString, NamedTuple

from processor.core.model import Rules
from processor.edges.migrations import migrations, must_be_usable
from processor.edges.session import Connect, Session

_SERVER: Final = """
SELECT current_setting('server_version'), current_setting('server_version_num')::integer,
    pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean,
    clock_timestamp(), to_regclass('schema_migrations') IS NOT NULL,
    has_schema_privilege(current_schema(), 'CREATE')"""

_RULES: Final = """
SELECT attribution_window_us, allowed_lateness_us, timezone, max_line_bytes
FROM generations WHERE state = 'live'"""


class Server(NamedTuple):
    """What a server is. `clock` is what its clock showed, `may_create` whether tables may be made.

    `version_number` is as 180001 for 18.1.
    """

    version: str
    version_number: int
    is_read_only: bool
    clock: datetime
    has_schema: bool
    may_create: bool


class Inspection:
    """Asks a database what it is."""

    def __init__(self, connect: Connect) -> None:
        self._session = Session(connect)

    def close(self) -> None:
        """Let go of the connection."""
        self._session.close()

    def server(self) -> Server:
        """Return what the server is.

        Raises:
            StoreError: it does not answer.

        """
        (row,) = self._rows(_SERVER)
        return Server(*row)

    def schema_versions(self) -> tuple[int, int]:
        """Return the version of the schema, and the one that this processor needs."""
        (row,) = self._rows("SELECT coalesce(max(version), 0) FROM schema_migrations")
        return row[0], migrations()[-1].version

    def must_be_usable(self) -> None:
        """See whether a run can write to all tables.

        Raises:
            StoreError: it cannot.

        """
        with self._session.connection() as connection:
            must_be_usable(connection)

    def live_rules(self) -> Rules | None:
        """Return by which rules the live report is made; None if there is none."""
        rows = self._rows(_RULES)
        return Rules(*rows[0]) if rows else None

    def _rows(self, query: LiteralString, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        with self._session.connection() as connection:
            return connection.execute(query, values).fetchall()
