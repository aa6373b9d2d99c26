"""Brings a database to the schema that this version needs, by the numbered files in `schema/`.

Each file is applied once, in a transaction of its own, under a lock that ends with it, so two
processors may start at once, also behind a pooler. A step waits for locks for a short while only,
since who comes after it waits for it; it may take as long as it takes. A schema newer than the code
is refused, and so is a database that nothing can be written to, or not for good.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final, NamedTuple

import psycopg

from processor.errors import StoreError

_log = logging.getLogger(__name__)

LOCK: Final = 0x70726F63  # "proc"
_FILE: Final = re.compile(r"(\d{4})_(\w+)\.sql")

_READ_ONLY: Final = (
    "the database is read-only: a standby, or told to be so by default_transaction_read_only. Use "
    "the primary: target_session_attrs=read-write in the URL finds it among several hosts"
)

_WAIT_BRIEFLY: Final = """
SET LOCAL lock_timeout = '10s'; SET LOCAL statement_timeout = 0;
SET LOCAL idle_in_transaction_session_timeout = '60s'"""

_RIGHTS: Final = {
    "checkpoints": "SELECT INSERT UPDATE",
    "dead_letters": "INSERT",
    "generations": "SELECT INSERT UPDATE",
    "hour_offsets": "SELECT INSERT",
    "hourly_counts": "SELECT INSERT UPDATE",
    "ledger": "SELECT INSERT UPDATE",
    "log_files": "SELECT INSERT UPDATE DELETE",
}
"""What a commit does to each table."""
_CHECK: Final = """
SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean,
    array_agg(name ORDER BY name) FILTER (WHERE oid IS NULL),
    array_agg(name ORDER BY name) FILTER (WHERE relpersistence <> 'p'),
    array_agg(lacks || ' on ' || name ORDER BY name) FILTER (WHERE lacks <> '')
FROM unnest(%s::text[], %s::text[]) AS needed (name, rights)
LEFT JOIN pg_class ON oid = to_regclass(name),
LATERAL (SELECT string_agg(needed_right, ', ') AS lacks
    FROM unnest(string_to_array(rights, ' ')) AS needed_right
    WHERE NOT has_table_privilege(oid, needed_right)) AS missing"""

_CREATE: Final = """
CREATE TABLE schema_migrations (
    version    integer     PRIMARY KEY,
    name       text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)"""


class Migration(NamedTuple):
    """A numbered step of the schema."""

    version: int
    name: str
    sql: str


def schema_folder() -> Traversable:
    """Return `schema/`: inside an installed package, or beside the package in a checkout."""
    installed = files("processor") / "schema"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "schema"


def migrations() -> list[Migration]:
    """Return all migrations that this version knows, in order."""
    known = [
        Migration(int(match[1]), match[2], file.read_text(encoding="utf-8"))
        for file in schema_folder().iterdir()
        if (match := _FILE.fullmatch(file.name))
    ]
    return sorted(known)


def migrate(connection: psycopg.Connection) -> list[Migration]:
    """Apply what is missing, and return it.

    Raises:
        StoreError: the database has a newer schema than this version knows, or is read-only.

    """
    known = migrations()
    applied: list[Migration] = []
    while True:
        with connection.transaction(), _writable():
            connection.execute(_WAIT_BRIEFLY)
            if connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (LOCK,)).fetchone() != (
                True,
            ):
                _log.info("another processor brings the schema up to date; waiting for it")
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
            version = _version(connection)
            if version > known[-1].version:
                raise StoreError(
                    f"the database has schema version {version}, this processor knows up to "
                    f"{known[-1].version}; run the newer processor, or use another database"
                )
            pending = [migration for migration in known if migration.version > version]
            if not pending:
                return applied
            connection.execute(pending[0].sql.encode())
            connection.execute(
                "INSERT INTO schema_migrations (version, name) VALUES (%s, %s)", pending[0][:2]
            )
        applied.append(pending[0])


def must_be_usable(connection: psycopg.Connection) -> None:
    """See whether commits can be written, for good, before anything is read.

    Raises:
        StoreError: they cannot.

    """
    row = connection.execute(_CHECK, (list(_RIGHTS), list(_RIGHTS.values()))).fetchone()
    is_read_only, missing, unlogged, forbidden = row or (False, None, None, None)
    if is_read_only:
        raise StoreError(_READ_ONLY)
    if missing:
        raise StoreError(
            f"tables are missing: {', '.join(missing)}. They were dropped, or are not in the "
            "search path of this user; put them back from a backup, or use another database"
        )
    if unlogged:
        raise StoreError(
            f"tables are unlogged: {', '.join(unlogged)}. Postgres empties them after a crash, "
            "which would lose what was counted: ALTER TABLE ... SET LOGGED"
        )
    if forbidden:
        raise StoreError(
            f"rights are missing: {'; '.join(forbidden)}. Grant them to this user, as the role "
            "processor_writer of schema/roles.sql has them"
        )


@contextmanager
def _writable() -> Iterator[None]:
    try:
        yield
    except psycopg.errors.ReadOnlySqlTransaction as error:
        raise StoreError(_READ_ONLY) from error


def _version(connection: psycopg.Connection) -> int:
    # Not IF NOT EXISTS: that needs the right to create even where there is nothing to create.
    if connection.execute("SELECT to_regclass('schema_migrations')").fetchone() == (None,):
        connection.execute(_CREATE)
    row = connection.execute("SELECT coalesce(max(version), 0) FROM schema_migrations").fetchone()
    return int(row[0]) if row else 0
