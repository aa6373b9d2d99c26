"""Chooses the database: the one at a URL, or the embedded one."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import psycopg

from processor.edges.embedded import embedded
from processor.edges.session import Connect, Connection
from processor.edges.snapshot import SnapshotFiles
from processor.errors import SettingsError


@contextmanager
def database(url: str | None, checkpoints: Path) -> Iterator[Connect]:
    """Yield what connects to the database at `url`, or to the embedded one without a URL.

    Raises:
        SettingsError: the URL is not one. The message does not repeat it: it may hold a password.
        EmbeddedError: as for `embedded`.

    """
    if not url:
        with embedded(checkpoints) as connect:
            yield connect
        return
    if not _is_valid(url):
        raise SettingsError(
            "the database URL is not valid; write postgresql://user@host:5432/database, with "
            "special characters percent-encoded"
        )

    parameters = psycopg.conninfo.conninfo_to_dict(url)
    yield lambda: Connection.open(**parameters)


def snapshots_at(url: str | None, checkpoints: Path) -> SnapshotFiles:
    """Return where the snapshots of the report in a database live: each has a name of its own."""
    folder = checkpoints / "snapshots"
    if not url:
        return SnapshotFiles(folder / "embedded")
    parts = psycopg.conninfo.conninfo_to_dict(url)
    named = ((name, value) for name, value in sorted(parts.items()) if "password" not in name)
    return SnapshotFiles(folder / sha256(repr(list(named)).encode()).hexdigest()[:16])


def _is_valid(url: str) -> bool:
    """Whether libpq can read the URL; a host with an @ is a part of a password, not encoded."""
    try:
        return "@" not in str(psycopg.conninfo.conninfo_to_dict(url).get("host", ""))
    except psycopg.ProgrammingError:
        return False
