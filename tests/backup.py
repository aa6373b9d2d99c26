"""A database put back to an earlier state, as by a backup or a failover that lost commits."""

import itertools

_numbers = itertools.count()

TABLES = (
    "generations",
    "checkpoints",
    "hourly_counts",
    "ledger",
    "dead_letters",
    "log_files",
    "hour_offsets",
    "streams",
)


class Backup:
    """What a database held when this was made."""

    def __init__(self, connect):
        self._connect = connect
        self._schema = f"backup_{next(_numbers)}"
        with connect() as connection, connection.transaction():
            connection.execute(f"CREATE SCHEMA {self._schema}")
            for table in TABLES:
                connection.execute(f"CREATE TABLE {self._schema}.{table} AS TABLE {table}")

    def put_back(self):
        """Let it hold that again, in one step; it waits for commits that are under way."""
        with self._connect() as connection, connection.transaction():
            connection.execute(f"TRUNCATE {', '.join(TABLES)}")
            for table in TABLES:
                connection.execute(
                    f"INSERT INTO {table} OVERRIDING SYSTEM VALUE TABLE {self._schema}.{table}"
                )
