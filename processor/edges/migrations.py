"""Brings a database to the schema that this version needs, by the numbered files in `schema/`.

Each file is applied once, in a transaction of its own, under a lock that ends with it, so two
processors may start at once, also behind a pooler. A schema newer than the code is refused.
"""

import logging
import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final, NamedTuple

import psycopg

from processor.errors import StoreError

_log = logging.getLogger(__name__)

LOCK: Final = 0x70726F63  # "proc"
_FILE: Final = re.compile(r"(\d{4})_(\w+)\.sql")

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
        StoreError: the database has a newer schema than this version knows.

    """
    known = migrations()
    applied: list[Migration] = []
    while True:
        with connection.transaction():
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


def _version(connection: psycopg.Connection) -> int:
    # Not IF NOT EXISTS: that needs the right to create even where there is nothing to create.
    if connection.execute("SELECT to_regclass('schema_migrations')").fetchone() == (None,):
        connection.execute(_CREATE)
    row = connection.execute("SELECT coalesce(max(version), 0) FROM schema_migrations").fetchone()
    return int(row[0]) if row else 0
